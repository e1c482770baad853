import sys

import faiss
import jax.numpy as jnp
import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from probemb import DiagonalGaussian, GeneralizedGaussian, pairwise, search, serving

# Qdrant's local mode says that it is exact whatever is asked for.
pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")


def distributions(kind: str, seed: int, number: int, dimension: int = 6):
    """Distributions whose traces change the ranking."""
    random = np.random.default_rng(seed)
    mean, spread = random.normal(size=(2, number, dimension))
    if kind == "gaussian":
        return DiagonalGaussian(jnp.asarray(mean), jnp.asarray(spread))
    shape = random.uniform(0.5, 2.0, size=mean.shape)
    return GeneralizedGaussian(*map(jnp.asarray, (mean, np.exp(0.5 * spread), shape)))


def by_faiss(queries, items, k):
    return serving.search_faiss(serving.faiss_index(items), queries, k=k)


def by_qdrant(queries, items, k):
    client = QdrantClient(":memory:")
    serving.fill_qdrant(client, "items", items, batch_size=64)
    return serving.search_qdrant(client, "items", queries, k=k, batch_size=7)


@pytest.mark.parametrize("engine", [by_faiss, by_qdrant])
@pytest.mark.parametrize("kind", ["gaussian", "generalized"])
def test_the_ranking_is_that_of_the_sampled_distance(engine, kind):
    p, q = distributions(kind, 0, 16), distributions(kind, 1, 150)
    of_p, of_q = (DiagonalGaussian(g.mean, jnp.log(g.variance)) for g in (p, q))
    distance = np.asarray(pairwise.sampled_distance(of_p, of_q))
    queries, items = search.query_vectors(p), search.item_vectors(q)
    scores, indices = engine(queries, items, 20)
    assert scores.dtype == np.float32 and indices.dtype == np.int64
    np.testing.assert_array_equal(indices, np.argsort(distance, axis=1)[:, :20])
    exact = search.top_k(queries, items, k=20)
    np.testing.assert_array_equal(indices, exact.indices)
    np.testing.assert_allclose(scores, exact.scores, rtol=1e-4, atol=1e-4)
    if kind == "gaussian":
        again = search.rerank(p, q, indices, negative_scale=1.0, shift=2.0)
        expected = search.rerank(p, q, exact.indices, negative_scale=1.0, shift=2.0)
        np.testing.assert_array_equal(again.indices, expected.indices)


ITEMS = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)
NAN = np.where(np.arange(3) == 1, np.nan, ITEMS)


def test_ids_and_payloads_are_kept():
    client = QdrantClient(":memory:")
    ids = np.arange(1000, 1040)[::-1]
    payloads = [{"file": f"{number}.jpg"} for number in range(40)]
    serving.fill_qdrant(client, "items", ITEMS, ids=ids, payloads=payloads)
    _, indices = serving.search_qdrant(client, "items", ITEMS, k=3)
    expected = search.top_k(ITEMS, ITEMS, k=3).indices
    np.testing.assert_array_equal(indices, ids[np.asarray(expected)])
    (point,) = client.retrieve("items", [1039])
    assert point.payload == {"file": "0.jpg"}


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        ([7, 5, 2**62], np.int64),
        ([1, 2**63, 2**64 - 1], np.uint64),  # which meet in float64
        (np.array([2**63, 2**63 + 1, 0], np.uint64), np.uint64),
        (np.array([3, 4, 5], ">i4"), np.int64),
    ],
)
def test_ids_of_64_bits(ids, dtype):
    client = QdrantClient(":memory:")
    serving.fill_qdrant(client, "items", np.eye(3), ids=ids)
    found = serving.search_qdrant(client, "items", np.eye(3), k=1).indices
    assert found.dtype == dtype and found[:, 0].tolist() == [int(value) for value in ids]


def test_large_ids_beside_what_is_not_found():
    found = serving._found([[2**64 - 1], [3, 2**53 + 1]], 2)
    assert found.tolist() == [[2**64 - 1, -1], [3, 2**53 + 1]]


