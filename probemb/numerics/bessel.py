"""The modified Bessel function of the first kind, in logarithms, for any real order.

Everything is about log(x^-v I_v(x) e^-x): smooth and finite from x = 0 to the
largest floats, for orders from -1/2 to thousands. Debye's expansion, uniform in
x, serves orders from 12 on; lower orders follow by the recurrence
I_{v-1} = I_{v+1} + (2v / x) I_v, which is stable downwards. The logarithm is off by less
than 5e-9.

Source: NIST Digital Library of Mathematical Functions, 10.41.3, 10.41.9, 10.29.1.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import polynomial

# Every order is raised to 11.5 or more, where what follows u_6 in the expansion is below 3e-9.
_TERMS = 6
RAISED = 12
# From here on sqrt(1 + z^2) is z to rounding, and z^2 may overflow.
_FAR = 1e9


@functools.cache
def _debye_polynomials() -> list[np.ndarray]:
    """Of u_k(t) = t^k q_k(t^2), k = 0..6, the coefficients of q_k in rising powers.

    u_{k+1}(t) = t^2 (1 - t^2) u_k'(t) / 2 + int_0^t (1 - 5 s^2) u_k(s) ds / 8.
    """
    u: list[Any] = [np.ones(1)]
    for _ in range(_TERMS):
        slope = polynomial.polymul([0.0, 0.0, 0.5, 0.0, -0.5], polynomial.polyder(u[-1]))
        area = polynomial.polyint(polynomial.polymul([1.0, 0.0, -5.0], u[-1])) / 8.0
        u.append(polynomial.polyadd(slope, area))
    return [one[k::2] for k, one in enumerate(u)]


def _horner(coefficients: list[float], x: jax.Array) -> jax.Array:
    """sum_m c_m x^m, written out."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def debye_sum(order: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """sum_k u_k(t) / order^k, and t times its derivative in t."""
    q = _debye_polynomials()
    squared = t * t
    terms = [_horner([float(c) for c in one], squared) for one in q]
    slopes = [
        _horner([float(c * (k + 2 * m)) for m, c in enumerate(one)], squared)
        for k, one in enumerate(q)
    ]
    scaled = t / order

    def in_powers(values):
        total = values[-1]
        for value in values[-2::-1]:
            total = total * scaled + value
        return total

    return in_powers(terms), in_powers(slopes)


@jax.jit  # hundreds of small operations, slow one by one
def log_bessel_and_ratio(
    order: jax.Array | float, x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """log(x^-v I_v(x) e^-x), then A / x and 1 - A for A = I_{v+1}(x) / I_v(x).

    A / x is 1 / (2v + 2) at x = 0; 1 - A keeps its digits where A is close to 1.

    Args:
      order: v, from -1/2 on.
      x: from 0 on; broadcasts with the order.
    """
    order = jnp.asarray(order, x.dtype)
    n = order + RAISED
    z = x / n
    w = jnp.where(z < _FAR, jnp.sqrt(1.0 + jnp.square(jnp.minimum(z, _FAR))), z)
    t = 1.0 / w
    value, slope = debye_sum(n, t)
    # Debye's exponent less x is n (w - z) + n log(z / (1 + w)). As w^2 - z^2 = 1, w - z is 1 / (w +
    # z), where nothing cancels; x^-v takes the z out of the logarithm.
    log_bessel = (
        n / (w + z)
        - n * jnp.log(n * (1.0 + w))
        - 0.5 * (jnp.log(2.0 * jnp.pi * n) + jnp.log(w))
        + jnp.log(value)
    )
    lower = (0.5 + slope / value) * t * t / n
    ratio = high_ratio(n, w, slope / value)
    # The first term is 1 - z / (1 + w), without its difference of near equals.
    rest = (1.0 + 1.0 / (w + z)) / (1.0 + w) + z * lower
    for raised in range(RAISED, 0, -1):
        # The recurrence in quotients: I_{v-1} / I_v = step / x, the inverse of A one order below.
        twice = 2.0 * (order + raised)
        step = twice + x * (1.0 - rest)
        log_bessel, ratio, rest = log_bessel + jnp.log(step), 1.0 / step, (twice - x * rest) / step
    return log_bessel, ratio, rest


def high_ratio(order: jax.Array, w: jax.Array, log_slope: jax.Array) -> jax.Array:
    """I_{v+1}(x) / (x I_v(x)) for a high order: the derivative of Debye's expansion.

    w = sqrt(1 + (x / v)^2), and log_slope is the quotient of both results of `debye_sum` at 1 / w.
    """
    return (order / (1.0 + w) - (0.5 + log_slope) / (w * w)) / jnp.square(order)
