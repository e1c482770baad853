"""Gaussians whose variances leave the floats, beside NumPy's widest floats, which hold them all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import probemb
from probemb import DiagonalGaussian, distances, pairwise

WIDE = np.longdouble
LOG_2, LOG_TWO_PI = np.log(WIDE(2)), np.log(2 * WIDE(np.pi))


def log_add(x, y):
    """log(e^x + e^y), of complex numbers too: their imaginary parts carry derivatives."""
    greater, smaller = np.where(x.real > y.real, x, y), np.where(x.real > y.real, y, x)
    return greater + np.log1p(np.exp(smaller - greater))


def likelihood(m, lp, lq):
    log_sum = log_add(lp, lq)
    return -0.5 * (m**2 * np.exp(-log_sum) + log_sum + LOG_TWO_PI)


def kl(m, lp, lq):
    return 0.5 * (np.expm1(lp - lq) - (lp - lq) + m**2 * np.exp(-lq))


def bhattacharyya(m, lp, lq):
    log_sum = log_add(lp, lq)
    return 0.25 * m**2 * np.exp(-log_sum) + 0.5 * (log_sum - LOG_2 - 0.5 * (lp + lq))


def inclusion(m, lp, lq):
    log_sum = log_add(lp, lq + LOG_2)
    return -0.5 * (lp + log_sum) - LOG_TWO_PI - m**2 * np.exp(-log_sum)


def inclusion_released(m, lp, lq):
    log_sum = log_add(lp, lq + LOG_2)
    return -1.5 * lp - 0.5 * lq - 0.5 * (log_sum - LOG_2) - m**2 * np.exp(-log_sum)


def loss(test):
    return lambda m, lp, lq: log_add(0 * lp, test(m, lq, lp) - test(m, lp, lq))


def wasserstein(m, lp, lq):
    return np.sqrt(m**2 + (np.exp(lp / 2) - np.exp(lq / 2)) ** 2)


def log_prob(m, lp, lq):
    return -0.5 * (m**2 * np.exp(-lp) + lp + LOG_TWO_PI)


# In one dimension, of the difference of the means and two log-variances.
TRUTH = {
    "kl": kl,
    "jeffreys": lambda m, lp, lq: kl(m, lp, lq) + kl(m, lq, lp),
    "bhattacharyya": bhattacharyya,
    "likelihood": likelihood,
    "pfe": lambda m, lp, lq: -likelihood(m, lp, lq),
    "wasserstein": wasserstein,
    "log_prob": log_prob,
    "reconstruction": lambda m, lp, lq: -log_prob(m, lp, lq),
    "bayescap": lambda m, lp, lq: m**2 - log_prob(m, lp, lq),
    "to_standard": lambda m, lp, lq: kl(m, lp, 0 * lq),
    "inclusion": inclusion,
    "inclusion_released": inclusion_released,
    "inclusion_loss": loss(inclusion),
    "inclusion_loss_released": loss(inclusion_released),
}


def found(m, lp, lq):
    """The same, each an array of one."""
    zero = jnp.zeros_like(m)
    p, q = DiagonalGaussian(m[None], lp[None]), DiagonalGaussian(zero[None], lq[None])
    return {
        "kl": distances.kl_divergence(p, q),
        "jeffreys": distances.jeffreys_divergence(p, q),
        "bhattacharyya": distances.bhattacharyya_distance(p, q),
        "likelihood": distances.log_expected_likelihood_kernel(p, q),
        "pfe": probemb.pfe(p, q),
        "wasserstein": distances.wasserstein_2(p, q),
        "log_prob": p.log_prob(q.mean),
        "reconstruction": probemb.reconstruction(p, q.mean),
        "bayescap": probemb.bayescap(p, q.mean, q.mean, identity_weight=1.0),
        "to_standard": probemb.kl_to_standard_normal(p),
        "inclusion": probemb.inclusion_test(p, q)[0],
        "inclusion_released": probemb.inclusion_test_released(p, q)[0],
        "inclusion_loss": probemb.inclusion_loss(p, q),
        "inclusion_loss_released": probemb.inclusion_loss_released(p, q),
    }


def cases(dtype):
    """Of every level: equal means, and means a fraction of a deviation or a unit apart."""
    levels = [-2000.0, -750.0, -400.0, -200.0, -90.0, -20.0, 0.0, 90.0, 200.0, 750.0]
    rows = []
    for level in levels:
        for wider in (0.0, -3.0, 60.0):
            deviation = float(np.exp(np.clip(0.5 * level, -40.0, 40.0)))
            rows += [(m, level, level + wider) for m in (0.0, 0.7 * deviation, -1.0)]
    rows += [(0.5, -750.0, 750.0), (0.5, 750.0, -750.0), (0.5, 90.0, -90.0)]
    return np.array(rows, dtype).T


@pytest.fixture(scope="module", params=[np.float32, np.float64])
def table(request):
    """Arguments, and by name the values and the slopes in each argument."""
    arguments = cases(request.param)

    @jax.jit
    @jax.vmap
    def everything(*one):
        return found(*one), jax.jacrev(found, (0, 1, 2))(*one)

    return arguments, *everything(*arguments)


@pytest.mark.parametrize("name", TRUTH)
def test_values_and_gradients_are_finite_and_right(table, name):
    arguments, values, slopes = table
    dtype, wide = arguments.dtype, np.asarray(arguments, np.clongdouble)
    tolerance = 2e-5 if dtype == np.float32 else 1e-12
    # Beyond this one, values stand for what is no float.
    most = WIDE(np.finfo(dtype).max) * 2.0**-10
    # A sum of logarithms of some hundred is rounded in their units.
    unit = 10 * np.finfo(dtype).eps * (1 + np.abs(wide[1]) + np.abs(wide[2]))

    def check(value, exact, rounding, least, where=True):
        value = np.asarray(value)
        assert value.dtype == dtype and np.all(np.isfinite(value))
        close = np.abs(value - exact) < tolerance * np.abs(exact) + rounding
        large = np.sign(exact) * value >= least
        right = np.where(np.abs(exact) < most, close, large) | ~np.asarray(where)
        assert np.all(right), (arguments.T[~right], value[~right], exact[~right])

    exact = TRUTH[name](*wide).real
    check(values[name], exact, unit, 0.1 * most)
    for place, slope in enumerate(slopes[name]):
        step = np.zeros((3, 1), WIDE)
        step[place] = WIDE("1e-1000")
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = TRUTH[name](*(wide + 1j * step)).imag / WIDE("1e-1000")
        # Of a distance of 0 the derivative is taken as 0.
        has_slope = (exact != 0) & (np.abs(exact) < most)
        check(slope, expected, unit, 0.0, has_slope)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_pairs_of_tiny_and_huge_variances(dtype):
    """Equal pairs among others that are no floats apart."""
    levels = np.array([-750.0, -90.0, 0.0, 90.0, 750.0], dtype)
    p = DiagonalGaussian(
        np.random.default_rng(0).normal(size=(10, 3)).astype(dtype),
        np.repeat(levels, 2)[:, None] * np.ones(3, dtype),
    )

    @jax.jit
    def with_slopes(p):
        return [
            (getattr(pairwise, name)(p, p), jax.grad(lambda p, f=f: jnp.sum(f(p, p)))(p))
            for name in ("kl_divergence", "jeffreys_divergence", "wasserstein_2")
            for f in (getattr(pairwise, name),)
        ]

    one_by_one = jax.vmap(jax.vmap(distances.kl_divergence, (None, 0)), (0, None))
    each = jax.jit(one_by_one)(p, p)
    results = with_slopes(p)
    np.testing.assert_array_equal(np.diag(results[0][0]), 0.0)
    np.testing.assert_allclose(results[0][0], each, rtol=1e-5)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(results))
    near = DiagonalGaussian(
        np.array([[0.0], [3.0 * np.exp(-45.0)]], dtype), np.full((2, 1), -90.0, dtype)
    )
    divergence = jax.jit(pairwise.kl_divergence)(near, near)
    np.testing.assert_allclose(divergence, 4.5 * (1 - np.eye(2)), rtol=1e-4)


@jax.jit
@jax.value_and_grad
def central_probability(p, x):
    return jnp.sum(p.central_probability(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("level", [-750.0, -90.0, 90.0])
def test_central_probability(level, dtype):
    p = DiagonalGaussian(np.zeros(3, dtype), np.full(3, level, dtype))
    x = np.array([0.0, np.exp(0.5 * level) if level > -100 else 0.0, 1e25], dtype)
    value, slopes = central_probability(p, x)
    one = 0.6826894921 if level > -100 else 0.0
    np.testing.assert_allclose(value, one + 1.0, rtol=1e-5)
    # -x / sigma times the density of a standard deviation.
    expected = [0.0, -0.2419707245 if level > -100 else 0.0, 0.0]
    np.testing.assert_allclose(slopes.log_variance, expected, rtol=1e-4, atol=1e-12)
    assert np.all(np.isfinite(slopes.mean))
