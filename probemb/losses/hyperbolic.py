"""Images and texts as points of hyperbolic space, where a text's cone holds its images.

The Lorentz model: points of a hyperboloid, on which the inner product x . y - x_time y_time is
-1 / c of a point with itself. A point is given by its space components x alone, since
x_time = sqrt(1 / c + |x|^2). The space has the curvature -c.

Distances and angles are written without arccosh and arccos, which lose half of the digits of small
distances and angles and have infinite derivatives there. What cannot be had is a small distance
far out: rounding moves sinh^2(d / 2) by sinh^2(radius) units.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from probemb.losses import softmax
from probemb.losses.batches import check_labels, check_shapes, labels_of, partners, with_labels
from probemb.numerics import arguments
from probemb.numerics.arguments import Number
from probemb.numerics.euclidean import expm1, length, normalized, product, square_root
from probemb.numerics.reduction import batch_size, batch_sum, reduce_pairs

# The product of two points at this radius, in units of 1 / sqrt(c), is still a float32.
_GREATEST_RADIUS = 40.0
# Squared radii below this one have sinh by its series, whose derivatives hold at 0.
_SMALL = 1e-2


def _vectors(name: str, values: Any) -> jax.Array:
    values = arguments.floats(name, values)
    if values.ndim == 0:
        raise ValueError(f"{name} must have shape (... dimension), got shape ()")
    return values


def _pair(x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    """Two arrays (batch, dimension) of one batch and one dimension."""
    image, text = arguments.one_dtype(_vectors("image", x), _vectors("text", y))
    check_shapes(image.shape, text.shape, "batch dimension")
    return image, text


def exponential_map(x: ArrayLike, *, curvature: Number) -> jax.Array:
    """The point that the geodesic from the origin with velocity x reaches at time 1.

    sinh(sqrt(c) |x|) x / (sqrt(c) |x|): at the distance |x| from the origin, in the direction of x.

    Args:
      x: tangent vectors at the origin (..., dimension).
      curvature: c > 0; the space has the curvature -c.

    Returns:
      Points (..., dimension). Where sqrt(c) |x| exceeds 40, the point of that direction at 40,
      so that float32 holds its square; the derivative along the radius is then 0.

    Raises:
      TypeError, ValueError: no floating-point vectors, or a curvature that is not positive.

    Source: MERU (Desai et al., ICML 2023). The release clips sqrt(c) |x| at
    asinh(2^15) = 11.1.

    Example:
      >>> import jax.numpy as jnp
      >>> point = exponential_map(jnp.array([0.0, 2.0]), curvature=1)
      >>> bool(jnp.allclose(point, jnp.array([0.0, jnp.sinh(2.0)])))
      True
    """
    x = _vectors("x", x)
    root = jnp.sqrt(arguments.positive("curvature", curvature, x))
    radius = root * length(x)[..., None]
    near = jnp.square(radius) < _SMALL
    # Each way gets harmless values where the other is taken, for the sake of its derivatives.
    small = root * jnp.where(near, x, 0.0)
    squared = jnp.sum(jnp.square(small), axis=-1, keepdims=True)
    # sinh(r) / r in r^2; the first term left out, r^8 / 9!, is below 3e-14.
    series = 1.0 + squared / 6.0 * (1.0 + squared / 20.0 * (1.0 + squared / 42.0))
    sinh = jnp.sinh(jnp.minimum(jnp.where(near, 1.0, radius), _GREATEST_RADIUS))
    return jnp.where(near, small * series, sinh * normalized(x)) / root


def _lifted(x: jax.Array, root: jax.Array) -> dict:
    """Points in units of 1 / sqrt(c), and how far their time is above the origin's."""
    x = root * x
    squared = jnp.sum(jnp.square(x), axis=-1)
    # Each by itself has derivatives that do not leave the floats.
    far = squared > 1.0
    near, beyond = jnp.where(far, 0.0, squared), jnp.where(far, squared, 1.0)
    rise = jnp.where(far, jnp.sqrt(1.0 + beyond) - 1.0, near / (1.0 + jnp.sqrt(1.0 + near)))
    return {"point": x, "rise": rise}


