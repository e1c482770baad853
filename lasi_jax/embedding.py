"""An image as one vector per element: how its neighbours predict it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from lasi_jax import images
from lasi_jax.batching import zero
from lasi_jax.wls import derivatives
from lasi_jax.wls.regression import Regression, neighbor_values

# Both from the released code: the ridge belongs to values in [-1, 1], and the
# offset gives a direction to coefficients that are all zero.
DECAY = 0.8
RIDGE = 80.0 / 127.5
OFFSET = 1e-6


# One program per shape and options: eagerly, every step of it would be compiled by itself.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled_coefficients(
    options: Regression, value_range: tuple[float, float], image: jax.Array, mask: jax.Array | None
) -> jax.Array:
    scaled = images.rescale(image, value_range)
    compact = scaled.reshape(images.compact_shape(image.shape))
    weights = None
    if mask is not None:
        weights = images.repeated(mask, scaled).reshape(compact.shape)
        nothing = zero(compact, weights)
        compact, weights = compact + nothing, weights + nothing
    of_one = None if weights is None else weights[None]
    (theta,) = derivatives.coefficients(options, compact[None], of_one)
    theta = theta.reshape(-1, *image.shape)
    return jnp.moveaxis(theta, 0, -1)


@jax.jit
def _compiled_embedding(theta: jax.Array) -> jax.Array:
    return jnp.stack(normalize([theta[..., k] for k in range(theta.shape[-1])]), -1)


@functools.partial(jax.jit, static_argnums=0)
def _compiled_prediction(
    value_range: tuple[float, float], image: jax.Array, theta: jax.Array
) -> jax.Array:
    low, high = images.range_of(image, value_range)
    scaled, n = images.rescale(image, value_range), theta.shape[-1]
    phi = neighbor_values(scaled.reshape(1, *images.compact_shape(image.shape)), n)
    phi = phi.reshape(-1, *image.shape)
    predicted = jnp.stack([theta[..., k] * phi[k] for k in range(n)]).sum(0)
    return (predicted + 1.0) * (0.5 * (high - low)) + low


def normalize(planes: list[jax.Array]) -> list[jax.Array]:
    """(theta + 1e-6) / |theta + 1e-6|, with theta given as planes."""
    shifted = [plane + OFFSET for plane in planes]
    # No guard: it is 0 only where every coefficient is the offset's negative to the last bit.
    norm = jnp.sqrt(sum(plane * plane for plane in shifted))
    return [plane / norm for plane in shifted]


def coefficients(
    image: ArrayLike,
    *,
    neighborhood_size: int = 10,
    value_range: tuple[float, float] = (0.0, 1.0),
    mask: ArrayLike | None = None,
    decay: float = DECAY,
    ridge: float = RIDGE,
    prior: float = 0.0,
    volume: bool = False,
) -> jax.Array:
    """An image's (H W or H W C, channels last) weighted least squares solution at every element.

    Element t is predicted from its N nearest earlier elements; with phi_j the
    neighbourhood values of element j and x_j its value, both in [-1, 1], and with
    p = prior / N for each of the N,

        theta_t = (sum_{j<t} w_jt phi_j phi_j^T + ridge I)^{-1} (sum_{j<t} w_jt x_j phi_j + ridge p)
        w_jt = mask_j decay^|j - t|_1

    Where the values are near the middle of their range they are near 0 in [-1, 1], and so
    are both sums. By default nothing else is there: in even areas of middle grey noise alone
    gives theta its direction. With `prior=1.0` it is the mean of the neighbours there.

    Args:
      image: (height, width) or (height, width, channel), and any more axes with `volume`;
        floats in `value_range`, or uint8. Every axis counts alike in the L1 distance, the
        channel too, so that (channel, height, width) gives other numbers. A batch goes
        through `jax.vmap`.
      neighborhood_size: N, the number of elements that predict one, at most 64. Its program
        compiles in seconds for N = 10. Where no native kernel runs, the solve is unrolled:
        ten seconds for 24, minutes for 64.
      value_range: the least and the greatest value of a float image. uint8 is
        always read as 0..255. Under `jit` no values are looked at: floats of 0..255
        at the default range give wrong numbers in silence, unless the caller checks
        by `jax.experimental.checkify`.
      mask: weights from 0 to 1 of the image's shape (or 1 along repeated axes). An
        element of weight 0 teaches nothing: its term is absent from the sums.
        It is still seen: its value remains in its neighbours' phi.
      decay: weight of an example per unit of distance.
      ridge: added to the diagonal; on the scale of values in [-1, 1].
      prior: the sum of the coefficients to which the ridge pulls: the weighted sum of
        squares plus ridge |theta - p|^2 is least. 0.0, the default, is the released
        definition; 1.0 is the mean of the N neighbours.
      volume: whether an image of four axes or more (D H W C, ...) is one image.

    Returns:
      image.shape + (N,), in the image's precision (float32 for uint8 and half
      precision, float64 where it is enabled for them).

    Raises:
      TypeError: dtypes other than floats of at most 64 bits and uint8, or no array at all.
      ValueError: fewer than two axes, more than three without `volume`, an empty axis, N
        not in 1..64 or not below the number of elements, options out of range, or concrete
        values outside the range or NaN.

    Source: Severo, Theis and Ballé, ICLR 2024, section 3, as in the released
    code (commit bcac40c), except that the ridge system is solved exactly
    instead of by a float32 pseudo-inverse with a cut-off. The prior is ours.

    Example:
      >>> import jax.numpy as jnp
      >>> coefficients(jnp.ones((8, 8, 3)), neighborhood_size=4).shape
      (8, 8, 3, 4)
    """
    value_range = images.check_value_range(value_range)
    image = images.check_image("image", image, value_range)
    images.check_layout("image", image.shape, volume)
    options = images.check_options(image.shape, neighborhood_size, decay, ridge, prior)
    mask = images.check_mask(mask, image.shape, images.precision(image))
    return _compiled_coefficients(options, value_range, image, mask)


def embedding(image: ArrayLike, **options: Any) -> jax.Array:
    """An image (H W or H W C, channels last) as a unit vector at every element.

    The coefficients plus 1e-6, divided by their L2 norm. In even areas of middle grey noise
    gives them their direction, unless `prior` does.

    Args:
      image: as in `coefficients`: under `jit` its values are not checked.
      **options: the options of `coefficients`.

    Returns:
      image.shape + (N,), unit vectors along the last axis.

    Raises:
      As `coefficients`.

    Source: Severo, Theis and Ballé, ICLR 2024, and the released code.

    Example:
      >>> import jax.numpy as jnp
      >>> e = embedding(jnp.ones((8, 8, 3)), neighborhood_size=4)
      >>> bool(jnp.allclose(jnp.linalg.norm(e, axis=-1), 1, atol=1e-6))
      True
    """
    return _compiled_embedding(coefficients(image, **options))


def prediction(
    image: ArrayLike,
    *,
    neighborhood_size: int = 10,
    value_range: tuple[float, float] = (0.0, 1.0),
    **options: Any,
) -> jax.Array:
    """The linear prediction of every element of an image (H W or H W C, channels last).

    It is theta_t . phi_t, of `coefficients` and the values of the neighbours. In even areas
    of middle grey theta is near 0, or with `prior=1.0` near the mean of the neighbours: the
    prediction is right both times.

    Args:
      image: as in `coefficients`: under `jit` its values are not checked.
      neighborhood_size: as in `coefficients`.
      value_range: as in `coefficients`.
      **options: the other options of `coefficients`.

    Returns:
      image.shape, in the units of the image (0..255 for uint8).

    Raises:
      As `coefficients`.

    Source: Severo, Theis and Ballé, ICLR 2024, equation of the linear predictor.

    Example:
      >>> import jax.numpy as jnp
      >>> stripes = jnp.tile(jnp.array([0.2, 0.8]), (16, 8))
      >>> bool(abs(prediction(stripes)[-1, -1] - 0.8) < 0.02)
      True
    """
    value_range = images.check_value_range(value_range)
    image = images.check_image("image", image, value_range)
    theta = coefficients(
        image, neighborhood_size=neighborhood_size, value_range=value_range, **options
    )
    return _compiled_prediction(value_range, image, theta)
