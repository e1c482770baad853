"""Sums over all earlier elements, weighted by decay ** L1 distance, in linear time.

The weight factors over the axes, and "earlier" is lexicographic. With B_a f the
decayed sum of f over smaller coordinates along axis a, and E_a f the decayed
sum over all coordinates along axis a,

    sum_{j < t} decay^|j - t| f_j
        = B_last f + B_{last-1} E_last f + ... + B_0 E_1 ... E_last f.

Every factor is a small Toeplitz matrix product inside chunks plus a carry
between chunks. All weights are positive, so nothing cancels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lasi_jax.wls.tiling import Tiling

# One matrix product is fastest up to this length; beyond it, chunks keep the time linear.
_DIRECT = 64


def _distances(length: int) -> np.ndarray:
    """(length, length) signed distances: row minus column."""
    return np.arange(length)[:, None] - np.arange(length)


def _contract(matrix: np.ndarray, values: jax.Array, axis: int) -> jax.Array:
    """The product of `matrix` with `values` along `axis`."""
    length = len(matrix)
    if length > 4:
        weights = jnp.asarray(matrix, values.dtype)
        product = lax.dot_general(
            weights, values, (((1,), (axis,)), ((), ())), precision=lax.Precision.HIGHEST
        )
        return jnp.moveaxis(product, 0, axis)
    # XLA's product over three channels is much slower than the sums written out.
    parts = [lax.index_in_dim(values, i, axis) for i in range(length)]
    zero = jnp.zeros_like(parts[0])
    weighted = ([float(w) * p for w, p in zip(row, parts, strict=True) if w] for row in matrix)
    return jnp.concatenate([sum(terms, zero) for terms in weighted], axis)


def _before(values: jax.Array, decay: float, reverse: bool) -> jax.Array:
    """y_i = sum_{j < i} decay^(i-1-j) x_j along the last axis; over j > i if `reverse`."""
    length = values.shape[-1]
    if length <= _DIRECT:
        distance = _distances(length).T  # contracted from the right: column minus row
        if reverse:
            distance = -distance
        # Powers start at 0, so that the carry between chunks, of factor decay^chunk, is this
        # function again. The `maximum`: powers that are masked would overflow, with a warning.
        matrix = np.where(distance > 0, decay ** np.maximum(distance - 1.0, 0.0), 0.0)
        return lax.dot_general(
            values,
            jnp.asarray(matrix, values.dtype),
            (((values.ndim - 1,), (0,)), ((), ())),
            precision=lax.Precision.HIGHEST,
        )
    count = -(-length // _DIRECT)
    chunk = -(-length // count)
    padding = [(0, 0)] * (values.ndim - 1) + [(0, chunk * count - length)]
    chunks = jnp.pad(values, padding).reshape(*values.shape[:-1], count, chunk)
    inside = _before(chunks, decay, reverse)
    end = 0 if reverse else chunk - 1
    carry = _before(decay * inside[..., end] + chunks[..., end], decay**chunk, reverse)
    sums = inside + carry[..., None] * _powers(decay, inside, -1, chunk, reverse)
    return sums.reshape(*values.shape[:-1], count * chunk)[..., :length]


def _powers(decay: float, like: jax.Array, axis: int, length: int, reverse: bool) -> jax.Array:
    """decay^0 ... decay^(length-1) along `axis`, backwards if `reverse`, to multiply `like`."""
    powers = decay ** np.arange(float(length))
    shape = [1] * like.ndim
    shape[axis] = length
    return jnp.asarray(powers[::-1] if reverse else powers, like.dtype).reshape(shape)


def _along_axis(values: jax.Array, axis: int, cut: Tiling, decay: float, reverse: bool):
    """(B_a values, E_a values) along one axis of a row; B over larger coordinates if `reverse`."""
    chunk, count = cut.chunks[axis], cut.counts[axis]
    distance = -_distances(chunk) if reverse else _distances(chunk)
    full = decay ** np.abs(distance).astype(float)
    before = _contract(np.where(distance > 0, full, 0.0), values, axis)
    everywhere = _contract(full, values, axis)
    if count == 1:
        return before, everywhere
    count_axis = cut.axes + 2 + axis

    def carry(edge: int, backwards: bool) -> jax.Array:
        # A first-order recursion leaves a chunk as decay times its edge.
        leaving = jnp.moveaxis(lax.index_in_dim(everywhere, edge, axis), count_axis, -1)
        arriving = jnp.moveaxis(_before(decay * leaving, decay**chunk, backwards), -1, count_axis)
        return arriving * _powers(decay, values, axis, chunk, backwards)

    ahead, behind = carry(chunk - 1, False), carry(0, True)
    return before + (behind if reverse else ahead), everywhere + ahead + behind


def causal_sums(
    values: jax.Array, carry: jax.Array, cut: Tiling, *, decay: float, reverse: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Decayed sums over all earlier elements for one block of rows.

    Args:
      values: a tile, (*chunks, feature, stack, *counts, row).
      carry: (*chunks, feature, stack, *counts), what the blocks above leave to
        the block's first row; zeros for the first block.
      cut: the geometry of the tile.
      decay: weight per unit of L1 distance.
      reverse: sum over all later elements instead, blocks visited bottom to
        top. This is the adjoint of the forward sum.

    Returns:
      The carry for the next block and the sums, shaped as `values`.
    """
    total, everywhere = 0.0, values
    for axis in reversed(range(cut.axes)):
        if cut.shape[1 + axis] > 1:
            before, everywhere = _along_axis(everywhere, axis, cut, decay, reverse)
            total = total + before
    rows = values.shape[-1]
    above = decay * _before(everywhere, decay, reverse)
    above = above + carry[..., None] * _powers(decay, values, -1, rows, reverse)
    # To the next block everything here is one row further away.
    end = 0 if reverse else rows - 1
    return decay * (above[..., end] + everywhere[..., end]), total + above
