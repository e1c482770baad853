"""Where weighted items stand in an order, and whether two orders agree.

A weight says how often an item counts. What depends on the order alone is kept apart from
what depends on the weights, so that a `vmap` over weights, as in a bootstrap, sorts once.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from probemb.numerics import arguments

# Items that are compared pair by pair.
_PAIRS = 128


def item_values(name: str, values: Any, like: jax.Array) -> jax.Array:
    """Values from 0 to 1, one for each item."""
    values = arguments.probabilities(name, values, like)
    if values.shape != like.shape:
        raise ValueError(f"{name} must have one value per item, {like.shape}, got {values.shape}")
    return values


def item_weights(weights: Any, like: jax.Array) -> jax.Array:
    """Weights of items, 1 by default; by a power of two, so that no product leaves the floats."""
    if weights is None:
        return jnp.ones_like(like)
    weights = arguments.array("weights", weights)
    kinds = (np.bool_, np.integer, np.floating)
    if not any(jnp.issubdtype(weights.dtype, kind) for kind in kinds):
        raise TypeError(f"weights must be boolean, integer or floating, got {weights.dtype}")
    if weights.shape != like.shape:
        raise ValueError(f"weights must have one value per item, {like.shape}, got {weights.shape}")
    if not arguments.concrete(weights):
        weights = weights.astype(like.dtype)
        return jnp.ldexp(weights, -jnp.frexp(jnp.max(weights))[1])
    seen = np.asarray(weights).astype(np.float64)
    if not (seen.min() >= 0.0 and np.isfinite(seen).all() and seen.any()):
        raise ValueError(
            "weights must be finite, not negative and not all 0, "
            f"got values from {arguments.shown(seen.min(), 0)} to {arguments.shown(seen.max(), 0)}"
        )
    return arguments.held("weights", np.ldexp(seen, -np.frexp(seen.max())[1]).astype(like.dtype))


def check_varied(name: str, given: Any, order: jax.Array, weights: jax.Array) -> None:
    """Two values at least among the items that count, where that can be looked at."""
    if arguments.concrete(order):
        seen, values = np.asarray(order), np.asarray(given)
        if arguments.concrete(weights):
            counts = np.asarray(weights) > 0.0
            seen, values = seen[counts], values[counts]
        if seen.min() == seen.max():
            raise ValueError(
                f"{name} must not be the same for all items that count, "
                f"got {arguments.shown(values[0])} throughout"
            )


@functools.partial(jax.jit, static_argnames="side")
def sum_up_to(uncertainty: jax.Array, values: jax.Array, side: str) -> jax.Array:
    """For every item the sum over items as certain or more ("right"), or over more ("left").

    Nothing but the cumulative sum depends on the values, so that a `vmap` over them sorts once.
    """
    order = jnp.argsort(uncertainty)
    place = jnp.searchsorted(uncertainty[order], uncertainty, side=side)
    sums = jnp.concatenate([jnp.zeros(1, values.dtype), jnp.cumsum(values[order])])[place]
    # Where values cannot be looked at, a NaN must not count as merely the most uncertain.
    return jnp.where(jnp.isnan(uncertainty).any(), jnp.nan, sums)


@jax.jit
def correlation(x: jax.Array, y: jax.Array, weights: jax.Array) -> jax.Array:
    """Pearson's, of values whose weighted mean is 0; NaN where one of both is 0 throughout."""
    of_x, of_y = (jnp.sqrt(jnp.sum(weights * jnp.square(z))) for z in (x, y))
    # One by one: the product of both may sink below the floats.
    return jnp.clip(jnp.sum(weights * x * y) / of_x / of_y, -1.0, 1.0)


def _check_orders(uncertainty: Any, ambiguity: Any, weights: Any) -> tuple[jax.Array, ...]:
    """Two orders of the same items, neither of them constant, and the items' weights."""
    x = arguments.ordered("uncertainty", uncertainty, "item")
    y = arguments.ordered("ambiguity", ambiguity, "item")
    if y.shape != x.shape:
        raise ValueError(f"ambiguity must have one value per item, {x.shape}, got {y.shape}")
    x, y = arguments.one_dtype(x, y)
    weights = item_weights(weights, x)
    check_varied("uncertainty", uncertainty, x, weights)
    check_varied("ambiguity", ambiguity, y, weights)
    return x, y, weights


def _differing(first: jax.Array, weights: jax.Array) -> jax.Array:
    """The weight of pairs that differ, of items in order; `first` begins each tie."""
    place = jnp.arange(len(first), dtype=jnp.int32)
    begin = jax.lax.cummax(jnp.where(first, place, 0))
    before = jnp.concatenate([jnp.zeros(1, weights.dtype), jnp.cumsum(weights)])[begin]
    return jnp.sum(weights * before)


