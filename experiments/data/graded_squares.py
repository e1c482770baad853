"""Squares of photographs under twelve kinds of distortion, each at five levels, mild to strong."""

import hashlib
import math

import numpy as np

from experiments.data import distortions, photographs

LEVELS = 5


KINDS: dict[str, tuple[distortions.Distortion, tuple[float, ...]]] = {
    "noise": (distortions.noise, (0.02, 0.04, 0.08, 0.16, 0.32)),
    "impulses": (distortions.impulses, (0.005, 0.015, 0.04, 0.1, 0.25)),
    "blur": (distortions.blur, (0.5, 1.0, 1.8, 3.0, 5.0)),
    "pixels": (distortions.pixels, (2, 3, 4, 6, 9)),
    "JPEG": (distortions.jpeg, (80, 50, 25, 12, 5)),
    "tones": (distortions.tones, (32, 16, 10, 6, 4)),
    "brightness": (distortions.brightness, (0.04, 0.08, 0.14, 0.22, 0.32)),
    "contrast": (distortions.contrast, (0.9, 0.78, 0.62, 0.45, 0.28)),
    "hue": (distortions.hue, (6, 14, 28, 50, 90)),
    "shift": (distortions.shift, (1, 2, 3, 5, 8)),
    "rotation": (distortions.rotation, (0.5, 1.0, 2.0, 4.0, 8.0)),
    "warp": (distortions.warp, (0.4, 0.8, 1.4, 2.2, 3.4)),
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
