"""Kendall's tau with the level is SciPy's, pair by pair, and never beyond what is attainable."""

import numpy as np
import pytest
import scipy.stats

from experiments.image_metrics import severity_order

LEVELS = 5
RANDOM = np.random.default_rng(0)


def test_tau_is_scipys():
    distances = RANDOM.integers(0, 6, (3, 2, LEVELS)).astype(float)  # with ties
    pairs = severity_order.order(distances)
    levels = np.arange(LEVELS)
    for kind in range(2):
        for reference in range(3):
            expected = scipy.stats.kendalltau(distances[reference, kind], levels)[0]
            np.testing.assert_allclose(severity_order.within(pairs)[kind, reference], expected)


def test_tau_across_is_of_pairs_of_different_photographs():
    distances = RANDOM.integers(0, 9, (4, 1, LEVELS)).astype(float)
    distances[3] = distances[0]
    photographs = np.array(["one", "other", "third", "one"])
    weights = np.array([1, 0, 1, 1])  # two photographs count, of which one has the same twice
    agreement = differ = 0
    for level, first in enumerate(distances[0, 0]):
        for other, second in enumerate(distances[2, 0]):
            agreement += np.sign(first - second) * np.sign(level - other)
            differ += first != second
    unlike = LEVELS * (LEVELS - 1)
    expected = agreement / np.sqrt(differ * unlike)
    found = severity_order.across(severity_order.order(distances), photographs, weights)
    np.testing.assert_allclose(found, [expected])


@pytest.mark.parametrize("ties", [2, 9, 10**6])
def test_no_order_of_distances_is_beyond_the_attainable(ties):
    photographs, once = np.arange(3), np.ones(3)
    for best in (True, False):
        level = np.broadcast_to(np.arange(LEVELS), (3, 1, LEVELS))
        drawn = RANDOM.integers(0, ties, level.shape)
        distances = ties * level + drawn if best else drawn  # levels in order, whatever else
        pairs = severity_order.order(distances.astype(float))
        tau = severity_order.across(pairs, photographs, once)
        bound = severity_order.attainable(pairs, photographs, once)
        assert (np.abs(tau) <= bound + 1e-12).all()
        if best:
            np.testing.assert_allclose(tau, bound)
    if ties == 10**6:
        np.testing.assert_allclose(bound, np.sqrt(0.8))  # all differ; levels in 4 of 5 pairs


def test_a_constant_distance_orders_nothing():
    pairs = severity_order.order(np.ones((2, 1, LEVELS)))
    assert (severity_order.within(pairs) == 0).all()
    assert severity_order.across(pairs, np.arange(2), np.ones(2)) == 0
    assert severity_order.attainable(pairs, np.arange(2), np.ones(2)) == 1  # its ties are no excuse
