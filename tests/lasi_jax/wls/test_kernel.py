"""The native kernel beside the XLA form, by values."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lasi_jax
from lasi_jax import separation
from lasi_jax.native import build
from lasi_jax.wls import derivatives
from lasi_jax.wls.kernel import neighbor_steps
from lasi_jax.wls.neighborhood import neighbor_index
from lasi_jax.wls.regression import Regression

try:
    build.compiler()
except build.Unavailable:
    pytest.skip("no C++ compiler", allow_module_level=True)


def uniform(*shape, dtype=np.float64, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1.0, 1.0, shape), dtype)


def operations(shape, options, dtype, weighted, images=2, copies=1):
    """Every operation of some images, each of them in copies, as a function of nothing, by name."""
    n, of_own = options.neighborhood_size, derivatives.Form(options, -1.0)

    def given(*shape, seed):
        values = uniform(images, *shape, dtype=dtype, seed=seed)
        return jnp.concatenate(copies * [values])

    x, y, counts = (given(*shape, seed=seed) for seed in (0, 1, 2))
    u, v = (given(n, *shape, seed=seed) for seed in (3, 4))
    weights = jnp.abs(given(*shape, seed=5)) if weighted else None
    pulls = [(True, True, weighted), (False, True, False)]
    return {
        "coefficients": lambda: derivatives.coefficients(options, x, weights),
        "solve": lambda: derivatives.solve(options, x, weights, u),
        "apply_moments": lambda: derivatives.apply_moments(of_own, weights, x, y, v),
        "pull_image": lambda: derivatives.pull_image(of_own, weights, y, u, v),
        "pull_weights": lambda: derivatives.pull_weights(of_own, x, y, u, v),
        "pull_weights of one image": lambda: derivatives.pull_weights(of_own, x, x, u, v),
        "map": lambda: separation.separation_map(options, x, y, weights),
        "solved": lambda: separation.solved(options, x, y, weights),
    } | {
        f"pulled {wanted}": lambda wanted=wanted: separation.pulled(
            separation.Pull(options, wanted), x, y, weights, counts
        )
        for wanted in pulls
    }


def check_operations(in_form, shape, options, dtype, weighted):
    tolerance = 1e-11 if dtype == np.float64 else 5e-5
    for name, function in operations(shape, options, dtype, weighted).items():
        found, expected = (in_form(form, function)() for form in ("native", "XLA"))
        for a, b in zip(found, expected, strict=True):
            scale = max(1.0, float(jnp.abs(b).max()))
            np.testing.assert_allclose(a, b, atol=tolerance * scale, err_msg=name)


def test_the_distance_and_its_gradient_are_those_of_the_xla_form(in_form):
    x, y = 0.5 + 0.5 * uniform(2, 3, 9, 11, 3)

    def of(x, y):
        return jax.vmap(
            jax.value_and_grad(lambda x, y: lasi_jax.distance(x, y, neighborhood_size=3), (0, 1))
        )(x, y)

    found, expected = (in_form(form, of)(x, y) for form in ("native", "XLA"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found, expected)
    value, gradients = in_form("native", of)(x, x)
    assert not np.any(value) and not any(np.any(g) for g in gradients)
    swapped = in_form("native", of)(y, x)
    np.testing.assert_array_equal(swapped[0], found[0])
    np.testing.assert_array_equal(swapped[1][::-1], found[1])
    # The last element is nobody's neighbour, and nobody learns from it.
    _, gradients = in_form("native", of)(x.at[0, 8, 10, 2].set(np.nan), y)
    assert np.isfinite(gradients[0][0, :5]).all() and np.isfinite(gradients[1]).all()
    for odd in (np.nan, np.inf, -np.inf, 1e30):
        value, _ = in_form("native", of)(x.at[0, 4, 5, 1].set(odd), y)
        assert not np.isfinite(value[0]) or odd == 1e30
        np.testing.assert_array_equal(value[1:], found[0][1:])


def test_gradients_by_the_mask_are_those_of_the_xla_form(in_form):
    x, y = 0.5 + 0.5 * uniform(2, 6, 7, 3)
    mask = jnp.asarray(np.random.default_rng(6).choice([0.0, 0.5, 1.0], x.shape))
    options = {"neighborhood_size": 3}

    def of_map(mask):
        return jnp.sum(x * lasi_jax.distance_map(x, y, mask=mask, **options))

    def of_coefficients(mask):
        return jnp.sum(jnp.sin(lasi_jax.coefficients(x, mask=mask, **options)))

    def of_product(mask):
        gradient = jax.grad(lambda x: lasi_jax.distance(x, y, mask=mask, **options))
        return jnp.vdot(gradient(x), y)

    for function in (of_map, of_coefficients, of_product):
        found, expected = (in_form(form, jax.grad(function))(mask) for form in ("native", "XLA"))
        np.testing.assert_allclose(found, expected, atol=1e-11)


def test_what_does_not_count_may_be_infinite(in_form):
    x = 0.5 + 0.5 * uniform(6, 7, 3)
    x = x.at[2, 3, 1].set(jnp.inf)
    for form in ("native", "XLA"):
        assert in_form(form, lambda x: lasi_jax.distance(x, x, neighborhood_size=3))(x) == 0.0


def test_steps_lead_to_the_neighbours_in_rows_of_any_width():
    n, channels = 7, 2
    for width in (3, 9, 16, 17, 40):
        steps = neighbor_steps(width, channels, n)
        rows, narrow = steps.shape[:2]
        expected = neighbor_index((rows + 1, width, channels), n)
        for h in range(rows + 1):
            for w in range(width):
                side = narrow // 2
                column = w if w < side or narrow == width else max(side, narrow - (width - w))
                for c in range(channels):
                    own = (h * width + w) * channels + c
                    step = steps[min(h, rows - 1), column, c] @ [width * channels, channels, 1]
                    found = np.where(step == 0, -1, own + step)
                    np.testing.assert_array_equal(found, expected[own])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "n", "dtype", "weighted", "prior"),
    [
        ((33, 20), 10, np.float64, True, 0.0),
        ((9, 50, 3), 10, np.float32, True, 1.0),
        ((5, 4, 70), 3, np.float32, True, 0.0),
        ((20, 33, 3), 1, np.float64, True, 1.0),
        ((4, 300, 3), 10, np.float32, False, 0.0),
        ((5, 800), 3, np.float64, True, 0.0),
    ],
)
def test_every_operation_is_that_of_the_xla_form(in_form, shape, n, dtype, weighted, prior):
    options = Regression(n, 0.8, 80 / 127.5, prior)
    check_operations(in_form, shape, options, dtype, weighted)


@pytest.mark.slow
def test_bands_of_several_threads_leave_no_seams(in_form):
    """An image alone is cut into bands for the threads; of many, each is left to one thread."""
    given = (145, 150, 3), Regression(2, 1.0, 0.5), np.float64, True
    single = operations(*given, images=1)
    many = operations(*given, images=1, copies=os.cpu_count())
    for name, function in single.items():
        found, expected = in_form("native", function)(), in_form("native", many[name])()
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a[0], b[-1], atol=1e-10, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("n", [17, 24, 64])
def test_large_neighbourhoods_equal_brute_force(in_form, brute_force, n):
    x, y = uniform(2, 8, 10, 3)
    for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 2e-4)):
        found = in_form(
            "native",
            lambda x, y: lasi_jax.distance_map(x, y, neighborhood_size=n, value_range=(-1.0, 1.0)),
        )(x.astype(dtype), y.astype(dtype))
        expected = brute_force.distance_map(np.asarray(x), np.asarray(y), n, np.ones(x.shape))
        np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.slow
def test_a_thousand_random_pairs(in_form):
    """Of any values, also tiny, equal and none: 25 shapes and options, 40 pairs of each."""
    generator = np.random.default_rng(0)
    for _ in range(25):
        shape = tuple(generator.integers(1, (12, 20, 5)))
        shape = shape if np.prod(shape) > 4 else (3, 3, 2)
        options = {
            "neighborhood_size": int(generator.choice([1, 3])),
            "decay": float(generator.uniform(0.3, 1.0)),
            "ridge": float(10.0 ** generator.uniform(-3, 1)),
            "prior": float(generator.choice([0.0, 1.0])),
            "value_range": (-1.0, 1.0),
        }
        x = generator.uniform(-1.0, 1.0, (40, *shape)) * 10.0 ** generator.uniform(
            -6, 0, (40, 1, 1, 1)
        )
        y = np.where(generator.uniform(size=x.shape) < 0.3, x, generator.permutation(x))
        y[:4] = x[:4]
        x[4:8] = 0.0
        mask = generator.choice([0.0, 0.5, 1.0], (40, *shape), p=[0.2, 0.3, 0.5])
        mask[..., 0] = 1.0

        def of(x, y, mask, options=options):
            def one(x, y, mask):
                return lasi_jax.distance(x, y, mask=mask, **options)

            return jax.vmap(jax.value_and_grad(one, (0, 1, 2)))(x, y, mask)

        found, expected = (in_form(form, of)(x, y, mask) for form in ("native", "XLA"))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            scale = 1.0 + np.abs(b).reshape(40, -1).max(1).reshape(40, *(b.ndim - 1) * [1])
            np.testing.assert_allclose(
                a / scale, b / scale, atol=1e-7, err_msg=f"{shape} {options}"
            )
