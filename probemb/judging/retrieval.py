"""Do the right items come first: recall@K, R-Precision, mAP@R and PMRP.

A query ranks all items by their scores, the greatest first; some of the items are its
positives. Every metric gives one value per query, so that means, intervals and what counts
as an error are the caller's.

Equal scores are in no order. Each metric is the exact expectation over all orders of tied
items, so that a constant score is worth what chance is, and not what the order of the items
happens to be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from probemb.numerics import arguments
from probemb.numerics.euclidean import product


def _own(self_index: Any, number: int, items: int) -> jax.Array | None:
    """Which item (query) each query is, or -1."""
    if self_index is None:
        return None
    self_index = arguments.indices("self_index", self_index, items)
    if self_index.shape != (number,):
        raise ValueError(f"self_index must have shape ({number},), got {self_index.shape}")
    return self_index


def _queries(scores: Any, positives: Any, self_index: Any) -> tuple[jax.Array, jax.Array]:
    """Scores and booleans of one shape, and for every query a positive besides itself."""
    scores = arguments.ordered("scores", scores, "query item")
    if getattr(positives, "dtype", None) != np.bool_:
        got = getattr(positives, "dtype", type(positives).__name__)
        raise TypeError(f"positives must be a boolean array, got {got}")
    if positives.shape != scores.shape:
        raise ValueError(
            f"positives must have the shape of scores, {scores.shape}, got {positives.shape}"
        )
    own = _own(self_index, *scores.shape)
    if own is not None:
        scores, positives = _without(own, scores, -np.inf), _without(own, positives, False)
    if arguments.concrete(positives):
        none = np.flatnonzero(~np.asarray(positives).any(axis=1))
        if len(none):
            besides = "" if own is None else " besides itself"
            raise ValueError(
                f"positives must hold one for every query{besides}, got none at {none[0]}"
            )
    return scores, arguments.held("positives", positives)


@jax.jit
def _without(own: jax.Array, values: Any, nothing: Any) -> jax.Array:
    """Values (query, item) with `nothing` where a query meets itself."""
    return jnp.where(
        own[:, None] == jnp.arange(values.shape[1], dtype=own.dtype)[None], nothing, values
    )


@jax.jit
def _defined(values: jax.Array, scores: jax.Array, positives: jax.Array) -> jax.Array:
    """NaN for queries without a positive, and for those with a NaN among their scores."""
    defined = positives.any(axis=1) & ~jnp.isnan(scores).any(axis=1)
    return jnp.where(defined, values, jnp.nan)


def _places(max_positives: int | None, positives: jax.Array) -> int:
    """How many places have to be sorted."""
    items = positives.shape[1]
    if max_positives is None:
        return items
    max_positives = arguments.count("max_positives", max_positives)
    if arguments.concrete(positives):
        most = int(np.asarray(positives).sum(axis=1).max())
        if most > max_positives:
            raise ValueError(
                f"max_positives must be at least the {most} of a query, got {max_positives}"
            )
    return min(max_positives, items)


def _rows_count(mask: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.sum(mask, axis=1).astype(like.dtype)


def recall_at_k(
    scores: ArrayLike, positives: ArrayLike, *, k: int, self_index: ArrayLike | None = None
) -> jax.Array:
    """The probability that any of a query's positives is among its first K items.

    Where g items score above the best positive, and t score as much as it, p of them positives:
    1 - C(t - p, K - g) / C(t, K - g); without ties it is 1 where g < K and 0 where not.

    Args:
      scores: (query, item), the greater, the better.
      positives: booleans (query, item), at least one for every query.
      k: K.
      self_index: integers (query), which of the items the query itself is, such as
        `jnp.arange(len(scores))` of a set among itself; it is left out of the ranking and of the
        positives. -1 where it is none of them; by default no query is an item.

    Returns:
      (query), from 0 to 1; under `jit` or `vmap`, NaN where a query has no positive or a NaN.

    Raises:
      TypeError, ValueError: other shapes, NaN, or a query without a positive.

    Source: the recall@K of cross-modal retrieval, such as VSE++ (Faghri et al., BMVC 2018). It
    asks for any positive, and not for the share of them. The expectation over ties is ours.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = jnp.array([[0.9, 0.5, 0.1, 0.0], [0.2, 0.2, 0.2, 0.2]])
      >>> positives = jnp.array([[False, True, True, False]] * 2)
      >>> recall_at_k(scores, positives, k=1).tolist()
      [0.0, 0.5]
    """
    scores, positives = _queries(scores, positives, self_index)
    k = min(arguments.count("k", k), scores.shape[1])
    return _defined(_any_of_first(k, scores, positives), scores, positives)


@functools.partial(jax.jit, static_argnums=0)
def _any_of_first(k: int, scores: jax.Array, positives: jax.Array) -> jax.Array:
    """Recall@K of every query."""
    best = jnp.max(jnp.where(positives, scores, -jnp.inf), axis=1, keepdims=True)
    above, tied, matched = (
        _rows_count(mask, scores)[:, None]
        for mask in (scores > best, scores == best, positives & (scores == best))
    )
    drawn = jnp.arange(k, dtype=scores.dtype)[None]
    # Of those tied, one after another is drawn for the places up to K: none of them matches.
    left = jnp.maximum(tied - drawn, 1.0)
    misses = jnp.where(drawn < k - above, jnp.maximum(tied - matched - drawn, 0.0) / left, 1.0)
    return 1.0 - jnp.prod(misses, axis=1)


@jax.jit
def _share_of_first(ranked: jax.Array, scores: jax.Array, positives: jax.Array) -> jax.Array:
    """R-Precision, given the greatest scores in descending order; NaN if R is beyond them."""
    number = jnp.sum(positives, axis=1, keepdims=True)
    # NaN where R lies beyond the places that were sorted; `fits` then leaves the result undefined.
    last = jnp.take_along_axis(ranked, jnp.maximum(number - 1, 0), axis=1, mode="fill")
    above, tied, matched_above, matched = (
        _rows_count(mask, scores)
        for mask in (
            scores > last,
            scores == last,
            positives & (scores > last),
            positives & (scores == last),
        )
    )
    number = number[:, 0].astype(scores.dtype)
    share = matched_above + matched * (number - above) / jnp.maximum(tied, 1.0)
    fits = (number > 0.0) & (number <= ranked.shape[1])
    return jnp.where(fits, share / jnp.maximum(number, 1.0), jnp.nan)


def r_precision(
    scores: ArrayLike,
    positives: ArrayLike,
    *,
    max_positives: int | None = None,
    self_index: ArrayLike | None = None,
) -> jax.Array:
    """The share of positives among a query's first R items, R the number of its positives.

    Of the p positives among t tied items that begin at rank g + 1, p (R - g) / t are expected
    up to rank R.

    The scores must be those of all items. Cut to the best few, with R counted among them, most
    queries look better than they are.

    Args:
      scores: (query, item), the greater, the better.
      positives: booleans (query, item), at least one for every query.
      max_positives: no query has more; by default the number of items. Only so many places
        are sorted, which is many times faster where positives are few.
      self_index: as in `recall_at_k`.

    Returns:
      (query), from 0 to 1; under `jit` or `vmap`, NaN where a query has no positive, more than
      `max_positives`, or a NaN.

    Raises:
      TypeError, ValueError: other shapes, NaN, a query without a positive or with too many.

    Source: as in Musgrave, Belongie and Lim (ECCV 2020) and ECCV Caption (Chun et al., ECCV
    2022). The expectation over ties is ours.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = jnp.array([[0.9, 0.5, 0.1, 0.0], [0.2, 0.2, 0.2, 0.2]])
      >>> positives = jnp.array([[False, True, True, False]] * 2)
      >>> r_precision(scores, positives).tolist()
      [0.5, 0.5]
    """
    scores, positives = _queries(scores, positives, self_index)
    ranked = jax.lax.top_k(scores, _places(max_positives, positives))[0]
    return _defined(_share_of_first(ranked, scores, positives), scores, positives)


def map_at_r(
    scores: ArrayLike,
    positives: ArrayLike,
    *,
    max_positives: int | None = None,
    self_index: ArrayLike | None = None,
) -> jax.Array:
    """The mean precision at the positives among a query's first R items: mAP@R.

    1/R sum_{r <= R} P@r rel(r), R the number of positives. Where rank r is the j-th of t tied
    items, p of them positives, and P positives are above them, the term's expectation is
    p/t (P + 1 + (j - 1) (p - 1) / (t - 1)) / r.

    Args:
      scores: (query, item), the greater, the better.
      positives: booleans (query, item), at least one for every query.
      max_positives: as in `r_precision`.
      self_index: as in `recall_at_k`.

    Returns:
      (query), from 0 to 1 and at most R-Precision; under `jit` or `vmap`, NaN where a query has
      no positive, more than `max_positives`, or a NaN.

    Raises:
      TypeError, ValueError: as `r_precision`.

    Source: Musgrave, Belongie and Lim (ECCV 2020); ECCV Caption (Chun et al., ECCV 2022). The
    expectation over ties is ours.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = jnp.array([[0.9, 0.5, 0.1, 0.0], [0.2, 0.2, 0.2, 0.2]])
      >>> positives = jnp.array([[False, True, True, False]] * 2)
      >>> [round(float(value), 4) for value in map_at_r(scores, positives)]
      [0.25, 0.4167]
    """
    scores, positives = _queries(scores, positives, self_index)
    mean = _mean_of_first(_places(max_positives, positives), scores, positives)
    return _defined(mean, scores, positives)


@functools.partial(jax.jit, static_argnums=0)
def _mean_of_first(places: int, scores: jax.Array, positives: jax.Array) -> jax.Array:
    """mAP@R of every query, with so many places sorted; NaN if R is beyond them."""
    ranked, index = jax.lax.top_k(scores, places)
    found = jnp.cumsum(jnp.take_along_axis(positives, index, axis=1), axis=1)
    found = jnp.pad(found, ((0, 0), (1, 0)))
    above, up_to = (
        jax.vmap(functools.partial(jnp.searchsorted, side=side))(-ranked, -ranked)
        for side in ("left", "right")
    )
    matched_above, matched_up_to = (
        jnp.take_along_axis(found, place, axis=1).astype(scores.dtype) for place in (above, up_to)
    )
    # The ties of the last place may go on beyond it.
    last = jnp.min(ranked, axis=1, keepdims=True)  # a slice would make XLA sort all items
    above, up_to = above.astype(scores.dtype), up_to.astype(scores.dtype)
    tail = scores >= last
    up_to = jnp.where(ranked > last, up_to, _rows_count(tail, scores)[:, None])
    matched_up_to = jnp.where(
        ranked > last, matched_up_to, _rows_count(tail & positives, scores)[:, None]
    )
    tied, matched = up_to - above, matched_up_to - matched_above

    rank = jnp.arange(1, places + 1, dtype=scores.dtype)[None]
    earlier = (rank - above - 1.0) * (matched - 1.0) / jnp.maximum(tied - 1.0, 1.0)
    terms = matched / jnp.maximum(tied, 1.0) * (matched_above + 1.0 + earlier) / rank
    number = _rows_count(positives, scores)[:, None]
    total = jnp.sum(jnp.where(rank <= number, terms, 0.0), axis=1)
    mean = jnp.where(number <= places, total[:, None] / jnp.maximum(number, 1.0), jnp.nan)
    return mean[:, 0]


def _labels(name: str, labels: Any, number: int, like: jax.Array) -> jax.Array:
    """Zeros and ones (number, label)."""
    given, labels = labels, arguments.probabilities(name, labels, like)
    if labels.ndim != 2 or len(labels) != number:
        raise ValueError(f"{name} must have shape ({number}, label), got {labels.shape}")
    if arguments.concrete(labels):
        seen = np.asarray(given)
        between = seen[(seen > 0) & (seen < 1)]
        if len(between):
            raise ValueError(f"{name} must be 0 or 1, got {arguments.shown(between[0], 0, 1)}")
    return labels


def pmrp(
    scores: ArrayLike,
    query_labels: ArrayLike,
    item_labels: ArrayLike,
    *,
    max_distances: tuple[int, ...] = (0, 1, 2),
    self_index: ArrayLike | None = None,
) -> jax.Array:
    """Plausible-match R-Precision: positives are items that show nearly the same things.

    The mean over zeta of R-Precision where the positives are the items whose 0/1 labels differ
    from the query's in at most zeta places.

    Args:
      scores: (query, item), the greater, the better.
      query_labels: 0 or 1 (query, label), such as which categories an image, or a caption's
        image, shows.
      item_labels: 0 or 1 (item, label). Items without any label are left out of the ranking.
      max_distances: the values of zeta.
      self_index: as in `recall_at_k`.

    Returns:
      (query), from 0 to 1. NaN for a query without any label, which `jnp.nanmean` leaves out,
      and for one that has no positive at the least distance.

    Raises:
      TypeError, ValueError: other shapes, NaN, or labels beyond 0 and 1.

    Source: PCME (Chun et al., CVPR 2021), whose code also leaves out what has no label, be it
    query or item, from 90 COCO categories. The expectation over ties is ours.

    Example:
      >>> import jax.numpy as jnp
      >>> labels = jnp.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]])
      >>> pmrp(jnp.eye(3), labels, labels, max_distances=(0,)).tolist()
      [1.0, 1.0, nan]
    """
    scores = arguments.ordered("scores", scores, "query item")
    of_query = _labels("query_labels", query_labels, scores.shape[0], scores)
    of_item = _labels("item_labels", item_labels, scores.shape[1], scores)
    if of_query.shape[1] != of_item.shape[1]:
        raise ValueError(
            "query_labels and item_labels must have as many labels, "
            f"got {of_query.shape[1]} and {of_item.shape[1]}"
        )
    if not isinstance(max_distances, tuple) or not max_distances:
        raise TypeError(f"max_distances must be a tuple of integers, got {max_distances!r}")
    zetas = tuple(arguments.count("max_distances", zeta, least=0) for zeta in max_distances)
    own = _own(self_index, *scores.shape)
    return _mean_over_distances(zetas, scores, of_query, of_item, own)


@functools.partial(jax.jit, static_argnums=0)
def _mean_over_distances(
    zetas: tuple, scores: jax.Array, of_query: jax.Array, of_item: jax.Array, own: jax.Array | None
) -> jax.Array:
    """PMRP of every query."""
    in_query, in_item = jnp.sum(of_query, axis=1)[:, None], jnp.sum(of_item, axis=1)[None]
    # Whole numbers at full precision, and hence exact.
    distance = in_query + in_item - 2.0 * product(of_query, of_item)
    labelled = (in_query > 0.0) & (in_item > 0.0)
    if own is not None:
        labelled = _without(own, labelled, False)
    # Below all others, what is left out never comes among the first R.
    seen = jnp.where(in_item > 0.0, scores, -jnp.inf)
    seen = seen if own is None else _without(own, seen, -jnp.inf)
    ranked = jax.lax.top_k(seen, seen.shape[1])[0]
    shares = [_share_of_first(ranked, seen, labelled & (distance <= zeta)) for zeta in zetas]
    mean = sum(shares, jnp.zeros_like(shares[0])) / len(shares)
    return jnp.where(jnp.isnan(scores).any(axis=1), jnp.nan, mean)


def positives_of(indices: ArrayLike, *, num_items: int) -> jax.Array:
    """The boolean matrix of positives that are listed for each query.

    Args:
      indices: for each query the indices of its positives, from 0 on: a list of lists, or
        integers (query, place) in which -1 fills the places that are left.
      num_items: the number of items.

    Returns:
      Booleans (query, item).

    Raises:
      TypeError, ValueError: no integers, or no index of an item. Under `jit` or `vmap`, an index
      beyond the items is ignored.

    Source: ours.

    Example:
      >>> positives_of([[0, 2], [1]], num_items=3).tolist()
      [[True, False, True], [False, True, False]]
    """
    num_items = arguments.count("num_items", num_items)
    if isinstance(indices, list | tuple):
        lists = [np.asarray(arguments.array("indices", row)) for row in indices]
        if wrong := [row.shape for row in lists if row.ndim != 1]:
            raise ValueError(f"indices must be a list of lists, got one of shape {wrong[0]}")
        for row in lists:
            if len(row):
                arguments.check_indices("indices", row, num_items)
        padded = np.full((len(lists), max(map(len, lists), default=0)), -1)
        for row, of_query in zip(padded, lists, strict=True):
            row[: len(of_query)] = of_query
        indices = padded
    indices = arguments.indices("indices", indices, num_items)
    if indices.ndim != 2 or 0 in indices.shape:
        raise ValueError(f"indices must have shape (query, place), got {indices.shape}")
    return _marked(num_items, indices)


@functools.partial(jax.jit, static_argnums=0)
def _marked(num_items: int, indices: jax.Array) -> jax.Array:
    """Booleans (query, item), of indices (query, place)."""
    indices = jnp.where(indices < 0, num_items, indices)  # to be dropped, where -1 is the last
    query = jnp.arange(len(indices))[:, None]
    return jnp.zeros((len(indices), num_items), bool).at[query, indices].set(True, mode="drop")


def in_blocks(
    statistic: Callable[..., Any],
    p: Any,
    q: Any,
    positives: ArrayLike,
    *,
    score: Callable[..., jax.Array],
    block_size: int = 256,
    self_index: ArrayLike | None = None,
) -> Any:
    """A metric of queries against items, without all scores at once.

    statistic(score(p, q), positives), block of queries by block: memory grows with
    block_size x items, and not with queries x items. Centred distances, as in `pairwise`, may
    differ in the last digits from those of all queries together.

    Args:
      statistic: of scores (query, item) and the positives of these queries, to arrays
        (query, ...): such as `map_at_r`, or a function that returns several. It is traced, and
        so gives NaN where it would raise an error. It and `score` are compiled once for a
        function: define them once, for a `lambda` written in the call is compiled at each.
      p: the queries, an array or a distribution (query, ...), in the precision of JAX's floats:
        float64 becomes float32 where x64 is off.
      q: the items, an array or a distribution (item, ...), likewise.
      positives: (query, ...), whatever `statistic` takes: booleans (query, item), or less.
        Labels serve `pmrp`; padded indices, a statistic that calls `positives_of`.
      score: of p and q, to (query, item), the greater, the better.
      block_size: how many queries at once.
      self_index: integers (query), which of the items each query itself is; the statistic gets
        those of its block as the keyword `self_index`, as `recall_at_k` takes it.

    Returns:
      What `statistic` returns, for all queries.

    Raises:
      TypeError, ValueError: no queries, or not as many positives.

    Source: ours.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian, pairwise
      >>> image = DiagonalGaussian(jnp.eye(4), jnp.zeros((4, 4)))
      >>> in_blocks(
      ...     map_at_r,
      ...     image,
      ...     image,
      ...     jnp.eye(4) > 0,
      ...     score=lambda p, q: -pairwise.sampled_distance(p, q),
      ...     block_size=2,
      ... ).tolist()
      [1.0, 1.0, 1.0, 1.0]
    """
    block_size = arguments.count("block_size", block_size)
    p, q, positives = (
        jax.tree.map(functools.partial(arguments.held, name), tree)
        for name, tree in (("p", p), ("q", q), ("positives", positives))
    )
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves((p, positives))}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(
            "p and positives must have one positive number of queries, "
            f"got the lengths {sorted(lengths)}"
        )
    (number,) = lengths.pop()
    block_size = min(block_size, number)
    blocks = -(-number // block_size)
    # The last block is filled up with the last query.
    rows = np.minimum(np.arange(blocks * block_size), number - 1).reshape(blocks, block_size)
    own = None
    if self_index is not None:
        items = {leaf.shape[0] for leaf in jax.tree.leaves(q) if leaf.ndim}
        if len(items) != 1:
            raise ValueError(f"q must have one number of items, got the lengths {sorted(items)}")
        own = _own(self_index, number, *items)
    functions, arrays = (statistic, score), (jnp.asarray(rows, jnp.int32), p, q, positives, own)
    if arguments.concrete(*jax.tree.leaves((p, q, positives))):  # what it raises, it raises here
        jax.eval_shape(lambda row: _of_block(functions, row, *arrays[1:]), arrays[0][0])
    values = _of_blocks(functions, *arrays)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:number], values)


def _of_block(functions: tuple, rows: jax.Array, p: Any, q: Any, positives: Any, own: Any) -> Any:
    """The statistic of some queries."""
    statistic, score = functions
    some, their, own = jax.tree.map(lambda leaf: leaf[rows], (p, positives, own))
    options = {} if own is None else {"self_index": own}
    return statistic(score(some, q), their, **options)


@arguments.compiled
def _of_blocks(functions: tuple, rows: jax.Array, p: Any, q: Any, positives: Any, own: Any) -> Any:
    return jax.lax.map(lambda some: _of_block(functions, some, p, q, positives, own), rows)
