"""Estimates from samples, for what has no closed form."""

from typing import Any

import jax
import jax.numpy as jnp

from probemb import arguments


def _check(name: str, p: Any) -> None:
    if not (hasattr(p, "sample") and hasattr(p, "log_prob")):
        raise TypeError(f"{name} must be a distribution of this package, got {type(p).__name__}")


def _log_probs(p: Any, points: jax.Array) -> jax.Array:
    return jax.vmap(p.log_prob)(points)


def entropy(key: jax.Array, p: Any, *, num_samples: int) -> jax.Array:
    """-mean_k log p(x_k) over samples x_k of p: the entropy, without bias.

    Args:
      key: a random key.
      p: any distribution of this package, such as a `GaussianMixture`.
      num_samples: how many samples; the error falls with its square root.

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
    return -jnp.mean(_log_probs(p, p.sample(key, (number,))), axis=0)


def kl_divergence(key: jax.Array, p: Any, q: Any, *, num_samples: int) -> jax.Array:
    """mean_k [log p(x_k) - log q(x_k)] over samples x_k of p: KL(p || q), without bias.

    Args:
      key: a random key.
      p: any distribution of this package.
      q: any distribution over the same space, of the same batch shape.
      num_samples: how many samples; the error falls with its square root.

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
    points = p.sample(key, (number,))
    return jnp.mean(_log_probs(p, points) - _log_probs(q, points), axis=0)
