"""What users pass, checked once: one error that names the argument, the rule and the value.

Rules on types, shapes and options are checked always. Rules on values (finite,
positive, 0 to 1) are checked where the values are concrete: under `jit`, `grad`
or `vmap` there is nothing to look at.
"""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, TypeVarTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

Number = ArrayLike
"""A number, which may be a learned one."""

_Values = TypeVarTuple("_Values")


def concrete(*values: Any) -> bool:
    """Whether all values can be looked at."""
    return not any(isinstance(value, Tracer) for value in values)


def shown(number: Any, *bounds: float) -> str:
    """A number in six digits, or in all of them where six move it to or across a bound."""
    short = f"{number:g}"
    given, read = float(number), float(short)
    kept = all((given > b, given < b) == (read > b, read < b) for b in map(float, bounds))
    return short if kept else str(number)


def array(name: str, values: Any) -> Any:
    """An array that JAX can hold: in the machine's byte order, and of at most 64 bits."""
    if isinstance(values, jax.Array):
        return values
    if isinstance(values, list | tuple | numbers.Real) or hasattr(values, "__array__"):
        try:
            values = np.asarray(values)
        except ValueError as error:
            raise ValueError(f"{name} must be an array, got rows that differ in shape") from error
    if not isinstance(values, np.ndarray):
        raise TypeError(f"{name} must be an array, got {type(values).__name__}")
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        raise TypeError(f"{name} must be at most float64, got dtype {values.dtype}")
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def fields(distribution: Any) -> Any:
    """A named tuple of arrays that JAX can hold; their values are not looked at."""
    held = (
        fields(value) if hasattr(value, "_fields") else array(f"distribution.{name}", value)
        for name, value in zip(distribution._fields, distribution, strict=True)
    )
    return type(distribution)(*held)


def _finite(name: str, values: Any) -> Any:
    """A finite, non-empty floating-point array, in the precision in which it was given."""
    values = array(name, values)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got dtype {values.dtype}")
    if 0 in values.shape:
        raise ValueError(f"{name} must not be empty, got shape {values.shape}")
    if concrete(values):
        seen = np.asarray(values)
        finite = np.isfinite(seen)
        if not finite.all():
            index = tuple(np.argwhere(~finite)[0].tolist())
            where = f" at index {index}" if index else ""
            raise ValueError(f"{name} must be finite, got {seen[index]}{where}")
    return values


def _held(dtype: Any) -> Any:
    """The dtype in which values are computed: half precision becomes float32."""
    wide = dtype in (np.float32, np.float64)
    return jax.dtypes.canonicalize_dtype(dtype) if wide else np.dtype(np.float32)


def _in(dtype: Any, values: Any) -> jax.Array:
    """An array in a dtype; under tracing, what can be looked at can still be."""
    if isinstance(values, jax.Array) and values.dtype == dtype:
        return values
    if not concrete(values):
        return values.astype(dtype)
    with jax.ensure_compile_time_eval():
        return jnp.asarray(values.astype(dtype))


def held(name: str, values: Any) -> jax.Array:
    """An array of any kind, where the numbers that it holds fit into what JAX makes of it."""
    values = array(name, values)
    if isinstance(values, jax.Array):
        return values
    dtype = jax.dtypes.canonicalize_dtype(values.dtype)  # of 32 bits where x64 is off
    if dtype != values.dtype and values.size and dtype.kind in "fiu":
        limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        least, most = limits.min, limits.max
        seen = np.where(np.isfinite(values), values, 0)
        if seen.min() < least or seen.max() > most:
            worst = seen.max() if seen.max() > most else seen.min()
            raise ValueError(f"{name} must fit into {dtype}, got {shown(worst, least, most)}")
    return _in(dtype, values)


def floats(name: str, values: Any) -> jax.Array:
    """A finite, non-empty floating-point array; half precision becomes float32."""
    values = _finite(name, values)
    return _in(_held(values.dtype), held(name, values))


