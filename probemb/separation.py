"""How far apart a sample of one Gaussian is from a sample of another, as a distribution.

For isotropic Gaussians in D dimensions, |z_1 - z_2| / sqrt(s) has the noncentral chi
distribution with D degrees of freedom and noncentrality |m_1 - m_2| / sqrt(s), where s
is the sum of the two variances. The mean of sigmoid(b - a |z_1 - z_2|) is therefore a
one-dimensional integral, here by Gauss-Legendre quadrature: to 2e-9 for whole D in our tests.
It is less exact for the D between 1 and 2 that stand for very unequal variances, and for the
logarithms of the rarest matches.

The density, up to a constant, at r = r_0 + x is

    log f(x) = (D - 1) log(r / r_0) - (r^2 - r_0^2) / 2 + log(B(r d) / B(r_0 d))

with d the noncentrality, r_0 = sqrt(d^2 + D - 1/2) close to its mode, B(k) = k^-v I_v(k)
and v = D / 2 - 1. It is as wide as 0.6 to 1 for every D and d. Each term is written as a
difference that keeps its digits when d is 0 or 1e13.
"""

import jax
import jax.numpy as jnp
import numpy as np

from probemb import bessel

_PANELS = tuple(np.polynomial.legendre.leggauss(nodes) for nodes in (40, 64, 40))
NODES = sum(len(nodes) for nodes, _ in _PANELS)
# The density beyond this many standard deviations is less than 3e-14 of its mass.
_REACH = 8.0
# The sigmoid is 1 or 0 to 2e-8 this many of its widths away from its threshold.
_TRANSITION = 18.0


def _log_density(x: jax.Array, squared_noncentrality: jax.Array, degrees: jax.Array) -> jax.Array:
    """Log f(x) - log f(0), as in the module's docstring."""
    center = jnp.sqrt(squared_noncentrality + degrees - 0.5)
    grown = x * (2.0 * center + x)  # r^2 - r_0^2
    order = 0.5 * degrees - 1.0 + bessel.RAISED

    def at(grown):
        excess = degrees - 0.5 + grown  # r^2 - d^2
        squared = squared_noncentrality * (squared_noncentrality + excess)  # (r d)^2
        w = jnp.sqrt(1.0 + squared / jnp.square(order))
        value, slope = bessel.debye_sum(order, 1.0 / w)
        ratio = bessel.high_ratio(order, w, slope / value)
        steps = []
        for raised in range(bessel.RAISED, 0, -1):
            step = degrees - 2.0 + 2.0 * raised + squared * ratio
            ratio = 1.0 / step
            steps.append(step)
        # order * w - d^2
        over = (jnp.square(order) + squared_noncentrality * excess) / (
            order * w + squared_noncentrality
        )
        return w, value, steps, over

    w, value, steps, over = at(grown)
    w_0, value_0, steps_0, over_0 = at(jnp.zeros_like(center))
    w_grown = squared_noncentrality * grown / (jnp.square(order) * (w + w_0))  # w - w_0
    factor = value / value_0 * jnp.sqrt(w_0 / w)
    for step, step_0 in zip(steps, steps_0, strict=True):
        factor = factor * (step / step_0)
    return (
        (degrees - 1.0) * jnp.log1p(x / center)
        - 0.5 * grown * (over + over_0) / (order * (w + w_0))
        - order * jnp.log1p(w_grown / (1.0 + w_0))
        + jnp.log(factor)
    )


def _nodes(center: jax.Array, sharpness: jax.Array, threshold: jax.Array):
    """Nodes x and weights: three panels that resolve both the density and the sigmoid.

    The far ends follow the peaks of density * sigmoid when the threshold lies
    outside of the density, so that small probabilities keep their digits.
    """
    nearest = center * (4.0 * float(jnp.finfo(center.dtype).eps) - 1.0)  # r = 0, but for its log
    low = jnp.maximum(nearest, -_REACH - jnp.clip(-threshold, 0.0, sharpness))
    high = _REACH + jnp.clip(threshold, 0.0, sharpness)
    width = _TRANSITION / sharpness
    edges = [
        low,
        jnp.clip(threshold - width, low, high),
        jnp.clip(threshold + width, low, high),
        high,
    ]
    nodes, weights = [], []
    for left, right, (node, weight) in zip(edges[:-1], edges[1:], _PANELS, strict=True):
        half = 0.5 * (right - left)
        panel = (1,) * (low.ndim - 1) + (-1,)
        nodes.append(left + half * (1.0 + jnp.asarray(node, low.dtype).reshape(panel)))
        weights.append(half * jnp.asarray(weight, low.dtype).reshape(panel))
    return jnp.concatenate(nodes, axis=-1), jnp.concatenate(weights, axis=-1)


@jax.jit  # a thousand small operations, slow one by one
def log_expected_sigmoids(
    squared_distance: jax.Array,
    variance: jax.Array,
    degrees: jax.Array,
    negative_scale: jax.Array,
    shift: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Log E sigmoid(l) and log E sigmoid(-l) for l = b - a |z_1 - z_2|.

    All arguments have one shape (...); memory is `NODES` times that.

    Args:
      squared_distance: of the means.
      variance: s, the sum of the two variances of a dimension.
      degrees: D, from 1 on and not necessarily an integer.
      negative_scale: a > 0.
      shift: b.
    """
    arrays = (squared_distance, variance, degrees, negative_scale, shift)
    squared_distance, variance, degrees, negative_scale, shift = (
        array[..., None] for array in arrays
    )
    scale = jnp.sqrt(variance)
    squared_noncentrality = squared_distance / variance
    center = jnp.sqrt(squared_noncentrality + degrees - 0.5)
    x, weights = jax.lax.stop_gradient(
        _nodes(center, negative_scale * scale, shift / (negative_scale * scale) - center)
    )
    log_density = _log_density(x, squared_noncentrality, degrees)
    logits = shift - negative_scale * scale * (center + x)
    total = jax.nn.logsumexp(log_density, axis=-1, b=weights)
    yes, no = (
        jax.nn.logsumexp(log_density + jax.nn.log_sigmoid(sign * logits), axis=-1, b=weights)
        - total
        for sign in (1.0, -1.0)
    )
    return yes, no
