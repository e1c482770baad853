import functools
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lasi_jax
from lasi_jax.wls import regression
from lasi_jax.wls.tiling import tiling


def pair_of(shape, dtype=np.float64):
    generator = np.random.default_rng(0)
    return tuple(jnp.asarray(generator.uniform(0.05, 0.95, shape), dtype) for _ in range(2))


def small(x, y, **options):
    """A distance that compiles quickly."""
    return lasi_jax.distance(x, y, neighborhood_size=3, volume=x.ndim > 3, **options)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 2e-5)])
def test_released_distance(golden, dtype, tolerance):
    options = {"neighborhood_size": golden.n, "value_range": (-1.0, 1.0)}
    distance = jax.jit(functools.partial(lasi_jax.distance, **options))
    value = distance(jnp.asarray(golden.x, dtype), jnp.asarray(golden.y, dtype))
    assert value.dtype == dtype and value.shape == ()
    np.testing.assert_allclose(value, golden.distance, atol=tolerance)


@pytest.mark.parametrize("shape", [(7, 8), (6, 5, 3), (3, 4, 3, 2)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_equals_brute_force(brute_force, shape, masked):
    x, y = pair_of(shape)
    mask = np.random.default_rng(1).choice([0.0, 0.5, 1.0], shape) if masked else np.ones(shape)
    expected = brute_force.distance_map(2 * np.asarray(x) - 1, 2 * np.asarray(y) - 1, 3, mask)
    options = {"mask": jnp.asarray(mask) if masked else None}
    separation = lasi_jax.distance_map(x, y, neighborhood_size=3, volume=len(shape) > 3, **options)
    np.testing.assert_allclose(separation, np.where(mask > 0, expected, 0.0), atol=1e-10)
    np.testing.assert_allclose(
        small(x, y, **options), (mask * expected).sum() / mask.sum(), atol=1e-10
    )


def test_a_masked_element_neither_teaches_nor_counts():
    x, y = pair_of((6, 6, 3))
    last = (5, 5, 2)  # nobody's neighbour, nobody's example, so it only counts
    mask = jnp.ones(x.shape).at[last].set(0.0)
    chex.assert_trees_all_close(small(x, y, mask=mask), small(x, y.at[last].set(0.0), mask=mask))
    assert abs(small(x, y) - small(x, y.at[last].set(0.0))) < 1e-12  # its own value is not used
    middle = (2, 3, 1)
    mask = jnp.ones(x.shape).at[middle].set(0.0)
    assert lasi_jax.distance_map(x, y, neighborhood_size=3, mask=mask)[middle] == 0.0
    assert abs(small(x, y, mask=mask) - small(x, y)) > 1e-6
    chex.assert_trees_all_close(small(x, y, mask=jnp.ones(x.shape, bool)), small(x, y))


def test_a_mask_may_repeat_along_the_channels():
    x, y = pair_of((6, 6, 3))
    mask = jnp.asarray(np.random.default_rng(2).uniform(size=(6, 6, 1)) < 0.5)
    repeated = jnp.broadcast_to(mask, x.shape)
    chex.assert_trees_all_close(small(x, y, mask=mask), small(x, y, mask=repeated))


def test_symmetry_identity_and_range():
    x, y = pair_of((6, 6, 3))
    chex.assert_trees_all_close(small(x, y), small(y, x), atol=1e-12)
    assert small(x, x) == 0.0
    assert 0.0 < small(x, y) < 2.0
    chex.assert_trees_all_close(
        lasi_jax.distance_map(x, y, neighborhood_size=3).mean(), small(x, y), atol=1e-12
    )


def test_uint8_equals_float():
    generator = np.random.default_rng(3)
    x, y = (jnp.asarray(generator.integers(0, 256, (6, 6, 3)), jnp.uint8) for _ in range(2))
    floats = [image.astype(jnp.float64) / 255.0 for image in (x, y)]
    chex.assert_trees_all_close(small(x, y), small(*floats), atol=1e-12)
    chex.assert_trees_all_close(small(x, floats[1]), small(*floats), atol=1e-12)


def test_the_range_of_the_values_does_not_matter():
    x, y = pair_of((8, 8))
    wide = small(7.0 * x - 3.0, 7.0 * y - 3.0, value_range=(-3.0, 4.0))
    chex.assert_trees_all_close(wide, small(x, y), atol=1e-10)


@pytest.mark.slow
def test_jit_eager_and_vmap_agree():
    x, y = pair_of((3, 6, 6, 3))
    eager = jnp.stack([small(a, b) for a, b in zip(x, y, strict=True)])
    chex.assert_trees_all_close(jax.vmap(small)(x, y), eager, atol=1e-12)
    chex.assert_trees_all_close(jax.jit(small)(x[0], y[0]), eager[0], atol=1e-12)
    gradients = jnp.stack([jax.grad(small)(a, b) for a, b in zip(x, y, strict=True)])
    chex.assert_trees_all_close(jax.vmap(jax.grad(small))(x, y), gradients, atol=1e-12)
    against_one = jnp.stack([small(a, y[0]) for a in x])
    chex.assert_trees_all_close(
        jax.vmap(small, in_axes=(0, None))(x, y[0]), against_one, atol=1e-12
    )


@pytest.mark.parametrize("shape", [(7, 8), (5, 4, 3), (3, 3, 4, 2)], ids=str)
def test_gradient_equals_finite_differences(shape, check_gradients):
    x, y = pair_of(shape)
    mask = jnp.asarray(np.random.default_rng(4).uniform(0.1, 1.0, shape))
    options = {"neighborhood_size": 3, "volume": len(shape) > 3}
    check_gradients(lambda x, y, m: (small(x, y), small(x, y, mask=m)), (x, y, mask))
    check_gradients(lambda x, y: lasi_jax.distance_map(x, y, **options), (x, y))


def test_a_prior_equals_brute_force(brute_force, check_gradients):
    x, y = pair_of((5, 4, 3))
    mask = np.random.default_rng(4).uniform(0.1, 1.0, x.shape)
    of_both = (2 * np.asarray(image) - 1 for image in (x, y))
    expected = brute_force.distance_map(*of_both, 3, mask, prior=0.7)
    options = {"neighborhood_size": 3, "prior": 0.7}
    separation = lasi_jax.distance_map(x, y, mask=jnp.asarray(mask), **options)
    np.testing.assert_allclose(separation, expected, atol=1e-10)
    check_gradients(
        lambda x, y, m: lasi_jax.distance(x, y, mask=m, **options), (x, y, jnp.asarray(mask))
    )


def test_noise_at_middle_grey_has_a_direction_unless_the_ridge_has():
    """One level of noise on a flat patch; what the docstrings say of it."""
    noise = np.random.default_rng(0).integers(-1, 2, (24, 24, 3))
    released, remedied = (jax.jit(functools.partial(small, prior=prior)) for prior in (0.0, 1.0))
    found = {}
    for grey in (64, 127, 128, 140):
        flat = np.full(noise.shape, grey, np.uint8)
        noisy = (flat + noise).astype(np.uint8)
        found[grey] = float(released(flat, noisy)), float(remedied(flat, noisy))
    assert max(found[grey][0] for grey in (64, 140)) < 0.01
    assert min(found[grey][0] for grey in (127, 128)) > 0.1
    assert max(remedied for _, remedied in found.values()) < 0.006


def test_gradients_at_middle_grey_are_as_elsewhere_with_a_prior():
    noise, other = 1e-3 * np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
    slopes = {
        prior: jax.jit(jax.grad(functools.partial(small, prior=prior), 1)) for prior in (0.0, 1.0)
    }
    norms = {
        (prior, level): np.linalg.norm(slope(level + noise, level + other))
        for prior, slope in slopes.items()
        for level in (0.5, 0.55)
    }
    assert norms[0.0, 0.5] > 100.0 * norms[0.0, 0.55]
    assert norms[1.0, 0.5] < 2.0 * norms[1.0, 0.55]


def test_without_a_prior_nothing_changes():
    x, y = pair_of((6, 6, 3), np.float32)
    np.testing.assert_array_equal(small(x, y, prior=0.0), small(x, y))
    assert small(x, x, prior=1.0) == 0.0
    assert abs(small(x, 1 - x, prior=1.0)) < 1e-5


def test_hessian_vector_product_equals_finite_differences(jit):
    x, y = pair_of((5, 6))
    direction = jnp.asarray(np.random.default_rng(5).normal(size=x.shape))
    gradient = jit(jax.grad(small))
    along = jit(lambda x, d: jax.jvp(lambda x: jax.grad(small)(x, y), (x,), (d,)))
    _, product = along(x, direction)
    step = 1e-6
    expected = (gradient(x + step * direction, y) - gradient(x - step * direction, y)) / (2 * step)
    chex.assert_trees_all_close(product, expected, atol=1e-6)


@pytest.mark.parametrize("size", [24, 25, 48])
def test_identical_images_are_exactly_zero_apart_in_float32(size):
    x, y = pair_of((size, size, 3), np.float32)
    value, gradient = jax.jit(jax.value_and_grad(small))(x, x)
    assert value == 0.0 and not gradient.any()
    later = (size // 2, 0, 0)  # equal up to here: nothing before it can differ
    changed = np.array(x)
    changed[later] = np.asarray(y)[later]
    separation = np.asarray(lasi_jax.distance_map(x, changed, neighborhood_size=3))
    assert not separation[: size // 2].any() and separation[later[0], 1, 0] > 0.0


@functools.partial(jax.jit, static_argnums=2)
def value_and_gradients(x, y, prior):
    return jax.value_and_grad(functools.partial(small, prior=prior), argnums=(0, 1))(x, y)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("dtype", "prior"), [(np.float32, 0.0), (np.float64, 0.0), (np.float32, 1.0)]
)
def test_gradient_is_finite_where_it_degenerates(level, dtype, prior):
    flat = np.full((8, 9, 3), level, dtype)
    noise, _ = pair_of(flat.shape, dtype)
    for x, y in ((flat, flat), (flat, noise), (noise, flat), (noise, noise)):
        value, gradients = value_and_gradients(x, y, prior)
        chex.assert_tree_all_finite((value, gradients))
        if x is y:
            assert value == 0.0
            chex.assert_trees_all_close(gradients, jax.tree.map(jnp.zeros_like, gradients))


@pytest.mark.parametrize("function", [small, jax.grad(small)], ids=["forward", "gradient"])
def test_every_product_asks_for_the_highest_precision(function):
    x, y = pair_of((20, 20, 3), np.float32)
    program = jax.jit(function).lower(x, y).as_text()
    dots = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert len(dots) >= 3
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in dots)


@pytest.mark.parametrize("function", [small, jax.grad(small)], ids=["forward", "gradient"])
def test_repeated_calls_do_not_retrace(function, monkeypatch):
    x, y = pair_of((6, 11))
    chex.clear_trace_counter()
    counted = jax.jit(chex.assert_max_traces(lambda x, y: function(x, y), n=1))
    for shift in range(3):
        counted(x, jnp.roll(y, shift))
    # Outside `jit` neither: the library compiles once per shape and options.
    function(x, y)
    monkeypatch.setattr(regression, "causal_sums", None)
    function(y, x)


def test_work_grows_with_the_number_of_elements_and_memory_less():
    def cost(size):
        shape = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
        return jax.jit(small).lower(shape, shape).compile()

    small_cost, large_cost = cost(256), cost(512)
    # A while loop's body counts once, so the work of one block stands for all blocks.
    blocks = [tiling((size, size, 3), 2, cpu=True).blocks for size in (256, 512)]
    flops = [
        compiled.cost_analysis()["flops"] * count
        for compiled, count in zip((small_cost, large_cost), blocks, strict=True)
    ]
    assert flops[1] < 5 * flops[0]
    used = [c.memory_analysis().temp_size_in_bytes for c in (small_cost, large_cost)]
    assert used[1] < 3 * used[0]


def test_no_lapack_call_that_could_deadlock():
    x, y = pair_of((8, 8, 3), np.float32)
    text = jax.jit(jax.grad(small)).lower(x, y).as_text().lower()
    assert not any(name in text for name in ("lapack", "potrf", "trsm", "getrf"))


HANG_CHECK = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, lasi_jax
f = jax.jit(jax.value_and_grad(lambda x, y: lasi_jax.distance(x, y, neighborhood_size=4)))
x, y = jax.random.uniform(jax.random.key(0), (2, 48, 48, 3))
for _ in range(50):
    value, gradient = jax.block_until_ready(f(x, y))
print(float(value))
"""


@pytest.mark.slow
def test_two_cores_do_not_hang():
    done = subprocess.run(
        [sys.executable, "-c", HANG_CHECK], capture_output=True, text=True, check=True
    )
    assert 0.0 < float(done.stdout) < 2.0
