"""What networks of convolutions are made of, and how an image enters them.

Planes are (height, width, channel). The poolings are by slices, axis by axis:
several times as fast as XLA's windows on a CPU, their gradient about ten times, and
differentiable twice. Equals share the gradient.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from lasi_jax import images

# Of RGB values in [0, 1], over ImageNet.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class Convolution(NamedTuple):
    """A weight (height, width, in, out) and a bias (out,)."""

    weight: jax.Array
    bias: jax.Array


def from_file(weight: np.ndarray, bias: np.ndarray) -> Convolution:
    """A convolution from a weight (out, in, height, width), as files have it."""
    return Convolution(jnp.asarray(weight.transpose(2, 3, 1, 0)), jnp.asarray(bias))


def _draw(key: jax.Array, shapes: tuple) -> dict[str, Convolution]:
    """All weights out of one draw."""
    ends = np.cumsum([math.prod(shape) for _, shape in shapes])
    drawn = jax.random.uniform(key, (int(ends[-1]),), jnp.float32, -1.0, 1.0)
    convolutions = {}
    for (name, shape), values in zip(shapes, jnp.split(drawn, ends[:-1]), strict=True):
        bound = math.sqrt(6.0 / math.prod(shape[1:]))
        weight = bound * values.reshape(shape).transpose(2, 3, 1, 0)
        convolutions[name] = Convolution(weight, jnp.zeros(shape[0], jnp.float32))
    return convolutions


# Compiled once per network; outside `jit` every one of its hundred operations would be.
_compiled_draw = jax.jit(_draw, static_argnums=1)


def initialize(
    key: jax.Array, *, shapes: Mapping[str, tuple[int, int, int, int]]
) -> dict[str, Convolution]:
    """Random convolutions: weights uniform in +-sqrt(6 / fan-in), hence of variance 2 / fan-in.

    Args:
      key: of the weights.
      shapes: (out, in, height, width) by name.

    Returns:
      `Convolution`s in float32 by name; biases are 0.

    Source: He et al., ICCV 2015, equation 10, uniform instead of normal.

    Example:
      >>> drawn = initialize(jax.random.key(0), shapes={"conv1": (64, 3, 7, 5)})
      >>> drawn["conv1"].weight.shape
      (7, 5, 3, 64)
    """
    return _compiled_draw(key, tuple(shapes.items()))


def convolve(
    planes: jax.Array, convolution: Convolution, *, stride: int = 1, padding: int = 0
) -> jax.Array:
    """The sums planes * weight + bias, within a frame of zeros."""
    # By default accelerators round to bfloat16 or TF32, and a distance would depend on the device.
    convolved = lax.conv_general_dilated(
        planes[None],
        convolution.weight,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    return convolved[0] + convolution.bias[None, None]


def convolve_relu(
    planes: jax.Array, convolution: Convolution, *, stride: int = 1, padding: int = 0
) -> jax.Array:
    """The same after its ReLU: max(planes * weight + bias, 0)."""
    return jax.nn.relu(convolve(planes, convolution, stride=stride, padding=padding))


def _greatest(planes: jax.Array, size: int) -> jax.Array:
    """Of size x size at every second element, windows that lie inside."""
    for axis in (0, 1):
        reach = planes.shape[axis] - size + 1
        windows = [lax.slice_in_dim(planes, i, i + reach, 2, axis) for i in range(size)]
        planes = functools.reduce(jnp.maximum, windows)
    return planes


def pool_2x2(planes: jax.Array) -> jax.Array:
    """The greatest of 2x2, at every second element; what is over at the edge is dropped."""
    return _greatest(planes, 2)


def pool_3x3(planes: jax.Array) -> jax.Array:
    """The greatest of 3x3, at every second element; what is over at the edge is dropped."""
    return _greatest(planes, 3)


def pool_3x3_over_the_edge(planes: jax.Array) -> jax.Array:
    """The greatest of 3x3, at every second element; the last window may reach over the edge."""
    for axis in (0, 1):
        length = planes.shape[axis]
        if length % 2 == 0:
            # One row is missing, and a copy of the last changes no maximum.
            last = lax.slice_in_dim(planes, length - 1, length, axis=axis)
            planes = jnp.concatenate([planes, last], axis)
    return _greatest(planes, 3)


def enter(
    image: ArrayLike,
    *,
    mean: jax.Array,
    deviation: jax.Array,
    value_range: tuple[float, float],
    smallest: int,
    network: str,
) -> jax.Array:
    """An image as a network's first convolution wants it: (values in [0, 1] - mean) / deviation.

    Args:
      image: (height, width, 3), RGB; floats in `value_range`, or uint8.
      mean: (3,), of RGB values in [0, 1].
      deviation: (3,).
      value_range: the least and the greatest value of a float image.
      smallest: the least height and width.
      network: what it enters, for the error.

    Returns:
      (height, width, 3) in the precision of mean.

    Raises:
      TypeError: dtypes other than floats and uint8, or no array.
      ValueError: another shape, too small an image, or concrete values outside the
        range or NaN.

    Source: torchvision, `transforms.Normalize` of its models trained on ImageNet.

    Example:
      >>> mean, deviation = jnp.array(MEAN), jnp.array(DEVIATION)
      >>> options = {"mean": mean, "deviation": deviation, "smallest": 1, "network": "a network"}
      >>> black = enter(np.zeros((1, 1, 3), np.uint8), value_range=(0, 1), **options)
      >>> bool(jnp.allclose(black[0, 0], -mean / deviation))
      True
    """
    value_range = images.check_value_range(value_range)
    image = images.check_image("image", image, value_range)
    if image.ndim != 3 or image.shape[-1] != 3 or min(image.shape[:2]) < smallest:
        raise ValueError(
            "image must have shape (height, width, 3), RGB, with height and width at least "
            f"{smallest} for {network}, got shape {image.shape}"
        )
    low, high = images.range_of(image, value_range)
    scaled = (image.astype(mean.dtype) - low) / (high - low)
    return (scaled - mean[None, None]) / deviation[None, None]


def check_layers(layers: Any, known: Sequence[str]) -> tuple[str, ...]:
    """The names of layers asked for, or one error that tells those known."""
    named = isinstance(layers, tuple | list) and all(name in known for name in layers)
    if not named or not layers:
        raise ValueError(f"layers must be names out of {', '.join(known)}, got {layers!r}")
    return tuple(layers)


def select(maps: Iterable[tuple[str, jax.Array]], layers: Sequence[str]) -> tuple[jax.Array, ...]:
    """The maps of some layers, in their order; what comes after the last is not asked for."""
    found: dict[str, jax.Array] = {}
    for name, planes in maps:
        found[name] = planes
        if found.keys() >= set(layers):
            break
    return tuple(found[name] for name in layers)