def _distances(rows: dict, columns: dict) -> jax.Array:
    """sqrt(c) d(x_i, y_j) (rows, columns), from sinh^2(d / 2) = (-c <x_i, y_j> - 1) / 2."""
    of_x, of_y = rows["rise"][:, None], columns["rise"][None]
    # x_time y_time - 1 as (1 + rise_x) (1 + rise_y) - 1, multiplied out: no 1 swallows small rises.
    apart = of_x + of_y + of_x * of_y - product(rows["point"], columns["point"])
    return 2.0 * jnp.arcsinh(square_root(0.5 * apart))


def lorentz_distance(x: ArrayLike, y: ArrayLike, *, curvature: Number) -> jax.Array:
    """The lengths of the geodesics between all points of two sets.

    arccosh(c (x_time y_time - x . y)) / sqrt(c).

    Args:
      x: points (rows, dimension), such as `exponential_map` gives.
      y: points (columns, dimension).
      curvature: c > 0; the space has the curvature -c.

    Returns:
      (rows, columns). The derivative where two points coincide is 0.

    Raises:
      TypeError, ValueError: other shapes, or values out of range.

    Source: MERU (Desai et al., ICML 2023). The release clips the argument of arccosh from below
    at 1 + 1e-8, which float32 rounds to 1.

    Example:
      >>> import jax.numpy as jnp
      >>> x = exponential_map(jnp.array([[0.5, 0.0], [-1.5, 0.0]]), curvature=2)
      >>> round(float(lorentz_distance(x[:1], x[1:], curvature=2)[0, 0]), 3)  # on one geodesic
      2.0
    """
    x, y = arguments.one_dtype(
        arguments.batch("x", x, "rows dimension"), arguments.batch("y", y, "columns dimension")
    )
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have one dimension, got shapes {x.shape} and {y.shape}")
    root = jnp.sqrt(arguments.positive("curvature", curvature, x))
    return _distances(_lifted(x, root), _lifted(y, root)) / root


def half_aperture(x: ArrayLike, *, curvature: Number, min_radius: Number = 0.1) -> jax.Array:
    """How wide the cone of a point opens: the angle between its axis and its side.

    asin(2 K / (sqrt(c) |x|)): the cone opens away from the origin, and the more general a point
    is (the closer to the origin), the wider.

    Args:
      x: points (..., dimension).
      curvature: c > 0; the space has the curvature -c.
      min_radius: K > 0.

    Returns:
      Angles (...) from 0 to pi / 2. Points with |x| <= 2 K / sqrt(c) have pi / 2, and the
      derivative 0.

    Raises:
      TypeError, ValueError: no floating-point vectors, or values out of range.

    Source: MERU (Desai et al., ICML 2023), after the cones of Ganea et al. (ICML 2018).

    Example:
      >>> import jax.numpy as jnp
      >>> angle = half_aperture(jnp.array([[0.4, 0.0], [0.1, 0.0]]), curvature=1)
      >>> (angle / jnp.pi * 180).round().tolist()
      [30.0, 90.0]
    """
    x = _vectors("x", x)
    root = jnp.sqrt(arguments.positive("curvature", curvature, x))
    return _half_aperture(
        _polar(x, root)["radius"], arguments.positive("min_radius", min_radius, x)
    )


def _half_aperture(radius: jax.Array, min_radius: jax.Array) -> jax.Array:
    outside = ~(radius <= jnp.arcsinh(2.0 * min_radius))  # NaN stays NaN
    radius = jnp.where(outside, radius, 1.0)
    # Of 2 K / sinh(radius); the square of sinh(radius) might be no float.
    sine = -4.0 * min_radius * jnp.exp(-radius) / expm1(-2.0 * radius)
    outside = outside & ~(sine >= 1.0)  # at 1 the derivative is infinite
    return jnp.where(outside, jnp.arcsin(jnp.where(outside, sine, 0.5)), 0.5 * math.pi)


