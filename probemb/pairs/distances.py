"""How far apart two diagonal Gaussians are, and how much they agree.

Every function takes two Gaussians of one shape (..., dimension) and gives
(...). `pairwise` has each of them, under the same name, for all pairs of two sets.

v_p, v_q are variances, m_p, m_q means, and sums run over the dimensions.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from probemb.distributions.gaussians import DiagonalGaussian, gaussians
from probemb.numerics import euclidean


def sampled_distance(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """The mean squared distance of a sample of p to one of q, in closed form (CSD).

    E |x - y|^2 = |m_p - m_q|^2 + sum (v_p + v_q). It is no metric: of p to itself it is
    2 sum v_p.

    Args:
      p: a Gaussian (..., dimension).
      q: a Gaussian of the same shape.

    Returns:
      The distance (...).

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values not finite.

    Source: PCME++ (Chun, ICLR 2024).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(2), jnp.zeros(2))
      >>> float(sampled_distance(p, p))
      4.0
    """
    p, q = gaussians(p, q)
    return jnp.sum(jnp.square(p.mean - q.mean) + p.variance + q.variance, axis=-1)


def wasserstein_2(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """The Wasserstein-2 distance: sqrt(|m_p - m_q|^2 + |sigma_p - sigma_q|^2).

    Args:
      p: a Gaussian (..., dimension).
      q: a Gaussian of the same shape.

    Returns:
      The distance (...); its derivative is 0 where p equals q.

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values not finite.

    Source: Givens and Shortt, 1984, for covariances that commute.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
      >>> float(wasserstein_2(p, p._replace(mean=jnp.array([3.0]))))
      3.0
    """
    p, q = gaussians(p, q)
    of_p, of_q = 0.5 * p.log_variance, 0.5 * q.log_variance
    log_unit = jax.lax.stop_gradient(jnp.maximum(of_p, of_q))  # a sigma, which may be no float
    wider = euclidean.quotient(jnp.exp(of_p - log_unit) - jnp.exp(of_q - log_unit), -log_unit)
    return euclidean.length(jnp.concatenate([p.mean - q.mean, wider], axis=-1))


def kl_divergence(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """KL(p || q) in nats, as `DiagonalGaussian.kl_divergence`.

    Args:
      p: a Gaussian (..., dimension).
      q: a Gaussian of the same shape.

    Returns:
      The divergence (...).

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values not finite.

    Source: Kullback and Leibler, 1951.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
      >>> float(kl_divergence(p, p._replace(mean=jnp.array([2.0]))))
      2.0
    """
    p, q = gaussians(p, q)
    return p.kl_divergence(q)


def jeffreys_divergence(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """KL(p || q) + KL(q || p) in nats.

    Args:
      p: a Gaussian (..., dimension).
      q: a Gaussian of the same shape.

    Returns:
      The divergence (...), symmetric in p and q.

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values not finite.

    Source: Jeffreys, 1946.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
      >>> float(jeffreys_divergence(p, p._replace(mean=jnp.array([2.0]))))
      4.0
    """
    p, q = gaussians(p, q)
    return p.kl_divergence(q) + q.kl_divergence(p)


def geometric_jensen_shannon_divergence(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """(KL(p || g) + KL(q || g)) / 2 in nats for g proportional to sqrt(p q).

    The Jensen-Shannon divergence has no closed form for Gaussians; with the
    geometric mean g in place of the arithmetic one it is a quarter of
    `jeffreys_divergence` minus `bhattacharyya_distance`.

    Args:
      p: a Gaussian (..., dimension).
      q: a Gaussian of the same shape.

    Returns:
      The divergence (...), symmetric in p and q.

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values not finite.

    Source: Nielsen, 2019 (arXiv 1904.04017).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
      >>> q = p._replace(mean=jnp.array([2.0]))
      >>> round(float(geometric_jensen_shannon_divergence(p, q)), 6)
      0.5
    """
    return 0.25 * jeffreys_divergence(p, q) - bhattacharyya_distance(p, q)


def bhattacharyya_distance(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """-log of the integral of sqrt(p q).

    sum (m_p - m_q)^2 / (4 (v_p + v_q)) + log((v_p + v_q) / (2 sigma_p sigma_q)) / 2.

    Args:
      p: a Gaussian (..., dimension).
      q: a Gaussian of the same shape.

    Returns:
      The distance (...), from 0.

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values not finite.

    Source: Bhattacharyya, 1943.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
      >>> q = p._replace(mean=jnp.array([2.0]))
      >>> round(float(bhattacharyya_distance(p, q)), 6)
      0.5
    """
    p, q = gaussians(p, q)
    log_sum = jnp.logaddexp(p.log_variance, q.log_variance)
    deviation = 0.25 * euclidean.squared_quotient(p.mean - q.mean, log_sum)
    # log((v_p + v_q) / (2 sigma_p sigma_q)) as a hyperbolic cosine: exactly 0 where they agree.
    half = 0.5 * (p.log_variance - q.log_variance)
    log_ratio = jnp.logaddexp(half, -half) - math.log(2.0)
    return jnp.sum(deviation + 0.5 * log_ratio, axis=-1)


def log_expected_likelihood_kernel(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """Log of the integral of p q: the density of q at a sample of p, on average.

    -sum (m_p - m_q)^2 / (2 (v_p + v_q)) + log(2 pi (v_p + v_q)) / 2. In the logarithm,
    because the kernel itself overflows in a few hundred dimensions.

    Args:
      p: a Gaussian (..., dimension).
      q: a Gaussian of the same shape.

    Returns:
      The logarithm (...); greater is nearer.

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values not finite.

    Source: Jebara, Kondor and Howard, JMLR 2004 (probability product kernel, rho = 1).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
      >>> round(float(log_expected_likelihood_kernel(p, p)), 4)
      -1.2655
    """
    p, q = gaussians(p, q)
    log_sum = jnp.logaddexp(p.log_variance, q.log_variance)
    deviation = euclidean.squared_quotient(p.mean - q.mean, log_sum)
    return -0.5 * jnp.sum(deviation + log_sum + math.log(2.0 * math.pi), axis=-1)


def mutual_likelihood_score(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """The log-likelihood that p and q share one point: PFE's name of the kernel above.

    Args:
      p: a Gaussian (..., dimension).
      q: a Gaussian of the same shape.

    Returns:
      The score (...), equal to `log_expected_likelihood_kernel`; greater is nearer.

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values not finite.

    Source: PFE (Shi and Jain, ICCV 2019).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
      >>> round(float(mutual_likelihood_score(p, p)), 4)
      -1.2655
    """
    return log_expected_likelihood_kernel(p, q)
