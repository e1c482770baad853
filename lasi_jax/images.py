"""Images as the regression wants them: floats in [-1, 1], checked once, here.

LASI's constants (the ridge, the offset of the embedding) are tied to the scale
of its input, and the same pair scores differently on 0..255, 0..1 and -1..1.
The public functions therefore take the range of the values and rescale.

Rules on shapes, types and options are checked always. Rules on values (range,
NaN) are checked where the values are concrete. Under `jit`, `grad` or `vmap`
there is nothing to look at: 0..255 floats at the default range then give a
plausible wrong number, unless the caller checks by `jax.experimental.checkify`:

    error, value = jax.jit(checkify.checkify(distance))(x, y)
    error.throw()
"""

import functools
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.experimental import checkify
from jax.sharding import NamedSharding, PartitionSpec

from lasi_jax.wls.regression import Regression

# The program of a system of N unknowns grows as N^3: beyond, it compiles for minutes, or for ever.
_MOST_NEIGHBORS = 64
# Room for the rounding of a resize or a colour conversion, relative to the range's width.
_SLACK = 1e-6


def as_array(name: str, values: Any) -> Any:
    """Lists as an array, and every array in the machine's byte order, which JAX needs."""
    if isinstance(values, list | tuple):
        try:
            values = np.asarray(values)
        except ValueError as error:
            raise ValueError(f"{name} must be an array, got a list that is none: {error}") from None
    if not hasattr(values, "dtype") or not hasattr(values, "shape"):
        raise TypeError(f"{name} must be an array, got {type(values).__name__}")
    if isinstance(values, np.ndarray | np.generic) and not values.dtype.isnative:
        return values.astype(values.dtype.newbyteorder("="))
    return values


def is_floating(dtype: Any) -> bool:
    """Whether JAX has this floating point type, which ends at 64 bits."""
    return jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).itemsize <= 8


def told(value: Any) -> str:
    """A number with as many digits as tell it from every other one of its precision."""
    value = np.asarray(value)
    value = value if value.dtype in (np.float32, np.float64) else value.astype(np.float64)
    short = f"{float(value):g}"
    return short if value == value.dtype.type(short) else str(value)


