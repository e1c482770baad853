"""How far apart a sample of one Gaussian is from a sample of another, as a distribution.

For isotropic Gaussians in D dimensions, |z_1 - z_2| / sqrt(s) has the noncentral chi
distribution with D degrees of freedom and noncentrality |m_1 - m_2| / sqrt(s), where s
is the sum of the two variances. The mean of sigmoid(b - a |z_1 - z_2|) is therefore a
one-dimensional integral, here by Gauss-Legendre quadrature: in our tests to 1e-9, with
first derivatives to 1e-8 and second ones to 1e-6, for whole D and for the fractions between
1 and 2 that stand for very unequal variances. It is less exact for the logarithms of the
rarest matches. Float32 resolves the sigmoid up to a sqrt(s) of about 1e5, and leaves an error
of about 1e-7 / sqrt(s) in the gradient of the means, beside which a below it counts for nothing.

The density, up to a constant, at r = r_0 + x is

    log f(x) = (D - 1) log(r / r_0) - (r^2 - r_0^2) / 2 + log(B(r d) / B(r_0 d))

with d the noncentrality, r_0 = sqrt(d^2 + D - 1/2) close to its mode, B(k) = k^-v I_v(k)
and v = D / 2 - 1. It is as wide as 0.6 to 1 for every D and d. Each term is written as a
difference that keeps its digits when d is 0 or 1e13.

The nodes keep their r / r_0, not their x or r, when derivatives are taken: so the integral's
end r = 0 stays where it is, and what lies around r_0 moves with it, as samples would.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from probemb.numerics import bessel

_PANELS = tuple(np.polynomial.legendre.leggauss(nodes) for nodes in (40, 80, 40))
NODES = sum(len(nodes) for nodes, _ in _PANELS)
# The density beyond this many standard deviations is less than 3e-14 of its mass.
_REACH = 8.0
# The sigmoid is 1 or 0 to 2e-8 this many of its widths away from its threshold.
_TRANSITION = 18.0
# Nodes are even in u where r is large beside this, and r is of the order of u^4 near 0.
_BEND = 0.5
_BENDS = 2


def _log_density(
    x: jax.Array,
    ratio: jax.Array,
    log_ratio: jax.Array,
    squared_noncentrality: jax.Array,
    degrees: jax.Array,
) -> jax.Array:
    """Log f(x) - log f(0), as in the module's docstring; the ratio is r / r_0."""
    center = jnp.sqrt(squared_noncentrality + degrees - 0.5)
    grown = x * (2.0 * center + x)  # r^2 - r_0^2
    order = 0.5 * degrees - 1.0 + bessel.RAISED

    def at(grown, r):
        excess = degrees - 0.5 + grown  # r^2 - d^2
        squared = squared_noncentrality * jnp.square(r)  # (r d)^2
        w = jnp.sqrt(1.0 + squared / jnp.square(order))
        value, slope = bessel.debye_sum(order, 1.0 / w)
        quotient = bessel.high_ratio(order, w, slope / value)
        steps = []
        for raised in range(bessel.RAISED, 0, -1):
            step = degrees - 2.0 + 2.0 * raised + squared * quotient
            quotient = 1.0 / step
            steps.append(step)
        # order * w - d^2
        over = (jnp.square(order) + squared_noncentrality * excess) / (
            order * w + squared_noncentrality
        )
        return w, value, steps, over

    w, value, steps, over = at(grown, center * ratio)
    w_0, value_0, steps_0, over_0 = at(jnp.zeros_like(center), center)
    # (w_0 - w) / (1 + w), which cannot round to -1 where r is next to nothing.
    shrunk_w = -squared_noncentrality * grown / (jnp.square(order) * (w + w_0) * (1.0 + w))
    nearly_1 = 1.0 - float(jnp.finfo(w.dtype).eps)
    log_w = -jnp.log1p(jnp.maximum(shrunk_w, -nearly_1))  # log((1 + w) / (1 + w_0))
    # Each step is divided by order (1 + w), which leaves the products within the floats.
    factor, factor_0 = (
        math.prod([step * share for step in steps], start=value)
        for share, value, steps in (
            (1.0 / (order * (1.0 + w)), value / jnp.sqrt(w), steps),
            (1.0 / (order * (1.0 + w_0)), value_0 / jnp.sqrt(w_0), steps_0),
        )
    )
    return (
        (degrees - 1.0) * log_ratio
        - 0.5 * grown * (over + over_0) / (order * (w + w_0))
        - (order - bessel.RAISED) * log_w
        + jnp.log(factor / factor_0)
    )