def test_products_beyond_float32_are_refused():
    large = np.full((2, 3), 1e30, np.float32)
    for engine in (by_faiss, by_qdrant):
        with (
            np.errstate(over="ignore"),
            pytest.raises(ValueError, match="inner products that fit into float32"),
        ):
            engine(large, large, 1)


def test_the_collection_keeps_every_digit():
    client = QdrantClient(":memory:")
    made = {}
    create = client.create_collection

    def seen(name, **options):
        made.update(options)
        return create(name, **options)

    client.create_collection = seen
    serving.fill_qdrant(client, "items", ITEMS, shard_number=3, replication_factor=2, on_disk=True)
    kept = made["vectors_config"]
    assert kept.distance == models.Distance.DOT and kept.datatype == models.Datatype.FLOAT32
    assert kept.size == 3 and kept.on_disk and kept.quantization_config is None
    assert made["shard_number"] == 3 and made["replication_factor"] == 2
    assert "quantization_config" not in made


@pytest.mark.parametrize("ef", [None, 50])
def test_exact_unless_candidates_are_counted(ef):
    client = QdrantClient(":memory:")
    serving.fill_qdrant(client, "items", ITEMS)
    asked = []
    query = client.query_batch_points

    def seen(name, requests):
        asked.extend(requests)
        return query(name, requests)

    client.query_batch_points = seen
    serving.search_qdrant(client, "items", ITEMS, k=2, ef=ef, batch_size=16)
    assert len(asked) == 40
    assert {(one.params.exact, one.params.hnsw_ef) for one in asked} == {(ef is None, ef)}


def test_what_an_approximate_search_does_not_find():
    quantizer = faiss.IndexFlatIP(3)
    index = faiss.IndexIVFFlat(quantizer, 3, 8, faiss.METRIC_INNER_PRODUCT)
    index.train(np.tile(ITEMS, (10, 1)))
    index.add(ITEMS)
    scores, indices = serving.search_faiss(index, ITEMS, k=30)
    assert (indices == -1).any()
    np.testing.assert_array_equal(np.isneginf(scores), indices == -1)

    client = QdrantClient(":memory:")
    serving.fill_qdrant(client, "items", ITEMS)
    query = client.query_batch_points

    def fewer(name, requests):
        responses = query(name, requests)
        return [
            response.model_copy(update={"points": response.points[:1]}) for response in responses
        ]

    client.query_batch_points = fewer
    scores, indices = serving.search_qdrant(client, "items", ITEMS, k=2, ef=2)
    assert (indices[:, 0] >= 0).all() and (indices[:, 1] == -1).all()
    assert np.isneginf(scores[:, 1]).all()


@pytest.mark.parametrize(
    ("call", "missing", "package"),
    [
        (lambda: serving.faiss_index(ITEMS), "faiss", "faiss-cpu"),
        (lambda: serving.search_faiss(None, ITEMS, k=1), "faiss", "faiss-cpu"),
        (lambda: serving.fill_qdrant(None, "items", ITEMS), "qdrant_client", "qdrant-client"),
        (lambda: serving.search_qdrant(None, "", ITEMS, k=1), "qdrant_client", "qdrant-client"),
    ],
)
def test_without_an_engine_the_error_names_the_extra(monkeypatch, call, missing, package):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        ImportError, match=rf"{package} is not installed: pip install .*\[serving\]"
    ):
        call()


