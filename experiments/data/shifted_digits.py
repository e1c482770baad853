"""Digit captions whose images have shifted: the same numbers, covers and captions, other pictures.

shift      an image is
plain      as it was
inverted   dark digits on a bright ground
occluded   under black squares of random side and place on every digit (`occlusion`), beside the
           grey covers
fonts      printed: each image in one of some faces and weights, a little shifted
mixed      one of these, at random

All that a split knows stays true of numbers and captions. That of what an image may show holds
of its grey covers alone: what black squares hide beside them is not counted.
"""

import functools
from pathlib import Path
from typing import Literal, get_args

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.data import caption_grammar, captioned_digits, occlusion
from experiments.data.captioned_digits import Captioned

Shift = Literal["plain", "inverted", "occluded", "fonts", "mixed"]
"""How images shift."""
SHIFTS: tuple[Shift, ...] = get_args(Shift)

FACES = tuple(
    f"DejaVu{family}{weight}"
    for family, italic in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for weight in ("", "-Bold", f"-{italic}", f"-Bold{italic}")
)
"""Files of the fonts that matplotlib brings, the same on every machine."""
_HEIGHT = 0.85  # of a digit, as a share of the side
_HEIGHT_OF_EM = 0.729  # a digit's in these fonts
_DETAIL = 8  # drawn so much larger, and averaged
_PLACES = 5  # from half a pixel to the left to half a pixel to the right; the same up and down


def shifted(split: Captioned, shift: Shift, *, seed: int) -> Captioned:
    """A split with its images shifted, and all else as it was.

    Args:
      split: of digit captions; it is not changed.
      shift: how.
      seed: of squares, faces and places; the same seed gives the same images.

    Raises:
      ValueError: there is no such shift.
    """
    random = np.random.default_rng(seed)
    match shift:
        case "plain":
            return split
        case "inverted":
            images = 255 - split.images
        case "occluded":
            images = _occluded(random, split)
        case "fonts":
            images = _printed(random, split)
        case "mixed":
            kinds = [shifted(split, each, seed=seed) for each in SHIFTS if each != "mixed"]
            of_kind = random.integers(0, len(kinds), len(split.images))
            images = np.choose(of_kind[:, None, None], [kind.images for kind in kinds])
        case _:
            raise ValueError(f"shift must be one of {SHIFTS}, got {shift!r}")
    return split._replace(images=images)


def _covers(split: Captioned) -> np.ndarray:
    """Which pixels (image, side, 3 * side) are covered."""
    side = split.images.shape[1]
    return np.broadcast_to(split.covered.repeat(side, axis=1)[:, None], split.images.shape)


def _occluded(random: np.random.Generator, split: Captioned) -> np.ndarray:
    black = occlusion.occlude(
        random, split.images, num_digits=caption_grammar.LONGEST, probability=1.0
    )
    return np.where(_covers(split), split.images, black)


def _printed(random: np.random.Generator, split: Captioned) -> np.ndarray:
    number, side = split.images.shape[:2]
    shape = (number, caption_grammar.LONGEST)
    face = random.integers(0, len(FACES), (number, 1))
    down, right = random.integers(0, _PLACES, (2, *shape))
    digit = caption_grammar.NUMBERS[split.numbers]
    drawn = _glyphs(side)[face, digit, down, right]  # image, digit, row, column
    drawn = np.where(digit[..., None, None] < 0, np.uint8(0), drawn)
    images = drawn.transpose(0, 2, 1, 3).reshape(split.images.shape)
    return np.where(_covers(split), np.uint8(captioned_digits.COVER), images)


@functools.cache
def _glyphs(side: int) -> np.ndarray:
    """All digits in all faces, at all places: (face, digit, down, right, side, side) uint8."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    size = round(side * _DETAIL * _HEIGHT / _HEIGHT_OF_EM)
    offsets = (np.linspace(-0.5, 0.5, _PLACES) * _DETAIL).tolist()
    middle = side * _DETAIL / 2
    glyphs = np.empty((len(FACES), 10, _PLACES, _PLACES, side, side), np.uint8)
    for face, name in enumerate(FACES):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), size)
        for digit, row, column in np.ndindex(10, _PLACES, _PLACES):
            large = Image.new("L", (side * _DETAIL, side * _DETAIL))
            left, top, right, bottom = font.getbbox(str(digit))
            x = middle + offsets[column] - (left + right) / 2
            y = middle + offsets[row] - (top + bottom) / 2
            ImageDraw.Draw(large).text((x, y), str(digit), fill=255, font=font)
            glyphs[face, digit, row, column] = np.asarray(large.reduce(_DETAIL))
    return glyphs
