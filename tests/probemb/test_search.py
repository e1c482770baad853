import functools
import json
import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from scipy.special import expit

from probemb import (
    DiagonalGaussian,
    GaussianMixture,
    GeneralizedGaussian,
    distances,
    expected_match_probability,
    search,
)


def gaussians(seed: int, number: int, dimension: int = 5) -> DiagonalGaussian:
    """Gaussians whose traces change the ranking."""
    random = np.random.default_rng(seed)
    mean, log_variance = random.normal(size=(2, number, dimension))
    return DiagonalGaussian(jnp.asarray(mean), jnp.asarray(log_variance))


def generalized(seed: int, number: int, dimension: int = 5) -> GeneralizedGaussian:
    random = np.random.default_rng(seed)
    scale, shape = random.uniform(0.5, 2.0, size=(2, number, dimension))
    return GeneralizedGaussian(*map(jnp.asarray, (random.normal(size=scale.shape), scale, shape)))


# One program for each, where eagerly each of its operations is one.
query_vectors, item_vectors = jax.jit(search.query_vectors), jax.jit(search.item_vectors)


@pytest.mark.parametrize("make", [gaussians, generalized])
def test_the_ranking_is_that_of_the_sampled_distance(make):
    p, q = make(0, 20), make(1, 150)
    of_means = np.sum(np.square(np.asarray(p.mean)[:, None] - np.asarray(q.mean)), axis=2)
    of_p, of_q = (np.sum(np.asarray(g.variance), axis=1) for g in (p, q))
    distance = of_means + of_p[:, None] + of_q
    expected = np.argsort(distance, axis=1)[:, :9]
    by_mean = np.argsort(of_means, axis=1)[:, :9]
    assert (expected != by_mean).any(axis=1).all()  # the traces matter
    scores, indices = search.top_k(query_vectors(p), item_vectors(q), k=9)
    np.testing.assert_array_equal(indices, expected)
    own = np.sum(np.square(np.asarray(p.mean)), axis=1) + of_p
    found = np.take_along_axis(distance, np.asarray(indices), axis=1)
    np.testing.assert_allclose(own[:, None] - 2.0 * np.asarray(scores), found, rtol=1e-10)


def test_vectors_by_hand():
    p = DiagonalGaussian(jnp.array([3.0, 4.0]), jnp.log(jnp.array([2.0, 5.0])))
    np.testing.assert_allclose(search.query_vectors(p), [3.0, 4.0, -0.5])
    np.testing.assert_allclose(search.item_vectors(p), [3.0, 4.0, 32.0])


@pytest.mark.parametrize("vectors", [search.query_vectors, search.item_vectors])
def test_vectors_of_a_batch_are_those_of_each(vectors):
    for p in (gaussians(2, 6), generalized(3, 6)):
        each = jax.jit(vectors)
        expected = [each(jax.tree.map(lambda x, i=i: np.asarray(x)[i], p)) for i in range(6)]
        for function in (vectors, jax.jit(vectors), jax.jit(jax.vmap(vectors))):
            np.testing.assert_allclose(function(p), expected, rtol=1e-12)
    single = jax.tree.map(lambda x: x.astype(jnp.float16), gaussians(2, 6))
    assert vectors(single).dtype == jnp.float32


def test_vectors_have_the_gradient_of_the_distance():
    p, q = (jax.tree.map(lambda x: np.asarray(x)[0], gaussians(seed, 1)) for seed in (4, 5))

    def by_vectors(p, q):
        product = search.query_vectors(p) @ search.item_vectors(q)
        return jnp.sum(jnp.square(p.mean) + p.variance) - 2.0 * product

    gradients = (
        jax.jit(jax.grad(f, (0, 1)))(p, q) for f in (by_vectors, distances.sampled_distance)
    )
    chex.assert_trees_all_close(*gradients, rtol=1e-10)


