import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from probemb import DiagonalGaussian, pairwise, retrieval

METRICS = {
    "recall at 1": functools.partial(retrieval.recall_at_k, k=1),
    "recall at 3": functools.partial(retrieval.recall_at_k, k=3),
    "R-Precision": retrieval.r_precision,
    "mAP@R": retrieval.map_at_r,
}
each_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def of_order(relevant: np.ndarray) -> dict[str, float]:
    """The metrics of items in one order."""
    number = relevant.sum()
    precisions = [relevant[: r + 1].mean() * relevant[r] for r in range(number)]
    return {
        "recall at 1": float(relevant[:1].any()),
        "recall at 3": float(relevant[:3].any()),
        "R-Precision": float(relevant[:number].mean()),
        "mAP@R": float(np.sum(precisions) / number),
    }


ORDERS = np.array(list(itertools.permutations(range(6))))


def over_orders(scores: np.ndarray, positives: np.ndarray) -> dict[str, float]:
    """The mean of the metrics over all orders of the items that descend in score."""
    descending = (np.diff(scores[ORDERS]) <= 0.0).all(axis=1)
    values = [of_order(positives[order]) for order in ORDERS[descending]]
    return {name: float(np.mean([value[name] for value in values])) for name in METRICS}


def queries(seed: int, number: int = 40, items: int = 30, levels: float | None = None):
    """Scores that know the positives in part; few levels make ties."""
    random = np.random.default_rng(seed)
    positives = random.uniform(size=(number, items)) < random.uniform(0.02, 0.5, (number, 1))
    positives[np.arange(number), random.integers(items, size=number)] = True
    scores = random.normal(size=(number, items)) + positives
    return (np.round(scores * levels) / levels if levels else scores), positives


@pytest.mark.parametrize("levels", [0.3, 1, 2, 100])
def test_ties_are_the_mean_over_all_orders(levels):
    scores, positives = queries(int(levels), 12, 6, levels)
    expected = [over_orders(*query) for query in zip(scores, positives, strict=True)]
    for name, metric in METRICS.items():
        of_name, metric = [one[name] for one in expected], jax.jit(metric)
        np.testing.assert_allclose(metric(scores, positives), of_name, atol=1e-12)
        single = metric(scores.astype(np.float32), positives)
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, of_name, atol=1e-6)


def test_without_ties_as_by_hand():
    scores, positives = queries(0)
    order = np.argsort(-scores, axis=1)
    expected = [of_order(row[o]) for row, o in zip(positives, order, strict=True)]
    for name, metric in METRICS.items():
        np.testing.assert_allclose(metric(scores, positives), [one[name] for one in expected])


def test_by_hand():
    # The second and the fourth place are right: of two positives, one is among the first two.
    scores, positives = np.arange(6.0)[None, ::-1], np.isin(np.arange(6), [1, 3])[None]
    for metric, expected in zip(METRICS.values(), (0.0, 1.0, 0.5, 0.25), strict=True):
        np.testing.assert_allclose(jax.jit(metric)(scores, positives), [expected])


def test_recall_is_that_of_scikit_learn():
    scores, _ = queries(1)
    label = np.random.default_rng(2).integers(30, size=40)
    positives = np.arange(30)[None] == label[:, None]
    for k in (1, 3):
        expected = sklearn.metrics.top_k_accuracy_score(label, scores, k=k, labels=range(30))
        np.testing.assert_allclose(retrieval.recall_at_k(scores, positives, k=k).mean(), expected)


def test_average_precision_of_scikit_learn_also_counts_later_positives():
    scores, positives = queries(3)
    scores += positives
    pairs = list(zip(positives, scores, strict=True))
    average = np.array([sklearn.metrics.average_precision_score(*pair) for pair in pairs])
    found = retrieval.r_precision(scores, positives)
    value = retrieval.map_at_r(scores, positives)
    assert (value <= average + 1e-12).all() and (found == 1.0).any()
    np.testing.assert_allclose(value[found == 1.0], average[found == 1.0])
    # At R, precision and recall are the same.
    chosen = [score >= np.sort(score)[-match.sum()] for match, score in pairs]
    for share in (sklearn.metrics.precision_score, sklearn.metrics.recall_score):
        np.testing.assert_allclose(found, list(map(share, positives, chosen)))


