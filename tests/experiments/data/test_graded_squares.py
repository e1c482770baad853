"""Squares under distortions: levels get worse, and a seed gives the same again."""

import numpy as np
import pytest

from experiments.data import graded_squares


@pytest.fixture(scope="module")
def graded():
    image = graded_squares.bundled()["coffee"][100:164, 200:264]
    return graded_squares.graded({"coffee": image}, size=32, seed=0)


def test_every_level_is_further_away_than_the_one_before(graded):
    assert graded.photographs.tolist() == ["coffee"] * 4
    distorted, references = graded.distorted.astype(float), graded.references.astype(float)
    assert distorted.shape == (4, len(graded_squares.KINDS), graded_squares.LEVELS, 32, 32, 3)
    error = np.square(distorted - references[:, None, None]).mean((0, 3, 4, 5))
    assert (error[:, 0] > 0).all()
    assert (np.diff(error[:, [0, 2, 4]]) > 0).all()  # of all squares together


def test_a_seed_gives_the_same_images(graded):
    image = graded_squares.bundled()["coffee"][100:164, 200:264]
    again, other = (graded_squares.graded({"coffee": image}, size=32, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(graded.distorted, again.distorted)
    assert (graded.distorted[1, 0] != other.distorted[1, 0]).any()
    assert graded.contents == again.contents != other.contents


def test_fewer_squares_are_the_first_of_each_photograph(graded):
    image = graded_squares.bundled()["coffee"][100:164, 200:264]
    images = {"coffee": image, "again": image}
    fewer = graded_squares.graded(images, size=32, seed=0, squares=2)
    assert fewer.photographs.tolist() == ["coffee"] * 2 + ["again"] * 2
    np.testing.assert_array_equal(fewer.distorted[:2], graded.distorted[:2])


def test_items_are_in_the_order_of_reference_kind_and_level(graded):
    count = len(graded_squares.KINDS) * graded_squares.LEVELS
    assert len(graded) == 4 * count
    references, distorted = graded.images(range(count - 1, count + 1))
    np.testing.assert_array_equal(references, graded.references[:2])
    np.testing.assert_array_equal(distorted[0], graded.distorted[0, -1, -1])
    np.testing.assert_array_equal(distorted[1], graded.distorted[1, 0, 0])
    by_level = graded.by_level(np.arange(4.0 * count)[:, None])
    assert by_level[1, 0, 2] == count + 2


def test_squares_lie_in_the_middles_of_quarters_or_are_moved_inside():
    rows, columns = np.indices((40, 100))
    image = np.stack([rows, columns, rows], -1).astype(np.uint8)
    corners = [
        tuple(int(x) for x in square[0, 0, :2]) for square in graded_squares.crops(image, 30)
    ]
    assert corners == [(0, 10), (0, 60), (10, 10), (10, 60)]


def test_small_photographs_are_refused():
    with pytest.raises(ValueError, match="at least size = 64 pixels a side, got one of 80 x 60"):
        graded_squares.crops(np.zeros((60, 80, 3), np.uint8), 64)
