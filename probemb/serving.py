"""Search by inner product in other engines: a Faiss index, and the vector database Qdrant.

The vectors of `search` go in, its `TopK` comes out, as NumPy arrays. The engines come with the
extra `serving` (`pip install "lasi-probemb[serving]"`), so this module is imported by name:
`from probemb import serving`; each engine is loaded by what uses it.

Both keep float32. The last coordinate of an item holds its trace, often a small part of the
whole: what rounds coordinates, such as quantisation, rounds the uncertainty away first.
"""

from __future__ import annotations

import importlib
import numbers
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from probemb.numerics import arguments
from probemb.search import TopK

_LARGEST_ID = 2**64 - 1


def _engine(module: str, package: str) -> Any:
    """An engine's module, or an error that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{package} is not installed: pip install "lasi-probemb[serving]"', name=module
        ) from error


def _vectors(name: str, values: Any, axes: str) -> np.ndarray:
    """Finite vectors in float32."""
    vectors = np.asarray(arguments.exact(name, values, axes))
    greatest, most = float(np.abs(vectors).max()), float(np.finfo(np.float32).max)
    if greatest > most:
        raise ValueError(f"{name} must fit into float32, got {arguments.shown(greatest, most)}")
    return np.ascontiguousarray(vectors, np.float32)


def _same_dimension(queries: np.ndarray, dimension: int, where: str) -> None:
    if queries.shape[1] != dimension:
        raise ValueError(
            f"queries must have the dimension of {where}, {dimension}, got {queries.shape[1]}"
        )


def _check_scores(scores: np.ndarray) -> None:
    """Inner products that are still floats."""
    if not np.isfinite(scores).all():
        raise ValueError("queries and items must have inner products that fit into float32")


def faiss_index(items: ArrayLike) -> Any:
    """A flat Faiss index of inner products: exact, every query against every item.

    Any other index of `faiss.METRIC_INNER_PRODUCT` can be filled with the same vectors, and
    searched by `search_faiss`.

    Args:
      items: (item, dimension), such as from `search.item_vectors`.

    Returns:
      A `faiss.IndexFlatIP`, for `search_faiss` and for `faiss.write_index`.

    Raises:
      ImportError: without faiss.
      TypeError, ValueError: no such array, or values not finite in float32.

    Source: the Faiss library (Douze et al., 2024).

    Example:
      >>> import jax.numpy as jnp
      >>> faiss_index(jnp.eye(3)).ntotal
      3
    """
    faiss = _engine("faiss", "faiss-cpu")
    vectors = _vectors("items", items, "item dimension")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def search_faiss(index: Any, queries: ArrayLike, *, k: int) -> TopK:
    """The k greatest inner products of each query in a Faiss index.

    Args:
      index: of `faiss_index`, or another index of inner products.
      queries: (query, dimension), such as from `search.query_vectors`.
      k: how many.

    Returns:
      Scores and indices (query, k), scores descending; -inf and -1 where an approximate index
      found no more.

    Raises:
      ImportError: without faiss.
      TypeError, ValueError: no index of inner products, shapes that do not fit, values not
        finite, or more than all items.

    Source: the Faiss library (Douze et al., 2024).

    Example:
      >>> import jax.numpy as jnp
      >>> search_faiss(faiss_index(jnp.eye(3)), jnp.eye(3), k=1).indices.tolist()
      [[0], [1], [2]]
    """
    faiss = _engine("faiss", "faiss-cpu")
    if getattr(index, "metric_type", None) != faiss.METRIC_INNER_PRODUCT:
        raise TypeError(
            f"index must be a Faiss index of inner products, got {type(index).__name__}"
        )
    vectors = _vectors("queries", queries, "query dimension")
    _same_dimension(vectors, index.d, "the index")
    k = arguments.count("k", k)
    if k > index.ntotal:
        raise ValueError(f"k must be at most the number of items, {index.ntotal}, got {k}")
    scores, indices = index.search(vectors, k)
    _check_scores(scores[indices >= 0])
    return TopK(np.where(indices < 0, -np.inf, scores).astype(np.float32), indices)


def fill_qdrant(
    client: Any,
    collection: str,
    items: ArrayLike,
    *,
    ids: Sequence[int] | None = None,
    payloads: Sequence[Mapping[str, Any]] | None = None,
    batch_size: int = 256,
    shard_number: int | None = None,
    replication_factor: int | None = None,
    on_disk: bool | None = None,
) -> None:
    """A new collection in Qdrant with these vectors, compared by inner product.

    The client is the caller's. `QdrantClient(":memory:")` needs no server and compares with
    every item, for tests and small sets. For a server or a cluster it is

        QdrantClient(url="https://...:6333", api_key=..., prefer_grpc=True, timeout=60)

    with the address of any node. There, `shard_number` divides the collection among nodes (as
    many shards as nodes, or a multiple), each shard is searched in parallel and the node asked
    merges what they find; `replication_factor` keeps copies, for reads and for failures; and
    `on_disk` leaves the vectors in files that are mapped into memory, for more than the memory
    holds.

    The collection is made in float32 and without quantisation. Turn none on: it would round
    the trace, which is a small part of one coordinate.

    Args:
      client: a `qdrant_client.QdrantClient`.
      collection: its name; it must not exist.
      items: (item, dimension), such as from `search.item_vectors`.
      ids: one integer for every item, from 0 on and all different; by default 0, 1, 2 and so on,
        the indices that `search.rerank` takes.
      payloads: one mapping for every item, such as its file's name, that Qdrant stores with it.
      batch_size: how many items a request carries.
      shard_number: how many shards; by default the server's choice.
      replication_factor: how many copies of a shard; by default the server's choice.
      on_disk: whether vectors stay on disk; by default the server's choice.

    Raises:
      ImportError: without qdrant-client.
      TypeError, ValueError: no client, a collection that exists, no such array, values not
        finite in float32, or ids and payloads that do not fit.

    Source: Qdrant's documentation of collections and of distributed deployment.

    Example:
      >>> import jax.numpy as jnp
      >>> from qdrant_client import QdrantClient
      >>> client = QdrantClient(":memory:")
      >>> fill_qdrant(client, "images", jnp.eye(3))
      >>> client.count("images").count
      3
    """
    models = _engine("qdrant_client", "qdrant-client").models
    _check_client(client)
    vectors = _vectors("items", items, "item dimension")
    batch_size = arguments.count("batch_size", batch_size)
    names = _ids(ids, len(vectors))
    if payloads is not None and len(payloads) != len(vectors):
        raise ValueError(
            f"payloads must be one for each of the {len(vectors)} items, got {len(payloads)}"
        )
    options = {"shard_number": shard_number, "replication_factor": replication_factor}
    for name, value in options.items():
        if value is not None:
            arguments.count(name, value)
    if client.collection_exists(collection):
        raise ValueError(f"collection must not exist, got {collection!r}, which does")
    client.create_collection(
        collection,
        vectors_config=models.VectorParams(
            size=vectors.shape[1],
            distance=models.Distance.DOT,
            datatype=models.Datatype.FLOAT32,
            on_disk=on_disk,
        ),
        **options,
    )
    try:
        client.upload_collection(
            collection,
            vectors=vectors,
            payload=None if payloads is None else [dict(payload) for payload in payloads],
            ids=names,
            batch_size=batch_size,
            wait=True,
        )
    except BaseException:  # half of the items would look like all of them
        client.delete_collection(collection)
        raise


def _check_client(client: Any) -> None:
    if not isinstance(client, _engine("qdrant_client", "qdrant-client").QdrantClient):
        raise TypeError(f"client must be a qdrant_client.QdrantClient, got {type(client).__name__}")


def _ids(ids: Sequence[int] | None, number: int) -> list[int]:
    """A different integer from 0 on for every item."""
    if ids is None:
        return list(range(number))
    # Not through one array: integers below and above 2^63 would meet in float64.
    values = np.asarray(ids).tolist() if hasattr(ids, "dtype") else list(ids)
    if len(values) != number or any(isinstance(value, list | tuple) for value in values):
        shape = np.shape(np.asarray(ids, object))
        raise ValueError(f"ids must have shape ({number},), one for each item, got {shape}")
    for value in values:
        if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
            kind = getattr(ids, "dtype", type(value).__name__)
            raise TypeError(f"ids must be integers, got dtype {kind}")
    values = [int(value) for value in values]
    if min(values) < 0:
        raise ValueError(f"ids must not be negative, got {min(values)}")
    if max(values) > _LARGEST_ID:
        raise ValueError(f"ids must be at most {_LARGEST_ID}, got {max(values)}")
    if len(set(values)) < number:
        twice = next(value for value, count in Counter(values).items() if count > 1)
        raise ValueError(f"ids must all be different, got {twice} more than once")
    return values


def _found(ids: list[list[int]], k: int) -> np.ndarray:
    """Ids (query, k), -1 where none is left: integers of 64 bits, or else exact ones of Python."""
    rows = [row + [-1] * (k - len(row)) for row in ids]
    largest = max(map(max, rows))
    if largest <= np.iinfo(np.int64).max:
        return np.array(rows, np.int64)
    return np.array(rows, np.uint64 if min(map(min, rows)) >= 0 else object)


def search_qdrant(
    client: Any,
    collection: str,
    queries: ArrayLike,
    *,
    k: int,
    ef: int | None = None,
    batch_size: int = 64,
) -> TopK:
    """The k greatest inner products of each query in a Qdrant collection.

    Without `ef` every item is compared, which is exact and takes time in proportion to the items
    of a shard. With it a server walks its graph of neighbours (HNSW), with so many candidates at
    a time: faster, and approximate. Inner products are no metric, and items of great norm draw
    the walk to themselves; where norms vary much, so many more candidates are needed, and how
    many tells a comparison with the exact search on some queries. The local mode is always exact,
    and warns that it has no other.

    Args:
      client: a `qdrant_client.QdrantClient`.
      collection: its name, such as `fill_qdrant` was given.
      queries: (query, dimension), such as from `search.query_vectors`.
      k: how many.
      ef: candidates of the approximate search, at least k; by default the search is exact.
      batch_size: how many queries a request carries.

    Returns:
      Scores and ids (query, k), scores descending; -inf and -1 where an approximate search found
      no more. Ids are int64; where one is beyond, uint64, or Python's integers beside a -1.

    Raises:
      ImportError: without qdrant-client.
      TypeError, ValueError: no client, a collection that does not exist or is not of inner
        products, names its items otherwise than by integers, shapes that do not fit, values not
        finite, or more than all items.

    Source: Qdrant's documentation of search.

    Example:
      >>> import jax.numpy as jnp
      >>> from qdrant_client import QdrantClient
      >>> client = QdrantClient(":memory:")
      >>> fill_qdrant(client, "images", jnp.eye(3))
      >>> search_qdrant(client, "images", jnp.eye(3), k=1).indices.tolist()
      [[0], [1], [2]]
    """
    models = _engine("qdrant_client", "qdrant-client").models
    _check_client(client)
    vectors = _vectors("queries", queries, "query dimension")
    k, batch_size = arguments.count("k", k), arguments.count("batch_size", batch_size)
    if ef is not None:
        ef = arguments.count("ef", ef, least=k)
    if not client.collection_exists(collection):
        raise ValueError(f"collection must exist, got {collection!r}, which does not")
    kept = client.get_collection(collection).config.params.vectors
    if getattr(kept, "distance", None) != models.Distance.DOT:
        raise ValueError(f"collection must hold vectors of inner products, got {kept}")
    _same_dimension(vectors, kept.size, "the collection")
    number = client.count(collection, exact=True).count
    if k > number:
        raise ValueError(f"k must be at most the number of items, {number}, got {k}")

    parameters = models.SearchParams(exact=ef is None, hnsw_ef=ef)
    scores = np.full((len(vectors), k), -np.inf, np.float32)
    ids = []
    for start in range(0, len(vectors), batch_size):
        requests = [
            models.QueryRequest(query=vector, limit=k, params=parameters)
            for vector in vectors[start : start + batch_size].tolist()
        ]
        for row, response in enumerate(client.query_batch_points(collection, requests), start):
            found = len(response.points)
            scores[row, :found] = [point.score for point in response.points]
            _check_scores(scores[row, :found])
            ids.append([point.id for point in response.points])
            names = [name for name in ids[-1] if not isinstance(name, int)]
            if names:
                raise ValueError(
                    f"collection must hold items whose ids are integers, got {names[0]!r} in "
                    f"{collection!r}"
                )
    return TopK(scores, _found(ids, k))