def test_a_constant_score_is_worth_chance():
    _, positives = queries(4)
    share = positives.mean(axis=1)
    np.testing.assert_allclose(retrieval.recall_at_k(0.0 * positives, positives, k=1), share)
    np.testing.assert_allclose(retrieval.r_precision(0.0 * positives, positives), share)
    random = np.random.default_rng(5)
    of_order = jax.jit(retrieval.map_at_r)
    drawn = [of_order(random.normal(size=positives.shape), positives) for _ in range(400)]
    error = np.std(drawn, axis=0) / 20
    constant = retrieval.map_at_r(0.0 * positives, positives)
    assert (np.abs(np.mean(drawn, axis=0) - constant) < 5 * error).all()


def test_thousands_of_ties_keep_their_digits():
    positives = np.arange(20_000)[None] < 3
    for k in (1, 5000):
        chance = 1 - np.prod([(20_000 - k - i) / (20_000 - i) for i in range(3)])
        recall = jax.jit(functools.partial(retrieval.recall_at_k, k=k))
        value = recall(np.zeros((1, 20_000), np.float32), positives)
        np.testing.assert_allclose(value, [chance], rtol=1e-3)


@each_metric
def test_only_the_order_counts(metric):
    scores, positives = queries(6, levels=3)
    expected = metric(scores, positives)
    np.testing.assert_allclose(metric(np.exp(scores) - 7.0, positives), expected)
    place = np.random.default_rng(7).permutation(scores.shape[1])
    np.testing.assert_allclose(metric(scores[:, place], positives[:, place]), expected)
    zero = np.where(scores == 0.0, np.where(place % 2 == 0, -0.0, 0.0)[None], scores)
    assert np.signbit(zero[scores == 0.0]).any()
    np.testing.assert_allclose(metric(zero, positives), expected)


@each_metric
def test_bounds(metric):
    scores, positives = queries(8, levels=2)
    value = metric(scores, positives)
    assert (value >= 0.0).all() and (value <= 1.0).all()
    np.testing.assert_allclose(metric(positives.astype(float), positives), np.ones(40))
    np.testing.assert_allclose(metric(scores, np.ones_like(positives)), np.ones(40))


@pytest.mark.slow
@each_metric
def test_jit_and_vmap(metric):
    scores, positives = (np.stack(both) for both in zip(queries(9), queries(10), strict=True))
    each = np.stack([metric(*one) for one in zip(scores, positives, strict=True)])
    chex.assert_trees_all_close(jax.jit(jax.vmap(metric))(scores, positives), each, atol=1e-12)


@each_metric
def test_nan_where_it_cannot_be_looked_at(metric):
    scores, positives = queries(11, 3, 6)
    scores[0, 2], positives[1] = np.nan, False
    value = jax.jit(metric)(scores, positives)
    assert np.isnan(value).tolist() == [True, True, False]


@pytest.mark.parametrize("metric", [retrieval.r_precision, retrieval.map_at_r])
def test_fewer_places_give_the_same(metric):
    scores, positives = queries(12, levels=1)
    most = int(positives.sum(axis=1).max())
    expected = metric(scores, positives)
    for places in (most, 1000):
        value = jax.jit(functools.partial(metric, max_positives=places))(scores, positives)
        np.testing.assert_allclose(value, expected, atol=1e-12)
    with pytest.raises(ValueError, match=f"max_positives must be at least the {most} of a query"):
        metric(scores, positives, max_positives=most - 1)
    value = jax.jit(functools.partial(metric, max_positives=most - 1))(scores, positives)
    np.testing.assert_array_equal(np.isnan(value), positives.sum(axis=1) == most)