def batch(name: str, values: Any, axes: str) -> jax.Array:
    """A float array with just these axes, such as "batch dimension"."""
    values = floats(name, values)
    _check_axes(name, values, axes)
    return values


def _check_axes(name: str, values: Any, axes: str) -> None:
    if values.ndim != len(axes.split()):
        raise ValueError(f"{name} must have shape ({axes}), got shape {values.shape}")


def exact(name: str, values: Any, axes: str) -> Any:
    """A float array with just these axes, in the precision in which it is given."""
    values = _finite(name, values)
    _check_axes(name, values, axes)
    return values


def ordered(name: str, values: Any, axes: str) -> jax.Array:
    """Floats that only order, along their last axis, in the precision in which they are given.

    JAX makes float64 float32 where x64 is off, and XLA takes the least of floats for 0. So where
    values can be looked at, NumPy ranks them, and floats in the order of the ranks stand for them.
    A matrix keeps its values where they lose nothing.
    """
    values = exact(name, values, axes)
    dtype = _held(values.dtype)
    if not concrete(values):
        return values.astype(dtype)
    seen = np.asarray(values)
    if seen.ndim == 1:
        return _in(dtype, _in_order(seen, dtype))
    if seen.dtype.itemsize <= dtype.itemsize:
        tiny = np.finfo(dtype).tiny
        if not ((seen > -tiny) & (seen < tiny) & (seen != 0.0)).any():
            return _in(dtype, values)
    return _in(dtype, np.stack([_in_order(row, dtype) for row in seen]))


