"""What users pass: byte orders, precisions, numbers at their bounds; and what is compiled once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probemb import DiagonalGaussian, calibration, fit_temperature, retrieval, search
from probemb.numerics import arguments
from tests.properties.compilations import compilations

U, E = np.array([0.4, 0.1, 0.3, 0.2]), np.array([1, 0, 0, 1])
SCORES, POSITIVES = np.array([[0.3, 0.1, 0.2], [0.1, 0.2, 0.3]]), np.eye(2, 3) > 0
LABELS, X = np.array([[1, 0], [0, 1], [1, 1]]), np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]])
OPTIONS = {"negative_scale": 1.0, "shift": 0.0}
KEY = jax.random.key(0)


def least(scores, positives):
    """A statistic of a module, which is traced once."""
    return jnp.min(jnp.where(positives, scores, jnp.inf), axis=1)


def inner(p, q):
    return p @ q.T


def recall(scores, positives, self_index=None):
    return retrieval.recall_at_k(scores, positives, k=1, self_index=self_index)


# Every public function that takes arrays: its arguments, and how it is called.
CALLS = {
    "r_auroc": (calibration.r_auroc, U, E, U),
    "aurc": (calibration.aurc, U, E, U),
    "selective_risk": (calibration.selective_risk, U, E, U),
    "kendall_tau": (calibration.kendall_tau, U, E + U, U),
    "spearman": (calibration.spearman, U, E + U, U),
    "equal_bins": (functools.partial(calibration.equal_bins, num_bins=2), U),
    "level_score": (functools.partial(calibration.level_score, num_bins=2), U, E, 1 + E),
    "bin_correlation": (functools.partial(calibration.bin_correlation, num_bins=2), U, E, 1 + E),
    "reliability": (calibration.reliability, U, E, U),
    "calibration error": (calibration.expected_calibration_error, U, E, U),
    "coverage": (functools.partial(calibration.coverage, level=0.2), U[:, None], U),
    "coverage_error": (calibration.coverage_error, U[:, None], U),
    "bootstrap_interval": (
        lambda *items: calibration.bootstrap_interval(
            KEY, calibration.aurc, *items, num_resamples=9
        ),
        U,
        E,
    ),
    "recall_at_k": (
        functools.partial(retrieval.recall_at_k, k=1),
        SCORES,
        POSITIVES,
        np.array([2, 0]),
    ),
    "r_precision": (retrieval.r_precision, SCORES, POSITIVES),
    "map_at_r": (retrieval.map_at_r, SCORES, POSITIVES),
    "pmrp": (retrieval.pmrp, SCORES, LABELS[:2], LABELS),
    "positives_of": (functools.partial(retrieval.positives_of, num_items=3), LABELS),
    "in_blocks": (
        functools.partial(retrieval.in_blocks, least, score=inner, block_size=2),
        X,
        X,
        np.eye(3) > 0,
    ),
    "query_vectors": (lambda *p: search.query_vectors(DiagonalGaussian(*p)), X, X),
    "top_k": (functools.partial(search.top_k, k=2), X, X),
    "rerank": (
        lambda mean, spread, indices: search.rerank(
            DiagonalGaussian(mean, spread), DiagonalGaussian(mean, spread), indices, **OPTIONS
        ),
        X,
        X,
        LABELS,
    ),
    "fit_temperature": (lambda m, v, x: fit_temperature(DiagonalGaussian(m, v), x), X, X, 2 * X),
}
WEIGHTED = {name for name, (_, *arrays) in CALLS.items() if arrays[-1] is U and len(arrays) > 1}
WEIGHTED |= {"level_score", "bin_correlation"}


def called(name, change=lambda array: array):
    function, *arrays = CALLS[name]
    arrays = [change(array) for array in arrays]
    if name == "recall_at_k":
        return function(*arrays[:2], self_index=arrays[2])
    if name in WEIGHTED:
        return function(*arrays[:-1], weights=arrays[-1])
    return function(*arrays)


def swapped(array):
    return array.astype(array.dtype.newbyteorder())


@pytest.mark.parametrize("name", CALLS)
def test_called_again_nothing_is_compiled_whatever_the_byte_order(name):
    first = called(name)
    with compilations() as compiled:
        again = called(name, swapped)
        strided = called(name, lambda array: np.repeat(array, 2, axis=0)[::2])
    assert compiled == []
    for other in (again, strided):
        jax.tree.map(np.testing.assert_array_equal, first, other)


def test_what_can_be_hashed_is_compiled_once_and_partial_functions_by_their_parts():
    def interval(statistic):
        return calibration.bootstrap_interval(KEY, statistic, U, E, num_resamples=9)

    def bins(number):
        return functools.partial(calibration.level_score, num_bins=number)

    first = interval(bins(2))
    with compilations() as compiled:
        again = interval(bins(2))
    assert compiled == [] and again == first
    assert not np.array_equal(interval(bins(3)), first)
    array = functools.partial(weighted_sum, np.ones(4))  # an array has no hash
    np.testing.assert_array_equal(interval(array), interval(array))


def weighted_sum(x, y, z, *, weights):
    return jnp.sum(weights * jnp.where(z > 0, x + y, y))


ORDERED = {
    **{name: CALLS[name][0] for name in ("r_auroc", "aurc", "selective_risk", "kendall_tau")},
    **{name: CALLS[name][0] for name in ("spearman", "level_score", "bin_correlation")},
    "bootstrap_interval": CALLS["bootstrap_interval"][0],
    "of a function of one's own": lambda *items: calibration.bootstrap_interval(
        KEY, lambda u, c, weights: calibration.aurc(u, c, weights=weights), *items, num_resamples=9
    ),
}
STEPS = np.array([3.0, 0.0, 2.0, 1.0, 4.0, 5.0])
# Orders that float32, or XLA, does not tell apart or cannot hold.
CLOSE = {
    "close": 1.0 + 1e-12 * STEPS,
    "small": 1e-300 * (1.0 + STEPS),
    "large": 1e300 * (1.0 + STEPS),
    "least": np.float32(1e-44) * (1 + STEPS).astype(np.float32),
    "both zeros": np.array([2.0, -0.0, 1.0, 0.0, 3.0, 4.0]) * 1e-40,
}


@pytest.mark.parametrize("name", ORDERED)
def test_orders_are_kept_where_x64_is_off(name):
    correct = np.array([0.0, 1, 0, 1, 1, 0])
    with jax.enable_x64(False):
        for kind, values in CLOSE.items():
            if name.startswith("of a function") and kind == "large":
                with pytest.raises(ValueError, match=r"items must fit into float32, got 6e.300"):
                    ORDERED[name](values, correct)
                continue
            steps = np.unique(values, return_inverse=True)[1].astype(np.float32)
            expected = ORDERED[name](steps, correct)
            jax.tree.map(np.testing.assert_array_equal, ORDERED[name](values, correct), expected)


@pytest.mark.parametrize("kind", CLOSE)
def test_rankings_are_kept_where_x64_is_off(kind):
    steps = np.unique(CLOSE[kind], return_inverse=True)[1].astype(np.float32)
    scores, plain = (np.stack([values, values[::-1]]) for values in (CLOSE[kind], steps))
    positives = np.array([[0, 0, 1, 1, 0, 0]] * 2) > 0
    with jax.enable_x64(False):
        for metric in (recall, retrieval.r_precision, retrieval.map_at_r):
            np.testing.assert_array_equal(metric(scores, positives), metric(plain, positives))
        labels = np.eye(6)
        found = retrieval.pmrp(scores, labels[:2], labels)
        np.testing.assert_array_equal(found, retrieval.pmrp(plain, labels[:2], labels))


def test_products_are_ranked_where_float32_cannot_hold_them():
    queries = np.array([[1.0, 0.0]])
    with jax.enable_x64(False):
        for values in (CLOSE["close"], CLOSE["small"], CLOSE["least"]):
            items = np.stack([values, np.zeros_like(values)], axis=1)
            scores, indices = search.top_k(queries, items, k=6)
            assert scores.dtype == np.float32
            assert indices.tolist() == [np.argsort(-values).tolist()]
        tiny, small = np.float32([[1e-30]]), np.float32([[1e-30], [3e-30], [2e-30]])
        assert search.top_k(tiny, small, k=3).indices.tolist() == [[1, 2, 0]]
        with pytest.raises(ValueError, match=r"inner products that fit into float32, got 1e.60"):
            search.top_k(np.float32([[1e30]]), np.float32([[1e30]]), k=1)
    with pytest.raises(ValueError, match="inner products within the range of float64"):
        search.top_k(np.array([[1e200]]), np.array([[1e200]]), k=1)


@pytest.mark.parametrize("name", CALLS)
def test_more_than_float64_is_refused_by_name(name):
    if np.finfo(np.longdouble).bits == 64:
        pytest.skip("long double is float64 here")
    count = len(CALLS[name]) - 1

    for place in range(count):
        if CALLS[name][1 + place].dtype.kind != "f":
            continue
        places = iter(range(count))

        def long(array, places=places, place=place):
            return array.astype(np.longdouble) if next(places) == place else array

        with pytest.raises(TypeError, match=r"^[a-z_.]+ must be at most float64, got dtype"):
            called(name, long)


def test_what_float32_cannot_hold_is_refused_where_x64_is_off():
    like = np.zeros(2, np.float32)
    with jax.enable_x64(False):
        for value in (1e39, -1e300, 3.4028236e38):
            with pytest.raises(ValueError, match=r"x must fit into float32, got -?\d"):
                arguments.floats("x", np.array([0.0, value]))
        with pytest.raises(ValueError, match=r"x must fit into int32, got 2147483648"):
            arguments.held("x", np.array([2**31]))
        assert arguments.scalar("x", np.array(2**40), like) == 2.0**40
    for number in (1e-300, 1e-40):
        with pytest.raises(ValueError, match=r"x must be at least 1.17549e-38 in float32, got 1e-"):
            arguments.positive("x", number, like)
    with pytest.raises(ValueError, match="x must fit into float32, got more than float64"):
        arguments.scalar("x", 10**5000, like)
    with pytest.raises(ValueError, match="x must be an array, got rows that differ in shape"):
        arguments.floats("x", [[1.0], [1.0, 2.0]])


def test_a_number_beyond_a_bound_is_shown_beyond_it():
    like = np.zeros(2, np.float32)
    for value, shown in (
        (1.0 + 1e-9, "1.000000001"),
        (np.float32(1.0000001), "1.0000001"),
        (1.5, "1.5"),
    ):
        with pytest.raises(ValueError, match=rf"x must lie in 0..1, got values from 0 to {shown}$"):
            arguments.probabilities("x", np.array([0, value], np.asarray(value).dtype), like)
    with pytest.raises(ValueError, match=r"correct must be 0 or 1 and hold both, got \[0.0, 0.99"):
        calibration.r_auroc(U, np.array([0.0, 1.0 - 1e-12, 0.0, 1.0]))
    with pytest.raises(ValueError, match=r"weights must be whole numbers, got 1.0000001$"):
        calibration.level_score(U, E, num_bins=2, weights=np.array([1.0000001, 1, 1, 1]))
    with pytest.raises(ValueError, match=r"item_labels must be 0 or 1, got 0.9999999999$"):
        retrieval.pmrp(SCORES, LABELS[:2], 1.0 - 1e-10 * LABELS)