def test_a_truncated_ranking_inflates_r_precision():
    scores, positives = queries(13)
    kept = np.argsort(-scores, axis=1)[:, :8]
    cut = [np.take_along_axis(values, kept, axis=1) for values in (scores, positives)]
    found = cut[1].any(axis=1)
    whole = retrieval.r_precision(scores, positives)[found]
    truncated = jax.jit(retrieval.r_precision)(cut[0][found], cut[1][found])
    assert truncated.mean() > whole.mean() + 0.05


def labelled(seed: int):
    """Scores and labels of queries and items, the first of each without a label."""
    random = np.random.default_rng(seed)
    scores = np.round(random.normal(size=(9, 12)) * 3) / 3
    of_query, of_item = (random.integers(2, size=(n, 5)) for n in (9, 12))
    of_query[0], of_item[0] = 0, 0
    of_query[1:] = of_item[1:9]
    of_query[1:, 0] = of_item[1:, 0] = 1
    return scores, of_query, of_item


def test_pmrp_leaves_out_what_has_no_label():
    scores, of_query, of_item = labelled(14)
    pmrp = jax.jit(retrieval.pmrp, static_argnames="max_distances")
    value = retrieval.pmrp(scores, of_query, of_item)
    chex.assert_trees_all_close(pmrp(scores, of_query, of_item), value)
    assert np.isnan(value).tolist() == [True] + 8 * [False]
    distance = np.abs(of_query[1:, None] - of_item[None, 1:]).sum(-1)
    r_precision = jax.jit(retrieval.r_precision)
    each = [r_precision(scores[1:, 1:], distance <= zeta) for zeta in (0, 1, 2)]
    np.testing.assert_allclose(value[1:], np.mean(each, axis=0))
    alone = pmrp(scores, of_query, of_item, max_distances=(1,))
    np.testing.assert_allclose(alone[1:], each[1])
    boolean = pmrp(scores.astype(np.float32), of_query > 0, of_item > 0)
    np.testing.assert_allclose(boolean, value, rtol=1e-6)


def test_pmrp_of_a_query_without_a_positive_is_undefined():
    labels, pmrp = np.eye(3), jax.jit(retrieval.pmrp, static_argnames="max_distances")
    value = pmrp(np.ones((3, 2)), labels, labels[:2])
    assert np.isnan(value).tolist() == [False, False, True]
    np.testing.assert_allclose(pmrp(np.ones((3, 2)), labels, labels[:2], max_distances=(2,))[2], 1)


def test_listed_positives():
    lists = [[0, 3], [2], [3, 1, 0]]
    expected = np.zeros((3, 4), bool)
    for row, of_query in zip(expected, lists, strict=True):
        row[of_query] = True
    padded = np.array([[0, 3, -1], [-1, 2, -1], [3, 1, 0]])
    of_items = functools.partial(retrieval.positives_of, num_items=4)
    for indices in (lists, padded, jnp.asarray(padded, jnp.int32)):
        np.testing.assert_array_equal(of_items(indices), expected)
    np.testing.assert_array_equal(jax.jit(of_items)(padded), expected)
    np.testing.assert_array_equal(of_items([[1], []]), [[False, True, False, False], 4 * [False]])


@pytest.mark.parametrize("block_size", [7, 100])
def test_blocks_are_the_whole(block_size):
    random = np.random.default_rng(15)
    p, q = (DiagonalGaussian(*random.normal(size=(2, n, 3))) for n in (40, 30))
    _, positives = queries(16)
    lists = np.full((40, 30), -1)
    for row, match in zip(lists, positives, strict=True):
        row[: match.sum()] = np.flatnonzero(match)

    def score(p, q):
        return -pairwise.sampled_distance(p, q)

    def both(scores, positives):
        return retrieval.recall_at_k(scores, positives, k=3), retrieval.map_at_r(scores, positives)

    def of_lists(scores, lists):
        return both(scores, retrieval.positives_of(lists, num_items=30))

    expected = jax.jit(lambda p, q: both(score(p, q), positives))(p, q)
    for statistic, matches in ((both, positives), (of_lists, lists)):
        value = retrieval.in_blocks(statistic, p, q, matches, score=score, block_size=block_size)
        chex.assert_trees_all_close(value, expected, atol=1e-12)


