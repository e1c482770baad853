"""SSIM and MS-SSIM: how alike the windows of two images are in light, contrast and structure.

Images are (height, width) or (height, width, channel), channels last, with any
number of channels, each compared by itself: no luminance is extracted. Batches go
through `jax.vmap`. Under `jit` no values are looked at: floats of 0..255 at the
default range give wrong numbers in silence, unless the caller checks by
`jax.experimental.checkify`.

With s = x + y and d = x - y, both formulas need the local means and variances
of s and d alone:

    2 mu_x mu_y      = (mu_s^2 - mu_d^2) / 2        mu_x^2 + mu_y^2   = (mu_s^2 + mu_d^2) / 2
    2 cov_xy         = (var_s - var_d) / 2          var_x + var_y     = (var_s + var_d) / 2

so that luminance and contrast-structure are 1 less a loss that has d as a
factor: four filters instead of five, and exactly 1 where d is 0. Means are taken
of the losses, which float32 resolves better than numbers next to 1, and so that a
loss next to 1, of which little is left, keeps its digits too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from lasi_jax import images
from lasi_jax.means import mean

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""The exponents of the five scales, finest first: Wang, Simoncelli and Bovik 2003."""

_WINDOW, _DEVIATION = 11, 1.5
# (k L)^2 with k of 0.01 and 0.03 and the width L = 2 of [-1, 1].
_LUMINANCE_FLOOR, _CONTRAST_FLOOR = 0.02**2, 0.06**2
_BLOCK = 32


def _band() -> np.ndarray:
    """The window as a matrix (_BLOCK + 10, _BLOCK): column t weighs the elements t to t + 10."""
    offset = np.arange(_BLOCK + _WINDOW - 1)[:, None] - np.arange(_BLOCK)
    from_center = offset - _WINDOW // 2
    inside = (offset >= 0) & (offset < _WINDOW)
    weights = np.where(inside, np.exp(-0.5 * (from_center / _DEVIATION) ** 2), 0.0)
    return weights / weights.sum(0)


_BAND = _band()


