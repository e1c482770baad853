"""The nearest of many: the ranking by sampled distance as inner products, and the best k of them.

Of a query with mean m_q and an item with mean m_g, variances v_q and v_g,

    |m_q - m_g|^2 + sum (v_q + v_g) = |m_q|^2 + sum v_q - 2 [m_q, -1/2] . [m_g, |m_g|^2 + sum v_g].

What stands before the product is the query's own. So the greatest inner products, in one
dimension more, are the least closed-form sampled distances: whatever searches by inner product
ranks by them exactly (`serving` hands the vectors to such engines).

The formula holds for all distributions with a mean and variances. It asks for digits: an inner
product loses what all the means share, so subtract a common point from them first where it is
far from 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import experimental
from jax.sharding import Mesh, PartitionSpec
from numpy.typing import ArrayLike

from probemb.distributions.gaussians import DiagonalGaussian, GaussianMixture, gaussian_or_mixture
from probemb.numerics import arguments
from probemb.numerics.arguments import Number
from probemb.numerics.euclidean import product
from probemb.numerics.sharding import in_context, mesh_axis, placed
from probemb.pairs.matching import log_expected_match_probability

# The most queries that are scored at once.
_QUERIES = 1024
# Elements (queries x candidates x dimension) that are compared by match probability at once.
_BLOCK = 2**20


class TopK(NamedTuple):
    """For every query its best items, the best first.

    Attributes:
      scores: (query, k), descending.
      indices: (query, k), from 0 on; -1 where an approximate search found no more.
    """

    scores: Any
    indices: Any


def _moments(name: str, p: Any) -> tuple[jax.Array, jax.Array]:
    """A checked mean and the variances (..., dimension)."""
    if isinstance(p, tuple):  # before a variance is computed
        p = jax.tree.map(functools.partial(arguments.array, name), p)
    if not hasattr(p, "mean") or not hasattr(p, "variance"):
        raise TypeError(
            f"{name} must be a distribution with mean and variance, got {type(p).__name__}"
        )
    mean = arguments.floats(f"{name}.mean", p.mean)
    variance = arguments.floats(f"{name}.variance", p.variance)
    if mean.ndim < 1 or mean.shape != variance.shape:
        raise ValueError(
            f"{name} must have mean and variance of one shape (..., dimension), "
            f"got {mean.shape} and {variance.shape}"
        )
    mean, variance = arguments.one_dtype(mean, variance)
    return mean, variance


class Moments(Protocol):
    """A distribution (..., dimension), of which the mean and the variances count."""

    @property
    def mean(self) -> jax.Array:
        """(..., dimension)."""
        ...

    @property
    def variance(self) -> jax.Array:
        """(..., dimension)."""
        ...


def query_vectors(p: Moments) -> jax.Array:
    """The vectors [mean, -1/2] of queries.

    Args:
      p: a distribution (..., dimension) with a mean and variances, such as a Gaussian.

    Returns:
      (..., dimension + 1).

    Raises:
      TypeError, ValueError: no such distribution, or values not finite.

    Source: ours, from the formula of `distances.sampled_distance`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> query_vectors(DiagonalGaussian(jnp.ones(2), jnp.zeros(2))).tolist()
      [1.0, 1.0, -0.5]
    """
    mean, _ = _moments("p", p)
    return jnp.concatenate([mean, jnp.full_like(mean[..., :1], -0.5)], axis=-1)


def item_vectors(q: Moments) -> jax.Array:
    """The vectors [mean, |mean|^2 + sum of variances] of items.

    Args:
      q: a distribution (..., dimension) with a mean and variances, such as a Gaussian.

    Returns:
      (..., dimension + 1).

    Raises:
      TypeError, ValueError: no such distribution, or values not finite.

    Source: ours, from the formula of `distances.sampled_distance`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> item_vectors(DiagonalGaussian(jnp.ones(2), jnp.zeros(2))).tolist()
      [1.0, 1.0, 4.0]
    """
    mean, variance = _moments("q", q)
    last = jnp.sum(jnp.square(mean) + variance, axis=-1, keepdims=True)
    return jnp.concatenate([mean, last], axis=-1)


def _vectors(queries: Any, items: Any, k: Any) -> tuple[Any, Any, int]:
    """Vectors of one dimension, in the precision given, and no more places than items."""
    queries = arguments.exact("queries", queries, "query dimension")
    items = arguments.exact("items", items, "item dimension")
    if queries.shape[1] != items.shape[1]:
        raise ValueError(
            "queries and items must have one dimension, "
            f"got shapes {queries.shape} and {items.shape}"
        )
    k = arguments.count("k", k)
    if k > len(items):
        raise ValueError(f"k must be at most the number of items, {len(items)}, got {k}")
    return queries, items, k


def _held(queries: Any, items: Any) -> tuple[jax.Array, jax.Array]:
    queries, items = arguments.floats("queries", queries), arguments.floats("items", items)
    return arguments.one_dtype(queries, items)


def _products_fit(queries: np.ndarray, items: np.ndarray, dtype: Any) -> bool:
    """Whether no inner product of vectors overflows, nor sinks below what a dtype tells from 0."""
    # In long doubles, for the bounds to be judged may leave float64 themselves.
    most, least = queries.shape[1], 1.0
    for values in (queries, items):
        longest = np.maximum(values.max(axis=1), -values.min(axis=1)).astype(np.longdouble)
        longest = longest[longest > 0.0]
        if not len(longest):
            return True
        most, least = most * longest.max(), least * longest.min()
    limits = np.finfo(dtype)
    return bool(most <= limits.max and least >= limits.tiny)


def _in_precision(search: Callable[..., TopK], queries: Any, items: Any) -> TopK:
    """A search in the precision of the vectors, or in float64 where float32 cannot hold products.

    Under tracing there is nothing to look at, and float64 is float32 where x64 is off.
    """
    if not arguments.concrete(queries, items):
        return search(*_held(queries, items))
    x, y = np.asarray(queries), np.asarray(items)
    given = np.result_type(x.dtype, y.dtype, np.float32)
    dtype = jax.dtypes.canonicalize_dtype(given)
    if given == dtype and _products_fit(x, y, dtype):
        return search(*_held(queries, items))
    if not _products_fit(x, y, np.float64):
        raise ValueError("queries and items must have inner products within the range of float64")
    with _float64():
        scores, indices = search(jnp.asarray(x, np.float64), jnp.asarray(y, np.float64))
        scores = np.asarray(scores)
    most = np.finfo(dtype).max
    if np.abs(scores).max() > most:
        worst = arguments.shown(np.abs(scores).max(), float(most))
        raise ValueError(
            f"queries and items must have inner products that fit into {dtype}, got {worst}"
        )
    return TopK(jnp.asarray(scores.astype(dtype)), indices)


def _float64() -> Any:
    """The context in which JAX has float64."""
    if hasattr(jax, "enable_x64"):  # since jax 0.8
        return jax.enable_x64(True)
    return experimental.enable_x64(True)  # pyright: ignore[reportAttributeAccessIssue]


def _one_zero(scores: jax.Array) -> jax.Array:
    """-0 as 0, for `top_k` of JAX puts it after 0; with the gradient that any score has."""
    return jnp.where(scores == 0.0, scores - jax.lax.stop_gradient(scores), scores)


def _scores(queries: jax.Array, items: jax.Array) -> jax.Array:
    return _one_zero(product(queries, items))


def _better_groups(best: TopK, scores: jax.Array, start: Any) -> TopK:
    """The k groups (query, k, group) with the greatest maxima, of those before and new scores.

    They hold the k best items: before an item of any other group come k items, the greatest of
    each of these, in the order of scores and then of indices. That order is kept, and with it
    the rule for ties. A group's index is that of its first item.
    """
    k, group = best.scores.shape[1:]
    scores = scores.reshape(len(scores), -1, group)
    greatest = jnp.concatenate([jnp.max(best.scores, axis=2), jnp.max(scores, axis=2)], axis=1)
    place = jnp.sort(jax.lax.top_k(greatest, k)[1], axis=1)
    before, old, new = place < k, jnp.minimum(place, k - 1), jnp.maximum(place - k, 0)
    kept = jnp.take_along_axis(best.scores, old[:, :, None], axis=1)
    found = jnp.take_along_axis(scores, new[:, :, None], axis=1)
    indices = jnp.take_along_axis(best.indices, old, axis=1)
    return TopK(
        jnp.where(before[:, :, None], kept, found),
        jnp.where(before, indices, start + group * new),
    )


def _best_of_items(queries: jax.Array, items: jax.Array, k: int, columns: int) -> TopK:
    """`top_k`, of all queries at once and of so many items at once."""
    # With fewer than four groups for every place, smaller ones leave less to look at.
    sizes = (2**power for power in range(5, 0, -1))
    group = next((size for size in sizes if 4 * k * size <= min(columns, len(items))), 1)
    columns = max(columns // group, 1) * group
    best = TopK(
        jnp.full((len(queries), k, group), -jnp.inf, queries.dtype),
        jnp.zeros((len(queries), k), jnp.int32),
    )

    def of_block(best: TopK, start: jax.Array) -> tuple[TopK, None]:
        some = jax.lax.dynamic_slice_in_dim(items, start, columns)
        return _better_groups(best, _scores(queries, some), start), None

    blocks, rest = divmod(len(items), columns)
    if blocks:
        starts = columns * jnp.arange(blocks, dtype=jnp.int32)
        best, _ = jax.lax.scan(of_block, best, starts)
    if rest:
        # What does not fill a block, nor a group; scores are filled up, for items would be copied.
        start, last = len(items) - rest, rest % group
        scores = _scores(queries, items[start:])
        if rest > last:
            best = _better_groups(best, scores[:, : rest - last], start)
        if last:
            filled = ((0, 0), (0, group - last))
            scores = jnp.pad(scores[:, rest - last :], filled, constant_values=-jnp.inf)
            best = _better_groups(best, scores, len(items) - last)

    scores, place = jax.lax.top_k(best.scores.reshape(len(queries), -1), k)
    indices = jnp.take_along_axis(best.indices, place // group, axis=1)
    return TopK(scores, indices + place % group)


def _best(queries: jax.Array, items: jax.Array, k: int, block_size: int) -> TopK:
    """`top_k`, in blocks of queries."""
    number = len(queries)
    blocks = -(-number // min(_QUERIES, block_size))
    rows = -(-number // blocks)
    columns = max(block_size // rows, 1)
    if blocks == 1:
        return _best_of_items(queries, items, k, columns)
    # The last block is filled up with the last query.
    places = jnp.minimum(jnp.arange(blocks * rows), number - 1).reshape(blocks, rows)
    best = jax.lax.map(lambda some: _best_of_items(queries[some], items, k, columns), places)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, k)[:number], best)


_best_of_all = jax.jit(_best, static_argnums=(2, 3))


def top_k(queries: ArrayLike, items: ArrayLike, *, k: int, block_size: int = 2**22) -> TopK:
    """The k greatest inner products of each query with all items, exactly.

    Scores are computed block by block, of at most 1024 queries with as many items as
    `block_size` allows, and of each block only the groups of items are kept that may hold one of
    the best. Memory does not grow with the number of items. Of equal scores the lower index
    comes first, as in `jax.lax.top_k`.

    Without `jit` around it, it looks at every value of the items, once a call, and ranks in the
    precision of the vectors: float64 where they are float64, x64 or not, or where their products
    leave the range of float32; what is in float32 is faster. Scores come in the floats of JAX.

    Args:
      queries: (query, dimension), such as from `query_vectors`. Their distances follow as
        |mean|^2 + sum of variances - 2 score.
      items: (item, dimension), such as from `item_vectors`.
      k: how many.
      block_size: how many scores are held at once.

    Returns:
      Scores and indices (query, k), scores descending.

    Raises:
      TypeError, ValueError: shapes that do not fit, values or products not finite, or more than
        all items.

    Source: ours. TPU-KNN (Chern et al., NeurIPS 2022) also takes maxima of groups, but keeps one
    item of each, which is approximate.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.array([[0.0], [2.0], [5.0]]), jnp.zeros((3, 1)))
      >>> top_k(query_vectors(p), item_vectors(p), k=2).indices.tolist()
      [[0, 1], [1, 0], [2, 1]]
    """
    queries, items, k = _vectors(queries, items, k)
    block_size = arguments.count("block_size", block_size)
    return _in_precision(lambda x, y: _best_of_all(x, y, k, block_size), queries, items)


def sharded_top_k(
    queries: ArrayLike,
    items: ArrayLike,
    mesh: Mesh,
    *,
    k: int,
    axis_name: str | None = None,
    block_size: int = 2**22,
) -> TopK:
    """`top_k` with the items shared out to the devices of a mesh.

    Every device finds the best k of its own items for all queries; the best k of these are the
    result, the same as of one device. Items that the number of devices does not divide are
    filled up, with a copy.

    Args:
      queries: (query, dimension); every device gets all.
      items: (item, dimension), sharded over the first axis.
      mesh: a `jax.sharding.Mesh`.
      k: how many.
      axis_name: the axis of the mesh that shards the items; by default its only one.
      block_size: how many scores a device holds at once.

    Returns:
      Scores and indices (query, k), scores descending.

    Raises:
      TypeError, ValueError: no mesh, no such axis, or as `top_k`.

    Source: ours.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mesh = jax.make_mesh((1,), ("item",))
      >>> sharded_top_k(jnp.eye(2), jnp.eye(2), mesh, k=1).indices.tolist()
      [[0], [1]]
    """
    axis, mesh = mesh_axis(mesh, axis_name), in_context(mesh)
    queries, items, k = _vectors(queries, items, k)
    block_size = arguments.count("block_size", block_size)
    return _in_precision(
        lambda x, y: _best_of_mesh(x, y, mesh, axis, k, block_size), queries, items
    )


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _best_of_mesh(
    queries: jax.Array, items: jax.Array, mesh: Mesh, axis: str, k: int, block_size: int
) -> TopK:
    number, filling = len(items), -len(items) % mesh.shape[axis]
    items = jnp.pad(items, ((0, filling), (0, 0))) if filling else items
    share = len(items) // mesh.shape[axis]

    def of_device(queries: jax.Array, items: jax.Array) -> TopK:
        # What fills up may rank among the best, so that many more are taken.
        best = _best(queries, items, min(k + filling, share), block_size)
        indices = best.indices + share * jax.lax.axis_index(axis)
        scores = jnp.where(indices < number, best.scores, -jnp.inf)
        scores, indices = (
            jax.lax.all_gather(leaf, axis, axis=1, tiled=True) for leaf in (scores, indices)
        )
        scores, place = jax.lax.top_k(scores, k)
        return TopK(scores, jnp.take_along_axis(indices, place, axis=1))

    specs = PartitionSpec(), PartitionSpec(axis)
    # The check does not know that what has been gathered is the same everywhere.
    of_all = jax.shard_map(
        of_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
    )
    return of_all(*placed((queries, items), specs, mesh, axis))


def _candidates(indices: Any, num_queries: int, num_items: int) -> jax.Array:
    """Indices (query, candidate) of items, or -1."""
    indices = arguments.indices("indices", indices, num_items)
    if indices.ndim != 2 or len(indices) != num_queries or 0 in indices.shape:
        raise ValueError(f"indices must have shape ({num_queries}, candidate), got {indices.shape}")
    return indices


def rerank(
    p: DiagonalGaussian | GaussianMixture,
    q: DiagonalGaussian | GaussianMixture,
    indices: ArrayLike,
    *,
    negative_scale: Number,
    shift: Number,
) -> TopK:
    """Each query's candidates in the order of their expected match probability.

    A search by distance finds candidates among all items; the probability that a sample of one
    matches a sample of the other, `matching.expected_match_probability`, then orders these few.

    Args:
      p: the queries, Gaussians (query, dimension) or mixtures (query, component, dimension).
      q: the items, the same with (item, ...).
      indices: integers (query, candidate) such as those of `top_k`; -1 stands for none, and
        comes last.
      negative_scale: a > 0 of the match probability.
      shift: its b.

    Returns:
      Scores and indices (query, candidate). A score is the logit of the probability, which
      `jax.nn.sigmoid` gives: it still tells apart what rounds to 0 or to 1.

    Raises:
      TypeError, ValueError: no distributions, shapes that do not fit, no index of an item, or
      values out of range.

    Source: ours; the match probability is HIB's (Oh et al., ICLR 2019).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.eye(3), jnp.full((3, 3), -4.0))
      >>> candidates = jnp.array([[1, 0], [1, 2], [0, 2]])
      >>> rerank(p, p, candidates, negative_scale=5, shift=5).indices.tolist()
      [[0, 1], [1, 2], [2, 0]]
    """
    p, q = arguments.one_dtype(gaussian_or_mixture("p", p), gaussian_or_mixture("q", q))
    if p.mean.ndim != 2 or q.mean.ndim != 2 or p.mean.shape[1] != q.mean.shape[1]:
        raise ValueError(
            "p and q must be batches of distributions in one dimension, "
            f"got means of shape {p.mean.shape} and {q.mean.shape}"
        )
    indices = _candidates(indices, len(p.mean), len(q.mean))
    a = arguments.positive("negative_scale", negative_scale, p.mean)
    b = arguments.scalar("shift", shift, p.mean)
    return _reranked(p, q, indices, a, b)


@jax.jit
def _reranked(p: Any, q: Any, indices: jax.Array, a: jax.Array, b: jax.Array) -> TopK:
    def match_logit(one: Any, index: jax.Array) -> jax.Array:
        other = jax.tree.map(lambda leaf: leaf[jnp.maximum(index, 0)], q)
        yes, no = log_expected_match_probability(one, other, negative_scale=a, shift=b)
        return jnp.where(index < 0, -jnp.inf, _one_zero(yes - no))

    def of_query(query: Any) -> jax.Array:
        one, candidates = query
        return jax.vmap(match_logit, (None, 0))(one, candidates)

    rows = max(1, _BLOCK // (indices.shape[1] * p.mean.shape[1]))
    logits = jax.lax.map(of_query, (p, indices), batch_size=rows)
    scores, place = jax.lax.top_k(logits, indices.shape[1])
    return TopK(scores, jnp.take_along_axis(indices, place, axis=1))
