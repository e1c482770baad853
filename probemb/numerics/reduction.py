"""Reductions over all pairs of two sets, in blocks of rows and around a ring of devices.

A *tile* is a function (rows, columns, parameters) -> (row values, column values): it
sees some rows and some columns and reduces their pairs to a value for each row and a
value for each column. Values of different tiles merge by a function that reduces a
leading axis, such as a sum. A tile is recomputed for the gradient, so that memory is that of
one tile and of the rows and columns, however many pairs there are.

Rows and columns are trees of arrays whose first axis is the batch. On a mesh each
device keeps its rows, and the columns travel around the ring of devices together
with the values reduced over the rows that they have met.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Numbers that a tile holds: at this size it stays in a CPU's cache.
TILE = 2**18
# A tile of few rows wastes matrix products; to have more, it may grow to this size.
_FEW_ROWS, _LARGEST_TILE = 16, 2**22

Tile = Callable[[Any, Any, Any], tuple[Any, Any]]


def total(stacked: Any) -> Any:
    """The sums over the leading axes of a tree."""
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), stacked)


def _length(tree: Any) -> int:
    return len(jax.tree.leaves(tree)[0])


def _in_blocks(tile: Tile, merge: Callable, block: int, rows, columns, parameters):
    """Row values and column values from blocks of rows, each recomputed for the gradient."""
    # XLA cannot merge the two passes of a loop, so that no barrier has to keep them apart; what one
    # tile alone holds may be kept.
    tile = jax.checkpoint(tile, prevent_cse=False)
    length = _length(rows)
    if block >= length:
        return tile(rows, columns, parameters)
    whole = length - length % block
    blocks = jax.tree.map(lambda x: x[:whole].reshape(-1, block, *x.shape[1:]), rows)
    of_rows, of_columns = jax.lax.map(lambda some: tile(some, columns, parameters), blocks)
    of_rows = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), of_rows)
    of_columns = merge(of_columns)
    if whole < length:
        rest = jax.tree.map(lambda x: x[whole:], rows)
        more_rows, more_columns = tile(rest, columns, parameters)
        of_rows = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), of_rows, more_rows)
        of_columns = _merge_two(merge, of_columns, more_columns)
    return of_rows, of_columns


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _on_one_device(tile: Tile, merge: Callable, group: int, block: int, rows, columns, parameters):
    """Blocks, in groups of rows, so that few partial column values are held at a time."""

    def of_group(rows, columns, parameters):
        return _in_blocks(tile, merge, block, rows, columns, parameters)

    if group >= _length(rows):
        return of_group(rows, columns, parameters)
    return _in_blocks(of_group, merge, group, rows, columns, parameters)


def _merge_two(merge: Callable, x: Any, y: Any) -> Any:
    return merge(jax.tree.map(lambda x, y: jnp.stack([x, y]), x, y))


def reduce_pairs(
    tile: Tile,
    merge: Callable,
    rows: Any,
    columns: Any,
    parameters: Any,
    *,
    elements_per_pair: int = 1,
    has_column_values: bool = False,
    axis_name: str | None = None,
) -> tuple[Any, Any]:
    """Values (rows) and (columns) of all pairs.

    Args:
      tile: a function of a module, so that it compiles once.
      merge: a function of a module that reduces the leading axis of a tree of values.
      rows: a tree of arrays (rows, ...).
      columns: a tree of arrays (columns, ...).
      parameters: what every tile needs.
      elements_per_pair: how many numbers a tile holds for a pair.
      has_column_values: whether the tile gives any: every block then gives a value for
        each column, which the root of the number of blocks keeps few.
      axis_name: the axis of the mesh over which rows and columns are sharded, within
        `shard_map`; None for one device.
    """
    row = _length(columns) * elements_per_pair
    block = max(1, TILE // row, min(_FEW_ROWS, _LARGEST_TILE // row))
    block = min(block, _length(rows))
    blocks = -(-_length(rows) // block)
    group = block * math.isqrt(blocks) if has_column_values else _length(rows)
    reduce_here = functools.partial(_on_one_device, tile, merge, group, block)
    of_rows, of_columns = reduce_here(rows, columns, parameters)
    if axis_name is None:
        return of_rows, of_columns
    number = devices(axis_name)
    onward = [(device, (device + 1) % number) for device in range(number)]

    def pass_on(tree):
        return jax.tree.map(lambda x: jax.lax.ppermute(x, axis_name, onward), tree)

    def turn(state, _):
        columns, of_rows, of_columns = state
        columns, of_columns = pass_on((columns, of_columns))
        more_rows, more_columns = reduce_here(rows, columns, parameters)
        of_rows = _merge_two(merge, of_rows, more_rows)
        return (columns, of_rows, _merge_two(merge, of_columns, more_columns)), None

    # So many turns leave the columns' values one device short of home.
    state = (columns, of_rows, of_columns)
    (_, of_rows, of_columns), _ = jax.lax.scan(turn, state, length=number - 1)
    return of_rows, pass_on(of_columns)


def devices(axis_name: str | None) -> int:
    """How many devices share the batch."""
    if axis_name is None:
        return 1
    if not isinstance(axis_name, str):
        raise TypeError(f"axis_name must be a string, got {axis_name!r}")
    try:
        return jax.lax.axis_size(axis_name)
    except NameError as error:
        raise ValueError(
            f"axis_name must name an axis of a surrounding shard_map, got {axis_name!r}"
        ) from error


def batch_sum(values: jax.Array, axis_name: str | None) -> jax.Array:
    """The sum over the batch, of all devices."""
    here = jnp.sum(values)
    return here if axis_name is None else jax.lax.psum(here, axis_name)


def batch_size(local: int, axis_name: str | None) -> int:
    """How many items the batch has on all devices."""
    return local * devices(axis_name)


def batch_index(local: int, axis_name: str | None) -> jax.Array:
    """The places (local) of this device's items in the whole batch."""
    devices(axis_name)  # complains of an unknown axis
    first = 0 if axis_name is None else local * jax.lax.axis_index(axis_name)
    return first + jnp.arange(local, dtype=jnp.int32)
