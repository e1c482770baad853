import chex
import jax
import numpy as np
import pytest
from scipy import integrate, stats

import probemb
from probemb import DiagonalGaussian


def gaussians_of(golden):
    return tuple(
        DiagonalGaussian(golden(f"{name}_mean"), golden(f"{name}_log_var"))
        for name in ("image", "text")
    )


def normal(mean, log_variance):
    return DiagonalGaussian(np.array([mean]), np.array([log_variance]))


compiled_test = jax.jit(probemb.inclusion_test)
compiled_loss = jax.jit(probemb.inclusion_loss)


@pytest.mark.parametrize("difference", [0.0, 0.7, -2.0])
@pytest.mark.parametrize(("of_p", "of_q"), [(0.0, 0.0), (-1.0, 2.0), (1.5, -2.0)])
def test_the_test_is_the_logarithm_of_an_integral(difference, of_p, of_q):
    p, q = stats.norm(difference, np.exp(of_p / 2)), stats.norm(0.0, np.exp(of_q / 2))
    integral, _ = integrate.quad(
        lambda x: p.pdf(x) ** 2 * q.pdf(x), -30, 30, epsabs=1e-14, limit=400
    )
    value = compiled_test(normal(difference, of_p), normal(0.0, of_q))
    np.testing.assert_allclose(value[0], np.log(integral), rtol=1e-8)


def test_released_inclusion(golden):
    @jax.jit
    def released(image, text):
        return (
            probemb.inclusion_test_released(image, text),
            probemb.inclusion_loss_released(image, text),
        )

    test, loss = released(*gaussians_of(golden))
    np.testing.assert_allclose(test, golden("prolip/released_inclusion_test_eps0"), rtol=1e-9)
    np.testing.assert_allclose(
        loss, golden("prolip/released_inclusion_loss_eps0_scale1"), rtol=1e-9
    )


def test_the_release_as_scripted_is_blind_to_the_means():
    wide, narrow = normal(0.0, 0.0), normal(0.3, -1.0)
    away = normal(30.0, -1.0)
    as_scripted = jax.jit(
        lambda p, q: probemb.inclusion_loss_released(p, q, mean_weight=np.exp(-20.0))
    )
    released = [as_scripted(p, wide) for p in (narrow, away)]
    exact = [compiled_test(p, wide)[0] for p in (narrow, away)]
    assert abs(float(released[0] - released[1])) < 1e-5
    assert float(exact[0] - exact[1]) > 100.0


def test_the_loss_prefers_the_narrow_within_the_wide():
    narrow, wide = normal(0.1, -2.0), normal(0.0, 2.0)
    pairs = (narrow, wide), (wide, narrow)
    right, wrong = (compiled_loss(*pair) for pair in pairs)
    assert float(right) < np.log(2.0) < float(wrong)
    difference = -np.diff([compiled_test(*pair)[0] for pair in pairs])
    np.testing.assert_allclose(right, np.log1p(np.exp(-difference[0])), rtol=1e-12)
    sharper = compiled_loss(narrow, wide, scale=2.0)
    np.testing.assert_allclose(sharper, np.log1p(np.exp(-2.0 * difference[0])), rtol=1e-12)


def test_masked_inclusion_is_both_modalities():
    inputs = [normal(0.1 * k, 0.5 * k) for k in range(4)]
    value = jax.jit(probemb.masked_inclusion_loss)(*inputs, scale=1.5)
    parts = (compiled_loss(*inputs[k : k + 2], scale=1.5) for k in (0, 2))
    np.testing.assert_allclose(value, sum(float(part) for part in parts), rtol=1e-12)


def test_gradients(golden, check_to_second_order):
    image, text = jax.tree.map(lambda x: x[:2, :3], gaussians_of(golden))
    check_to_second_order(probemb.inclusion_loss, (image, text))


@jax.jit
def with_gradients(p, q):
    return [
        jax.value_and_grad(loss, (0, 1))(p, q)
        for loss in (probemb.inclusion_loss, probemb.inclusion_loss_released)
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("log_variance", [-30.0, 30.0])
def test_finite_at_the_edges(dtype, log_variance):
    p = DiagonalGaussian(np.zeros((1, 2), dtype), np.full((1, 2), log_variance, dtype))
    q = DiagonalGaussian(np.ones((1, 2), dtype), np.zeros((1, 2), dtype))
    for pair in ((p, p), (p, q), (q, p)):
        chex.assert_tree_all_finite(with_gradients(*pair))


def test_bad_input():
    p = normal(0.0, 0.0)
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        probemb.inclusion_loss(p, p, scale=0.0)
    with pytest.raises(ValueError, match="p and q must have one shape"):
        probemb.inclusion_test(p, jax.tree.map(lambda x: x[None], p))
    with pytest.raises(ValueError, match="mean_weight must not be negative"):
        probemb.inclusion_test_released(p, p, mean_weight=-1.0)