def vectors(seed: int, queries: int, items: int, *, levels: float | None = None):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(queries, 4)), random.normal(size=(items, 4))
    # Small integers have exact products, and many that are equal.
    return tuple(np.round(z * levels) if levels else z for z in (x, y))


@functools.partial(jax.jit, static_argnames="k")
def at_once(queries, items, k):
    return jax.lax.top_k(jnp.einsum("id,jd->ij", queries, items, precision="highest"), k)


@pytest.mark.parametrize(
    ("queries", "items", "k", "block_size"),
    [
        *((1, 1, 1, 1), (3, 1, 1, 4096), (7, 33, 33, 64), (7, 33, 5, 1), (5, 40, 8, 3)),
        *((2, 5000, 10, 8192), (2, 4096, 10, 4096), (3, 4099, 2, 2048), (30, 600, 1, 4000)),
        *((4, 700, 60, 1200), (1030, 200, 3, 2**16), (1025, 70, 2, 2**22)),
    ],
)
@pytest.mark.parametrize("levels", [None, 1.0])
def test_blocks_of_any_size_are_the_whole_and_keep_the_order_of_ties(
    queries, items, k, block_size, levels
):
    x, y = vectors(items, queries, items, levels=levels)
    scores, indices = search.top_k(x, y, k=k, block_size=block_size)
    expected_scores, expected = at_once(x, y, k=k)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-12)
    assert indices.dtype == jnp.int32


def test_descending_and_ascending_items():
    y = np.arange(3000.0)[:, None]
    for sign, first in ((1.0, 2999), (-1.0, 0)):
        _, indices = search.top_k(np.array([[sign]]), y, k=4, block_size=512)
        assert indices.tolist() == [[first - int(sign) * i for i in range(4)]]


def test_both_zeros_are_equal():
    assert search.top_k([[0.0]], [[-1.0], [1.0]], k=2).indices.tolist() == [[0, 1]]
    items = np.tile([[-1.0], [1.0]], (60, 1))
    for found in (
        search.top_k(np.zeros((1, 1)), items, k=120, block_size=32),
        search.sharded_top_k(np.zeros((1, 1)), items, MESH, k=120),
        jax.jit(functools.partial(search.top_k, k=120))(np.zeros((1, 1)), items),
    ):
        assert found.indices.tolist() == [list(range(120))]
    # At equal distances a match is as likely: the logits are zeros of either sign, or equal.
    p, q = (DiagonalGaussian(jnp.zeros((n, 5)), jnp.full((n, 5), -30.0)) for n in (4, 30))
    candidates = np.tile(np.arange(12), (4, 1))
    found = search.rerank(p, q, candidates, negative_scale=1.0, shift=0.0)
    np.testing.assert_array_equal(found.indices, candidates)


def test_jit_vmap_and_single_precision():
    x, y = vectors(6, 12, 200)
    top_k = functools.partial(search.top_k, k=5, block_size=300)
    expected = top_k(x, y)
    chex.assert_trees_all_close(jax.jit(top_k)(x, y), expected, rtol=1e-12)
    halves = jax.jit(jax.vmap(top_k, (0, None)))(x.reshape(2, 6, 4), y)
    for half, whole in zip(halves, expected, strict=True):
        np.testing.assert_allclose(np.reshape(half, (12, 5)), whole, rtol=1e-12)
    single = top_k(x.astype(np.float32), y.astype(np.float32))
    assert single.scores.dtype == jnp.float32
    np.testing.assert_array_equal(single.indices, expected.indices)


def test_the_gradient_of_the_scores():
    x, y = vectors(7, 3, 50)

    def whole(x, y):
        return jnp.sum(jnp.sin(at_once(x, y, k=4)[0]))

    def in_blocks(x, y):
        return jnp.sum(jnp.sin(search.top_k(x, y, k=4, block_size=30).scores))

    gradients = (jax.jit(jax.grad(f, (0, 1)))(x, y) for f in (in_blocks, whole))
    chex.assert_trees_all_close(*gradients, rtol=1e-10)