def faiss_search(queries, **options):
    return serving.search_faiss(serving.faiss_index(ITEMS), queries, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: serving.faiss_index(NAN), ValueError, r"items must be finite, got nan at index"),
        (lambda: serving.faiss_index(ITEMS[:0]), ValueError, "items must not be empty"),
        (lambda: serving.faiss_index(ITEMS[0]), ValueError, "items must have shape .item dimensi"),
        (
            lambda: serving.faiss_index(1e39 * ITEMS.astype(float)),
            ValueError,
            "items must fit into float32, got",
        ),
        (lambda: faiss_search(ITEMS[:, :2], k=1), ValueError, "dimension of the index, 3, got 2"),
        (lambda: faiss_search(NAN, k=1), ValueError, "queries must be finite, got nan"),
        (
            lambda: faiss_search(ITEMS, k=41),
            ValueError,
            "k must be at most the number of items, 40",
        ),
        (lambda: faiss_search(ITEMS, k=0), ValueError, "k must be at least 1, got 0"),
        (
            lambda: serving.search_faiss(faiss.IndexFlatL2(3), ITEMS, k=1),
            TypeError,
            "index must be a Faiss index of inner products, got IndexFlatL2",
        ),
    ],
)
def test_bad_input_of_faiss(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.fixture(scope="module")
def client():
    """A client that holds the items, and a collection of another distance."""
    client = QdrantClient(":memory:")
    serving.fill_qdrant(client, "items", ITEMS)
    other = models.VectorParams(size=3, distance=models.Distance.COSINE)
    client.create_collection("cosine", vectors_config=other)
    dot = models.VectorParams(size=3, distance=models.Distance.DOT)
    client.create_collection("named", vectors_config=dot)
    point = models.PointStruct(id="7e718e8c-13df-4d88-893c-73ab270a48be", vector=[1.0, 0.0, 0.0])
    client.upsert("named", [point])
    return client


def fill(client, items=ITEMS, name="new", **options):
    return serving.fill_qdrant(client, name, items, **options)


def qdrant_search(client, queries=ITEMS, name="items", **options):
    return serving.search_qdrant(client, name, queries, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda _: fill("http://localhost"), TypeError, "client must be a qdrant_client.QdrantCl"),
        (lambda c: fill(c, name="items"), ValueError, "collection must not exist, got 'items'"),
        (lambda c: fill(c, NAN), ValueError, "items must be finite, got nan"),
        (lambda c: fill(c, ITEMS[:0]), ValueError, "items must not be empty"),
        (
            lambda c: fill(c, ids=[1, 2]),
            ValueError,
            r"ids must have shape \(40,\), one for each it",
        ),
        (lambda c: fill(c, ids=[1] * 40), ValueError, "ids must all be different, got 1 more than"),
        (lambda c: fill(c, ids=range(-1, 39)), ValueError, "ids must not be negative, got -1"),
        (lambda c: fill(c, ids=range(2**64 - 39, 2**64 + 1)), ValueError, "at most 18446744073709"),
        (lambda c: fill(c, ids=[True] * 40), TypeError, "ids must be integers, got dtype bool"),
        (lambda c: fill(c, ids=[[1]] * 40), ValueError, r"ids must have shape \(40,\)"),
        (
            lambda c: qdrant_search(c, name="named", k=1),
            ValueError,
            "collection must hold items whose ids are integers, got '7e718e8c-13df-.*' in 'named'",
        ),
        (lambda c: fill(c, ids=["a"] * 40), TypeError, "ids must be integers, got dtype"),
        (
            lambda c: fill(c, payloads=[{}]),
            ValueError,
            "payloads must be one for each of the 40 it",
        ),
        (lambda c: fill(c, shard_number=0), ValueError, "shard_number must be at least 1, got 0"),
        (lambda c: fill(c, batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
        (lambda _: qdrant_search(None, k=1), TypeError, "client must be a qdrant_client.QdrantCl"),
        (lambda c: qdrant_search(c, name="no", k=1), ValueError, "collection must exist, got 'no'"),
        (lambda c: qdrant_search(c, name="cosine", k=1), ValueError, "vectors of inner products"),
        (lambda c: qdrant_search(c, ITEMS[:, :2], k=1), ValueError, "of the collection, 3, got 2"),
        (lambda c: qdrant_search(c, NAN, k=1), ValueError, "queries must be finite, got nan"),
        (lambda c: qdrant_search(c, k=41), ValueError, "k must be at most the number of items, 40"),
        (lambda c: qdrant_search(c, k=9, ef=8), ValueError, "ef must be at least 9, got 8"),
    ],
)
def test_bad_input_of_qdrant(client, call, error, message):
    with pytest.raises(error, match=message):
        call(client)
    assert not client.collection_exists("new")
