"""Estimates from samples, for what has no closed form."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from probemb.distributions.gaussians import GaussianMixture
from probemb.numerics import arguments


def _check(name: str, p: Any) -> None:
    if isinstance(p, type) or not (hasattr(p, "sample") and hasattr(p, "log_prob")):
        raise TypeError(f"{name} must be a distribution of this package, got {type(p).__name__}")


def _mean(key: jax.Array, p: Any, number: int, function: Callable) -> jax.Array:
    """The mean of a function over samples of p, differentiable in all that p has.

    A mixture's samples are stratified: the choice of a component has no derivative.
    """
    if isinstance(p, GaussianMixture):
        points, log_weights = p.stratified_sample(key, number)
        return jnp.sum(jnp.exp(log_weights) * jax.vmap(function)(points), axis=0)
    return jnp.mean(jax.vmap(function)(p.sample(key, (number,))), axis=0)


def entropy(key: jax.Array, p: Any, *, num_samples: int) -> jax.Array:
    """-mean_k log p(x_k) over samples x_k of p: the entropy, without bias.

    Args:
      key: a random key.
      p: any distribution of this package, such as a `GaussianMixture`.
      num_samples: how many samples, of a mixture for every component; the error falls with
        its square root.

    Returns:
      The estimate (...) in nats.

    Raises:
      TypeError, ValueError: no key, no distribution, no positive number.

    Source: the definition of the entropy.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(3), jnp.zeros(3))
      >>> estimate = entropy(jax.random.key(0), p, num_samples=10_000)
      >>> bool(abs(estimate - p.entropy()) < 0.05)
      True
    """
    _check("p", p)
    number = arguments.count("num_samples", num_samples)
    return -_mean(key, p, number, p.log_prob)


def kl_divergence(key: jax.Array, p: Any, q: Any, *, num_samples: int) -> jax.Array:
    """mean_k [log p(x_k) - log q(x_k)] over samples x_k of p: KL(p || q), without bias.

    Args:
      key: a random key.
      p: any distribution of this package.
      q: any distribution over the same space, of the same batch shape.
      num_samples: how many samples, of a mixture for every component; the error falls with
        its square root.

    Returns:
      The estimate (...) in nats; it may be negative.

    Raises:
      TypeError, ValueError: no key, no distribution, no positive number.

    Source: the definition of the divergence.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(3), jnp.zeros(3))
      >>> float(kl_divergence(jax.random.key(0), p, p, num_samples=8))
      0.0
    """
    _check("p", p)
    _check("q", q)
    number = arguments.count("num_samples", num_samples)
    return _mean(key, p, number, lambda x: p.log_prob(x) - q.log_prob(x))
