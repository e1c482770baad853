"""Where weighted items stand in an order, and whether two orders agree.

A weight says how often an item counts. What depends on the order alone is kept apart from
what depends on the weights, so that a `vmap` over weights, as in a bootstrap, sorts once.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probemb import arguments
from probemb.reduction import reduce_pairs, total


def item_values(name: str, values: Any, like: jax.Array) -> jax.Array:
    """Values from 0 to 1, one for each item."""
    values = arguments.probabilities(name, values, like)
    if values.shape != like.shape:
        raise ValueError(f"{name} must have one value per item, {like.shape}, got {values.shape}")
    return values


def item_weights(weights: Any, like: jax.Array) -> jax.Array:
    """Weights of items, 1 by default."""
    if weights is None:
        return jnp.ones_like(like)
    weights = jnp.asarray(weights).astype(like.dtype)
    if weights.shape != like.shape:
        raise ValueError(f"weights must have one value per item, {like.shape}, got {weights.shape}")
    if arguments.concrete(weights):
        seen = np.asarray(weights)
        if not (seen.min() >= 0.0 and np.isfinite(seen).all() and seen.any()):
            raise ValueError(
                "weights must be finite, not negative and not all 0, "
                f"got values from {seen.min():g} to {seen.max():g}"
            )
    return weights


def check_varied(name: str, values: jax.Array, weights: jax.Array) -> None:
    """Two values at least among the items that count, where that can be looked at."""
    if arguments.concrete(values):
        seen = np.asarray(values)
        seen = seen[np.asarray(weights) > 0.0] if arguments.concrete(weights) else seen
        if seen.min() == seen.max():
            raise ValueError(
                f"{name} must not be the same for all items that count, got {seen[0]:g} throughout"
            )


def sum_up_to(uncertainty: jax.Array, values: jax.Array, side: str) -> jax.Array:
    """For every item the sum over items as certain or more ("right"), or over more ("left").

    Nothing but the cumulative sum depends on the values, so that a `vmap` over them sorts once.
    """
    order = jnp.argsort(uncertainty)
    place = jnp.searchsorted(uncertainty[order], uncertainty, side=side)
    sums = jnp.concatenate([jnp.zeros(1, values.dtype), jnp.cumsum(values[order])])[place]
    # Where values cannot be looked at, a NaN must not count as merely the most uncertain.
    return jnp.where(jnp.isnan(uncertainty).any(), jnp.nan, sums)


def correlation(x: jax.Array, y: jax.Array, weights: jax.Array) -> jax.Array:
    """Pearson's, of values whose weighted mean is 0; NaN where one of both is 0 throughout."""
    of_x, of_y = (jnp.sqrt(jnp.sum(weights * jnp.square(z))) for z in (x, y))
    return jnp.clip(jnp.sum(weights * x * y) / of_x / of_y, -1.0, 1.0)


def _check_orders(uncertainty: Any, ambiguity: Any, weights: Any) -> tuple[jax.Array, ...]:
    """Two orders of the same items, neither of them constant, and the items' weights."""
    uncertainty = arguments.batch("uncertainty", uncertainty, "item")
    ambiguity = arguments.batch("ambiguity", ambiguity, "item")
    if ambiguity.shape != uncertainty.shape:
        raise ValueError(
            f"ambiguity must have one value per item, {uncertainty.shape}, got {ambiguity.shape}"
        )
    uncertainty, ambiguity = arguments.one_dtype(uncertainty, ambiguity)
    weights = item_weights(weights, uncertainty)
    check_varied("uncertainty", uncertainty, weights)
    check_varied("ambiguity", ambiguity, weights)
    return uncertainty, ambiguity, weights


def _agreement_tile(rows: dict, columns: dict, _: tuple):
    """For every row the weight of columns in the same order to it, minus that in opposite ones."""
    weight = columns["weight"]

    def side(name: str) -> jax.Array:
        row, column = rows[name][:, None], columns[name][None]
        return (row > column).astype(weight.dtype) - (row < column).astype(weight.dtype)

    agreement = side("uncertainty") * side("ambiguity")
    return jnp.matmul(agreement, weight, precision="highest"), ()


def kendall_tau(uncertainty: Any, ambiguity: Any, *, weights: Any = None) -> jax.Array:
    """Kendall's rank correlation: do pairs of items come in the same order? tau-b.

    (pairs in the same order - pairs in opposite orders) / sqrt(n_u n_a), where n_u pairs differ in
    uncertainty and n_a in ambiguity.

    Args:
      uncertainty: (item).
      ambiguity: (item), what the uncertainty should follow, such as the entropy of an item's
        labels or its number of matches.
      weights: (item), how often an item counts; by default once. Copies of an item are ties.

    Returns:
      A scalar from -1 to 1, 1 is ideal; under `jit` or `vmap`, NaN where one of both is constant
      or holds a NaN. It visits all pairs, in blocks.

    Raises:
      TypeError, ValueError: other shapes, NaN, or the same value throughout.

    Source: Kendall (1945).

    Example:
      >>> import jax.numpy as jnp
      >>> tau = kendall_tau(jnp.array([0.1, 0.2, 0.4, 0.3]), jnp.array([1.0, 2.0, 3.0, 4.0]))
      >>> round(float(tau), 4)  # five pairs agree, one does not
      0.6667
    """
    uncertainty, ambiguity, weights = _check_orders(uncertainty, ambiguity, weights)
    rows = {"uncertainty": uncertainty, "ambiguity": ambiguity}
    agreement, _ = reduce_pairs(_agreement_tile, total, rows, {**rows, "weight": weights}, ())
    # Of two items that differ one lies below the other, so that these are half of the pairs.
    differ = (jnp.sum(weights * sum_up_to(x, weights, "left")) for x in (uncertainty, ambiguity))
    of_uncertainty, of_ambiguity = (jnp.sqrt(2.0 * pairs) for pairs in differ)
    tau = jnp.sum(weights * agreement) / of_uncertainty / of_ambiguity
    return jnp.clip(tau, -1.0, 1.0)


def spearman(uncertainty: Any, ambiguity: Any, *, weights: Any = None) -> jax.Array:
    """Spearman's rank correlation: the correlation of mid-ranks.

    Args:
      uncertainty: (item).
      ambiguity: (item), what the uncertainty should follow.
      weights: (item), how often an item counts; by default once. Copies of an item are ties.

    Returns:
      A scalar from -1 to 1, 1 is ideal; under `jit` or `vmap`, NaN where one of both is constant
      or holds a NaN.

    Raises:
      TypeError, ValueError: as `kendall_tau`.

    Source: Spearman (1904), with the mean rank for ties.

    Example:
      >>> import jax.numpy as jnp
      >>> rho = spearman(jnp.array([0.1, 0.2, 0.4, 0.3]), jnp.array([1.0, 2.0, 3.0, 4.0]))
      >>> round(float(rho), 4)
      0.8
    """
    uncertainty, ambiguity, weights = _check_orders(uncertainty, ambiguity, weights)

    def from_the_middle(x: jax.Array) -> jax.Array:
        """Twice the mid-rank minus the mean rank, and exactly 0 where all that counts ties."""
        return sum_up_to(x, weights, "left") - sum_up_to(-x, weights, "left")

    return correlation(from_the_middle(uncertainty), from_the_middle(ambiguity), weights)
