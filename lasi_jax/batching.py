"""How LASI runs over the axes of a mesh."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec


def on_own_device(run: Callable, is_batched: list[bool], leaves: list[jax.Array]) -> Callable:
    """`run`, inside `shard_map` if a batch lies along an explicit axis of a mesh.

    Args:
      run: a function of arrays whose results all have the batch as their first axis.
      is_batched: whether the first axis of each array is the batch.
      leaves: the arrays.
    """
    for leaf in (leaf for b, leaf in zip(is_batched, leaves, strict=True) if b):
        sharding = jax.typeof(leaf).sharding
        axis = sharding.spec[0] if sharding.spec else None
        if axis is not None and AxisType.Explicit in sharding.mesh.axis_types:
            of_batch = PartitionSpec(axis)
            specs = tuple(of_batch if b else PartitionSpec() for b in is_batched)
            return jax.shard_map(run, mesh=sharding.mesh, in_specs=specs, out_specs=of_batch)
    return run


def without_axes(like, shape: tuple[int, ...]):
    """The type `like` (as `jax.typeof` gives it) with this shape, along no explicit axis."""
    spec = PartitionSpec(*(None for _ in shape))
    return like.update(shape=shape, sharding=like.sharding.update(spec=spec))


def zero(*arrays: jax.Array) -> jax.Array:
    """0, which varies over the axes of a mesh over which one of the arrays varies.

    Inside `shard_map` what a loop carries must vary from its start as it does at its end, and
    what is added to this does. It is the sum of no elements: no NaN enters. It has no derivative:
    what does not move does not begin to.
    """
    terms = [jnp.sum(lax.stop_gradient(array).reshape(-1)[:0]) for array in arrays]
    return sum(terms[1:], terms[0])