# Prints, as JSON, where the result on many devices differs from that of one.
PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from probemb import search

random = np.random.default_rng(0)
wrong = []
for queries, items, k in ((3, 64, 3), (4, 5, 5), (3, 61, 9)):
    x, y = np.round(random.normal(size=(queries, 3))), np.round(random.normal(size=(items, 3)))
    expected = jax.lax.top_k(x @ y.T, k)
    for number in (1, 2, 4, 8):
        types = (AxisType.Explicit if number == 4 else AxisType.Auto,)
        mesh = Mesh(np.array(jax.devices()[:number]), ("item",), axis_types=types)
        given = y
        if items % number == 0:
            given = jax.device_put(y, NamedSharding(mesh, PartitionSpec("item")))
        found = search.sharded_top_k(x, given, mesh, k=k, block_size=16)
        if not all(np.array_equal(*pair) for pair in zip(found, expected)):
            wrong.append([queries, items, k, number])
        if items == 64:
            total = lambda y: jnp.sum(search.sharded_top_k(x, y, mesh, k=k, block_size=16).scores)
            slope = np.zeros_like(y)
            np.add.at(slope, np.asarray(expected[1]), x[:, None])
            if not np.allclose(jax.grad(total)(given), slope):
                wrong.append(["gradient", number])
mesh = jax.make_mesh((2, 4), ("other", "item"), axis_types=(AxisType.Auto,) * 2)
found = jax.jit(lambda x, y: search.sharded_top_k(x, y, mesh, k=9, axis_name="item"))(x, y)
if not np.array_equal(found.indices, expected[1]):
    wrong.append("one axis of two")
