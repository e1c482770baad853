"""A loss of a batch over the devices of a mesh: same value, same gradient."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from probemb import arguments


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

    Args:
      loss: a function of this package that takes `axis_name`, such as `pcmepp`.
      mesh: a `jax.sharding.Mesh`.
      axis_name: the axis of the mesh that shards the batch; by default its only one.

    Returns:
      The loss as a function of the whole batch. Positional arguments and `labels`
      are sharded over their first axis, except for random keys; other options go to
      every device.

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
    devices = mesh.shape[axis]

    def spec(x: Any) -> PartitionSpec:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return PartitionSpec()
        if x.ndim == 0 or len(x) == 0 or len(x) % devices:
            raise ValueError(
                f"the batch must be a multiple of the {devices} devices along {axis!r}, "
                f"got an array of shape {x.shape}"
            )
        return PartitionSpec(axis)

    def loss_of_mesh(*batch: Any, **options: Any) -> jax.Array:
        batch = jax.tree.map(_array, batch)
        for leaf in jax.tree.leaves(batch):  # here, because shard_map hides the values
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                arguments.floats("the batch", leaf)
        if options.get("labels") is not None:
            options["labels"] = arguments.probabilities("labels", options["labels"], _first(batch))
        # What is concrete stays so, for the loss to check.
        arrays = {
            name: value
            for name, value in options.items()
            if value is not None and (name == "labels" or not arguments.concrete(value))
        }
        rest = {name: value for name, value in options.items() if name not in arrays}
        specs = {name: PartitionSpec() for name in arrays}
        if "labels" in arrays:
            specs["labels"] = spec(arrays["labels"])

        def of_device(batch, arrays):
            return loss(*batch, **arrays, **rest, axis_name=axis)

        specs = jax.tree.map(spec, batch), specs
        of_all = jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
        if AxisType.Explicit in mesh.axis_types:  # shardings are then part of types
            batch, arrays = jax.sharding.reshard(
                (batch, arrays), jax.tree.map(lambda one: NamedSharding(mesh, one), specs)
            )
        return of_all(batch, arrays)

    return loss_of_mesh


def _first(batch: Any) -> jax.Array:
    """The first floating-point array."""
    return next(x for x in jax.tree.leaves(batch) if jnp.issubdtype(x.dtype, jnp.floating))


def _array(x: Any) -> Any:
    """An array; of an old-style key, the new-style one."""
    x = x if hasattr(x, "dtype") else np.asarray(x)
    old_key = x.dtype == np.uint32 and x.shape == (2,)
    return jax.random.wrap_key_data(x) if old_key else x
