"""Distortions whose order of severity is known: each kind at five levels, mild to strong.

Whatever people think of a kind, more of it is worse: a blur by 4 pixels is further from the
photograph than one by 2. A metric has to put the levels of a kind in that order, on one
photograph, and, where it is a scale and not only an order, across photographs too. This is no
human agreement: it needs no judgements, and says nothing of how kinds compare.
"""

import hashlib
import math
from typing import NamedTuple

import numpy as np
from skimage import transform

from experiments.data import distortions, photographs

LEVELS = 5
_FLOWS = 6


def impulses(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    """A share `level` of the pixels black or white."""
    drawn = generator.random(image.shape[:2])
    noisy = image.copy()
    noisy[drawn < level / 2], noisy[drawn > 1 - level / 2] = 0, 255
    return noisy


def pixels(image: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """Squares of `level` pixels a side, each of its mean colour; the last ones are cut."""
    side = round(level)
    height, width = image.shape[:2]
    padding = ((0, -height % side), (0, -width % side), (0, 0))
    padded = np.pad(image / 255.0, padding, mode="edge")
    small = transform.downscale_local_mean(padded, (side, side, 1))
    return distortions.to_uint8(small.repeat(side, 0).repeat(side, 1)[:height, :width])


def tones(image: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """Only `level` tones a channel."""
    steps = level - 1
    return distortions.to_uint8(np.round(image / 255.0 * steps) / steps)


def rotation(image: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """Turned by `level` degrees about the middle, the edges mirrored."""
    turned = transform.rotate(image / 255.0, level, mode="symmetric", order=3)
    return distortions.to_uint8(turned)


def warp(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    """Pixels moved by a smooth random flow of standard deviation `level` pixels."""
    height, width = image.shape[:2]
    coarse = generator.standard_normal((2, _FLOWS, _FLOWS))
    flow = np.array([transform.resize(way, (height, width), order=3) for way in coarse])
    flow *= level / flow.std()
    places = np.indices((height, width)) + flow
    moved = [
        transform.warp(channel, places, mode="symmetric", order=3)
        for channel in np.moveaxis(image / 255.0, -1, 0)
    ]
    return distortions.to_uint8(np.stack(moved, -1))


KINDS: dict[str, tuple[distortions.Distortion, tuple[float, ...]]] = {
    "noise": (distortions.noise, (0.02, 0.04, 0.08, 0.16, 0.32)),
    "impulses": (impulses, (0.005, 0.015, 0.04, 0.1, 0.25)),
    "blur": (distortions.blur, (0.5, 1.0, 1.8, 3.0, 5.0)),
    "pixels": (pixels, (2, 3, 4, 6, 9)),
    "JPEG": (distortions.jpeg, (80, 50, 25, 12, 5)),
    "tones": (tones, (32, 16, 10, 6, 4)),
    "brightness": (distortions.brightness, (0.04, 0.08, 0.14, 0.22, 0.32)),
    "contrast": (distortions.contrast, (0.9, 0.78, 0.62, 0.45, 0.28)),
    "hue": (distortions.hue, (6, 14, 28, 50, 90)),
    "shift": (distortions.shift, (1, 2, 3, 5, 8)),
    "rotation": (rotation, (0.5, 1.0, 2.0, 4.0, 8.0)),
    "warp": (warp, (0.4, 0.8, 1.4, 2.2, 3.4)),
}
"""How, and how much: the levels of each kind from mild to strong."""


class Squares:
    """References and all their distortions: the items, in order of reference, kind and level.

    Attributes:
      photographs: (reference), the name of what each was cut from.
      references: (reference, side, side, 3) uint8.
      distorted: (reference, kind, level, side, side, 3) uint8, kinds in the order of `KINDS`.
    """

    def __init__(
        self, photographs: np.ndarray, references: np.ndarray, distorted: np.ndarray
    ) -> None:
        self.photographs = photographs
        self.references = references
        self.distorted = distorted

    def __len__(self) -> int:
        return math.prod(self.distorted.shape[:3])

    def images(self, rows: range) -> tuple[np.ndarray, np.ndarray]:
        """References and distorted images, each (row, side, side, 3) uint8."""
        reference, kind, level = np.unravel_index(np.array(rows), self.distorted.shape[:3])
        return self.references[reference], self.distorted[reference, kind, level]

    def by_level(self, distances: np.ndarray) -> np.ndarray:
        """Distances (reference, kind, level) from those of the items, (item, 1)."""
        return distances.reshape(self.distorted.shape[:3])

    @property
    def contents(self) -> str:
        """What tells these from others."""
        found = hashlib.sha256("\0".join(self.photographs).encode())
        for images in (self.references, self.distorted):
            found.update(images.tobytes())
        return found.hexdigest()[:16]


def crops(image: np.ndarray, size: int) -> list[np.ndarray]:
    """Four squares of a photograph, of `size` pixels a side, in the middles of its quarters.

    In one with sides below twice the size they are moved inside, and overlap.

    Raises:
      ValueError: it is smaller than one square.
    """
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f"photographs must be at least size = {size} pixels a side, got one of "
            f"{width} x {height}"
        )
    tops, lefts = (
        (max(0, side // 4 - size // 2), min(side - size, side * 3 // 4 - size // 2))
        for side in (height, width)
    )
    return [image[top : top + size, left : left + size] for top in tops for left in lefts]


def bundled() -> dict[str, np.ndarray]:
    """The photographs that come with scikit-image."""
    return {name: photographs.bundled(name) for name in photographs.NAMES}


def graded(images: dict[str, np.ndarray], *, size: int, seed: int, squares: int = 4) -> Squares:
    """Every kind at every level of squares of each photograph.

    Args:
      images: photographs (height, width, 3) uint8 by name.
      size: of a square, in pixels.
      seed: of noise, impulses and flows, which are the same at all levels of a kind but for
        their strength.
      squares: how many of the four of each photograph.
    """
    references = {
        (name, 4 * place + corner): square
        for place, (name, image) in enumerate(images.items())
        for corner, square in enumerate(crops(image, size)[:squares])
    }
    distorted = [
        [
            [
                distort(square, level, np.random.default_rng((seed, number, kind)))
                for level in levels
            ]
            for kind, (distort, levels) in enumerate(KINDS.values())
        ]
        for (_, number), square in references.items()
    ]
    names = np.array([name for name, _ in references])
    return Squares(names, np.array(list(references.values())), np.array(distorted))


class Order(NamedTuple):
    """How often distances follow the levels, over all pairs of two references' images.

    Attributes:
      agreement: (kind, reference, reference), pairs in the order of their levels less pairs
        against it.
      distances: (kind, reference, reference), pairs whose distances differ.
      levels: (reference, reference), pairs whose levels differ.
    """

    agreement: np.ndarray
    distances: np.ndarray
    levels: np.ndarray


def order(distances: np.ndarray) -> Order:
    """The pairs of distances (reference, kind, level), whatever a reference weighs later."""
    level = np.arange(distances.shape[2])
    expected = np.sign(level[:, None] - level)
    agreement, different = [], []
    for of_kind in np.moveaxis(distances, 1, 0):  # all kinds at once would be much memory
        sign = np.sign(of_kind[:, None, :, None] - of_kind[None, :, None, :])
        agreement.append((sign * expected).sum((2, 3)))
        different.append(np.abs(sign).sum((2, 3)))
    everywhere = np.full(agreement[0].shape, np.abs(expected).sum())
    return Order(np.array(agreement), np.array(different), everywhere)


def within(pairs: Order) -> np.ndarray:
    """Kendall's tau-b (kind, reference) of distance and level on each reference by itself.

    0 where all distances are equal, which is no order.
    """
    agreement, distances = (np.diagonal(x, axis1=1, axis2=2) for x in pairs[:2])
    return _tau(agreement, distances, np.diagonal(pairs.levels))


def across(pairs: Order, photographs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b (..., kind) of distance and level, over pairs of different photographs.

    Without the pairs of one photograph, so that a resample, in which it may stand twice, is no
    easier than the photographs themselves.

    Args:
      pairs: of the distances.
      photographs: (reference), what each was cut from.
      weights: (..., reference), how often a reference counts.
    """
    return _tau(*_between(pairs, photographs, weights))


def attainable(pairs: Order, photographs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The greatest `across` (..., kind) that ties of levels leave to a distance.

    sqrt(l / max(d, l)) of d pairs whose distances differ and l whose levels do. Distances of
    different photographs hardly ever tie, and levels do in one pair of five: sqrt(4 / 5). Where
    fewer distances differ than levels it is 1: their ties are the metric's own fault.

    Args:
      pairs: as in `across`.
      photographs: as in `across`.
      weights: as in `across`.
    """
    _, distances, levels = _between(pairs, photographs, weights)
    return np.sqrt(levels / np.maximum(np.maximum(distances, levels), 1))


def _between(pairs: Order, photographs: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """The counts (..., kind) of an order over pairs of different photographs."""
    different = photographs[:, None] != photographs
    return [
        np.einsum("...i,kij,...j->...k", weights, x * different, weights, optimize=True)
        for x in (*pairs[:2], pairs.levels[None])
    ]


def _tau(agreement: np.ndarray, distances: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return agreement / np.sqrt(np.maximum(distances, 1) * levels)