def test_blocks_of_labels_and_of_vectors():
    scores, of_query, of_item = labelled(17)
    value = retrieval.in_blocks(
        lambda scores, labels: retrieval.pmrp(scores, labels, of_item),
        scores,
        np.eye(12),
        of_query,
        score=lambda p, q: p @ q.T,
        block_size=4,
    )
    np.testing.assert_allclose(value, retrieval.pmrp(scores, of_query, of_item))


@each_metric
def test_a_query_of_the_set_itself_is_left_out(metric):
    scores, positives = queries(18, 30, 30, levels=1)
    place = np.arange(30)
    positives[place, (place + 1) % 30] = True
    others = ~np.eye(30, dtype=bool)
    deleted = [values[others].reshape(30, 29) for values in (scores, positives)]
    expected = np.asarray(metric(*deleted))
    itself = np.where(others, scores, 100.0)
    for function in (metric, jax.jit(metric)):
        for matches in (positives, positives | ~others):
            value = function(itself, matches, self_index=place)
            np.testing.assert_allclose(value, expected, atol=1e-12)
    # In another order, and the last ten are none of the items.
    order = np.random.default_rng(20).permutation(30)
    some = np.where(place < 20, order, -1)
    value = np.asarray(metric(itself[order], positives[order], self_index=some))
    np.testing.assert_allclose(value[:20], expected[order[:20]], atol=1e-12)
    whole = np.asarray(metric(itself, positives))
    np.testing.assert_allclose(value[20:], whole[order[20:]], atol=1e-12)
    with pytest.raises(ValueError, match="one for every query besides itself, got none at 0"):
        metric(scores, np.eye(30) > 0, self_index=place)
    with pytest.raises(ValueError, match=r"self_index must lie in 0..29, or be -1, got values"):
        metric(scores, positives, self_index=place + 1)
    with pytest.raises(ValueError, match=r"self_index must have shape \(30,\), got \(29,\)"):
        metric(scores, positives, self_index=place[1:])


def test_a_set_among_itself_in_blocks():
    random = np.random.default_rng(19)
    points, label = random.normal(size=(40, 3)), random.integers(4, size=40)
    of_label = np.eye(4)[label]
    place, others = np.arange(40), ~np.eye(40, dtype=bool)
    scores = points @ points.T
    left, same = (z[others].reshape(40, 39) for z in (scores, label[:, None] == label))
    expected = retrieval.map_at_r(left, same)
    options = {"score": lambda p, q: p @ q.T, "block_size": 7, "self_index": place}
    value = retrieval.in_blocks(
        retrieval.map_at_r, points, points, label[:, None] == label, **options
    )
    np.testing.assert_allclose(value, expected, atol=1e-12)

    def pmrp(scores, labels, self_index):
        return retrieval.pmrp(scores, labels, of_label, max_distances=(0,), self_index=self_index)

    value = retrieval.in_blocks(pmrp, points, points, of_label, **options)
    np.testing.assert_allclose(value, retrieval.r_precision(left, same), atol=1e-12)


def test_indices_of_any_width():
    of_items = functools.partial(retrieval.positives_of, num_items=300)
    for dtype in (np.uint8, ">i8", np.uint64):
        expected = np.isin(np.arange(300), [3, 200])[None]
        indices = np.array([[3, 200]], dtype)
        np.testing.assert_array_equal(of_items(indices), expected)
        native = indices.astype(indices.dtype.newbyteorder("="))
        np.testing.assert_array_equal(jax.jit(of_items)(native), expected)
    with pytest.raises(ValueError, match="got values from 9223372036854775808"):
        of_items([[2**63]])
    beyond = jax.jit(of_items)(np.array([[3, 2**32 + 5, -7]]))
    np.testing.assert_array_equal(beyond, np.arange(300)[None] == 3)