def _unbent(y: jax.Array) -> jax.Array:
    """The u of y = r - r_low in which nodes are even: r^(D - 1) is not smooth for every D."""
    for _ in range(_BENDS):
        y = jnp.sqrt(y * (y + 2.0 * _BEND))
    return y


def _bent(u: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The y of u, and the weights of nodes in y."""
    for _ in range(_BENDS):
        root = jnp.sqrt(u * u + _BEND**2)
        u, weights = u * u / (_BEND + root), weights * u / root
    return u, weights


def _nodes(center: jax.Array, sharpness: jax.Array, shift: jax.Array, base: jax.Array):
    """Nodes: x / r_0, r / r_0, its logarithm, and weights.

    Three panels resolve both the density and the sigmoid. The far ends follow the
    peaks of density * sigmoid when the threshold lies outside of the density, so that
    small probabilities keep their digits.
    """
    info = jnp.finfo(center.dtype)
    far = float(info.max) ** 0.25  # beyond every node, and its square within the floats
    threshold = jnp.clip(base / sharpness, -far, far)
    width = jnp.minimum(_TRANSITION / sharpness, 4.0 * far)
    # Times a sigmoid's tail e^(+-k x), e^(-x^2 / 2) peaks at +-k, or at the threshold if nearer.
    low = jnp.maximum(-center, -_REACH - jnp.clip(-threshold, 0.0, sharpness))
    high = _REACH + jnp.clip(threshold, 0.0, sharpness)
    # Where r starts at 0, the threshold's place in r has digits that its place in x has not.
    from_0 = jnp.clip(shift / sharpness, 0.0, far)
    place = jnp.where(low == -center, from_0, threshold - low)
    ends = (jnp.zeros_like(low), place - width, place + width, high - low)
    edges = [_unbent(jnp.clip(end, 0.0, high - low)) for end in ends]
    nodes, weights = [], []
    for left, right, (node, weight) in zip(edges[:-1], edges[1:], _PANELS, strict=True):
        half = 0.5 * (right - left)
        panel = (1,) * (low.ndim - 1) + (-1,)
        nodes.append(left + half * (1.0 + jnp.asarray(node, low.dtype).reshape(panel)))
        weights.append(half * jnp.asarray(weight, low.dtype).reshape(panel))
    y, weights = _bent(jnp.concatenate(nodes, axis=-1), jnp.concatenate(weights, axis=-1))
    moved = (low + y) / center
    ratio = jnp.maximum(((center + low) + y) / center, float(info.tiny))
    log_ratio = jnp.where(ratio < 0.5, jnp.log(ratio), jnp.log1p(jnp.maximum(moved, -0.75)))
    return moved, ratio, log_ratio, weights


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
    sharpness = negative_scale * jnp.sqrt(variance)
    base = shift - negative_scale * jnp.sqrt(squared_distance + variance * (degrees - 0.5))
    # Far out only the ratio of d^2 and D shapes the density; (r d)^2 would leave the floats.
    most = float(jnp.finfo(variance.dtype).max) ** 0.4
    precision = jnp.minimum(1.0 / variance, most / (squared_distance + variance * degrees))
    squared_noncentrality = squared_distance * precision
    degrees = degrees * (variance * precision)
    center = jnp.sqrt(squared_noncentrality + degrees - 0.5)
    moved, ratio, log_ratio, weights = _nodes(
        *jax.lax.stop_gradient((center, sharpness, shift, base))
    )
    x = center * moved
    log_density = _log_density(x, ratio, log_ratio, squared_noncentrality, degrees)
    logits = jnp.where(ratio < 0.5, shift - sharpness * (center * ratio), base - sharpness * x)
    total = jax.nn.logsumexp(log_density, axis=-1, b=weights)
    yes, no = (
        jax.nn.logsumexp(log_density + jax.nn.log_sigmoid(sign * logits), axis=-1, b=weights)
        - total
        for sign in (1.0, -1.0)
    )
    return yes, no