def exterior_angle(x: ArrayLike, y: ArrayLike, *, curvature: Number) -> jax.Array:
    """By which angle the way from x to y turns off the way from the origin to x.

    pi minus the angle at x of the triangle of origin, x and y:
    acos((y_time + x_time c <x, y>) / (|x| sqrt((c <x, y>)^2 - 1))), <x, y> = x . y - x_time y_time.

    Args:
      x: points (..., dimension), the apexes of cones.
      y: points of the same shape.
      curvature: c > 0; the space has the curvature -c.

    Returns:
      Angles (...) from 0 to pi: 0 where y lies straight beyond x. It is undefined, and 0, with
      the derivative 0, where x and y coincide or x is the origin.

    Raises:
      TypeError, ValueError: not points of one shape, or values out of range.

    Source: MERU (Desai et al., ICML 2023), here by the tangent of the angle. The release clips
    the cosine.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([1.0, 0.0]), jnp.array([[3.0, 0.0], [0.5, 0.0]])
      >>> (exterior_angle(jnp.stack([x, x]), y, curvature=1) / jnp.pi * 180).round().tolist()
      [0.0, 180.0]
    """
    x, y = arguments.one_dtype(_vectors("x", x), _vectors("y", y))
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {x.shape} and {y.shape}")
    root = jnp.sqrt(arguments.positive("curvature", curvature, x))
    return _exterior_angle(_polar(x, root), _polar(y, root))


def _polar(x: jax.Array, root: jax.Array) -> dict:
    """The directions of points, and their distances from the origin in units of 1 / sqrt(c)."""
    return {"direction": normalized(x), "radius": jnp.arcsinh(root * length(x))}


def _exterior_angle(x: dict, y: dict) -> jax.Array:
    a, b = x["radius"], y["radius"]
    chord = length(y["direction"] - x["direction"])  # 2 sin(theta / 2), theta at the origin
    # By sines and cosines at x, times sinh d / (cosh a cosh b): the law of sines, and that of
    # cosines with tanh b - tanh a taken out, so that nothing cancels where theta is small and
    # no derivative leaves the floats.
    of_a, of_b = jnp.exp(-2.0 * a), jnp.exp(-2.0 * b)
    tanh_b = -expm1(-2.0 * b) / (1.0 + of_b)
    around = length(y["direction"] + x["direction"])
    across = tanh_b * chord * around * jnp.exp(-a) / (1.0 + of_a)
    before = a < b
    gap, lesser = jnp.where(before, a - b, b - a), jnp.where(before, -of_a, of_b)
    longer = 2.0 * lesser * expm1(2.0 * gap) / ((1.0 + of_a) * (1.0 + of_b))
    along = longer - 0.5 * tanh_b * jnp.square(chord)
    # Only the quotient counts, and the derivative of arctan2 squares both.
    greatest = jax.lax.stop_gradient(jnp.maximum(jnp.abs(across), jnp.abs(along)))
    defined = ~(greatest <= 0.0) & ~(a <= 0.0)
    greatest = jnp.where(defined, greatest, 1.0)
    across, along = jnp.where(defined, across, 0.0), jnp.where(defined, along, 1.0)
    return jnp.arctan2(across / greatest, along / greatest)


def _mapped_polar(x: jax.Array, root: jax.Array) -> dict:
    """`_polar` of the exponential map of a tangent vector."""
    # The map keeps direction and length, so that there is no sinh to take back by arcsinh.
    return {"direction": normalized(x), "radius": jnp.minimum(root * length(x), _GREATEST_RADIUS)}


def _outside(image: dict, text: dict, min_radius: jax.Array) -> jax.Array:
    """By which angle each image is outside of its text's cone (batch)."""
    return jax.nn.relu(_exterior_angle(text, image) - _half_aperture(text["radius"], min_radius))


