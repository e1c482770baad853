"""A loss of a batch over the devices of a mesh: same value, same gradient."""

import functools
import inspect
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from probemb.numerics import arguments


def mesh_axis(mesh: Any, axis_name: str | None) -> str:
    """The name of an axis of a mesh, by default of its only one."""
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}")
    if axis_name is None and len(mesh.axis_names) != 1:
        raise ValueError(f"axis_name must name one of the mesh's axes {mesh.axis_names}, got None")
    axis = mesh.axis_names[0] if axis_name is None else axis_name
    if axis not in mesh.axis_names:
        raise ValueError(
            f"axis_name must be one of the mesh's axes {mesh.axis_names}, got {axis!r}"
        )
    return axis


def sharded(loss: Callable, mesh: Mesh, *, axis_name: str | None = None) -> Callable:
    """A loss of all pairs, computed by all devices of a mesh.

    Each device keeps its share of the images and passes its share of the texts around
    the ring, and so holds logits for its own images alone; for the gradient it keeps the
    texts that passed. Sums over the batch, the regularisers among them, count once. Value
    and gradient are those of one device, up to the order of summation. Within a
    `shard_map` of one's own, pass `axis_name` to the loss instead.

    It compiles once for the same function and shapes, also where it is made anew: numbers among
    the options may change from call to call, but a `lambda` made anew is another function.

    Args:
      loss: a function of this package that takes `axis_name`, such as `pcmepp`.
      mesh: a `jax.sharding.Mesh`.
      axis_name: the axis of the mesh that shards the batch; by default its only one.

    Returns:
      The loss as a function of the whole batch. Positional arguments and `labels`
      are sharded over their first axis, except for random keys; other options go to
      every device. Outside of `jax.set_mesh` the axes of the mesh count as Auto, whatever
      their types, so that the value has a gradient without `jit`; beside values of an
      Explicit mesh, call it within `jax.set_mesh`.

    Raises:
      TypeError, ValueError: no mesh, no such axis, a batch that the number of devices does
        not divide, or what the loss itself raises.

    Source: the ring is ProLIP's (Chun et al., ICLR 2025), after SigLIP (Zhai et al., ICCV
    2023).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from probemb import DiagonalGaussian, prolip
      >>> mesh = jax.make_mesh((1,), ("batch",))
      >>> p = DiagonalGaussian(jnp.eye(2), jnp.full((2, 2), -30.0))
      >>> round(float(sharded(prolip, mesh)(p, p, logit_scale=10, logit_bias=-5)), 4)
      0.0134
    """
    if not callable(loss) or "axis_name" not in inspect.signature(loss).parameters:
        raise TypeError(f"loss must be a function that takes axis_name, got {loss!r}")
    axis = mesh_axis(mesh, axis_name)
    if isinstance(loss, functools.partial):  # made anew, it is the same function still
        of_mesh = sharded(loss.func, mesh, axis_name=axis)
        return functools.partial(of_mesh, *loss.args, **loss.keywords)
    parameters = inspect.signature(loss).parameters
    numbers_by_default = {
        name: of_loss.default
        for name, of_loss in parameters.items()
        if of_loss.kind == of_loss.KEYWORD_ONLY and isinstance(of_loss.default, numbers.Real)
    }

    def loss_of_mesh(*batch: Any, **options: Any) -> jax.Array:
        batch = jax.tree.map(_array, batch, is_leaf=lambda x: isinstance(x, list))
        floats = [x for x in jax.tree.leaves(batch) if jnp.issubdtype(x.dtype, jnp.floating)]
        if options.get("labels") is not None and floats:
            options["labels"] = arguments.probabilities("labels", options["labels"], floats[0])
        arrays, fixed = {}, []
        # Sorted, for another order of keywords is no other program.
        for name, value in sorted({**numbers_by_default, **options}.items()):
            if _is_fixed(value, parameters.get(name)):
                # With its type: 1 and True are equal, and would share a program.
                fixed.append((name, type(value), value))
            elif value is not None:
                value = float(value) if isinstance(value, numbers.Real) else value
                arrays[name] = arguments.array(name, value)
        where = loss, in_context(mesh), axis
        _check_values(*where, tuple(fixed), batch, arrays)
        return _compiled(*where, tuple(fixed), batch, arrays)

    return loss_of_mesh


