"""A function of images as a JAX primitive: batch, mesh and platform run it in their own way.

Under `jax.vmap` a CPU takes the images of a batch in turn, because the blocks of one image fill
its cache and those of a batch overflow it; an accelerator runs the batch at once. Which of the
two is known when a program is lowered for its platform, not when it is traced.
"""

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from lasi_jax.batching import on_own_device, without_axes

Arguments = tuple[Any, ...]


def _spread(arrays: Sequence[Any], given: tuple[bool, ...]) -> Iterator[Any]:
    """The arguments: the arrays in their places, None elsewhere."""
    following = iter(arrays)
    return (next(following) if there else None for there in given)


class Operation:
    """A function (options, *arguments) -> results whose derivatives are given.

    An argument is an array or None. Every array, of the results too, has a first axis of images,
    of one length.
    """

    def __init__(
        self,
        name: str,
        of_one: Callable[..., Arguments],
        shapes: Callable[..., list],
        native: Callable[..., Arguments | None],
    ):
        """Make the primitive.

        Args:
          name: of the primitive, as programs show it.
          of_one: (options, *arguments, cpu=) -> results, all without the axis of images; `cpu`
            tells whether the program is for a CPU.
          shapes: (options, *arguments) -> the shapes of the results, without the axis of images.
            Of the arguments, too, without it, it may look at shapes alone.
          native: (options, *arguments) -> results by the kernel for CPUs, all with the axis of
            images, or None where the kernel does not run.
        """
        self._of_one, self._shapes, self._native = of_one, shapes, native
        self.primitive = Primitive(name)
        self.primitive.multiple_results = True
        self.primitive.def_impl(functools.partial(xla.apply_primitive, self.primitive))
        self.primitive.def_abstract_eval(self._types)
        batching.primitive_batchers[self.primitive] = self._batched
        form = functools.partial(self._of_many, cpu=False)
        mlir.register_lowering(self.primitive, mlir.lower_fun(form))
        mlir.register_lowering(self.primitive, self._lowered_for_cpu, "cpu")

    def __call__(self, options: Hashable, *arguments: Any) -> tuple[jax.Array, ...]:
        """The results, of arguments that all have the axis of images."""
        leaves = [a for a in arguments if a is not None]
        given = tuple(a is not None for a in arguments)
        return tuple(self.primitive.bind(*leaves, options=options, given=given))

    def define_jvp(self, rule: Callable[..., tuple[Arguments, Arguments]]) -> None:
        """Set how tangents are pushed.

        Args:
          rule: (options, arguments, their tangents) -> (results, their tangents); a tangent that
            is None is zero.
        """

        def of_leaves(primals, tangents, *, options, given):
            moving = [None if type(t) is ad.Zero else t for t in tangents]
            arguments = tuple(_spread(primals, given)), tuple(_spread(moving, given))
            results, moved = rule(options, *arguments)
            zeros = [ad.Zero(jax.typeof(result)) for result in results]
            return list(results), [
                zero if m is None else m for m, zero in zip(moved, zeros, strict=True)
            ]

        ad.primitive_jvps[self.primitive] = of_leaves

    def define_transpose(self, rule: Callable[..., jax.Array]) -> None:
        """Set how the cotangent of the only result is pulled to an argument in which it is linear.

        Args:
          rule: (options, cotangent, position, arguments) -> the cotangent of the argument at this
            position, which is None among the arguments.
        """

        def of_leaves(cotangents, *leaves, options, given):
            unknown = [ad.is_undefined_primal(leaf) for leaf in leaves]
            leaf = unknown.index(True)
            pulled: list[Any] = [None] * len(leaves)
            if type(cotangents[0]) is ad.Zero:
                pulled[leaf] = ad.Zero(leaves[leaf].aval)
                return pulled
            known = [None if u else a for a, u in zip(leaves, unknown, strict=True)]
            position = [i for i, there in enumerate(given) if there][leaf]
            arguments = tuple(_spread(known, given))
            pulled[leaf] = rule(options, cotangents[0], position, arguments)
            return pulled

        ad.primitive_transposes[self.primitive] = of_leaves

    def _types(self, *leaves, options, given):
        first, *_ = leaves
        of_image = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves]
        shapes = self._shapes(options, *_spread(of_image, given))
        return [without_axes(first, (first.shape[0], *shape)) for shape in shapes]

    def _lowered_for_cpu(self, context, *values, **parameters):
        module = context.module_context
        if module.lowering_parameters.for_export:  # it may be run where the kernel is not
            form = functools.partial(self._of_many, cpu=True)
        elif getattr(module.axis_context, "num_devices", 1) > 1:
            # XLA can split neither a call of the kernel nor a loop along the images.
            form = functools.partial(self._of_many, cpu=True, in_turn=False)
        else:
            form = self._on_cpu
        return mlir.lower_fun(form)(context, *values, **parameters)

    def _on_cpu(self, *leaves, options, given):
        results = self._native(options, *_spread(leaves, given))
        if results is not None:
            return list(results)
        return self._of_many(*leaves, options=options, given=given, cpu=True)

    def _of_many(self, *leaves, options, given, cpu, in_turn=True):
        def of_one(leaves):
            return tuple(self._of_one(options, *_spread(leaves, given), cpu=cpu))

        if len(leaves[0]) == 1:
            return [result[None] for result in of_one([leaf[0] for leaf in leaves])]
        return list(lax.map(of_one, leaves) if cpu and in_turn else jax.vmap(of_one)(leaves))

    def _batched(self, leaves, axes, *, options, given):
        batched = [axis is not None for axis in axes]
        leaves = [
            leaf if axis is None else jnp.moveaxis(leaf, axis, 0)
            for leaf, axis in zip(leaves, axes, strict=True)
        ]

        def run(*leaves):
            batch = next(len(leaf) for leaf, b in zip(leaves, batched, strict=True) if b)
            full = [
                leaf if b else jnp.broadcast_to(leaf, (batch, *leaf.shape))
                for leaf, b in zip(leaves, batched, strict=True)
            ]
            images = full[0].shape[1]
            flat = [leaf.reshape(batch * images, *leaf.shape[2:]) for leaf in full]
            results = self.primitive.bind(*flat, options=options, given=given)
            return [r.reshape(batch, images, *r.shape[1:]) for r in results]

        results = on_own_device(run, batched, leaves)(*leaves)
        return results, [0] * len(results)
