from typing import Any, cast

import numpy as np
import pytest

from experiments.data import caption_grammar, captioned_digits, shifted_digits
from experiments.data.shifted_digits import SHIFTS, shifted


@pytest.fixture(scope="module")
def split():
    """Numbers of one to three digits, some digits covered, drawn as columns of their place."""
    random = np.random.RandomState(0)
    numbers = random.randint(0, 1110, 60)
    covered = (random.random_sample((60, 3)) < 0.25) & (caption_grammar.NUMBERS[numbers] >= 0)
    images = random.randint(1, 255, (60, 3, 8, 8)).astype(np.uint8)
    images[caption_grammar.NUMBERS[numbers] < 0] = 0
    images[covered] = captioned_digits.COVER
    captions = tuple(dict.fromkeys(caption_grammar.describe(random, number) for number in numbers))
    return captioned_digits.Captioned(
        images.transpose(0, 2, 1, 3).reshape(60, 8, 24),
        numbers,
        covered,
        captions,
        np.zeros((0, 2), np.int64),
    )


def cells(images):
    """The three places (image, place, side, side) of images."""
    return images.reshape(len(images), 8, 3, 8).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_changes_pictures_and_nothing_else(split, shift):
    before = split.images.copy()
    found = shifted(split, shift, seed=0)
    assert found.images.shape == before.shape and found.images.dtype == np.uint8
    for one, other in zip(found[1:], split[1:], strict=True):
        assert one is other
    np.testing.assert_array_equal(split.images, before)
    changed = (found.images != before).any((1, 2)).mean()
    assert changed == 0.0 if shift == "plain" else changed > 0.6
    again = shifted(split, shift, seed=0).images
    np.testing.assert_array_equal(found.images, again)
    if shift not in ("plain", "inverted"):
        assert (shifted(split, shift, seed=1).images != again).any()


def test_inverted_twice_is_plain(split):
    once = shifted(split, "inverted", seed=0)
    np.testing.assert_array_equal(shifted(once, "inverted", seed=0).images, split.images)


@pytest.mark.parametrize("shift", ["occluded", "fonts"])
def test_covers_stay_and_nothing_is_where_no_digit_was(split, shift):
    found = cells(shifted(split, shift, seed=0).images)
    assert (found[split.covered] == captioned_digits.COVER).all()
    assert not found[caption_grammar.NUMBERS[split.numbers] < 0].any()


def test_squares_are_black_and_cover_a_third(split):
    """A side uniform over 0..8 covers 204 / 9 / 64 of a digit on average."""
    found, before = cells(shifted(split, "occluded", seed=0).images), cells(split.images)
    assert ((found == before) | (found == 0)).all()
    shown = (caption_grammar.NUMBERS[split.numbers] >= 0) & ~split.covered
    share = (found[shown] == 0).mean()
    assert abs(share - 204 / 9 / 64) < 4 * 0.36 / np.sqrt(shown.sum())


def test_printed_digits_differ_by_digit_and_not_by_place(split):
    """The same face draws the same digit alike but for half a pixel, and ten that differ."""
    glyphs = shifted_digits._glyphs(8)
    middle = glyphs[:, :, 2, 2].astype(int)
    assert (middle.max((2, 3)) > 100).all()
    apart = np.abs(middle[:, :, None] - middle[:, None]).mean((3, 4))
    assert (apart[:, ~np.eye(10, dtype=bool)] > 3.0).all()
    # moved by one pixel from the left end to the right end
    np.testing.assert_allclose(
        glyphs[:, :, 2, 0, :, :-1].astype(int), glyphs[:, :, 2, 4, :, 1:], atol=1
    )
    assert len({face.tobytes() for face in middle}) == len(shifted_digits.FACES)


def test_a_number_is_printed_in_one_face(split):
    """An image of three equal digits shows one glyph thrice, moved by up to a pixel."""
    number = int(np.flatnonzero((caption_grammar.NUMBERS == 8).all(1))[0])
    eights = split._replace(
        images=np.zeros((30, 8, 24), np.uint8),
        numbers=np.full(30, number),
        covered=np.zeros((30, 3), bool),
    )
    mass = cells(shifted(eights, "fonts", seed=0).images).sum((2, 3), dtype=np.int64)
    assert (np.ptp(mass, axis=1) < 0.1 * mass.mean(1)).all()  # bold ones have a third more
    assert np.ptp(mass.mean(1)) > 0.2 * mass.mean()


def test_mixed_has_some_of_every_kind(split):
    mixed = shifted(split, "mixed", seed=0).images
    kinds = [shifted(split, shift, seed=0).images for shift in SHIFTS if shift != "mixed"]
    same = np.stack([(kind == mixed).all((1, 2)) for kind in kinds])
    assert same.any(0).all() and (same.mean(1) > 0.1).all()


def test_no_such_shift_is_an_error(split):
    with pytest.raises(ValueError, match=r"shift must be one of .*got 'blurred'"):
        shifted(split, cast(Any, "blurred"), seed=0)
