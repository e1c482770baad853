"""What keeps distributions from collapsing to points, and embeddings from collapsing at all."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from probemb.distributions.gaussians import DiagonalGaussian, gaussian, standard_normal
from probemb.numerics import arguments
from probemb.numerics.arguments import Number
from probemb.numerics.euclidean import centered, squared_distance
from probemb.numerics.reduction import batch_index, batch_size, batch_sum, reduce_pairs


def kl_to_standard_normal(p: DiagonalGaussian) -> jax.Array:
    """KL(p || N(0, I)) in nats: the information bottleneck of HIB, PCME and PCME++.

    Args:
      p: Gaussians (..., dimension).

    Returns:
      (...), summed over dimensions. PCME++ divides it by the dimension.

    Raises:
      TypeError, ValueError: no Gaussian, or values not finite.

    Source: HIB (Oh et al., ICLR 2019).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> float(kl_to_standard_normal(DiagonalGaussian(jnp.ones(2), jnp.zeros(2))))
      1.0
    """
    p = gaussian("p", p)
    return p.kl_divergence(standard_normal(p.mean))


def _uniformity_tile(rows: dict, columns: dict, t: jax.Array):
    exponent = -t * squared_distance(rows["points"], columns["points"])
    same = rows["index"][:, None] == columns["index"][None]
    return jax.nn.logsumexp(jnp.where(same, -jnp.inf, exponent), axis=1), ()


def _merge_log_sums(stacked: Any) -> Any:
    return jax.tree.map(lambda x: jax.nn.logsumexp(x, axis=0), stacked)


def uniformity(points: ArrayLike, *, t: Number = 2.0, axis_name: str | None = None) -> jax.Array:
    """Log mean_{i < j} exp(-t |z_i - z_j|^2): low where points spread out.

    Args:
      points: (point, dimension), two or more; PCME passes the samples of images and texts.
      t: sharpness, above 0.
      axis_name: within `shard_map`, the axis over which the points are sharded.

    Returns:
      A scalar of at most 0, the same on all devices.

    Raises:
      TypeError, ValueError: fewer than two points, or values out of range.

    Source: Wang and Isola, ICML 2020; PCME (Chun et al., CVPR 2021) with t = 2.

    Example:
      >>> import jax.numpy as jnp
      >>> float(uniformity(jnp.array([[0.0], [1.0]])))
      -2.0
    """
    points = arguments.batch("points", points, "point dimension")
    t = arguments.positive("t", t, points)
    number = batch_size(len(points), axis_name)
    if number < 2:
        raise ValueError(f"points must be two or more, got shape {points.shape}")
    points, _ = centered(points, points, axis_name)
    items = {"points": points, "index": batch_index(len(points), axis_name)}
    log_sums, _ = reduce_pairs(
        _uniformity_tile, _merge_log_sums, items, items, t, axis_name=axis_name
    )
    # It drops out of the result, and `pmax` has no derivative.
    top = jax.lax.stop_gradient(jnp.max(log_sums))
    if axis_name is not None:
        top = jax.lax.pmax(top, axis_name)
    log_sum = top + jnp.log(batch_sum(jnp.exp(log_sums - top), axis_name))
    # The sums hold every pair twice.
    return log_sum - math.log(number * (number - 1))
