"""Temperature scaling of distributions: all of them wider or narrower by one factor.

After training, on pairs that were set aside, one number makes distributions as wide as their
errors are. Which item is wider than which does not change.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from probemb.distributions.gaussians import DiagonalGaussian, point
from probemb.distributions.generalized_gaussian import GeneralizedGaussian
from probemb.distributions.von_mises_fisher import VonMisesFisher
from probemb.losses.reconstruction import around_embedding, reconstruction
from probemb.numerics import arguments
from probemb.numerics.arguments import Number

# The temperature is sought between these, to the last bit of float32.
_LOG_BOUND = math.log(1e4)
_HALVINGS = 40

_Family = TypeVar("_Family", DiagonalGaussian, GeneralizedGaussian, VonMisesFisher)


def tempered(p: _Family, *, temperature: Number) -> _Family:
    """Distributions with every scale multiplied by the temperature.

    The standard deviation of a Gaussian and the scale of a generalized one grow by it, the
    concentration of a von Mises-Fisher distribution falls by its square.

    Args:
      p: `GeneralizedGaussian`, `DiagonalGaussian` or `VonMisesFisher` (..., dimension).
      temperature: a positive scalar; 1 changes nothing.

    Returns:
      The same family and shape.

    Raises:
      TypeError, ValueError: another kind of p, or a temperature that is not positive.

    Source: Guo et al. (ICML 2017) scale logits so; variance scaling of regression: Levi et al.
    (Sensors 2022).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
      >>> round(float(tempered(p, temperature=3).variance[0]), 4)
      9.0
    """
    p = around_embedding("p", p)
    temperature = arguments.positive("temperature", temperature, p[0])
    if isinstance(p, GeneralizedGaussian):
        return p._replace(scale=p.scale * temperature)
    if isinstance(p, DiagonalGaussian):
        return p._replace(log_variance=p.log_variance + 2.0 * jnp.log(temperature))
    # Twice, for the square of a temperature may be no float.
    return p._replace(concentration=p.concentration / temperature / temperature)


def fit_temperature(
    p: DiagonalGaussian | GeneralizedGaussian | VonMisesFisher, target: ArrayLike
) -> jax.Array:
    """The temperature at which held-out embeddings are most likely.

    The root of the derivative of `reconstruction` in log temperature, by bisection between 1e-4
    and 1e4: the loss has one minimum. Embeddings that all lie where p expects them want a
    temperature of 0, and those that p tells nothing of an infinite one.

    Args:
      p: distributions (item, dimension), as `tempered` takes them.
      target: z (item, dimension), embeddings that p should explain and was not trained on.

    Returns:
      A positive scalar, above 1 where p was too sure of itself; under `jit` or `vmap`, NaN where
      no temperature between these two is the most likely.

    Raises:
      TypeError, ValueError: shapes that do not fit, values out of range, or no such temperature.

    Source: as `tempered`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros((2, 1)), jnp.zeros((2, 1)))
      >>> round(float(fit_temperature(p, jnp.array([[3.0], [-3.0]]))), 4)
      3.0
    """
    p = around_embedding("p", p)
    p, target = arguments.one_dtype(p, point(target, p[0], "target"))
    if arguments.concrete(*p, target):
        jax.eval_shape(lambda: reconstruction(p, target))  # what it raises, it raises here
    temperature, end = _fitted(p, target)
    if arguments.concrete(end) and end != 0.0:
        least, most = math.exp(-_LOG_BOUND), math.exp(_LOG_BOUND)
        bound = f"{most:g} or more" if end > 0.0 else f"{least:g} or less"
        raise ValueError(
            f"target must be most likely at a temperature of p between {least:g} and {most:g}, "
            f"got the greatest likelihood at {bound}"
        )
    return temperature


@jax.jit
def _fitted(p: Any, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The temperature or NaN, and -1, 0 or 1 where it is below, between or above the bounds."""

    def loss(log_temperature: jax.Array) -> jax.Array:
        return reconstruction(tempered(p, temperature=jnp.exp(log_temperature)), target)

    def slope(log_temperature: jax.Array) -> jax.Array:
        # Forward mode: one pass for the derivative in one number.
        return jax.jvp(loss, (log_temperature,), (jnp.ones_like(log_temperature),))[1]

    def halved(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        middle = 0.5 * (ends[0] + ends[1])
        falls = slope(middle) < 0.0
        return jnp.where(falls, middle, ends[0]), jnp.where(falls, ends[1], middle)

    # Within a `shard_map` the ends vary over the axes of the mesh over which the items vary.
    bound = jnp.asarray(_LOG_BOUND, target.dtype)
    for leaf in (*p, target):
        bound += jnp.sum(leaf.reshape(-1)[:0])
    low, high = jax.lax.fori_loop(0, _HALVINGS, halved, (-bound, bound))
    # Where an end has never moved, the slope there tells whether the minimum lies beyond it.
    middle = 0.5 * (low + high)
    below = (low == -bound) & ~(slope(-bound) < 0.0)
    above = (high == bound) & ~(slope(bound) > 0.0)
    end = above.astype(bound.dtype) - below.astype(bound.dtype)
    # The root once more, now with the derivatives that a root has in p and in the target.
    middle = jax.lax.custom_root(
        slope,
        jax.lax.stop_gradient(middle),
        lambda _, root: root,
        lambda linear, right: right / linear(jnp.ones_like(right)),
    )
    return jnp.where(below | above, jnp.nan, jnp.exp(middle)), end