def _on_mesh(
    loss: Callable, mesh: Mesh, axis: str, fixed: tuple, batch: tuple, arrays: dict
) -> jax.Array:
    """The loss of sharded arrays and of (name, type, value) of fixed options."""

    def spec(x: Any) -> PartitionSpec:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return PartitionSpec()
        if x.ndim == 0 or len(x) == 0 or len(x) % mesh.shape[axis]:
            raise ValueError(
                f"the batch must be a multiple of the {mesh.shape[axis]} devices along {axis!r}, "
                f"got an array of shape {x.shape}"
            )
        return PartitionSpec(axis)

    def of_device(batch, arrays):
        options = {name: value for name, _, value in fixed}
        return loss(*batch, **arrays, **options, axis_name=axis)

    specs = (
        jax.tree.map(spec, batch),
        {name: spec(x) if name == "labels" else PartitionSpec() for name, x in arrays.items()},
    )
    of_all = jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
    return of_all(*placed((batch, arrays), specs, mesh, axis))


def placed(values: Any, specs: Any, mesh: Mesh, axis: str) -> Any:
    """A tree of arrays, of this mesh or of another, as a `shard_map` over it takes them."""
    if mesh.axis_types[mesh.axis_names.index(axis)] != AxisType.Explicit:
        types = [jax.typeof(x).sharding.mesh.axis_types for x in jax.tree.leaves(values)]
        if any(AxisType.Explicit in of_x for of_x in types):
            # Arrays that do not count have a gradient too, where JAX would make none eagerly.
            values = jax.lax.optimization_barrier(values)
        specs = jax.tree.map(lambda _: PartitionSpec(), specs)  # types name no Auto axes
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    return jax.sharding.reshard(values, shardings)


_compiled = jax.jit(_on_mesh, static_argnums=(0, 1, 2, 3))


def _check_values(
    loss: Callable, mesh: Mesh, axis: str, fixed: tuple, batch: tuple, arrays: dict
) -> None:
    """Raises what the loss says of numbers, which it cannot look at once it is compiled."""
    known = {
        name: value.item()
        for name, value in arrays.items()
        if name != "labels"
        and arguments.concrete(value)
        and value.size == 1
        and jnp.issubdtype(value.dtype, np.number)
    }
    fixed += tuple((name, type(value), value) for name, value in known.items())
    unknown = {name: value for name, value in arrays.items() if name not in known}
    leaves, tree = jax.tree.flatten((batch, unknown))
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    _check_for_shapes(loss, mesh, axis, fixed, tree, shapes)


@functools.lru_cache
def _check_for_shapes(
    loss: Callable, mesh: Mesh, axis: str, fixed: tuple, tree: Any, shapes: tuple
) -> None:
    batch_and_arrays = jax.tree.unflatten(tree, shapes)
    jax.eval_shape(functools.partial(_on_mesh, loss, mesh, axis, fixed), *batch_and_arrays)


def in_context(mesh: Mesh) -> Mesh:
    """The mesh with the types of axes that `jax.set_mesh` sets, by default Auto.

    Outside of `jax.set_mesh` a scalar whose type names a mesh has no eager gradient: JAX
    makes the first cotangent on one device.
    """
    context = jax.sharding.get_abstract_mesh()
    same = context.axis_names == mesh.axis_names
    types = context.axis_types if same else (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=types)


def _is_fixed(value: Any, parameter: inspect.Parameter | None) -> bool:
    """Whether an option is part of the program: a count, a name or a function."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return parameter is None or parameter.annotation in (int, "int", parameter.empty)
    return isinstance(value, bool | str) or callable(value)


def _array(x: Any) -> Any:
    """A finite array; of an old-style key, the new-style one."""
    x = arguments.array("the batch", x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return arguments.floats("the batch", x)
    old_key = x.dtype == np.uint32 and x.shape == (2,)
    return jax.random.wrap_key_data(x) if old_key else x
