"""Lengths and distances of points, with digits and derivatives that survive.

Products of matrices run at full precision, which accelerators otherwise lower.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def greatest(dtype: Any) -> float:
    """What stands for values beyond the floats: sums of a thousand of them are still floats."""
    return float(jnp.finfo(dtype).max) * 2.0**-10


@jax.custom_jvp
def quotient(x: jax.Array, log_scale: jax.Array) -> jax.Array:
    """The quotient x / scale, of a scale that may be no float: 0 of 0, and at most `greatest`."""
    most = greatest(x.dtype)
    # In three factors: where one of them ends, so does the quotient of any x but 0.
    root = jnp.exp(jnp.minimum(log_scale / -3.0, math.log(most)))
    return jnp.clip(x * root * root * root, -most, most)


@quotient.defjvp
def _quotient_jvp(primals, tangents):
    (x, log_scale), (of_x, of_log_scale) = primals, tangents
    # By hand: where the value is cut, 0 times an infinite factor would make the derivative NaN.
    value = quotient(x, log_scale)
    return value, quotient(jnp.ones_like(x), log_scale) * of_x - value * of_log_scale


@jax.custom_jvp
def squared_quotient(x: jax.Array, log_variance: jax.Array) -> jax.Array:
    """x^2 / variance, as `quotient`: value and derivatives keep to the floats."""
    # The quotient is squared, for x^2 and the variance may leave the floats where it does not.
    return jnp.minimum(jnp.square(quotient(x, 0.5 * log_variance)), greatest(x.dtype))


@squared_quotient.defjvp
def _squared_quotient_jvp(primals, tangents):
    (x, log_variance), (of_x, of_log_variance) = primals, tangents
    value = squared_quotient(x, log_variance)
    return value, 2.0 * quotient(x, log_variance) * of_x - value * of_log_variance


def bounded_exp(x: jax.Array) -> jax.Array:
    """e^x, at most `greatest`."""
    return quotient(jnp.ones_like(x), -x)


def capped_exp(x: Any) -> jax.Array:
    """e^x to the last bit, at most `greatest` of float32 or wider, and constant from there on."""
    if x.dtype in (np.float32, np.float64):
        x = jnp.minimum(x, math.log(greatest(x.dtype)))
    return jnp.exp(x)


@jax.custom_jvp
def expm1(x: jax.Array) -> jax.Array:
    """e^x - 1, whose derivative is not taken from the value, which has lost a small e^x."""
    return jnp.expm1(x)


expm1.defjvps(lambda of_x, value, x: jnp.exp(x) * of_x)


def square_root(squared: jax.Array) -> jax.Array:
    """sqrt(max(squared, 0)) whose derivative is 0, not infinite, where the distance is 0."""
    far = ~(squared <= 0.0)  # NaN stays NaN
    return jnp.where(far, jnp.sqrt(jnp.where(far, squared, 1.0)), 0.0)


def length(x: jax.Array) -> jax.Array:
    """|x| over the last axis, whose derivative is 0 at 0 and whose squares stay finite."""
    # The result does not depend on the unit, and so has no derivative in it.
    unit = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1))
    unit = jnp.where(unit > 0.0, unit, 1.0)
    return unit * square_root(jnp.sum(jnp.square(x / unit[..., None]), axis=-1))


def normalized(x: jax.Array) -> jax.Array:
    """The unit vector x / |x| over the last axis; 0, with the derivative 0, where x is 0."""
    unit = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    x = x / jnp.where(unit > 0.0, unit, 1.0)  # so that no square leaves the floats
    norm = square_root(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    return x / jnp.where(norm > 0.0, norm, 1.0)


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x_i . y_j (rows, columns) at full precision."""
    return jnp.einsum("id,jd->ij", x, y, precision="highest")


def centered(
    x: jax.Array, y: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Two sets (..., dimension) minus a common point, which no distance depends on.

    The point is halfway between the means of both sets, on all devices of a mesh's axis.
    """
    of_x, of_y = (jnp.mean(z, axis=tuple(range(z.ndim - 1))) for z in (x, y))
    middle = 0.5 * (of_x + of_y)
    if axis_name is not None:
        middle = jax.lax.pmean(middle, axis_name)
    middle = jax.lax.stop_gradient(middle)
    x, y = (z - middle.reshape((1,) * (z.ndim - 1) + middle.shape) for z in (x, y))
    return x, y


def squared_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """|x_i - y_j|^2 (rows, columns) of centred points, by a matrix product."""
    apart = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None] - 2.0 * product(x, y)
    # Below 0 is rounding, and the derivative that is cut off there, 2 (x - y), is next to 0 too.
    return jnp.maximum(apart, 0.0)
