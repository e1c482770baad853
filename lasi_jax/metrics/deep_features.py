"""Distances and losses between two images by what a network sees in them.

The network is any function `features`: image -> list or tuple of feature maps
(height, width, channel), layer by layer; a trained one is
`functools.partial(squeezenet.features, parameters=parameters)`. x and y are
handed to it as they are: value range and layout are its business, and every
function here is differentiable in x and y as far as it is. Those that come with this
package take one image, (height, width, 3), channels last; a batch goes through
`jax.vmap`, and under `jit` they do not look at the values: floats of 0..255 at the
default range give wrong numbers in silence, unless the caller checks by
`jax.experimental.checkify`.

Maps of half precision are compared in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from numpy.typing import ArrayLike

from lasi_jax import images
from lasi_jax.means import mean

Features = Callable[[Any], Sequence[jax.Array]]

# What the release of LPIPS adds to the norm of a feature vector.
_NORM_OFFSET = 1e-10


def _is_array(values: Any) -> bool:
    return hasattr(values, "dtype") and hasattr(values, "shape")


def _check_image(name: str, image: Any) -> Any:
    values = images.as_array(name, image)
    if len(values.shape) < 2 or 0 in values.shape:
        raise ValueError(
            f"{name} must have at least two axes, none of them empty, got shape {values.shape}"
        )
    real = jnp.issubdtype(values.dtype, jnp.floating)
    if real and not images.is_floating(values.dtype):
        raise TypeError(f"{name} must have at most 64 bits, got dtype {values.dtype}")
    if isinstance(values, Tracer):
        if real:
            images.check_traced(f"{name} must hold no NaN", values, -math.inf, math.inf)
    elif jnp.issubdtype(values.dtype, jnp.inexact):
        if bad := int(np.isnan(np.asarray(values)).sum()):
            raise ValueError(f"{name} must hold no NaN, got {bad} of them")
    return values


def _check_map(name: str, layer: int, planes: Any) -> jax.Array:
    planes = images.as_array(f"layer {layer}", planes) if _is_array(planes) else planes
    if not _is_array(planes) or not images.is_floating(planes.dtype):
        got = f"dtype {planes.dtype}" if _is_array(planes) else type(planes).__name__
        raise TypeError(f"layer {layer} of features({name}) must be a floating array, got {got}")
    if len(planes.shape) != 3 or 0 in planes.shape:
        raise ValueError(
            f"layer {layer} of features({name}) must have shape (height, width, channel), "
            f"no axis empty, got shape {planes.shape}"
        )
    return jnp.asarray(planes)


def _maps(name: str, image: Any, features: Features) -> list[jax.Array]:
    maps = features(image)
    if not isinstance(maps, list | tuple):
        raise TypeError(
            f"features must return a list or tuple of feature maps, got {type(maps).__name__}"
        )
    if not maps:
        raise ValueError(f"features must return at least one feature map, got {maps!r}")
    return [_check_map(name, layer, planes) for layer, planes in enumerate(maps)]


def _layers(x: Any, y: Any, features: Features) -> list[tuple[jax.Array, jax.Array]]:
    """The maps of x and of y layer by layer, all in one precision."""
    x, y = _check_image("x", x), _check_image("y", y)
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {x.shape} and {y.shape}")
    if not callable(features):
        raise TypeError(f"features must be a function, got {type(features).__name__}")
    of_x, of_y = _maps("x", x, features), _maps("y", y, features)
    shapes = [[planes.shape for planes in maps] for maps in (of_x, of_y)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "features must return as many maps, of the same shapes, for y as for x, "
            f"got {shapes[1]} and {shapes[0]}"
        )
    double = any(planes.dtype == jnp.float64 for planes in of_x + of_y)
    dtype = jnp.float64 if double else jnp.float32
    return [(a.astype(dtype), b.astype(dtype)) for a, b in zip(of_x, of_y, strict=True)]


def _check_head(layer: int, head: Any, channels: int) -> Any:
    head = images.as_array(f"the head of layer {layer}", head) if _is_array(head) else head
    if not _is_array(head) or not images.is_floating(head.dtype):
        got = f"dtype {head.dtype}" if _is_array(head) else type(head).__name__
        raise TypeError(
            f"the head of layer {layer} must be a floating array of at most 64 bits, got {got}"
        )
    if head.shape != (channels,):
        raise ValueError(
            f"the head of layer {layer} must have the shape ({channels},) of the layer's "
            f"channels, got {head.shape}"
        )
    rule = f"the head of layer {layer} must be finite and non-negative"
    if isinstance(head, Tracer):
        largest = float(jnp.finfo(head.dtype).max)
        images.check_traced(rule, head, 0.0, largest)
    else:
        values = np.asarray(head)
        wrong = values[~(np.isfinite(values) & (values >= 0))]
        if wrong.size:
            raise ValueError(f"{rule}, got {wrong[0]:g}")
    return head


def _differences(x: Any, y: Any, features: Features, heads: Any) -> list[jax.Array]:
    """Per layer (height, width): the weighted squared difference of the directions."""
    layers = _layers(x, y, features)
    if heads is None:
        weights = [jnp.ones_like(of_x[0, 0]) for of_x, _ in layers]
    elif not isinstance(heads, list | tuple):
        raise TypeError(f"heads must be a list or tuple of arrays, got {type(heads).__name__}")
    elif len(heads) != len(layers):
        raise ValueError(
            f"heads must be as many as the layers of features, {len(layers)}, got {len(heads)}"
        )
    else:
        weights = [
            jnp.asarray(_check_head(layer, head, of_x.shape[-1])).astype(of_x.dtype)
            for layer, (head, (of_x, _)) in enumerate(zip(heads, layers, strict=True))
        ]
    return [
        jnp.sum(head[None, None] * jnp.square(_direction(of_x) - _direction(of_y)), -1)
        for head, (of_x, of_y) in zip(weights, layers, strict=True)
    ]


def _direction(planes: jax.Array) -> jax.Array:
    """Feature vectors f / (|f| + 1e-10); 0, and their gradient 0, where |f| is lost in the sum.

    There the formula is below rounding as well, but the root's gradient is no number at 0,
    and in float32 its second one overflows next to it.
    """
    least = _NORM_OFFSET * float(jnp.finfo(planes.dtype).eps)
    squared = jnp.sum(jnp.square(planes), -1, keepdims=True)
    vanishes = squared < least**2
    norm = jnp.sqrt(jnp.where(vanishes, 1.0, squared))
    return jnp.where(vanishes, 0.0, planes / (norm + _NORM_OFFSET))


def _gram(planes: jax.Array) -> jax.Array:
    """(channel, channel): how the channels of a map occur together, divided by its size."""
    product = jnp.einsum("hwc,hwd->cd", planes, planes, precision=lax.Precision.HIGHEST)
    return product / planes.size


def _total(terms: list[jax.Array]) -> jax.Array:
    return jnp.sum(jnp.stack(terms), 0)


def distance(
    x: ArrayLike, y: ArrayLike, *, features: Features, heads: Sequence[ArrayLike] | None = None
) -> jax.Array:
    """LPIPS of two images (H W C, channels last): how far apart their features' directions are.

    With f^ = f / (|f|_2 + 1e-10) over the channels of layer l at element (h, w),

        d(x, y) = sum_l 1 / (H_l W_l) sum_hw sum_c w_lc (f^_lhwc(x) - f^_lhwc(y))^2

    Args:
      x: an image as `features` wants it, of at least two axes; of the package's networks,
        (height, width, 3), whose values are not checked under `jit`.
      y: an image of the same shape.
      features: image -> list or tuple of feature maps (height, width, channel).
      heads: one non-negative array (channel,) per layer, w; by default ones.

    Returns:
      A scalar, at least 0, and 0 for identical images. Gradients in x, y and the
      heads are finite wherever those of `features` are; a feature vector of
      length 0 has direction 0, and its gradient is 0.

    Raises:
      TypeError: no array, no function, features that return no list or tuple of
        floating arrays, or heads that are none.
      ValueError: shapes that differ, of images or of their maps, fewer than two axes,
        an empty axis, maps that are not (height, width, channel), heads of another
        number or shape, and concrete values that are NaN (x, y, heads), infinite or
        negative (heads).

    Source: Zhang et al., CVPR 2018, equation 1; the sum over channels and the offset
    of the norm are the release's. There w is "lin"; ones are its "baseline". The
    weights of version 0.1 are read by `lpips_heads.load`.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([[[3.0, 4.0]]]), jnp.array([[[0.0, 2.0]]])
      >>> round(float(distance(x, y, features=lambda image: [image])), 4)
      0.4
      >>> float(distance(x, x, features=lambda image: [image]))
      0.0

      LPIPS of AlexNet, whose files `trunks` and `lpips_heads` tell how to write:

      >>> import functools
      >>> from lasi_jax.networks import lpips_heads, trunks
      >>> parameters = trunks.load("alexnet.safetensors")  # doctest: +SKIP
      >>> features = functools.partial(trunks.features, parameters=parameters)  # doctest: +SKIP
      >>> heads = lpips_heads.load("alex.safetensors", network="alexnet")  # doctest: +SKIP
      >>> distance(x, y, features=features, heads=heads)  # doctest: +SKIP
    """
    return _total([mean(layer, (0, 1)) for layer in _differences(x, y, features, heads)])


def distance_map(
    x: ArrayLike, y: ArrayLike, *, features: Features, heads: Sequence[ArrayLike] | None = None
) -> jax.Array:
    """LPIPS of two images (H W C, channels last), element by element: where it comes from.

    Each layer's weighted difference (H_l, W_l) is brought to the image's size by
    bilinear interpolation between the centres of its elements, and the layers are
    added up. The mean is `distance` where the image's sides are multiples of the
    layers' sides.

    Args:
      x: an image (height, width, ...), as `features` wants it; of the package's networks,
        (height, width, 3), whose values are not checked under `jit`.
      y: an image of the same shape.
      features: as in `distance`.
      heads: as in `distance`.

    Returns:
      (height, width), at least 0.

    Raises:
      As `distance`.

    Source: the release of Zhang et al., CVPR 2018, option `spatial`.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.zeros((4, 4, 3)), jnp.ones((4, 4, 3))
      >>> distance_map(x, y, features=lambda image: [image[::2, ::2]]).shape
      (4, 4)
    """
    layers = _differences(x, y, features, heads)
    size = np.shape(x)[:2]
    return _total([jax.image.resize(layer, size, "linear", antialias=False) for layer in layers])


def feature_reconstruction(x: ArrayLike, y: ArrayLike, *, features: Features) -> jax.Array:
    """The feature loss (Johnson et al.) of two images (H W C): mean squares of feature differences.

        sum_l |f_l(x) - f_l(y)|_2^2 / (C_l H_l W_l)

    Args:
      x: an image as `features` wants it, of at least two axes; of the package's networks,
        (height, width, 3), whose values are not checked under `jit`.
      y: an image of the same shape.
      features: image -> list or tuple of feature maps (height, width, channel).

    Returns:
      A scalar, at least 0.

    Raises:
      As `distance`.

    Source: Johnson, Alahi and Fei-Fei, ECCV 2016, section 3.2; layers added with
    weight 1.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.zeros((4, 4, 3)), jnp.full((4, 4, 3), 2.0)
      >>> float(feature_reconstruction(x, y, features=lambda image: [image]))
      4.0
    """
    layers = _layers(x, y, features)
    return _total([mean(jnp.square(of_x - of_y), (0, 1, 2)) for of_x, of_y in layers])


def style_reconstruction(x: ArrayLike, y: ArrayLike, *, features: Features) -> jax.Array:
    """The style loss (Johnson et al.) of two images (H W C): how else features occur together.

    It compares the Gram matrices of the maps, which do not tell where a feature is:

        G_l(x)_cd = sum_hw f_lhwc(x) f_lhwd(x) / (C_l H_l W_l)
        sum_l |G_l(x) - G_l(y)|_F^2

    Args:
      x: an image as `features` wants it, of at least two axes; of the package's networks,
        (height, width, 3), whose values are not checked under `jit`.
      y: an image of the same shape.
      features: image -> list or tuple of feature maps (height, width, channel).

    Returns:
      A scalar, at least 0.

    Raises:
      As `distance`.

    Source: Johnson, Alahi and Fei-Fei, ECCV 2016, section 3.2; layers added with
    weight 1.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.zeros((2, 2, 1)), jnp.full((2, 2, 1), 2.0)
      >>> float(style_reconstruction(x, y, features=lambda image: [image]))
      16.0
    """
    layers = _layers(x, y, features)
    return _total([jnp.sum(jnp.square(_gram(of_x) - _gram(of_y))) for of_x, of_y in layers])


def deepsim(x: ArrayLike, y: ArrayLike, *, features: Features) -> jax.Array:
    """The feature loss of DeePSiM of two images (H W C): squared distances of feature maps.

        sum_l |f_l(x) - f_l(y)|_2^2

    A sum, no mean: it grows with the size of the image. The other two terms of
    DeePSiM are not part of it, neither the adversarial one, which needs a
    discriminator in training, nor the squared distance of the images themselves.

    Args:
      x: an image as `features` wants it, of at least two axes; of the package's networks,
        (height, width, 3), whose values are not checked under `jit`.
      y: an image of the same shape.
      features: image -> list or tuple of feature maps (height, width, channel).

    Returns:
      A scalar, at least 0.

    Raises:
      As `distance`.

    Source: Dosovitskiy and Brox, NIPS 2016, the loss in feature space; their
    comparator is one layer.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.zeros((4, 4, 3)), jnp.full((4, 4, 3), 2.0)
      >>> float(deepsim(x, y, features=lambda image: [image]))
      192.0
    """
    layers = _layers(x, y, features)
    return _total([jnp.sum(jnp.square(of_x - of_y)) for of_x, of_y in layers])
