"""Severity: levels get worse, and tau is SciPy's, pair by pair and resampled."""

import numpy as np
import pytest
import scipy.stats

from experiments.image_metrics import severity

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def graded():
    image = severity.bundled()["coffee"][100:164, 200:264]
    return severity.graded({"coffee": image}, size=32, seed=0)


def test_every_level_is_further_away_than_the_one_before(graded):
    assert graded.photographs.tolist() == ["coffee"] * 4
    distorted, references = graded.distorted.astype(float), graded.references.astype(float)
    assert distorted.shape == (4, len(severity.KINDS), severity.LEVELS, 32, 32, 3)
    error = np.square(distorted - references[:, None, None]).mean((0, 3, 4, 5))
    assert (error[:, 0] > 0).all()
    assert (np.diff(error[:, [0, 2, 4]]) > 0).all()  # of all squares together


def test_a_seed_gives_the_same_images(graded):
    image = severity.bundled()["coffee"][100:164, 200:264]
    again, other = (severity.graded({"coffee": image}, size=32, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(graded.distorted, again.distorted)
    assert (graded.distorted[1, 0] != other.distorted[1, 0]).any()
    assert graded.contents == again.contents != other.contents


def test_fewer_squares_are_the_first_of_each_photograph(graded):
    image = severity.bundled()["coffee"][100:164, 200:264]
    images = {"coffee": image, "again": image}
    fewer = severity.graded(images, size=32, seed=0, squares=2)
    assert fewer.photographs.tolist() == ["coffee"] * 2 + ["again"] * 2
    np.testing.assert_array_equal(fewer.distorted[:2], graded.distorted[:2])


def test_items_are_in_the_order_of_reference_kind_and_level(graded):
    count = len(severity.KINDS) * severity.LEVELS
    assert len(graded) == 4 * count
    references, distorted = graded.images(range(count - 1, count + 1))
    np.testing.assert_array_equal(references, graded.references[:2])
    np.testing.assert_array_equal(distorted[0], graded.distorted[0, -1, -1])
    np.testing.assert_array_equal(distorted[1], graded.distorted[1, 0, 0])
    by_level = graded.by_level(np.arange(4.0 * count)[:, None])
    assert by_level[1, 0, 2] == count + 2


def test_tau_is_scipys():
    distances = RANDOM.integers(0, 6, (3, 2, severity.LEVELS)).astype(float)  # with ties
    pairs = severity.order(distances)
    levels = np.arange(severity.LEVELS)
    for kind in range(2):
        for reference in range(3):
            expected = scipy.stats.kendalltau(distances[reference, kind], levels).statistic
            np.testing.assert_allclose(severity.within(pairs)[kind, reference], expected)


def test_tau_across_is_of_pairs_of_different_photographs():
    distances = RANDOM.integers(0, 9, (4, 1, severity.LEVELS)).astype(float)
    distances[3] = distances[0]
    photographs = np.array(["one", "other", "third", "one"])
    weights = np.array([1, 0, 1, 1])  # two photographs count, of which one has the same twice
    agreement = differ = 0
    for level, first in enumerate(distances[0, 0]):
        for other, second in enumerate(distances[2, 0]):
            agreement += np.sign(first - second) * np.sign(level - other)
            differ += first != second
    unlike = severity.LEVELS * (severity.LEVELS - 1)
    expected = agreement / np.sqrt(differ * unlike)
    found = severity.across(severity.order(distances), photographs, weights)
    np.testing.assert_allclose(found, [expected])


@pytest.mark.parametrize("ties", [2, 9, 10**6])
def test_no_order_of_distances_is_beyond_the_attainable(ties):
    photographs, once = np.arange(3), np.ones(3)
    for best in (True, False):
        level = np.broadcast_to(np.arange(severity.LEVELS), (3, 1, severity.LEVELS))
        drawn = RANDOM.integers(0, ties, level.shape)
        distances = ties * level + drawn if best else drawn  # levels in order, whatever else
        pairs = severity.order(distances.astype(float))
        tau = severity.across(pairs, photographs, once)
        bound = severity.attainable(pairs, photographs, once)
        assert (np.abs(tau) <= bound + 1e-12).all()
        if best:
            np.testing.assert_allclose(tau, bound)
    if ties == 10**6:
        np.testing.assert_allclose(bound, np.sqrt(0.8))  # all differ; levels in 4 of 5 pairs


def test_a_constant_distance_orders_nothing():
    pairs = severity.order(np.ones((2, 1, severity.LEVELS)))
    assert (severity.within(pairs) == 0).all()
    assert severity.across(pairs, np.arange(2), np.ones(2)) == 0
    assert severity.attainable(pairs, np.arange(2), np.ones(2)) == 1  # its ties are no excuse


def test_squares_lie_in_the_middles_of_quarters_or_are_moved_inside():
    rows, columns = np.indices((40, 100))
    image = np.stack([rows, columns, rows], -1).astype(np.uint8)
    corners = [tuple(int(x) for x in square[0, 0, :2]) for square in severity.crops(image, 30)]
    assert corners == [(0, 10), (0, 60), (10, 10), (10, 60)]


def test_small_photographs_are_refused():
    with pytest.raises(ValueError, match="at least size = 64 pixels a side, got one of 80 x 60"):
        severity.crops(np.zeros((60, 80, 3), np.uint8), 64)