print(json.dumps(wrong))
"""


def test_many_devices_give_what_one_does():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 " + os.environ["XLA_FLAGS"],
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def mixtures(seed: int, number: int) -> GaussianMixture:
    components = jax.tree.map(
        lambda x: jnp.asarray(np.reshape(x, (number, 2, 5))), gaussians(seed, 2 * number)
    )
    logits = np.random.default_rng(seed).normal(size=(number, 2))
    return GaussianMixture(jnp.asarray(logits), components)


@pytest.mark.parametrize("make", [gaussians, mixtures])
def test_reranking_is_the_order_of_the_match_probability(make):
    p, q = make(8, 4), make(9, 30)
    options = {"negative_scale": 2.0, "shift": 4.0}
    candidates = np.asarray(search.top_k(query_vectors(p), item_vectors(q), k=12).indices)
    probability = functools.partial(expected_match_probability, **options)
    every = jax.jit(jax.vmap(jax.vmap(probability, (None, 0)), (0, None)))(p, q)
    of_candidates = np.take_along_axis(np.asarray(every), candidates, axis=1)
    order = np.argsort(-of_candidates, axis=1)
    expected = np.take_along_axis(candidates, order, axis=1)
    scores, indices = search.rerank(p, q, candidates, **options)
    np.testing.assert_array_equal(indices, expected)
    assert (np.asarray(indices) != candidates).any()  # another order than by distance
    sorted_probability = np.take_along_axis(of_candidates, order, axis=1)
    np.testing.assert_allclose(expit(scores), sorted_probability, rtol=1e-10)


def test_reranking_under_jit():
    p, q = gaussians(8, 4), gaussians(9, 30)
    candidates = np.random.default_rng(10).integers(30, size=(4, 12))
    rerank = functools.partial(search.rerank, negative_scale=2.0, shift=4.0)
    expected = rerank(p, q, candidates)
    chex.assert_trees_all_close(jax.jit(rerank)(p, q, candidates), expected, rtol=1e-10)


def test_candidates_that_are_missing_come_last():
    indices = np.tile([[-1, 1, 0], [1, -1, -1]], (2, 4))
    found = search.rerank(gaussians(8, 4), gaussians(9, 30), indices, negative_scale=1.0, shift=0.0)
    for row, number in zip(range(4), (8, 4, 8, 4), strict=True):
        np.testing.assert_array_equal(found.indices[row] >= 0, np.arange(12) < number)
    np.testing.assert_array_equal(np.isneginf(found.scores), found.indices == -1)


def test_certain_matches_are_still_told_apart():
    p = DiagonalGaussian(jnp.zeros((4, 5)), jnp.full((4, 5), -12.0))
    mean = np.tile(0.1 * np.arange(30.0)[:, None], 5)
    q = DiagonalGaussian(jnp.asarray(mean), jnp.full((30, 5), -12.0))
    candidates = np.tile(np.random.default_rng(11).permutation(12), (4, 1))
    scores, indices = search.rerank(p, q, candidates, negative_scale=1.0, shift=60.0)
    assert (expit(scores) == 1.0).all()
    np.testing.assert_array_equal(indices, np.tile(np.arange(12), (4, 1)))


X, Y = vectors(11, 2, 6)
P = gaussians(12, 2)
MESH = Mesh(np.array(jax.devices()[:1]), ("item",))
OPTIONS = {"negative_scale": 1.0, "shift": 0.0}
NAN = P._replace(mean=np.where(np.arange(5) == 2, np.nan, P.mean))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: search.query_vectors(X), TypeError, "p must be a distribution with mean and var"),
        (lambda: search.item_vectors(NAN), ValueError, r"q.mean must be finite, got nan at index"),
        (
            lambda: search.item_vectors(P._replace(log_variance=P.mean[:, :2])),
            ValueError,
            r"q must have mean and variance of one shape .*, got \(2, 5\) and \(2, 2\)",
        ),
        (lambda: search.top_k(X, Y, k=7), ValueError, "k must be at most the number of items, 6, "),
        (lambda: search.top_k(X, Y, k=0), ValueError, "k must be at least 1, got 0"),
        (lambda: search.top_k(X, Y, k=1, block_size=0), ValueError, "block_size must be at least"),
        (
            lambda: search.top_k(X, Y[:, :3], k=1),
            ValueError,
            r"must have one dimension, got shapes",
        ),
        (lambda: search.top_k(X[0], Y, k=1), ValueError, "queries must have shape .query dimensio"),
        (lambda: search.top_k(X, Y[:0], k=1), ValueError, "items must not be empty"),
        (lambda: search.top_k(X, Y + np.nan, k=1), ValueError, "items must be finite, got nan"),
        (lambda: search.sharded_top_k(X, Y, MESH, k=7), ValueError, "k must be at most the number"),
        (lambda: search.sharded_top_k(X, Y, None, k=1), TypeError, "mesh must be a jax.sharding.M"),
        (
            lambda: search.sharded_top_k(X, Y, MESH, k=1, axis_name="batch"),
            ValueError,
            r"axis_name must be one of the mesh's axes \('item',\), got 'batch'",
        ),
        (
            lambda: search.rerank(P, P, np.array([[0, 2]] * 2), **OPTIONS),
            ValueError,
            r"indices must lie in 0..1, or be -1, got values from 0 to 2",
        ),
        (
            lambda: search.rerank(P, P, X, **OPTIONS),
            TypeError,
            "indices must be integers, got floa",
        ),
        (
            lambda: search.rerank(P, P, np.array([[0]]), **OPTIONS),
            ValueError,
            r"indices must have shape \(2, candidate\), got \(1, 1\)",
        ),
        (
            lambda: search.rerank(X, P, np.array([[0]] * 2), **OPTIONS),
            TypeError,
            "p must be a Diag",
        ),
        (
            lambda: search.rerank(P, gaussians(0, 3, 4), np.array([[0]] * 2), **OPTIONS),
            ValueError,
            "p and q must be batches of distributions in one dimension",
        ),
        (
            lambda: search.rerank(P, P, np.array([[0]] * 2), negative_scale=0.0, shift=0.0),
            ValueError,
            "negative_scale must be positive, got 0",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