def _inversions(by_value: jax.Array, weights: jax.Array) -> jax.Array:
    """The weight of pairs whose values descend, given the items' places in ascending order.

    The bottom-up merge sort run backwards: blocks of places that are sorted by value are parted
    into their halves. An item of a right half descends from what its block holds of the left half
    after it. In the last blocks all pairs are compared. What depends on the order alone holds no
    weights.
    """
    size = max(_PAIRS, 2 ** (len(by_value) - 1).bit_length())
    rest = jnp.arange(len(by_value), size, dtype=jnp.int32)
    by_value = jnp.concatenate([by_value.astype(jnp.int32), rest])
    weights = jnp.concatenate([weights, jnp.zeros(len(rest), weights.dtype)])
    place = jnp.arange(size, dtype=jnp.int32)

    def parted(state: tuple, half: jax.Array) -> tuple[tuple, None]:
        by_value, descending = state
        start = place & ~(2 * half - 1)
        left = (by_value & half) == 0
        weight = weights[by_value]
        up_to = jnp.cumsum(jnp.where(left, weight, 0.0))
        after = up_to[start + (2 * half - 1)] - up_to
        descending += jnp.sum(jnp.where(left, 0.0, weight * after))
        # The blocks before hold as many of left halves as of right ones.
        lefts = jnp.cumsum(left.astype(jnp.int32)) - start // 2
        onto = jnp.where(left, start + lefts - 1, place + half - lefts)
        by_value = jnp.zeros_like(by_value).at[onto].set(by_value, unique_indices=True)
        return (by_value, descending), None

    halves = [half for half in 2 ** np.arange(31)[::-1] if _PAIRS <= half < size]
    state = by_value, jnp.sum(weights[:0])  # a 0 that varies over devices as the weights do
    descending = jax.lax.scan(parted, state, jnp.asarray(halves, jnp.int32))[0][1]

    value = jnp.zeros_like(place).at[by_value].set(place, unique_indices=True)
    value, weights = value.reshape(-1, _PAIRS), weights.reshape(-1, _PAIRS)
    pairs = jnp.triu(value[:, :, None] > value[:, None]).astype(weights.dtype)
    below = jnp.einsum("bij,bj->bi", pairs, weights, precision="highest")
    return descending + jnp.sum(weights * below)


@jax.jit
def _tau(order: jax.Array, by_y: jax.Array, begins: tuple, weights: jax.Array) -> jax.Array:
    """Tau-b of weighted items, from `_structure`."""
    of_x, of_y, of_both = begins
    weights = weights[order]
    in_x, in_both = _differing(of_x, weights), _differing(of_both, weights)
    in_y = _differing(of_y, weights[by_y])
    # Pairs that differ in x and in y: those in x and those in y, less those in either.
    both = in_x + in_y - in_both
    tau = (both - 2.0 * _inversions(by_y, weights)) / jnp.sqrt(in_x) / jnp.sqrt(in_y)
    return jnp.clip(tau, -1.0, 1.0)


def _structure(x: Any, y: Any) -> tuple:
    """Items by x and then y, these by y, and where ties begin of x, of y and of both."""
    xp = np if arguments.concrete(x, y) else jnp  # NumPy sorts many times faster than XLA
    x, y = (np.asarray(z) if xp is np else z for z in (x, y))
    order = xp.lexsort((y, x))
    x, y = x[order], y[order]
    by_y = xp.argsort(y, stable=True)

    def begins(values: Any) -> Any:
        return xp.concatenate([xp.ones(1, bool), values[1:] != values[:-1]])

    return order, by_y, (begins(x), begins(y[by_y]), begins(x) | begins(y))


def kendall_tau(
    uncertainty: ArrayLike, ambiguity: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """Kendall's rank correlation: do pairs of items come in the same order? tau-b.

    (pairs in the same order - pairs in opposite orders) / sqrt(n_u n_a), where n_u pairs differ in
    uncertainty and n_a in ambiguity.

    Args:
      uncertainty: (item).
      ambiguity: (item), what the uncertainty should follow, such as the entropy of an item's
        labels or its number of matches, as floats.
      weights: (item), how often an item counts; by default once. Copies of an item are ties.

    Returns:
      A scalar from -1 to 1, 1 is ideal; under `jit` or `vmap`, NaN where one of both is constant
      or holds a NaN. Time grows with n log n, memory with n.

    Raises:
      TypeError, ValueError: other shapes, NaN, or the same value throughout.

    Source: Kendall (1945); pairs in opposite orders are counted by merging, as by Knight (1966).

    Example:
      >>> import jax.numpy as jnp
      >>> tau = kendall_tau(jnp.array([0.1, 0.2, 0.4, 0.3]), jnp.array([1.0, 2.0, 3.0, 4.0]))
      >>> round(float(tau), 4)  # five pairs agree, one does not
      0.6667
    """
    x, y, weights = _check_orders(uncertainty, ambiguity, weights)
    tau = _tau(*_structure(x, y), weights)
    if arguments.concrete(x, y):
        return tau
    return jnp.where(jnp.isnan(x).any() | jnp.isnan(y).any(), jnp.nan, tau)


def spearman(
    uncertainty: ArrayLike, ambiguity: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
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
    x, y, weights = _check_orders(uncertainty, ambiguity, weights)

    def from_the_middle(x: jax.Array) -> jax.Array:
        """Twice the mid-rank minus the mean rank, and exactly 0 where all that counts ties."""
        return sum_up_to(x, weights, "left") - sum_up_to(-x, weights, "left")

    return correlation(from_the_middle(x), from_the_middle(y), weights)