@jax.custom_batching.custom_vmap
def _extremes(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.min(values), jnp.max(values)


@_extremes.def_vmap
def _extremes_of_batch(axis_size, in_batched, values):
    """Of all images: a check by image would be sorted, which a batch over a mesh does not allow."""
    if axis_size == 0:
        raise ValueError(
            "a batch must hold at least one image, got an axis of length 0 to jax.vmap"
        )
    return _extremes(values), (False, False)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _check_traced(
    values: jax.Array, rule: str, lowest: float, highest: float, positive: bool
) -> None:
    least, most = _extremes(values)
    holds = (lowest <= least) & (most <= highest) & ((most > 0.0) | (not positive))
    message = f"{rule}, got values from {{least}} to {{most}}"
    checkify.debug_check(holds, message, least=least, most=most)


def check_traced(
    rule: str, values: Any, lowest: float, highest: float, *, positive: bool = False
) -> None:
    """`check_values` of what is traced: an error where the caller uses `checkify`, else nothing."""
    values = lax.stop_gradient(values)
    if isinstance(values, Tracer):
        wide = values.dtype in (jnp.float32, jnp.float64)
        values = values if wide else values.astype(jnp.float32)
        _check_traced(values, rule, lowest, highest, positive)


def check_values(
    rule: str, values: Any, lowest: float, highest: float, *, positive: bool = False
) -> None:
    """One error that tells the least and the greatest value, if these break a rule.

    Args:
      rule: what the values must do, in words.
      values: floats, none of the axes empty.
      lowest: what none of them may be below; no value may be NaN.
      highest: what none of them may be above.
      positive: whether one of them must be above 0.
    """
    if isinstance(values, Tracer):
        check_traced(rule, values, lowest, highest, positive=positive)
        return
    concrete = np.asarray(values)  # NumPy, because `jit` would stage a JAX reduction
    least, most = concrete.min(), concrete.max()
    holds = lowest <= float(least) and float(most) <= highest and (most > 0.0 or not positive)
    if not holds:  # as where one is NaN
        raise ValueError(f"{rule}, got values from {told(least)} to {told(most)}")


def check_value_range(value_range: Any) -> tuple[float, float]:
    """The range as two finite floats, low < high."""
    try:
        low, high = (float(bound) for bound in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            "value_range must be two finite numbers (low, high) with low < high, "
            f"got {value_range!r}"
        )
    return low, high


def range_of(image: jax.Array, value_range: tuple[float, float]) -> tuple[float, float]:
    """The range an image is read in: 0..255 for uint8, `value_range` for floats."""
    return (0.0, 255.0) if image.dtype == jnp.uint8 else value_range


def _gathered(values: jax.Array) -> jax.Array:
    """Without parts along explicit axes of a mesh: sums over an image run through all of it."""
    sharding = jax.typeof(values).sharding
    if all(axis is None for axis in sharding.spec):
        return values
    return jax.sharding.reshard(values, NamedSharding(sharding.mesh, PartitionSpec()))


def check_image(name: str, image: Any, value_range: tuple[float, float]) -> jax.Array:
    """The image as an array, or one error that names it."""
    values = as_array(name, image)
    if values.dtype != np.uint8 and not is_floating(values.dtype):
        raise TypeError(
            f"{name} must be floating point or uint8, of at most 64 bits, got dtype {values.dtype}"
        )
    if values.ndim < 2 or 0 in values.shape:
        raise ValueError(
            f"{name} must have at least two axes (H W, H W C, D H W C, ...), none of them empty, "
            f"got shape {values.shape}"
        )
    if values.dtype != np.uint8:
        low, high = value_range
        slack = _SLACK * (high - low)
        check_values(
            f"{name} must lie in value_range ({told(low)}, {told(high)}) and hold no NaN",
            values,
            low - slack,
            high + slack,
        )
    return _gathered(jnp.asarray(values))


def check_layout(name: str, shape: tuple[int, ...], volume: Any) -> None:
    """More than three axes are asked for: a batch would be taken for a volume."""
    if not isinstance(volume, bool):
        raise TypeError(f"volume must be True or False, got {volume!r}")
    if len(shape) > 3 and not volume:
        raise ValueError(
            f"{name} must have shape (height, width) or (height, width, channel): a batch goes "
            f"through jax.vmap, a volume (D H W C) needs volume=True, got shape {shape}"
        )


def check_pair(x: Any, y: Any, value_range: tuple[float, float]) -> tuple[jax.Array, jax.Array]:
    """Two images of one shape."""
    x, y = check_image("x", x, value_range), check_image("y", y, value_range)
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {x.shape} and {y.shape}")
    return x, y


def check_mask(mask: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array | None:
    """The mask, to be spread over the image by `repeated`, or None.

    They end at 1 because the ridge, which keeps every system well conditioned,
    is on the scale of unweighted sums.
    """
    if mask is None:
        return None
    mask = as_array("mask", mask)
    real = (np.bool_, np.integer)
    if not (is_floating(mask.dtype) or any(jnp.issubdtype(mask.dtype, kind) for kind in real)):
        raise TypeError(
            f"mask must be boolean, integer or floating, of at most 64 bits, got dtype {mask.dtype}"
        )
    stretches = mask.ndim == len(shape) and all(
        have in (1, want) for have, want in zip(mask.shape, shape, strict=True)
    )
    if not stretches:
        raise ValueError(
            f"mask must have the image's shape {shape}, or length 1 along axes where it is to be "
            f"repeated (mask[..., None] over channels), got shape {mask.shape}"
        )
    # In the precision in which it will count: 1e-50 of float64 is 0 in float32.
    check_values(
        "mask must hold weights from 0 to 1, at least one of them positive",
        mask.astype(dtype) if isinstance(mask, Tracer) else np.asarray(mask).astype(dtype),
        0.0,
        1.0,
        positive=True,
    )
    return _gathered(jnp.asarray(mask))


def repeated(mask: jax.Array, image: jax.Array) -> jax.Array:
    """The weight of every element of an image, in its precision."""
    return jnp.broadcast_to(mask.astype(image.dtype), image.shape)


def check_options(
    shape: tuple[int, ...], neighborhood_size: Any, decay: Any, ridge: Any, prior: Any
) -> Regression:
    """The static options for an image of this shape."""
    size = neighborhood_size
    if isinstance(size, bool) or not isinstance(size, numbers.Integral):
        traced = " (under jit, name it in static_argnames)" if isinstance(size, Tracer) else ""
        raise TypeError(f"neighborhood_size must be an integer, got {size!r}{traced}")
    elements = math.prod(shape)
    # The last element of an image has `elements - 1` earlier ones, and no element has more.
    if not 1 <= int(size) < elements:
        raise ValueError(
            "neighborhood_size must be at least 1 and less than the number of elements "
            f"({elements} for shape {shape}), got {size}"
        )
    if int(size) > _MOST_NEIGHBORS:
        raise ValueError(f"neighborhood_size must be at most {_MOST_NEIGHBORS}, got {size}")
    # Numbers, not arrays: powers of the decay are constants of the compiled program.
    if not _is_real(decay) or not 0.0 < float(decay) <= 1.0:
        raise ValueError(f"decay must be a number with 0 < decay <= 1, got {decay!r}")
    # Positive: the first element has no examples, and the ridge alone makes its system solvable.
    if not _is_real(ridge) or not 0.0 < float(ridge) < math.inf:
        raise ValueError(f"ridge must be a finite positive number, got {ridge!r}")
    if not _is_real(prior) or not math.isfinite(float(prior)):
        raise ValueError(f"prior must be a finite number, got {prior!r}")
    return Regression(int(size), float(decay), float(ridge), float(prior))


def _is_real(value: Any) -> bool:
    # Python counts True as 1, but as an option it is a slip.
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def compact_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without axes of length 1, at least two axes: same order, same distances."""
    long = tuple(length for length in shape if length > 1)
    return long + (1,) * (2 - len(long))


def precision(*images: jax.Array) -> np.dtype:
    """The widest float type of images: of each its own if float32 or float64, else the default."""
    wide = (jnp.float32, jnp.float64)
    dtypes = (image.dtype if image.dtype in wide else jnp.result_type(float) for image in images)
    return functools.reduce(np.promote_types, dtypes)  # JAX's own refuses two where it is strict


def rescale(image: jax.Array, value_range: tuple[float, float]) -> jax.Array:
    """An image in [-1, 1]; uint8 and half precision become the default float type."""
    low, high = range_of(image, value_range)
    return (image.astype(precision(image)) - low) * (2.0 / (high - low)) - 1.0


def rescale_pair(
    x: jax.Array, y: jax.Array, value_range: tuple[float, float]
) -> tuple[jax.Array, jax.Array]:
    """Two images in [-1, 1], both in the wider precision of the two."""
    dtype = precision(x, y)
    return rescale(x, value_range).astype(dtype), rescale(y, value_range).astype(dtype)
