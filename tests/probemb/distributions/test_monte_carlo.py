import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from scipy.integrate import quad

from probemb import (
    DiagonalGaussian,
    GaussianMixture,
    GeneralizedGaussian,
    VonMisesFisher,
    monte_carlo,
)

KEYS = jax.random.split(jax.random.key(0), 400)
P = DiagonalGaussian(np.array([0.5, -1.0]), np.array([0.3, -0.8]))
Q = DiagonalGaussian(np.array([0.0, -0.4]), np.array([0.9, 0.1]))
DISTRIBUTIONS = {
    "gaussian": (P, Q, DiagonalGaussian.kl_divergence),
    "generalized_gaussian": (
        GeneralizedGaussian(np.zeros(2), np.array([0.5, 2.0]), np.array([0.8, 3.0])),
        GeneralizedGaussian(np.zeros(2), np.array([1.5, 1.8]), np.array([1.4, 2.0])),
        GeneralizedGaussian.kl_divergence_at_equal_location,
    ),
    "von_mises_fisher": (
        VonMisesFisher(np.array([0.6, 0.8, 0.0]), np.array(5.0)),
        VonMisesFisher(np.array([1.0, 0.0, 0.0]), np.array(2.0)),
        VonMisesFisher.kl_divergence,
    ),
}
MIXTURE = GaussianMixture(
    np.array([0.2, -0.7]),
    DiagonalGaussian(np.array([[-1.0], [1.5]]), np.array([[-0.5], [0.4]])),
)
NORMAL = DiagonalGaussian(np.zeros(1), np.ones(1))


def near(estimates, expected):
    """Many short estimates average to what they estimate: no bias, however few the samples."""
    estimates = np.asarray(estimates)
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert 0.0 < error
    assert abs(np.mean(estimates) - expected) < 5.0 * error


# Samplers are large programs, here for few samples: to optimize them takes longer than to run them.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def entropies(p):
    return jax.vmap(lambda key: monte_carlo.entropy(key, p, num_samples=16))(KEYS)


def divergences(p, q):
    return jax.vmap(lambda key: monte_carlo.kl_divergence(key, p, q, num_samples=16))(KEYS)


def mixture_log_density(x):
    weights = scipy.special.softmax(MIXTURE.logits)
    scales = np.exp(0.5 * MIXTURE.components.log_variance[:, 0])
    densities = scipy.stats.norm.pdf(x, MIXTURE.components.mean[:, 0], scales)
    return np.log(weights @ densities)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_estimates_equal_the_closed_forms(name):
    p, q, kl_divergence = DISTRIBUTIONS[name]

    @jit
    def found_and_expected(p, q):
        return (entropies(p), p.entropy()), (divergences(p, q), kl_divergence(p, q))

    for estimates, expected in found_and_expected(p, q):
        near(estimates, expected)


def test_mixture_entropy_equals_quadrature():
    expected = -quad(
        lambda x: np.exp(mixture_log_density(x)) * mixture_log_density(x), -12.0, 12.0
    )[0]
    near(jit(entropies)(MIXTURE), expected)


def test_kl_divergence_between_a_mixture_and_a_gaussian_equals_quadrature():
    def log_normal(x):
        return scipy.stats.norm.logpdf(x, 0.0, np.exp(0.5))

    def forward(x):
        log_p = mixture_log_density(x)
        return np.exp(log_p) * (log_p - log_normal(x))

    def backward(x):
        log_p = log_normal(x)
        return np.exp(log_p) * (log_p - mixture_log_density(x))

    near(jit(divergences)(MIXTURE, NORMAL), quad(forward, -15.0, 15.0)[0])
    near(jit(divergences)(NORMAL, MIXTURE), quad(backward, -15.0, 15.0)[0])


def test_the_error_falls_with_the_number_of_samples():
    def spread(number):
        estimate = jit(jax.vmap(lambda key: monte_carlo.entropy(key, P, num_samples=number)))
        return np.std(estimate(KEYS))

    np.testing.assert_allclose(spread(4) / spread(100), 5.0, rtol=0.25)


