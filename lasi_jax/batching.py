"""How LASI runs over images: `vmap`, and the axes of a mesh."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec


def one_at_a_time(function: Callable) -> Callable:
    """`function`, mapped by `vmap` image after image where that is faster.

    A block of one image fills a CPU's cache; the blocks of a batch overflow it,
    and a batch through `vmap` takes much longer than the same images in turn.
    An accelerator runs the batch at once. Over a mesh with explicit axes, along
    which a loop cannot run, every device maps its own images.
    """
    in_turn = jax.default_backend() == "cpu"
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def over_batch(axis_size, in_batched, *arguments):
        leaves, tree = jax.tree.flatten(arguments)
        is_batched = jax.tree.leaves(in_batched)

        def run(*leaves):
            def of_one(batched):
                following = iter(batched)
                chosen = [
                    next(following) if b else leaf
                    for b, leaf in zip(is_batched, leaves, strict=True)
                ]
                # `mapped` again: under a second `vmap` its rule, too, runs in turn.
                return (mapped if in_turn else function)(*jax.tree.unflatten(tree, chosen))

            batched = [leaf for b, leaf in zip(is_batched, leaves, strict=True) if b]
            return lax.map(of_one, batched) if in_turn else jax.vmap(of_one)(batched)

        out = _on_own_device(run, is_batched, leaves)(*leaves)
        return out, jax.tree.map(lambda _: True, out)

    return mapped


def _on_own_device(run: Callable, is_batched: list[bool], leaves: list[jax.Array]) -> Callable:
    """`run`, inside `shard_map` if a batch lies along an explicit axis of a mesh."""
    for leaf in (leaf for b, leaf in zip(is_batched, leaves, strict=True) if b):
        sharding = jax.typeof(leaf).sharding
        axis = sharding.spec[0] if sharding.spec else None
        if axis is not None and AxisType.Explicit in sharding.mesh.axis_types:
            of_batch = PartitionSpec(axis)
            specs = tuple(of_batch if b else PartitionSpec() for b in is_batched)
            return jax.shard_map(run, mesh=sharding.mesh, in_specs=specs, out_specs=of_batch)
    return run


def zero(*arrays: jax.Array) -> jax.Array:
    """0, which varies over the axes of a mesh over which one of the arrays varies.

    Inside `shard_map` what a loop carries must vary from its start as it does at its end, and
    what is added to this does. It is the sum of no elements: no NaN enters.
    """
    terms = [jnp.sum(array.reshape(-1)[:0]) for array in arrays]
    return sum(terms[1:], terms[0])