def _in_order(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Normal floats that stand in the order of the values, and tie where these do."""
    places = np.unique(values, return_inverse=True)[1]
    # Positive floats are in the order of their bits, so that there is one for every place.
    bits = np.dtype(f"i{dtype.itemsize}")
    return (places.astype(bits) + np.finfo(dtype).tiny.view(bits)).view(dtype)


def one_dtype(*values: *_Values) -> tuple[*_Values]:
    """Arrays (or trees of them) in the widest of their dtypes."""
    dtype = np.result_type(*(leaf.dtype for leaf in jax.tree.leaves(values)))
    return jax.tree.map(lambda leaf: _in(dtype, leaf), values)


def scalar(name: str, value: Any, like: jax.Array) -> jax.Array:
    """A finite scalar in the dtype of `like`, NumPy's where its value is known."""
    return _scalar(name, value, like)[0]


def _scalar(name: str, value: Any, like: jax.Array) -> tuple[Any, float | None]:
    """The scalar, and, where it can be looked at, its value."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            value = np.asarray(float(value))
        except OverflowError as error:
            raise ValueError(f"{name} must fit into {like.dtype}, got more than float64") from error
    else:
        value = array(name, value)
    if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.integer, jnp.floating)):
        raise TypeError(f"{name} must be floating point, got dtype {value.dtype}")
    if value.size != 1:
        raise ValueError(f"{name} must be a scalar, got shape {value.shape}")
    if not concrete(value):
        return _in(like.dtype, value.reshape(())), None
    number = float(np.asarray(value).reshape(()))
    most = float(jnp.finfo(like.dtype).max)
    if not abs(number) <= most:
        rule = f"fit into {like.dtype}" if math.isfinite(number) else "be finite"
        raise ValueError(f"{name} must {rule}, got {shown(number, -most, most)}")
    # As an array of JAX's it would belong to the mesh around it, where `grad` of `jit` fails.
    return np.asarray(number, like.dtype), number


def all_positive(name: str, values: jax.Array) -> None:
    """Every value above 0."""
    if concrete(values):
        least = np.asarray(values).min()
        if not least > 0.0:
            raise ValueError(f"{name} must be positive, got {shown(least)}")


def positive(name: str, value: Any, like: jax.Array) -> jax.Array:
    """A scalar above 0, by what its dtype can tell from 0."""
    result, number = _scalar(name, value, like)
    if number is not None and not number > 0.0:
        raise ValueError(f"{name} must be positive, got {shown(number)}")
    least = float(jnp.finfo(like.dtype).tiny)
    if number is not None and number < least:
        raise ValueError(
            f"{name} must be at least {least:g} in {like.dtype}, got {shown(number, least)}"
        )
    return result


def not_negative(name: str, value: Any, like: jax.Array) -> jax.Array:
    """A scalar from 0 on."""
    result, number = _scalar(name, value, like)
    if number is not None and not number >= 0.0:
        raise ValueError(f"{name} must not be negative, got {shown(number)}")
    return result


def probabilities(name: str, values: Any, like: jax.Array) -> jax.Array:
    """Values from 0 to 1, boolean, integer or floating, in the dtype of `like`."""
    known = hasattr(values, "dtype") or isinstance(values, list | tuple | numbers.Real)
    values = array(name, values) if known else values
    kinds = (np.bool_, np.integer, np.floating)
    if not known or not any(jnp.issubdtype(values.dtype, kind) for kind in kinds):
        got = f"dtype {values.dtype}" if known else type(values).__name__
        raise TypeError(f"{name} must be boolean, integer or floating, got {got}")
    if concrete(values):
        seen = np.asarray(values)
        if seen.size and not (seen.min() >= 0 and seen.max() <= 1):  # also false for NaN
            raise ValueError(
                f"{name} must lie in 0..1, got values from {shown(seen.min(), 0, 1)} to "
                f"{shown(seen.max(), 0, 1)}"
            )
    return _in(like.dtype, values)


def count(name: str, value: Any, least: int = 1) -> int:
    """An integer option of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        traced = " (under jit, name it in static_argnames)" if isinstance(value, Tracer) else ""
        raise TypeError(f"{name} must be an integer, got {value!r}{traced}")
    if int(value) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_indices(name: str, values: Any, number: int) -> None:
    """Integers from 0 on and below a number, or -1."""
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {values.dtype}")
    if concrete(values) and values.size:
        least, most = np.asarray(values).min(), np.asarray(values).max()
        if least < -1 or most >= number:
            raise ValueError(
                f"{name} must lie in 0..{number - 1}, or be -1, got values from {least} to {most}"
            )


def indices(name: str, values: Any, number: int) -> jax.Array:
    """Integers from 0 on and below a number, or -1; under tracing, that number stands for more."""
    values = array(name, values)
    check_indices(name, values, number)
    if not concrete(values):
        values = values if values.dtype.itemsize > 4 else values.astype(jnp.int32)
        # Before int32, in which greater ones would wrap around to some item.
        values = jnp.where(values < number, values, number)
        values = jnp.where(values < 0, -1, values)
    return _in(np.dtype(np.int32), values)


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


def _parts(function: Any) -> Any:
    """What a function is put together from, to be compared and hashed."""
    if not isinstance(function, functools.partial):
        return function
    keywords = sorted(function.keywords.items())
    return (
        _parts(function.func),
        tuple((type(value), _parts(value)) for value in function.args),
        tuple((name, type(value), _parts(value)) for name, value in keywords),
    )


class _Functions:
    """Functions that are equal to others of the same parts."""

    def __init__(self, functions: tuple[Callable, ...]):
        self.functions, self.parts = functions, tuple(map(_parts, functions))

    def __hash__(self) -> int:
        return hash(self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Functions) and self.parts == other.parts


def compiled(core: Callable) -> Callable:
    """`core(functions, *arrays)` under `jit`, for a tuple of functions that users pass.

    It is compiled once for the same functions and shapes; partial functions are the same where
    their parts are. What cannot be hashed, such as a partial function of an array, is compiled
    at each call.
    """

    def under_jit(given: _Functions) -> Callable:
        return jax.jit(functools.partial(core, given.functions))

    kept = functools.lru_cache(maxsize=64)(under_jit)

    def call(functions: tuple[Callable, ...], *arrays: Any) -> Any:
        given = _Functions(functions)
        try:
            hash(given)
        except TypeError:
            return under_jit(given)(*arrays)
        return kept(given)(*arrays)

    return call