def test_the_gradient_is_unbiased():
    def estimate(log_variance, key):
        p = P._replace(log_variance=log_variance)
        return monte_carlo.kl_divergence(key, p, Q, num_samples=16)

    gradients = jax.jit(jax.vmap(jax.grad(estimate), (None, 0)))(P.log_variance, KEYS)
    expected = 0.5 * (np.exp(P.log_variance - Q.log_variance) - 1.0)
    for of_dimension, exact in zip(np.asarray(gradients).T, expected, strict=True):
        near(of_dimension, exact)


def test_the_same_key_gives_the_same_estimate():
    jitted = jax.jit(monte_carlo.entropy, static_argnames="num_samples")
    keys = [jax.random.key(seed) for seed in (0, 0, 1)]
    first, again, other = (jitted(key, P, num_samples=3) for key in keys)
    assert first == again != other


@pytest.mark.slow
def test_jit_and_eager_agree():
    jitted = jax.jit(monte_carlo.entropy, static_argnames="num_samples")
    key, eagerly = jax.random.key(0), monte_carlo.entropy(jax.random.key(0), P, num_samples=3)
    np.testing.assert_allclose(jitted(key, P, num_samples=3), eagerly, rtol=1e-12)


def test_batches_have_an_estimate_each():
    @jax.jit
    def found_and_expected(p, q):
        estimate = monte_carlo.kl_divergence(jax.random.key(0), p, q, num_samples=4000)
        return estimate, p.kl_divergence(q)

    p, q = (jax.tree.map(lambda leaf: np.stack([leaf, leaf + 1.0]), g) for g in (P, Q))
    estimates, expected = found_and_expected(p, q)
    assert estimates.shape == (2,)
    np.testing.assert_allclose(estimates, expected, rtol=0.1)


BAD = {
    "no_number": (
        lambda: monte_carlo.entropy(KEYS[0], P, num_samples=0),
        ValueError,
        "num_samples must be at least 1, got 0",
    ),
    "fractional_number": (
        lambda: monte_carlo.kl_divergence(KEYS[0], P, Q, num_samples=2.0),
        TypeError,
        "num_samples must be an integer, got 2.0",
    ),
    "no_key": (
        lambda: monte_carlo.entropy(7, P, num_samples=2),
        TypeError,
        "key must be a single key",
    ),
    "other_space": (
        lambda: monte_carlo.kl_divergence(KEYS[0], P, NORMAL, num_samples=2),
        ValueError,
        "x must have the shape of the distribution's mean",
    ),
    "no_distribution": (
        lambda: monte_carlo.entropy(KEYS[0], jnp.zeros(3), num_samples=2),
        TypeError,
        "p must be a distribution",
    ),
    "no_other_distribution": (
        lambda: monte_carlo.kl_divergence(KEYS[0], P, (0.0, 1.0), num_samples=2),
        TypeError,
        "q must be a distribution",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


def test_a_mixtures_weights_have_the_gradient_of_the_divergence():
    components = DiagonalGaussian(np.array([[0.0], [3.0]]), np.zeros((2, 1)))
    q = DiagonalGaussian(np.zeros(1), np.zeros(1))
    logits = np.array([0.3, -0.2])
    x = np.linspace(-12.0, 15.0, 2001)

    def by_quadrature(logits):
        p = GaussianMixture(logits, components)
        log_p = jax.vmap(p.log_prob)(jnp.asarray(x)[:, None])
        log_q = jax.vmap(q.log_prob)(jnp.asarray(x)[:, None])
        return jnp.trapezoid(jnp.exp(log_p) * (log_p - log_q), jnp.asarray(x))

    def estimate(logits):
        p = GaussianMixture(logits, components)
        return monte_carlo.kl_divergence(jax.random.key(0), p, q, num_samples=20_000)

    found, expected = (jax.jit(jax.value_and_grad(f))(logits) for f in (estimate, by_quadrature))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.03)
