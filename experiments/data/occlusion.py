"""HIB's occlusion: black squares of random side and place on the digits of an image."""

import numpy as np


def occlude(
    random: np.random.Generator, images: np.ndarray, *, num_digits: int, probability: float
) -> np.ndarray:
    """Images whose digits are each covered by a black square, or not.

    Independently for every digit: with `probability` it is covered by a square whose side is
    uniform over the integers 0, 1, ..., side of the digit (0 covers nothing, the side of the
    digit all of it), and whose place is uniform over all where the square lies within the digit.

    Args:
      random: NumPy's generator; the same state gives the same squares.
      images: (batch, side, num_digits * side) or (batch, side, num_digits * side, channel) uint8.
        They are not changed.
      num_digits: N; 1 of an image that is one thing.
      probability: from 0 to 1, of each digit. Training images of HIB have a small one, those
        of a "corrupt" test set 1, those of a "clean" one 0.

    Returns:
      Images of the same shape.

    Raises:
      ValueError: other shapes, no images, another dtype, a probability out of range.

    Source: HIB (Oh et al., ICLR 2019).
    """
    if images.ndim not in (3, 4) or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(
            "images must be (batch, side, num_digits * side) uint8, channels last, and not empty, "
            f"got {images.shape} {images.dtype}"
        )
    batch, side, width = images.shape[:3]
    if width != num_digits * side:
        raise ValueError(
            f"images must be num_digits = {num_digits} times as wide as high, got {images.shape}"
        )
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability must lie in 0..1, got {probability}")
    shape = (batch, num_digits)
    covered = random.random(shape) < probability
    square = random.integers(0, side, shape, endpoint=True) * covered
    top, left = (random.integers(0, side - square, endpoint=True) for _ in range(2))

    def within(start: np.ndarray) -> np.ndarray:
        place = np.arange(side)
        return (place >= start[..., None]) & (place < (start + square)[..., None])

    black = within(top)[..., :, None] & within(left)[..., None, :]  # batch, digit, row, column
    black = black.transpose(0, 2, 1, 3).reshape(batch, side, width)
    if images.ndim == 4:
        black = black[..., None]
    return np.where(black, np.uint8(0), images)
