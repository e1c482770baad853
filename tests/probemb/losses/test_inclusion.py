import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import probemb
from probemb import DiagonalGaussian


def gaussians_of(golden):
    return tuple(
        DiagonalGaussian(
            jnp.asarray(golden(f"{name}_mean")), jnp.asarray(golden(f"{name}_log_var"))
        )
        for name in ("image", "text")
    )


def normal(mean, log_variance):
    return DiagonalGaussian(jnp.asarray([mean]), jnp.asarray([log_variance]))


@pytest.mark.parametrize("difference", [0.0, 0.7, -2.0])
@pytest.mark.parametrize(("of_p", "of_q"), [(0.0, 0.0), (-1.0, 2.0), (1.5, -2.0)])
def test_the_test_is_the_logarithm_of_an_integral(difference, of_p, of_q):
    p, q = stats.norm(difference, np.exp(of_p / 2)), stats.norm(0.0, np.exp(of_q / 2))
    integral, _ = integrate.quad(
        lambda x: p.pdf(x) ** 2 * q.pdf(x), -30, 30, epsabs=1e-14, limit=400
    )
    value = probemb.inclusion_test(normal(difference, of_p), normal(0.0, of_q))
    np.testing.assert_allclose(value[0], np.log(integral), rtol=1e-8)


def test_released_inclusion(golden):
    image, text = gaussians_of(golden)
    np.testing.assert_allclose(
        probemb.inclusion_test_released(image, text),
        golden("prolip/released_inclusion_test_eps0"),
        rtol=1e-9,
    )
    np.testing.assert_allclose(
        probemb.inclusion_loss_released(image, text),
        golden("prolip/released_inclusion_loss_eps0_scale1"),
        rtol=1e-9,
    )


def test_the_release_as_scripted_is_blind_to_the_means():
    wide, narrow = normal(0.0, 0.0), normal(0.3, -1.0)
    away = normal(30.0, -1.0)
    released = [
        probemb.inclusion_loss_released(p, wide, mean_weight=np.exp(-20.0)) for p in (narrow, away)
    ]
    exact = [probemb.inclusion_test(p, wide)[0] for p in (narrow, away)]
    assert abs(float(released[0] - released[1])) < 1e-5
    assert float(exact[0] - exact[1]) > 100.0


def test_the_loss_prefers_the_narrow_within_the_wide():
    narrow, wide = normal(0.1, -2.0), normal(0.0, 2.0)
    right, wrong = (probemb.inclusion_loss(*pair) for pair in ((narrow, wide), (wide, narrow)))
    assert float(right) < np.log(2.0) < float(wrong)
    difference = probemb.inclusion_test(narrow, wide) - probemb.inclusion_test(wide, narrow)
    np.testing.assert_allclose(right, np.log1p(np.exp(-difference[0])), rtol=1e-12)
    sharper = probemb.inclusion_loss(narrow, wide, scale=2.0)
    np.testing.assert_allclose(sharper, np.log1p(np.exp(-2.0 * difference[0])), rtol=1e-12)


def test_masked_inclusion_is_both_modalities():
    inputs = [normal(0.1 * k, 0.5 * k) for k in range(4)]
    value = probemb.masked_inclusion_loss(*inputs, scale=1.5)
    parts = (probemb.inclusion_loss(*inputs[k : k + 2], scale=1.5) for k in (0, 2))
    np.testing.assert_allclose(value, sum(float(part) for part in parts), rtol=1e-12)


def test_gradients(golden, check_to_second_order):
    image, text = jax.tree.map(lambda x: x[:2, :3], gaussians_of(golden))
    check_to_second_order(probemb.inclusion_loss, (image, text))


with_gradients = [
    jax.jit(jax.value_and_grad(loss, (0, 1)))
    for loss in (probemb.inclusion_loss, probemb.inclusion_loss_released)
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("log_variance", [-30.0, 30.0])
def test_finite_at_the_edges(dtype, log_variance):
    p = DiagonalGaussian(jnp.zeros((1, 2), dtype), jnp.full((1, 2), log_variance, dtype))
    q = DiagonalGaussian(jnp.ones((1, 2), dtype), jnp.zeros((1, 2), dtype))
    for pair in ((p, p), (p, q), (q, p)):
        for with_gradient in with_gradients:
            chex.assert_tree_all_finite(with_gradient(*pair))


def test_bad_input():
    p = normal(0.0, 0.0)
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        probemb.inclusion_loss(p, p, scale=0.0)
    with pytest.raises(ValueError, match="p and q must have one shape"):
        probemb.inclusion_test(p, jax.tree.map(lambda x: x[None], p))
    with pytest.raises(ValueError, match="mean_weight must not be negative"):
        probemb.inclusion_test_released(p, p, mean_weight=-1.0)
