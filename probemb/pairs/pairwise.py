"""The distances and scores of `distances` between all pairs of two sets.

Every function takes Gaussians p (rows, dimension) and q (columns, dimension) and
gives (rows, columns). Squared distances are matrix products: both sets are centred on
their common mean first, since |m_p - m_q|^2 from |m_p|^2 + |m_q|^2 - 2 m_p . m_q loses what
the means share; products accumulate in float32 or wider at full precision; and what cannot
be negative is clamped at 0.

Where a variance divides, a matrix product would lose the small among the large: those
functions take every dimension of every pair, in blocks of rows, so that memory grows with the
result alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from probemb.distributions.gaussians import DiagonalGaussian, gaussian
from probemb.numerics import arguments, euclidean
from probemb.pairs import distances

# Elements (rows x columns x dimension) of a block where no matrix product helps.
_BLOCK = 2**20


def _two_sets(p: Any, q: Any) -> tuple[DiagonalGaussian, DiagonalGaussian]:
    p, q = arguments.one_dtype(gaussian("p", p), gaussian("q", q))
    if p.mean.ndim != 2 or q.mean.ndim != 2 or p.mean.shape[1] != q.mean.shape[1]:
        raise ValueError(
            "p and q must have shapes (rows, dimension) and (columns, dimension), "
            f"got {p.mean.shape} and {q.mean.shape}"
        )
    return p, q


def sampled_distance(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """`distances.sampled_distance` of all pairs, by a matrix product.

    Args:
      p: Gaussians (rows, dimension).
      q: Gaussians (columns, dimension).

    Returns:
      (rows, columns).

    Raises:
      TypeError, ValueError: not two sets of Gaussians in one dimension, or values not finite.

    Source: as in `distances`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
      >>> round(float(sampled_distance(p, p)[0, 1]), 4)
      6.0
    """
    p, q = _two_sets(p, q)
    traces = jnp.sum(p.variance, axis=1)[:, None] + jnp.sum(q.variance, axis=1)[None]
    return euclidean.squared_distance(*euclidean.centered(p.mean, q.mean)) + traces


def wasserstein_2(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """`distances.wasserstein_2` of all pairs, by a matrix product.

    Squared, it is the squared distance of the points [mean, sigma].

    Args:
      p: Gaussians (rows, dimension).
      q: Gaussians (columns, dimension).

    Returns:
      (rows, columns).

    Raises:
      TypeError, ValueError: not two sets of Gaussians in one dimension, or values not finite.

    Source: as in `distances`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
      >>> round(float(wasserstein_2(p, p)[0, 1]), 4)
      0.0
    """
    p, q = _two_sets(p, q)
    means = euclidean.centered(p.mean, q.mean)
    log_sigmas = 0.5 * p.log_variance, 0.5 * q.log_variance
    # In units of the greatest coordinate or sigma above 1, so that no square leaves the floats.
    greatest = [jnp.log(jnp.max(jnp.abs(x), initial=1.0)) for x in means]
    greatest += [jnp.max(x) for x in log_sigmas]
    log_unit = jax.lax.stop_gradient(functools.reduce(jnp.maximum, greatest))
    x, y = (
        jnp.concatenate([euclidean.quotient(mean, log_unit), jnp.exp(sigma - log_unit)], axis=1)
        for mean, sigma in zip(means, log_sigmas, strict=True)
    )
    distance = euclidean.square_root(euclidean.squared_distance(*euclidean.centered(x, y)))
    return euclidean.quotient(distance, -log_unit)


def kl_divergence(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """`distances.kl_divergence` of all pairs, in blocks of rows.

    Args:
      p: Gaussians (rows, dimension).
      q: Gaussians (columns, dimension).

    Returns:
      (rows, columns).

    Raises:
      TypeError, ValueError: not two sets of Gaussians in one dimension, or values not finite.

    Source: as in `distances`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
      >>> round(float(kl_divergence(p, p)[0, 1]), 4)
      0.0
    """
    return _in_blocks(distances.kl_divergence, *_two_sets(p, q))


def jeffreys_divergence(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """`distances.jeffreys_divergence` of all pairs, in blocks of rows.

    Args:
      p: Gaussians (rows, dimension).
      q: Gaussians (columns, dimension).

    Returns:
      (rows, columns).

    Raises:
      TypeError, ValueError: not two sets of Gaussians in one dimension, or values not finite.

    Source: as in `distances`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
      >>> round(float(jeffreys_divergence(p, p)[0, 1]), 4)
      0.0
    """
    return _in_blocks(distances.jeffreys_divergence, *_two_sets(p, q))


def geometric_jensen_shannon_divergence(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """`distances.geometric_jensen_shannon_divergence` of all pairs, in blocks of rows.

    Args:
      p: Gaussians (rows, dimension).
      q: Gaussians (columns, dimension).

    Returns:
      (rows, columns).

    Raises:
      TypeError, ValueError: not two sets of Gaussians in one dimension, or values not finite.

    Source: as in `distances`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
      >>> round(float(geometric_jensen_shannon_divergence(p, p)[0, 1]), 4)
      0.0
    """
    return _in_blocks(distances.geometric_jensen_shannon_divergence, *_two_sets(p, q))


def bhattacharyya_distance(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """`distances.bhattacharyya_distance` of all pairs, in blocks of rows.

    Args:
      p: Gaussians (rows, dimension).
      q: Gaussians (columns, dimension).

    Returns:
      (rows, columns).

    Raises:
      TypeError, ValueError: not two sets of Gaussians in one dimension, or values not finite.

    Source: as in `distances`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
      >>> round(float(bhattacharyya_distance(p, p)[0, 1]), 4)
      0.0
    """
    return _in_blocks(distances.bhattacharyya_distance, *_two_sets(p, q))


def log_expected_likelihood_kernel(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """`distances.log_expected_likelihood_kernel` of all pairs, in blocks of rows.

    Args:
      p: Gaussians (rows, dimension).
      q: Gaussians (columns, dimension).

    Returns:
      (rows, columns).

    Raises:
      TypeError, ValueError: not two sets of Gaussians in one dimension, or values not finite.

    Source: as in `distances`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
      >>> round(float(log_expected_likelihood_kernel(p, p)[0, 1]), 4)
      -3.7965
    """
    return _in_blocks(distances.log_expected_likelihood_kernel, *_two_sets(p, q))


def mutual_likelihood_score(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """`distances.mutual_likelihood_score` of all pairs, in blocks of rows.

    Args:
      p: Gaussians (rows, dimension).
      q: Gaussians (columns, dimension).

    Returns:
      (rows, columns).

    Raises:
      TypeError, ValueError: not two sets of Gaussians in one dimension, or values not finite.

    Source: as in `distances`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
      >>> round(float(mutual_likelihood_score(p, p)[0, 1]), 4)
      -3.7965
    """
    return log_expected_likelihood_kernel(p, q)


@functools.partial(jax.jit, static_argnums=0)
def _in_blocks(function: Callable, p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """function(p_i, q_j) of all pairs, recomputed for the gradient."""
    against_all = jax.vmap(function, (None, 0))
    rows = max(1, _BLOCK // q.mean.size)
    # Else `map` keeps what the gradient needs of every block, and blocks save no memory.
    return jax.lax.map(jax.checkpoint(lambda one: against_all(one, q)), p, batch_size=rows)
