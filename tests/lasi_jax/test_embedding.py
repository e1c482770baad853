import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lasi_jax
from lasi_jax.wls import regression, tiling


def image_of(shape, seed=0, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).uniform(0.05, 0.95, shape), dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 2e-5)])
def test_released_coefficients_and_predictions(golden, dtype, tolerance):
    options = {"neighborhood_size": golden.n, "value_range": (-1.0, 1.0)}
    x = jnp.asarray(golden.x, dtype)
    functions = lasi_jax.coefficients, lasi_jax.prediction
    theta, predicted = jax.jit(lambda x: [function(x, **options) for function in functions])(x)
    assert theta.dtype == dtype and theta.shape == (*x.shape, golden.n)
    np.testing.assert_allclose(theta.reshape(-1, golden.n), golden.params_x, atol=tolerance)
    np.testing.assert_allclose(
        predicted.reshape(-1), golden.prediction_x.reshape(-1), atol=tolerance
    )


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 7), min_size=2, max_size=4).filter(lambda s: np.prod(s) > 8),
    n=st.integers(1, 8),
    seed=st.integers(0, 99),
    masked=st.booleans(),
    prior=st.sampled_from([0.0, 1.0, -0.3]),
)
def test_equals_brute_force(brute_force, shape, n, seed, masked, prior):
    image = image_of(shape, seed)
    mask = np.random.default_rng(seed).choice([0.0, 0.3, 1.0], shape) if masked else None
    mask = None if mask is None or mask.max() == 0 else jnp.asarray(mask)
    expected = brute_force.coefficients(2 * np.asarray(image) - 1, n, mask, prior=prior)
    options = {"mask": mask, "prior": prior, "volume": len(shape) > 3}
    theta = lasi_jax.coefficients(image, neighborhood_size=n, **options)
    np.testing.assert_allclose(theta, expected, atol=1e-10)


@pytest.mark.parametrize("n", [2, 12, 24])
def test_small_and_large_neighbourhoods(brute_force, n, jit):
    image = image_of((6, 5, 3), n)
    expected = brute_force.coefficients(2 * np.asarray(image) - 1, n)
    theta = jit(functools.partial(lasi_jax.coefficients, neighborhood_size=n))(image)
    np.testing.assert_allclose(theta, expected, atol=1e-10)


def test_options_decay_and_ridge(brute_force):
    image = image_of((6, 7))
    expected = brute_force.coefficients(2 * np.asarray(image) - 1, 3, decay=0.5, ridge=0.05)
    theta = lasi_jax.coefficients(image, neighborhood_size=3, decay=0.5, ridge=0.05)
    np.testing.assert_allclose(theta, expected, atol=1e-10)


def test_embedding_is_the_normalised_coefficients():
    image = image_of((7, 6, 3))
    theta = np.asarray(lasi_jax.coefficients(image, neighborhood_size=4)) + 1e-6
    expected = theta / np.linalg.norm(theta, axis=-1, keepdims=True)
    np.testing.assert_allclose(lasi_jax.embedding(image, neighborhood_size=4), expected, atol=1e-12)


def test_the_first_element_has_learnt_nothing():
    first = lasi_jax.embedding(image_of((5, 5)), neighborhood_size=4)[0, 0]
    np.testing.assert_allclose(first, 0.5, atol=1e-12)


@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 1.0])
def test_with_a_prior_flat_areas_are_the_mean_of_the_neighbours_at_every_grey(level):
    flat = jnp.full((6, 6), level)
    mask = jnp.ones(flat.shape).at[0].set(0.0)  # where neighbours are missing, nothing is flat
    options = {"neighborhood_size": 4, "prior": 1.0, "mask": mask}
    np.testing.assert_allclose(lasi_jax.coefficients(flat, **options), 0.25, atol=1e-12)
    np.testing.assert_allclose(lasi_jax.prediction(flat, **options)[1:], level, atol=1e-12)


def test_a_negative_has_the_same_coefficients():
    image = image_of((8, 8, 3))
    theta = lasi_jax.coefficients(image, neighborhood_size=4)
    chex.assert_trees_all_close(
        lasi_jax.coefficients(1.0 - image, neighborhood_size=4), theta, atol=1e-10
    )


def test_prediction_is_in_the_units_of_the_image():
    image = image_of((8, 8, 3))
    unit = lasi_jax.prediction(image, neighborhood_size=4)
    wide = lasi_jax.prediction(255.0 * image, neighborhood_size=4, value_range=(0.0, 255.0))
    np.testing.assert_allclose(wide, 255.0 * unit, atol=1e-9)
    flat = jnp.full((12, 12), 200, jnp.uint8)
    assert 150 < float(lasi_jax.prediction(flat, neighborhood_size=2)[-1, -1]) <= 200


def test_blocks_do_not_show(monkeypatch):
    image = image_of((9, 37, 2))

    some = np.random.default_rng(1).choice([0.0, 0.3, 1.0], image.shape)

    def values_and_gradients(ridge):
        def total(image, mask):
            options = {"neighborhood_size": 3, "mask": mask, "ridge": ridge}
            return jnp.sum(jnp.sin(lasi_jax.coefficients(image, **options)))

        return [jax.jit(jax.value_and_grad(total))(image, mask) for mask in (None, some)]

    whole = values_and_gradients(0.5)
    monkeypatch.setattr(tiling, "CPU_BLOCK", 150)  # two rows to a block
    assert tiling.tiling((9, 37, 2), 1, cpu=True).blocks == 5
    of_blocks = values_and_gradients(np.nextafter(0.5, 1.0))  # by its options not compiled yet
    chex.assert_trees_all_close(of_blocks, whole, atol=1e-9)


@pytest.mark.slow
def test_jit_eager_and_vmap_agree():
    images = image_of((3, 6, 6, 3))

    def theta(image):
        return lasi_jax.coefficients(image, neighborhood_size=3)

    eager = jnp.stack([theta(image) for image in images])
    chex.assert_trees_all_close(jax.vmap(theta)(images), eager, atol=1e-12)
    chex.assert_trees_all_close(jax.jit(theta)(images[0]), eager[0], atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 7), (5, 4, 3), (3, 3, 4, 2)], ids=str)
def test_gradient_equals_finite_differences(shape, check_gradients):
    image, mask = image_of(shape), image_of(shape, 1)

    def theta(image, mask):
        options = {"mask": mask, "volume": len(shape) > 3}
        return lasi_jax.coefficients(image, neighborhood_size=3, **options)

    check_gradients(theta, (image, mask))


def test_repeated_calls_do_not_retrace(monkeypatch):
    traced = []
    sums = regression.causal_sums
    monkeypatch.setattr(
        regression, "causal_sums", lambda *args, **kw: traced.append(1) or sums(*args, **kw)
    )
    shape = (5, 11, 3)

    def gradient(seed):
        return jax.grad(lambda x: lasi_jax.coefficients(x, neighborhood_size=2).sum())(
            image_of(shape, seed)
        )

    gradient(0)
    first = len(traced)
    gradient(1)
    assert first > 0 and len(traced) == first


def test_half_precision_is_widened():
    image = image_of((6, 6)).astype(jnp.bfloat16)
    theta = lasi_jax.coefficients(image, neighborhood_size=2)
    expected = lasi_jax.coefficients(image.astype(jnp.float64), neighborhood_size=2)
    chex.assert_trees_all_close(theta, expected, atol=1e-6)
