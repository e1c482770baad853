"""Which earlier elements predict each element of an image.

Elements are ordered by flat (row-major) index. The causal neighbourhood of an
element is the `n` earlier elements nearest in L1 distance, ties in flat order.
Near a border farther elements fill in; only the first `n` elements of an image
have fewer than `n` earlier elements, and there the missing ones read as zero.

Everything here is static NumPy: a function of the shape alone.
"""

import functools
import math

import numpy as np

MISSING = -1


def _offsets_at(radius: int, limits: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Offsets of L1 length `radius`, each coordinate within +-limits, in flat order."""
    if not limits:
        return [()] if radius == 0 else []
    reach = min(radius, limits[0])
    return [
        (step, *rest)
        for step in range(-reach, reach + 1)
        for rest in _offsets_at(radius - abs(step), limits[1:])
    ]


def _row_neighbors(rows_above: int, row_shape: tuple[int, ...], n: int) -> np.ndarray:
    """Relative flat index of the `n` neighbours of each element of one row.

    Returns (prod(row_shape), n) negative integers, 0 where an element has no
    such neighbour.
    """
    row_size = math.prod(row_shape)
    coordinates = np.indices(row_shape).reshape(len(row_shape), row_size)
    strides = [math.prod(row_shape[axis:]) for axis in range(len(row_shape) + 1)]
    limits = (rows_above, *(length - 1 for length in row_shape))
    wanted = np.minimum(n, rows_above * row_size + np.arange(row_size))
    found = np.zeros(row_size, np.int64)
    neighbors = np.zeros((row_size, n), np.int32)
    radius = 0
    while (found < wanted).any():
        radius += 1
        for offset in _offsets_at(radius, limits):
            flat = sum(step * stride for step, stride in zip(offset, strides, strict=True))
            if offset >= (0,) * len(offset):
                break  # in flat order, every later offset is not causal
            inside = found < n
            for position, step, length in zip(coordinates, offset[1:], row_shape, strict=True):
                if step:
                    inside &= (position + step >= 0) & (position + step < length)
            rows = np.flatnonzero(inside)
            neighbors[rows, found[rows]] = flat
            found[rows] += 1
    return neighbors


@functools.lru_cache(maxsize=64)
def neighbor_pattern(row_shape: tuple[int, ...], n: int) -> np.ndarray:
    """Relative flat indices of the neighbours in the first rows of an image.

    Returns (depth + 1, prod(row_shape), n) integers, 0 where missing. Row `h`
    of an image follows entry `min(h, depth)`: from row `depth` on, no
    neighbour lies above the image and the pattern repeats.
    """
    row_size = math.prod(row_shape)
    # Straight above lie n elements within a distance of n: no neighbour is further up.
    deep = _row_neighbors(n, row_shape, n)
    lowest = (np.arange(row_size)[:, None] + deep).min()
    depth = -(lowest // row_size)
    shallow = [_row_neighbors(above, row_shape, n) for above in range(depth)]
    return np.stack([*shallow, deep])


def neighbor_index(shape: tuple[int, ...], n: int) -> np.ndarray:
    """Flat indices (prod(shape), n) of every element's neighbours, -1 where missing.

    Source: Severo, Theis and Ballé, "The Unreasonable Effectiveness of Linear
    Prediction as a Perceptual Metric", ICLR 2024, section 3.
    """
    pattern = neighbor_pattern(shape[1:], n)
    rows = np.minimum(np.arange(shape[0]), len(pattern) - 1)
    relative = pattern[rows].reshape(math.prod(shape), n)
    absolute = np.arange(len(relative))[:, None] + relative
    return np.where(relative == 0, MISSING, absolute)
