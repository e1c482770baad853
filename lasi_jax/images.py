"""Images as the regression wants them: floats in [-1, 1], checked once, here.

LASI's constants (the ridge, the offset of the embedding) are tied to the scale
of its input, and the same pair scores differently on 0..255, 0..1 and -1..1.
The public functions therefore take the range of the values and rescale.

Rules on shapes, types and options are checked always. Rules on values (range,
NaN) are checked where the values are concrete: under `jit`, `grad` or `vmap`
there is nothing to look at.
"""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lasi_jax.regression import Regression

# Room for the rounding of a resize or a colour conversion, relative to the range's width.
_SLACK = 1e-6


def _is_concrete(values: Any) -> bool:
    return not isinstance(values, Tracer)


def _extremes(values: Any) -> tuple[float, float]:
    """The least and the greatest value; NumPy, because `jit` would stage a JAX reduction."""
    concrete = np.asarray(values)
    return float(concrete.min()), float(concrete.max())


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


def check_image(name: str, image: Any, value_range: tuple[float, float]) -> jax.Array:
    """The image as an array, or one error that names it."""
    values = np.asarray(image) if isinstance(image, list | tuple) else image
    if not hasattr(values, "dtype") or not hasattr(values, "shape"):
        raise TypeError(f"{name} must be an array, got {type(image).__name__}")
    if values.dtype != np.uint8 and not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point or uint8, got dtype {values.dtype}")
    if values.ndim < 2 or 0 in values.shape:
        raise ValueError(
            f"{name} must have at least two axes (H W, H W C, D H W C, ...), none of them empty, "
            f"got shape {values.shape}"
        )
    if _is_concrete(values) and values.dtype != np.uint8:
        low, high = value_range
        slack = _SLACK * (high - low)
        least, most = _extremes(values)
        if not (low - slack <= least and most <= high + slack):  # also false for NaN
            raise ValueError(
                f"{name} must lie in value_range ({low:g}, {high:g}) and hold no NaN, "
                f"got values from {least:g} to {most:g}"
            )
    return jnp.asarray(values)


def check_pair(x: Any, y: Any, value_range: tuple[float, float]) -> tuple[jax.Array, jax.Array]:
    """Two images of one shape."""
    x, y = check_image("x", x, value_range), check_image("y", y, value_range)
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {x.shape} and {y.shape}")
    return x, y


def check_mask(mask: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array | None:
    """Weights (*shape) of the elements, or None.

    They end at 1 because the ridge, which keeps every system well conditioned,
    is on the scale of unweighted sums.
    """
    if mask is None:
        return None
    mask = np.asarray(mask) if isinstance(mask, list | tuple) else mask
    if not hasattr(mask, "dtype") or not hasattr(mask, "shape"):
        raise TypeError(f"mask must be an array, got {type(mask).__name__}")
    real = (np.bool_, np.integer, np.floating)
    if not any(jnp.issubdtype(mask.dtype, kind) for kind in real):
        raise TypeError(f"mask must be boolean, integer or floating, got dtype {mask.dtype}")
    stretches = mask.ndim == len(shape) and all(
        have in (1, want) for have, want in zip(mask.shape, shape, strict=True)
    )
    if not stretches:
        raise ValueError(
            f"mask must have the image's shape {shape}, or length 1 along axes where it is to be "
            f"repeated (mask[..., None] over channels), got shape {mask.shape}"
        )
    if _is_concrete(mask):
        least, most = _extremes(np.asarray(mask).astype(dtype))
        if not (least >= 0.0 and 0.0 < most <= 1.0):  # also false for NaN
            raise ValueError(
                "mask must hold weights from 0 to 1, at least one of them positive, "
                f"got values from {least:g} to {most:g}"
            )
    return jnp.broadcast_to(jnp.asarray(mask).astype(dtype), shape)


def check_options(
    shape: tuple[int, ...], neighborhood_size: Any, decay: Any, ridge: Any
) -> Regression:
    """The static options for an image of this shape."""
    size = neighborhood_size
    if isinstance(size, bool) or not isinstance(size, numbers.Integral):
        traced = " (under jit, name it in static_argnames)" if isinstance(size, Tracer) else ""
        raise TypeError(f"neighborhood_size must be an integer, got {size!r}{traced}")
    elements = math.prod(shape)
    if not 1 <= int(size) < elements:
        raise ValueError(
            "neighborhood_size must be at least 1 and less than the number of elements "
            f"({elements} for shape {shape}), got {size}"
        )
    if not isinstance(decay, numbers.Real) or not 0.0 < float(decay) <= 1.0:
        raise ValueError(f"decay must be a number with 0 < decay <= 1, got {decay!r}")
    if not isinstance(ridge, numbers.Real) or not 0.0 < float(ridge) < math.inf:
        raise ValueError(f"ridge must be a finite positive number, got {ridge!r}")
    return Regression(int(size), float(decay), float(ridge))


def compact_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without axes of length 1, at least two axes: same order, same distances."""
    long = tuple(length for length in shape if length > 1)
    return long + (1,) * (2 - len(long))


def rescale(image: jax.Array, value_range: tuple[float, float]) -> jax.Array:
    """An image in [-1, 1]; uint8 and half precision become the default float type."""
    low, high = range_of(image, value_range)
    wide = image.dtype in (jnp.float32, jnp.float64)
    image = image if wide else image.astype(jnp.result_type(float))
    return (image - low) * (2.0 / (high - low)) - 1.0


def rescale_pair(
    x: jax.Array, y: jax.Array, value_range: tuple[float, float]
) -> tuple[jax.Array, jax.Array]:
    """Two images in [-1, 1], both in the wider precision of the two."""
    x, y = rescale(x, value_range), rescale(y, value_range)
    dtype = np.promote_types(x.dtype, y.dtype)  # JAX's own refuses two types where it is strict
    return x.astype(dtype), y.astype(dtype)
