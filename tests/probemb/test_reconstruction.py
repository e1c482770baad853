import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import probemb
from probemb import GeneralizedGaussian


def of(golden, released=False):
    """The release adds 1e-4 to 1 / alpha and to beta; the exact values have that in them."""
    mean, target = (jnp.asarray(golden(f"probvlm/{name}")) for name in ("mean", "target"))
    if released:
        scale = 1.0 / jnp.asarray(golden("probvlm/one_over_alpha"))
        shape = jnp.asarray(golden("probvlm/beta"))
    else:
        scale, shape = (jnp.asarray(golden(f"probvlm/exact_{name}")) for name in ("alpha", "beta"))
    return GeneralizedGaussian(mean, scale, shape), target


def test_exact_loss_is_scipys(golden):
    p, target = of(golden)
    value = probemb.reconstruction(p, target)
    np.testing.assert_allclose(value, golden("probvlm/exact_mean_nll"), rtol=1e-9)
    mine = -stats.gennorm.logpdf(target, p.shape, p.location, p.scale).mean()
    np.testing.assert_allclose(value, mine, rtol=1e-9)
    np.testing.assert_allclose(p.variance, golden("probvlm/exact_variance"), rtol=1e-9)


def test_released_loss(golden):
    p, target = of(golden, released=True)
    np.testing.assert_allclose(
        probemb.reconstruction_released(p, target),
        golden("probvlm/released_gen_gauss_loss"),
        rtol=1e-9,
    )


RESIDUALS = {
    "gaussian": (np.random.default_rng(0).normal(size=20_000), 2.0, 0.1),
    "laplace": (np.random.default_rng(1).laplace(size=20_000), 1.0, 0.05),
    "uniform": (np.random.default_rng(2).uniform(-1.0, 1.0, size=20_000), np.inf, None),
}


@functools.partial(jax.jit, static_argnums=0)
def fitted_shape(loss, residuals):
    """The shape at the minimum over scale and shape, by descent on their logarithms."""
    target = residuals[:, None]
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 400))

    def value(logarithms):
        scale, shape = jnp.exp(logarithms)
        p = GeneralizedGaussian(
            jnp.zeros_like(target), jnp.full_like(target, scale), jnp.full_like(target, shape)
        )
        return loss(p, target)

    def step(state, _):
        logarithms, moments = state
        update, moments = optimizer.update(jax.grad(value)(logarithms), moments)
        return (optax.apply_updates(logarithms, update), moments), None

    start = jnp.log(jnp.asarray([1.0, 1.5]))
    with jax.numpy_dtype_promotion("standard"):
        (logarithms, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=400)
    return jnp.exp(logarithms[1])


@pytest.mark.parametrize("name", RESIDUALS)
def test_the_released_loss_learns_one_shape_for_all_data(name):
    residuals, shape, tolerance = RESIDUALS[name]
    released = float(fitted_shape(probemb.reconstruction_released, residuals))
    exact = float(fitted_shape(probemb.reconstruction, residuals))
    assert released == pytest.approx(0.684, abs=2e-3)
    if tolerance is None:
        assert exact > 8.0
    else:
        assert exact == pytest.approx(shape, abs=tolerance)


def test_probvlm_is_its_four_terms():
    generator = np.random.default_rng(0)
    image, text = (
        GeneralizedGaussian(*(jnp.asarray(x) for x in generator.uniform(0.5, 2.0, (3, 4, 2))))
        for _ in range(2)
    )
    x, y = (jnp.asarray(z) for z in generator.normal(size=(2, 4, 2)))
    for loss, term in (
        (probemb.probvlm, probemb.reconstruction),
        (probemb.probvlm_released, probemb.reconstruction_released),
    ):
        expected = term(image, x) + term(text, y) + 0.3 * (term(image, y) + term(text, x))
        value = loss(image, text, x, y, cross_modal_weight=0.3)
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_gradients(golden, check_to_second_order):
    p, target = jax.tree.map(lambda x: x[:2, :3], of(golden))
    check_to_second_order(probemb.reconstruction, (p, target))


with_gradients = [
    jax.jit(jax.value_and_grad(loss, (0, 1)))
    for loss in (probemb.reconstruction, probemb.reconstruction_released)
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [0.1, 0.5, 10.0])
@pytest.mark.parametrize("residual", [0.0, 1e-30, 1.0, 1e6])
def test_finite_at_the_edges(dtype, shape, residual):
    ones = jnp.ones(2, dtype)
    p = GeneralizedGaussian(0.0 * ones, ones, dtype(shape) * ones)
    target = dtype(residual) * ones
    for with_gradient in with_gradients:
        chex.assert_tree_all_finite(with_gradient(p, target))


def test_bad_input():
    ones = jnp.ones((2, 3))
    p = GeneralizedGaussian(ones, ones, ones)
    with pytest.raises(ValueError, match=r"p.scale must be positive, got -1"):
        probemb.reconstruction(p._replace(scale=-ones), ones)
    with pytest.raises(ValueError, match="target must have the shape of the distribution's mean"):
        probemb.reconstruction(p, ones[0])
    with pytest.raises(
        TypeError, match="text must be one of GeneralizedGaussian, DiagonalGaussian"
    ):
        probemb.probvlm(p, ones, ones, ones, cross_modal_weight=1.0)
    with pytest.raises(ValueError, match="cross_modal_weight must not be negative"):
        probemb.probvlm(p, p, ones, ones, cross_modal_weight=-1.0)
