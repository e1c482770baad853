import numpy as np
import pytest
import scipy.stats

from experiments.data.occlusion import occlude

WHITE = np.full((20_000, 6, 12), 255, np.uint8)


def occluded(probability, seed=0, images=WHITE):
    return occlude(np.random.default_rng(seed), images, num_digits=2, probability=probability)


def squares(images):
    """Per digit (image, digit): side, top and left of its black square; side 0 where none is."""
    digits = images.reshape(len(images), 6, 2, 6).transpose(0, 2, 1, 3) == 0
    rows, columns = digits.any(3), digits.any(2)
    side = rows.sum(-1)
    assert (columns.sum(-1) == side).all()  # square
    assert (digits.sum((2, 3)) == side**2).all()  # filled, in one piece
    return side, rows.argmax(-1), columns.argmax(-1)


def test_sides_and_places_are_uniform():
    side, top, left = squares(occluded(1.0))
    assert scipy.stats.chisquare(np.bincount(side.ravel(), minlength=7)).pvalue > 1e-3
    for size in range(1, 6):
        for start in (top, left):
            counts = np.bincount(start[side == size], minlength=7 - size)
            assert len(counts) == 7 - size
            assert scipy.stats.chisquare(counts).pvalue > 1e-3
    assert abs(np.corrcoef(side.T)[0, 1]) < 0.03  # digits are independent
    assert abs(np.corrcoef(top[side == 2], left[side == 2])[0, 1]) < 0.05


def test_probability_is_that_of_a_digit():
    side, _, _ = squares(occluded(0.2))
    share = (side > 0).mean()
    expected = 0.2 * 6 / 7  # a side of 0 covers nothing
    assert abs(share - expected) < 4 * np.sqrt(expected / side.size)


def test_clean_is_untouched_and_seeds_repeat():
    images = np.random.default_rng(1).integers(0, 256, (50, 6, 12), np.uint8)
    before = images.copy()
    np.testing.assert_array_equal(occluded(0.0, images=images), images)
    first, again, other = (occluded(1.0, seed, images) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(images, before)
    assert ((first == images) | (first == 0)).all()


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (WHITE[0, 0], {}, r"images must be \(batch, side"),
        (WHITE[:0], {}, "not empty"),
        (WHITE.astype(float), {}, "uint8"),
        (WHITE, {"num_digits": 3}, "num_digits = 3 times as wide as high"),
        (WHITE, {"probability": 1.5}, r"probability must lie in 0..1, got 1.5"),
        (WHITE, {"probability": float("nan")}, r"probability must lie in 0..1, got nan"),
    ],
)
def test_bad_input(images, options, message):
    options = {"num_digits": 2, "probability": 0.5, **options}
    with pytest.raises(ValueError, match=message):
        occlude(np.random.default_rng(0), images, **options)


def test_channels_are_covered_together():
    images = np.random.default_rng(1).integers(1, 256, (50, 6, 6, 3), np.uint8)
    options = {"num_digits": 1, "probability": 1.0}
    found = occlude(np.random.default_rng(3), images, **options)
    gray = occlude(np.random.default_rng(3), images[..., 0], **options)
    black = gray == 0
    assert 0.1 < black.mean() < 0.9
    np.testing.assert_array_equal(found, np.where(black[..., None], 0, images))