def _filter_rows(planes: jax.Array) -> jax.Array:
    """Means of windows along the first of three axes, which the first two then swap.

    Products of blocks and a banded matrix: on a CPU several times as fast as a
    convolution, and so is their gradient; eleven slices match only the value.
    """
    height, width, channels = planes.shape
    reach = _WINDOW - 1
    count = -(-(height - reach) // _BLOCK)
    # One block more than results fill, for windows reach into the next.
    padding = (count + 1) * _BLOCK - height
    blocks = jnp.pad(planes, ((0, padding), (0, 0), (0, 0)))
    blocks = blocks.reshape(count + 1, _BLOCK, width, channels)
    windows = jnp.concatenate([blocks[:-1], blocks[1:, :reach]], 1)
    band = jnp.asarray(_BAND, planes.dtype)
    means = jnp.einsum("brwc,rt->wbtc", windows, band, precision=lax.Precision.HIGHEST)
    return means.reshape(width, -1, channels)[:, : height - reach]


def _filter(planes: jax.Array) -> jax.Array:
    """Means of whole windows: (H, W, C) -> (H - 10, W - 10, C)."""
    return _filter_rows(_filter_rows(planes))


def _moments(planes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance (H - 10, W - 10, C) of every window.

    Variances do not depend on where 0 is, nor do gradients: at each plane's mean
    the least is lost to cancellation.
    """
    shift = lax.stop_gradient(planes.mean((0, 1), keepdims=True))
    # No clamp at 0: what rounding leaves below, some 1e-6, is nothing beside the floor of 0.0036.
    off = _filter(planes - shift)
    return off + shift, _filter(jnp.square(planes - shift)) - jnp.square(off)


# One compilation for each size of image: outside `jit` the dozens of small ones take seconds.
@jax.jit
def _losses(total: jax.Array, difference: jax.Array) -> tuple[jax.Array, jax.Array]:
    """1 - luminance and 1 - contrast-structure (H - 10, W - 10, C) from x + y and x - y."""
    mean_s, variance_s = _moments(total)
    mean_d, variance_d = _moments(difference)
    squares = (jnp.square(mean_s + 2.0) + jnp.square(mean_d)) / 2.0  # black is -1 in both images
    variances = (variance_s + variance_d) / 2.0
    luminance = jnp.square(mean_d) / (squares + _LUMINANCE_FLOOR)
    return luminance, variance_d / (variances + _CONTRAST_FLOOR)


def _both(losses: tuple[jax.Array, jax.Array]) -> jax.Array:
    """1 - luminance * contrast-structure."""
    luminance, contrast_structure = losses
    return luminance + contrast_structure - luminance * contrast_structure


@jax.jit
def _halve(planes: jax.Array) -> jax.Array:
    """Means of 2 x 2; an odd last row or column is repeated first."""
    for axis in (0, 1):
        length = planes.shape[axis]
        if length % 2:
            last = lax.slice_in_dim(planes, length - 1, length, axis=axis)
            planes = jnp.concatenate([planes, last], axis)
        first, second = (lax.slice_in_dim(planes, i, None, 2, axis) for i in (0, 1))
        planes = (first + second) / 2.0
    return planes


def _power(base: jax.Array, exponent: float) -> jax.Array:
    """A power that is 0, with gradient 0, where the base is not positive; NaN stays NaN."""
    # A scale of weight 0 does not count, not even where its mean is cut to 0.
    if exponent == 0.0:
        return jnp.ones_like(base)
    cut = base <= 0.0
    return jnp.where(cut, 0.0, jnp.where(cut, 1.0, base) ** exponent)


def _check_weights(weights: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError):
        numbers = ()
    if not (all(0.0 <= weight < math.inf for weight in numbers) and any(numbers)):
        raise ValueError(
            "weights must be one finite number >= 0 for each scale, at least one of them "
            f"positive, got {weights!r}"
        )
    return numbers


def _enter(x: Any, y: Any, value_range: Any, scales: int = 1) -> tuple[jax.Array, jax.Array]:
    """The sum and difference (height, width, channel) of the images in [-1, 1]."""
    value_range = images.check_value_range(value_range)
    x, y = images.check_pair(x, y, value_range)
    shape = x.shape
    if len(shape) > 3:
        raise ValueError(
            "x and y must have shape (height, width) or (height, width, channel), batches go "
            f"through jax.vmap, got shape {shape}"
        )
    least = (_WINDOW - 1) * 2 ** (scales - 1) + 1
    side = min(shape[:2])
    if side < least:
        fitting = ((side - 1) // (_WINDOW - 1)).bit_length()
        raise ValueError(
            f"x and y must have at least {least} pixels a side for a {_WINDOW} x {_WINDOW} window "
            f"at {scales} scale{'s' * (scales > 1)} (each halving rounds up), got shape {shape}, "
            f"which allows {fitting}" + f" (weights[:{fitting}])" * (fitting > 0)
        )
    pair = images.rescale_pair(x, y, value_range)
    x, y = (image.reshape(*shape[:2], -1) for image in pair)
    return x + y, x - y


def ssim_map(
    x: ArrayLike, y: ArrayLike, *, value_range: tuple[float, float] = (0.0, 1.0)
) -> jax.Array:
    """The structural similarity of two images (H W or H W C, channels last) in every window.

    With means, variances and covariance over a Gaussian window of 11 x 11 and
    deviation 1.5, c1 = (0.01 L)^2 and c2 = (0.03 L)^2,

        (2 mu_x mu_y + c1) / (mu_x^2 + mu_y^2 + c1)    luminance, times
        (2 cov_xy + c2) / (var_x + var_y + c2)         contrast-structure.

    Args:
      x: (height, width) or (height, width, channel); floats in `value_range`, or
        uint8. At least 11 pixels a side. A batch goes through `jax.vmap`. Under `jit` no
        values are looked at: floats of 0..255 at the default range give wrong numbers in
        silence, unless the caller checks by `jax.experimental.checkify`.
      y: an image of the same shape; its dtype may differ.
      value_range: the least and the greatest value of a float image, low and high;
        L = high - low, and `low` is black. uint8 is always read as 0..255.

    Returns:
      (height - 10, width - 10[, channel]), from -1 to 1: whole windows only. Its
      gradient is finite everywhere.

    Raises:
      TypeError: dtypes other than floats of at most 64 bits and uint8, or no array at all.
      ValueError: shapes that differ, other than two or three axes, too small an
        image, or concrete values outside the range or NaN.

    Source: Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 2004, equation 13, with the
    border and the channels of `dm_pix.ssim` (and of `tf.image.ssim`). A range that
    starts elsewhere than at 0 is shifted there first; others leave it in place.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.linspace(0, 1, 16 * 16).reshape(16, 16)
      >>> ssim_map(x, x.T).shape
      (6, 6)
    """
    similarity = 1.0 - _both(_losses(*_enter(x, y, value_range)))
    return similarity[..., 0] if np.ndim(x) == 2 else similarity


def ssim(x: ArrayLike, y: ArrayLike, *, value_range: tuple[float, float] = (0.0, 1.0)) -> jax.Array:
    """The SSIM of two images (H W or H W C, channels last): the mean of `ssim_map`.

    Args:
      x: an image as in `ssim_map`: under `jit` its values are not checked.
      y: an image of the same shape; its dtype may differ.
      value_range: the least and the greatest value of a float image.

    Returns:
      A scalar from -1 to 1, exactly 1 for identical images; float32 resolves
      values near 1 to 6e-8. It is symmetric in x and y and differentiable in both,
      with finite gradients everywhere.

    Raises:
      As `ssim_map`.

    Source: as `ssim_map`.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.linspace(0, 1, 16 * 16).reshape(16, 16)
      >>> float(ssim(x, x)), bool(ssim(x, x.T) < 1)
      (1.0, True)
    """
    loss = _both(_losses(*_enter(x, y, value_range)))
    return 1.0 - mean(loss, tuple(range(loss.ndim)))


def ms_ssim(
    x: ArrayLike,
    y: ArrayLike,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    weights: Sequence[float] = WEIGHTS,
) -> jax.Array:
    """The MS-SSIM of two images (H W or H W C, channels last): similarity over several scales.

    Per channel, with the means over the map of each scale j of S,

        (mean luminance_S contrast_structure_S)^w_S  prod_{j<S} (mean contrast_structure_j)^w_j

    and then the mean over channels. A scale halves the one before it by means of
    2 x 2, where an odd last row or column counts twice.

    Args:
      x: an image as in `ssim_map`, of at least 10 * 2^(S - 1) + 1 pixels a side: 161
        for five scales. At 64 x 64 three fit: `weights=WEIGHTS[:3]`. Under `jit` its
        values are not checked.
      y: an image of the same shape; its dtype may differ.
      value_range: the least and the greatest value of a float image.
      weights: the exponents w, finest scale first, one for each scale. They are
        taken as they are, not divided by their sum: the five published ones add up
        to 1.0001, and the first three to 0.6305, so that values from different
        numbers of scales are not comparable.

    Returns:
      A scalar from 0 to 1, exactly 1 for identical images; float32 resolves values
      near 1 to 6e-8. Means below 0 count as 0, and have a gradient of 0. It is
      symmetric in x and y and differentiable in both, with finite gradients
      everywhere.

    Raises:
      TypeError: as `ssim_map`.
      ValueError: as `ssim_map`, and weights that are empty, negative, not finite or
        all 0.

    Source: Wang, Simoncelli and Bovik, Asilomar 2003, equation 7. Means below 0, of
    which the paper says nothing, and odd sides as in `tf.image.ssim_multiscale`.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.linspace(0, 1, 32 * 32).reshape(32, 32)
      >>> float(ms_ssim(x, x, weights=WEIGHTS[:2])), bool(ms_ssim(x, x.T, weights=(0.5, 0.5)) < 1)
      (1.0, True)
    """
    weights = _check_weights(weights)
    total, difference = _enter(x, y, value_range, len(weights))
    product = jnp.ones(total.shape[-1], total.dtype)
    for weight in weights[:-1]:
        _, loss = _losses(total, difference)
        product = product * _power(1.0 - mean(loss, (0, 1)), weight)
        total, difference = _halve(total), _halve(difference)
    loss = _both(_losses(total, difference))
    product = product * _power(1.0 - mean(loss, (0, 1)), weights[-1])
    return 1.0 - (1.0 - product).mean()
