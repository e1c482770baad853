"""The modified Bessel function of the first kind, in logarithms, for any real order.

Everything is about log(x^-v I_v(x) e^-x): smooth and finite from x = 0 to the
largest floats, for orders from -1/2 to thousands. Debye's expansion, uniform in
x, is exact to rounding for orders from about 10 on; lower orders follow by the
recurrence I_{v-1} = I_{v+1} + (2v / x) I_v, which is stable downwards.

Source: NIST Digital Library of Mathematical Functions, 10.41.3, 10.41.9, 10.29.1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import polynomial

_TERMS = 6
RAISED = 12


@functools.cache
def _debye_polynomials() -> list[np.ndarray]:
    """u_0..u_6: u_{k+1}(t) = t^2 (1 - t^2) u_k'(t) / 2 + int_0^t (1 - 5 s^2) u_k(s) ds / 8."""
    u = [np.ones(1)]
    for _ in range(_TERMS):
        slope = polynomial.polymul([0.0, 0.0, 0.5, 0.0, -0.5], polynomial.polyder(u[-1]))
        area = polynomial.polyint(polynomial.polymul([1.0, 0.0, -5.0], u[-1])) / 8.0
        u.append(polynomial.polyadd(slope, area))
    return u


def debye_sum(order: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """sum_k u_k(t) / order^k and its derivative in t."""
    value, slope = jnp.zeros_like(t), jnp.zeros_like(t)
    for u in reversed(_debye_polynomials()):
        value = value / order + jnp.polyval(jnp.asarray(u[::-1], t.dtype), t)
        du = polynomial.polyder(u)
        slope = slope / order + jnp.polyval(jnp.asarray(du[::-1], t.dtype), t)
    return value, slope


def log_bessel_and_ratio(order: jax.Array | float, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log(x^-v I_v(x) e^-x), and I_{v+1}(x) / (x I_v(x)), which is 1 / (2v + 2) at x = 0.

    Args:
      order: v, from -1/2 on.
      x: from 0 on; broadcasts with the order.
    """
    order = jnp.asarray(order, x.dtype)
    n = order + RAISED
    w = jnp.sqrt(1.0 + jnp.square(x / n))
    value, slope = debye_sum(n, 1.0 / w)
    log_bessel = (
        n / (w + x / n)
        - n * jnp.log(n * (1.0 + w))
        - 0.5 * jnp.log(2.0 * jnp.pi * n * w)
        + jnp.log(value)
    )
    ratio = high_ratio(n, w, slope / value)
    for raised in range(RAISED, 0, -1):
        step = 2.0 * (order + raised) + x * (x * ratio)
        log_bessel, ratio = log_bessel + jnp.log(step), 1.0 / step
    return log_bessel, ratio


def high_ratio(order: jax.Array, w: jax.Array, log_slope: jax.Array) -> jax.Array:
    """I_{v+1}(x) / (x I_v(x)) for a high order: the derivative of Debye's expansion.

    w = sqrt(1 + (x / v)^2), and log_slope is the logarithmic derivative of `debye_sum` at 1 / w.
    """
    return (order / (1.0 + w) - 0.5 / (w * w) - log_slope / w**3) / jnp.square(order)