def entailment(
    image: ArrayLike,
    text: ArrayLike,
    *,
    curvature: Number,
    min_radius: Number = 0.1,
    axis_name: str | None = None,
) -> jax.Array:
    """Does each text entail its image? The mean angle by which images miss their texts' cones.

    mean_i max(0, exterior_angle(t_i, m_i) - half_aperture(t_i)).

    Args:
      image: tangent vectors at the origin (batch, dimension); see `meru`.
      text: tangent vectors at the origin (batch, dimension).
      curvature: c > 0; the space has the curvature -c.
      min_radius: K > 0, as in `half_aperture`.
      axis_name: as in `meru`.

    Returns:
      A scalar, the same on all devices; 0 where every image is within its text's cone.

    Raises:
      TypeError, ValueError: arguments that do not fit, or values out of range.

    Source: MERU (Desai et al., ICML 2023).

    Example:
      >>> import jax.numpy as jnp
      >>> text = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> float(entailment(2 * text, text, curvature=1))
      0.0
      >>> bool(entailment(text, 2 * text, curvature=1) > 3)  # images more general than texts
      True
    """
    image, text = _pair(image, text)
    root = jnp.sqrt(arguments.positive("curvature", curvature, image))
    min_radius = arguments.positive("min_radius", min_radius, image)
    outside = _outside(_mapped_polar(image, root), _mapped_polar(text, root), min_radius)
    return batch_sum(outside, axis_name) / batch_size(len(image), axis_name)


def _softmax_tile(rows: dict, columns: dict, scale: jax.Array):
    logits = -scale * _distances(rows, columns)
    return softmax.sums(logits, labels_of(rows, columns, logits.dtype))


def meru(
    image: ArrayLike,
    text: ArrayLike,
    *,
    logit_scale: Number,
    curvature: Number,
    entailment_weight: Number = 0.2,
    min_radius: Number = 0.1,
    labels: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """MERU's loss of a batch: InfoNCE on hyperbolic distances, and texts that entail their images.

    Half the sum of two softmax cross-entropies, of rows and of columns, with the logits
    -s d(m_i, t_j), plus w times `entailment`. Points are the exponential maps of the vectors.

    Args:
      image: tangent vectors at the origin (batch, dimension), as an encoder gives them after its
        learned scale, not normalized: their length says how specific an input is.
      text: tangent vectors at the origin (batch, dimension).
      logit_scale: s > 0, the inverse temperature; MERU keeps it below 100.
      curvature: c > 0, learned too; the space has the curvature -c. MERU keeps c in 0.1..10.
      entailment_weight: w.
      min_radius: K > 0, as in `half_aperture`.
      labels: match probabilities (batch, batch); by default 1 on the diagonal. A row or column
        without a label counts as 0. Entailed are each image and the first text of its greatest
        label.
      axis_name: within `shard_map`, the axis over which the batch is sharded; labels then have
        this device's rows and all columns.

    Returns:
      A scalar, the same on all devices.

    Raises:
      TypeError, ValueError: arguments that do not fit, or values out of range.

    Source: MERU (Desai et al., ICML 2023); facebookresearch/meru. Labels other than pairs are
    ours.

    Example:
      >>> import jax.numpy as jnp
      >>> text = jnp.eye(2)
      >>> loss = meru(2 * text, text, logit_scale=10, curvature=1)
      >>> bool(loss < 1e-4 < meru(text, 2 * text, logit_scale=10, curvature=1))
      True
    """
    image, text = _pair(image, text)
    scale = arguments.positive("logit_scale", logit_scale, image)
    weight = arguments.not_negative("entailment_weight", entailment_weight, image)
    curvature = arguments.positive("curvature", curvature, image)
    min_radius = arguments.positive("min_radius", min_radius, image)
    labels = check_labels(labels, image, axis_name)
    root = jnp.sqrt(curvature)
    of_image, of_text = (_mapped_polar(x, root) for x in (image, text))
    (text_of_image, label), _ = partners(of_image, of_text, labels, axis_name)
    outside = _outside(of_image, text_of_image, min_radius)
    outside = outside if label is None else jnp.where(label > 0.0, outside, 0.0)
    image, text = (exponential_map(x, curvature=curvature) for x in (image, text))
    rows, columns = with_labels(_lifted(image, root), _lifted(text, root), labels, axis_name)
    both = reduce_pairs(
        _softmax_tile,
        softmax.merge,
        rows,
        columns,
        scale / root,
        has_column_values=True,
        axis_name=axis_name,
    )
    losses = sum((0.5 * softmax.cross_entropy(of) for of in both), weight * outside)
    return batch_sum(losses, axis_name) / batch_size(len(image), axis_name)
