"""What users pass, checked once: one error that names the argument, the rule and the value.

Rules on types, shapes and options are checked always. Rules on values (finite,
positive, 0 to 1) are checked where the values are concrete: under `jit`, `grad`
or `vmap` there is nothing to look at.
"""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def concrete(*values: Any) -> bool:
    """Whether all values can be looked at."""
    return not any(isinstance(value, Tracer) for value in values)


def floats(name: str, values: Any) -> jax.Array:
    """A finite, non-empty floating-point array; half precision becomes float32."""
    values = np.asarray(values) if isinstance(values, list | tuple | numbers.Real) else values
    if not hasattr(values, "dtype") or not hasattr(values, "shape"):
        raise TypeError(f"{name} must be an array, got {type(values).__name__}")
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got dtype {values.dtype}")
    if 0 in values.shape:
        raise ValueError(f"{name} must not be empty, got shape {values.shape}")
    if concrete(values):
        bad = np.argwhere(~np.isfinite(np.asarray(values, np.float64)))
        if len(bad):
            index = tuple(bad[0].tolist())
            where = f" at index {index}" if index else ""
            raise ValueError(f"{name} must be finite, got {np.asarray(values)[index]}{where}")
    wide = values.dtype in (np.float32, np.float64)
    return jnp.asarray(values) if wide else jnp.asarray(values).astype(jnp.float32)


def batch(name: str, values: Any, axes: str) -> jax.Array:
    """A float array with just these axes, such as "batch dimension"."""
    values = floats(name, values)
    if values.ndim != len(axes.split()):
        raise ValueError(f"{name} must have shape ({axes}), got shape {values.shape}")
    return values


def one_dtype(*values: Any) -> tuple[Any, ...]:
    """Arrays (or trees of them) in the widest of their dtypes."""
    dtype = np.result_type(*(leaf.dtype for leaf in jax.tree.leaves(values)))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), values)


def scalar(name: str, value: Any, like: jax.Array) -> jax.Array:
    """A finite scalar in the dtype of `like`; numbers and arrays of one element."""
    return _scalar(name, value, like)[0]


def _scalar(name: str, value: Any, like: jax.Array) -> tuple[jax.Array, float | None]:
    """The scalar, and, where it can be looked at, its value."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        value = np.asarray(float(value))
    elif not jnp.issubdtype(getattr(value, "dtype", float), jnp.integer):
        value = floats(name, value)
    if value.size != 1:
        raise ValueError(f"{name} must be a scalar, got shape {value.shape}")
    number = float(np.asarray(value).reshape(())) if concrete(value) else None
    if number is not None and not abs(number) <= float(jnp.finfo(like.dtype).max):
        rule = f"fit into {like.dtype}" if math.isfinite(number) else "be finite"
        raise ValueError(f"{name} must {rule}, got {number:g}")
    return jnp.asarray(value).reshape(()).astype(like.dtype), number


def all_positive(name: str, values: jax.Array) -> None:
    """Every value above 0."""
    if concrete(values):
        least = np.asarray(values).min()
        if not least > 0.0:
            raise ValueError(f"{name} must be positive, got {least:g}")


def positive(name: str, value: Any, like: jax.Array) -> jax.Array:
    """A scalar above 0."""
    result, number = _scalar(name, value, like)
    if number is not None and not number > 0.0:
        raise ValueError(f"{name} must be positive, got {number:g}")
    return result


def not_negative(name: str, value: Any, like: jax.Array) -> jax.Array:
    """A scalar from 0 on."""
    result, number = _scalar(name, value, like)
    if number is not None and not number >= 0.0:
        raise ValueError(f"{name} must not be negative, got {number:g}")
    return result


def probabilities(name: str, values: Any, like: jax.Array) -> jax.Array:
    """Values from 0 to 1, boolean, integer or floating, in the dtype of `like`."""
    values = np.asarray(values) if isinstance(values, list | tuple | numbers.Real) else values
    dtype = getattr(values, "dtype", None)
    kinds = (np.bool_, np.integer, np.floating)
    if dtype is None or not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        got = type(values).__name__ if dtype is None else f"dtype {dtype}"
        raise TypeError(f"{name} must be boolean, integer or floating, got {got}")
    if concrete(values):
        seen = np.asarray(values, np.float64)
        if seen.size and not (seen.min() >= 0.0 and seen.max() <= 1.0):  # also false for NaN
            raise ValueError(
                f"{name} must lie in 0..1, got values from {seen.min():g} to {seen.max():g}"
            )
    return jnp.asarray(values).astype(like.dtype)


def count(name: str, value: Any, least: int = 1) -> int:
    """An integer option of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        traced = " (under jit, name it in static_argnames)" if isinstance(value, Tracer) else ""
        raise TypeError(f"{name} must be an integer, got {value!r}{traced}")
    if int(value) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def shape(value: Any) -> tuple[int, ...]:
    """A tuple of lengths."""
    if not isinstance(value, tuple) or not all(isinstance(n, numbers.Integral) for n in value):
        raise TypeError(f"shape must be a tuple of integers, got {value!r}")
    if any(n < 0 for n in value):
        raise ValueError(f"shape must not hold negative lengths, got {value}")
    return value


def key(value: Any) -> jax.Array:
    """A key of `jax.random.key`, or of the older `PRNGKey`."""
    dtype = getattr(value, "dtype", None)
    new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (new and value.shape == ()) and not (dtype == np.uint32 and value.shape == (2,)):
        raise TypeError(f"key must be a single key of jax.random.key, got {value!r}")
    return value
