"""How an image is cut so that sums over it are small matrix products.

An image of shape (rows, *row_shape) is visited in blocks of consecutive rows,
top to bottom, so that memory holds one block and not the image. Inside a block
every axis of a row is cut into `counts` chunks of `chunks` elements. A stack of
images is laid out as

    tile: (*chunks, feature, stack, *counts, row)

because contracting a leading axis is XLA's fastest matrix product, and the
remaining axes are long and contiguous for the plane-wise solve.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lasi_jax.wls.neighborhood import neighbor_pattern

# Chunks of 16 balance the work inside a chunk against the carries between chunks.
CHUNK = 16
# A CPU takes shorter ones where they fill its vectors: planes of 16 chunks and 16 rows compile in
# half the time of planes of 8 chunks and 32 rows, and run as fast.
CPU_PLANE = 16
# Elements per block: the moments of one block stay in a CPU's cache, while an
# accelerator needs enough of them to be busy.
CPU_BLOCK = 24_576
# Rows are the last axis of a tile: a multiple of this fills a CPU's vectors, where three rows take
# nearly twice as long as four.
VECTOR = 4
ACCELERATOR_BLOCK = 524_288


class Tiling(NamedTuple):
    """The static geometry of one cut."""

    shape: tuple[int, ...]
    rows: int  # per block
    blocks: int
    chunks: tuple[int, ...]  # elements per chunk, for each axis of a row
    counts: tuple[int, ...]  # chunks, for each axis of a row

    @property
    def axes(self) -> int:
        """The number of axes of a row; also the position of the feature axis in a tile."""
        return len(self.chunks)

    @property
    def row_size(self) -> int:
        """Elements per row."""
        return math.prod(self.shape[1:])


def _chunk(length: int, cpu: bool) -> int:
    """The most elements of a chunk along an axis of a row."""
    return min(CHUNK, -(-length // CPU_PLANE)) if cpu and length > 2 * CHUNK else CHUNK


def tiling(shape: tuple[int, ...], stack: int, *, cpu: bool) -> Tiling:
    """The cut for a stack of `stack` images of one shape, on a CPU or an accelerator."""
    block = CPU_BLOCK if cpu else ACCELERATOR_BLOCK
    fitting = block // (stack * math.prod(shape[1:]))
    if cpu and fitting < min(shape[0], 4 * CPU_PLANE):
        fitting = min(fitting, CPU_PLANE)
    step = VECTOR if fitting > VECTOR // 2 else 1
    blocks = -(-shape[0] // max(step, fitting // step * step))
    rows = -(-shape[0] // blocks)
    rows = rows if blocks == 1 else -(-rows // step) * step
    counts = tuple(-(-length // _chunk(length, cpu)) for length in shape[1:])
    chunks = tuple(-(-length // count) for length, count in zip(shape[1:], counts, strict=True))
    return Tiling(shape, rows, blocks, chunks, counts)


def _padded_shape(cut: Tiling) -> tuple[int, ...]:
    row = (chunk * count for chunk, count in zip(cut.chunks, cut.counts, strict=True))
    return (cut.blocks * cut.rows, *row)


def to_tiles(values: jax.Array, cut: Tiling) -> jax.Array:
    """(*lead, *shape) -> (blocks, *chunks, *lead, *counts, rows), padded with zeros."""
    lead = values.ndim - len(cut.shape)
    padded = _padded_shape(cut)
    padding = [(0, full - size) for full, size in zip(padded, cut.shape, strict=True)]
    split = [cut.blocks, cut.rows]
    for chunk, count in zip(cut.chunks, cut.counts, strict=True):
        split += [count, chunk]
    tiles = jnp.pad(values, [(0, 0)] * lead + padding).reshape(*values.shape[:lead], *split)
    counts = [lead + 2 + 2 * axis for axis in range(cut.axes)]
    chunks = [axis + 1 for axis in counts]
    return tiles.transpose(lead, *chunks, *range(lead), *counts, lead + 1)


def from_tiles(tiles: jax.Array, cut: Tiling) -> jax.Array:
    """The inverse of `to_tiles`: (blocks, *chunks, *lead, *counts, rows) -> (*lead, *shape)."""
    lead = range(1 + cut.axes, tiles.ndim - 1 - cut.axes)
    order = [*lead, 0, tiles.ndim - 1]
    for axis in range(cut.axes):
        order += [lead.stop + axis, 1 + axis]
    leading = [tiles.shape[axis] for axis in lead]
    values = tiles.transpose(order).reshape(*leading, *_padded_shape(cut))
    return values[(..., *(slice(length) for length in cut.shape))]


@functools.lru_cache(maxsize=64)
def window_index(cut: Tiling, n: int) -> np.ndarray:
    """Where a block's neighbours, and its own elements, lie in its window.

    The window of a block is the `depth` rows above it, the block, and one zero
    element at the end, flattened. Returns (kinds, *chunks, n + 1, *counts, rows)
    indices: feature k < n is the k-th neighbour and feature n the element
    itself; what is missing and what pads the tile points at the zero. Block `b`
    follows entry `min(b, kinds - 1)`.
    """
    pattern = neighbor_pattern(cut.shape[1:], n)
    depth = len(pattern) - 1
    kinds = -(-depth // cut.rows) + 1
    row = np.arange(kinds * cut.rows)
    relative = pattern[np.minimum(row, depth)]
    own = (depth + row[:, None] % cut.rows) * cut.row_size + np.arange(cut.row_size)
    zero = (depth + cut.rows) * cut.row_size
    neighbors = np.where(relative == 0, zero, own[..., None] + relative)
    index = np.concatenate([neighbors, own[..., None]], axis=-1)
    # The same arrangement as `to_tiles`, padding with the zero's index.
    index = index.reshape(kinds, cut.rows, *cut.shape[1:], n + 1)
    padding = [
        (0, chunk * count - length)
        for chunk, count, length in zip(cut.chunks, cut.counts, cut.shape[1:], strict=True)
    ]
    index = np.pad(index, [(0, 0), (0, 0), *padding, (0, 0)], constant_values=zero)
    split = [size for pair in zip(cut.counts, cut.chunks, strict=True) for size in pair]
    index = index.reshape(kinds, cut.rows, *split, n + 1)
    counts = [2 + 2 * axis for axis in range(cut.axes)]
    order = [0, *(axis + 1 for axis in counts), index.ndim - 1, *counts, 1]
    return np.ascontiguousarray(index.transpose(order), np.int32)
