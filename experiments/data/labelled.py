"""Images with a label each: all that hedged embeddings ask of a data set.

A data set is a file in this folder that gives its splits as `Labelled`, and a way to damage its
images as `Corrupt`, such as `functools.partial(occlusion.occlude, num_digits=2)`.
"""

from typing import NamedTuple, Protocol

import numpy as np


class Labelled(NamedTuple):
    """Images, and what each of them shows: images of one label match.

    Attributes:
      images: (image, height, width) or (image, height, width, channel) uint8.
      labels: (image) integers.
    """

    images: np.ndarray
    labels: np.ndarray

    @property
    def image_channels(self) -> int:
        """Of an image: 1 where there is no axis of them."""
        return 1 if self.images.ndim == 3 else self.images.shape[3]


class Corrupt(Protocol):
    """What damages images."""

    def __call__(
        self, random: np.random.Generator, images: np.ndarray, *, probability: float
    ) -> np.ndarray:
        """Images of the same shape, each part of them damaged with a probability.

        Args:
          random: NumPy's generator; the same state gives the same damage.
          images: (batch, height, width, ...) uint8. They are not changed.
          probability: 0 leaves all images as they are, 1 damages all of them.
        """
        ...


def check(name: str, data: Labelled) -> None:
    """Refuse what no pairs can be drawn of.

    Args:
      name: of the data, for the message.
      data: images with labels.

    Raises:
      ValueError: images or labels of another shape or type, fewer than two labels, or a label of
        one image alone.
    """
    images, labels = data
    if images.ndim not in (3, 4) or images.dtype != np.uint8:
        raise ValueError(
            f"images of {name} must be (image, height, width) or (image, height, width, channel) "
            f"uint8, got {images.shape} {images.dtype}"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels of {name} must be integers, one for each of {len(images)} images, "
            f"got {labels.shape} {labels.dtype}"
        )
    found, counts = np.unique(labels, return_counts=True)
    if len(found) < 2 or counts.min() < 2:
        alone = f", label {found[counts.argmin()]} has one" if len(found) > 1 else ""
        raise ValueError(
            f"{name} must have two labels at least, each of two images at least, "
            f"got {len(found)} labels{alone}"
        )