SCORES, POSITIVES = (
    np.array([[0.1, 0.2, 0.3], [0.0, 0.5, 1.0]]),
    np.array([[True, False, True]] * 2),
)
LABELS = np.array([[1, 0], [0, 1], [1, 1]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m(SCORES, POSITIVES[:, :2]), ValueError, r"shape of scores, \(2, 3\), got \(2"),
        (lambda m: m(SCORES[0], POSITIVES[0]), ValueError, "scores must have shape .query item."),
        (lambda m: m(SCORES, 1.0 * POSITIVES), TypeError, "positives must be a boolean array, got"),
        (lambda m: m(SCORES, [[True]]), TypeError, "positives must be a boolean array, got list"),
        (
            lambda m: m(SCORES, POSITIVES & np.array([[True], [False]])),
            ValueError,
            "positives must hold one for every query, got none at 1",
        ),
        (lambda m: m(SCORES + np.nan, POSITIVES), ValueError, r"finite, got nan at index \(0, 0\)"),
        (
            lambda m: m(POSITIVES, SCORES),
            TypeError,
            "scores must be floating point, got dtype bool",
        ),
    ],
)
@each_metric
def test_bad_queries(metric, call, error, message):
    with pytest.raises(error, match=message):
        call(metric)


def blocks(p, positives, **options):
    return retrieval.in_blocks(
        retrieval.map_at_r, p, np.eye(3), positives, score=lambda p, q: p @ q.T, **options
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: retrieval.recall_at_k(SCORES, POSITIVES, k=0), ValueError, "k must be at least 1"),
        (lambda: retrieval.recall_at_k(SCORES, POSITIVES, k=True), TypeError, "k must be an integ"),
        (
            lambda: retrieval.map_at_r(SCORES, POSITIVES, max_positives=0),
            ValueError,
            "max_positives must be at least 1, got 0",
        ),
        (
            lambda: retrieval.pmrp(SCORES, LABELS, LABELS),
            ValueError,
            r"query_labels must have shape \(2, label\), got \(3, 2\)",
        ),
        (
            lambda: retrieval.pmrp(SCORES, LABELS[:2, :1], LABELS),
            ValueError,
            "must have as many labels, got 1 and 2",
        ),
        (
            lambda: retrieval.pmrp(SCORES, LABELS[:2], 0.5 * LABELS),
            ValueError,
            "item_labels must be 0 or 1, got 0.5",
        ),
        (
            lambda: retrieval.pmrp(SCORES, LABELS[:2], LABELS, max_distances=()),
            TypeError,
            r"max_distances must be a tuple of integers, got \(\)",
        ),
        (
            lambda: retrieval.pmrp(SCORES, LABELS[:2], LABELS, max_distances=(-1,)),
            ValueError,
            "max_distances must be at least 0, got -1",
        ),
        (
            lambda: retrieval.positives_of([[0, 3]], num_items=3),
            ValueError,
            r"indices must lie in 0..2, or be -1, got values from 0 to 3",
        ),
        (lambda: retrieval.positives_of([[0.5]], num_items=3), TypeError, "indices must be integ"),
        (lambda: retrieval.positives_of(SCORES, num_items=3), TypeError, "indices must be integer"),
        (lambda: retrieval.positives_of([], num_items=3), ValueError, "must have shape .query, pl"),
        (
            lambda: retrieval.positives_of([0, 1], num_items=3),
            ValueError,
            "must be a list of lists",
        ),
        (
            lambda: retrieval.positives_of([[[0]]], num_items=3),
            ValueError,
            "list of lists, got one",
        ),
        (lambda: blocks(SCORES, POSITIVES[:1]), ValueError, "p and positives must have one positi"),
        (lambda: blocks(SCORES[:0], POSITIVES[:0]), ValueError, "p and positives must have one po"),
        (
            lambda: blocks(SCORES, POSITIVES, block_size=0),
            ValueError,
            "block_size must be at least",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
