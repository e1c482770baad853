"""How far apart two images are: the distance of their embeddings."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from lasi_jax import images
from lasi_jax.batching import zero
from lasi_jax.embedding import DECAY, RIDGE
from lasi_jax.separation import separation_map, weighted_sum
from lasi_jax.wls.regression import Regression


def _learnt_the_same(x: jax.Array, y: jax.Array) -> jax.Array:
    """Where all earlier elements of x and y are equal, and hence, exactly, the embeddings."""
    differs = (x != y).reshape(-1)
    place = jnp.arange(differs.size)
    # `argmax` would find it too, but is slower on a CPU.
    first = jnp.min(jnp.where(differs, place, differs.size))
    # That element too: it is not among its own examples.
    return (place <= first).reshape(x.shape)


def _prepared(value_range, x, y, mask):
    """Images in [-1, 1] and weights or None, of one compact shape, with an axis of one image.

    And what counts of every element: its weight, 0 where the two images have learnt the same.
    """
    x, y = images.rescale_pair(x, y, value_range)
    counts = jnp.where(_learnt_the_same(x, y), 0.0, jnp.ones_like(x))
    weights = None if mask is None else images.repeated(mask, x)
    counts = counts if weights is None else counts * weights
    shape = (1, *images.compact_shape(x.shape))
    given = [a.reshape(shape) for a in (x, y, counts, weights) if a is not None]
    nothing = zero(*given)
    x, y, counts, *weights = (a + nothing for a in given)
    return x, y, weights[0] if weights else None, counts


# One program per shape and options: eagerly, every step of it would be compiled by itself.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled_map(
    options: Regression,
    value_range: tuple[float, float],
    x: jax.Array,
    y: jax.Array,
    mask: jax.Array | None,
) -> jax.Array:
    *arguments, counts = _prepared(value_range, x, y, mask)
    (separation,) = separation_map(options, *arguments)
    return jnp.where(counts == 0.0, 0.0, separation).reshape(x.shape)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled_mean(options, value_range, x, y, mask) -> jax.Array:
    *arguments, counts = _prepared(value_range, x, y, mask)
    weights = arguments[2]
    total = counts.size if weights is None else jnp.sum(weights)
    # Under `jit` nobody refuses a mask that is 0 throughout: it gives 0, not NaN.
    return weighted_sum(options, *arguments, counts / jnp.where(total > 0.0, total, 1.0))


def _checked(x, y, *, neighborhood_size, value_range, mask, decay, ridge, prior, volume):
    """The arguments of the compiled functions."""
    value_range = images.check_value_range(value_range)
    x, y = images.check_pair(x, y, value_range)
    images.check_layout("x and y", x.shape, volume)
    options = images.check_options(x.shape, neighborhood_size, decay, ridge, prior)
    mask = images.check_mask(mask, x.shape, images.precision(x, y))
    return options, value_range, x, y, mask


def distance_map(
    x: ArrayLike,
    y: ArrayLike,
    *,
    neighborhood_size: int = 10,
    value_range: tuple[float, float] = (0.0, 1.0),
    mask: ArrayLike | None = None,
    decay: float = DECAY,
    ridge: float = RIDGE,
    prior: float = 0.0,
    volume: bool = False,
) -> jax.Array:
    """The LASI distance of two images (H W or H W C, channels last) at every element.

    It is |e_x - e_y|_2, of the embeddings. In even areas of middle grey noise gives these
    their direction: noise that nobody sees reads as a large distance there, and gradients are
    hundreds of times as large as elsewhere, unless `prior=1.0`.

    Args:
      x: an image as in `coefficients`. A batch goes through `jax.vmap`. Under `jit` no values
        are looked at: floats of 0..255 at the default range give wrong numbers in silence,
        unless the caller checks by `jax.experimental.checkify`.
      y: an image of the same shape; its dtype may differ.
      neighborhood_size: N, the number of elements that predict one.
      value_range: the least and the greatest value of a float image.
      mask: weights from 0 to 1 of the images' shape (or 1 along repeated axes).
        An element of weight 0 neither teaches (its term is absent from the sums of
        both images) nor counts (its distance reads 0). Its value is still
        seen by the elements it is a neighbour of.
      decay: weight of an example per unit of distance.
      ridge: added to the diagonal; on the scale of values in [-1, 1].
      prior: the sum of the coefficients to which the ridge pulls, as in `coefficients`: 0.0 as
        released, 1.0 against noise at middle grey.
      volume: whether images of four axes or more (D H W C, ...) are one image each.

    Returns:
      x.shape, values from 0 to 2. The gradient is finite everywhere, and 0 at
      elements where the two embeddings coincide.

    Raises:
      TypeError: dtypes other than floats of at most 64 bits and uint8, or no array at all.
      ValueError: shapes that differ, fewer than two axes, more than three without `volume`,
        an empty axis, N not in 1..64 or not below the number of elements, options out of
        range, or concrete values outside the range or NaN.

    Source: Severo, Theis and Ballé, ICLR 2024; see `coefficients`.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.linspace(0, 1, 64).reshape(8, 8)
      >>> distance_map(x, x.T).shape
      (8, 8)
    """
    checked = _checked(
        x,
        y,
        neighborhood_size=neighborhood_size,
        value_range=value_range,
        mask=mask,
        decay=decay,
        ridge=ridge,
        prior=prior,
        volume=volume,
    )
    return _compiled_map(*checked)


def distance(
    x: ArrayLike,
    y: ArrayLike,
    *,
    neighborhood_size: int = 10,
    value_range: tuple[float, float] = (0.0, 1.0),
    mask: ArrayLike | None = None,
    decay: float = DECAY,
    ridge: float = RIDGE,
    prior: float = 0.0,
    volume: bool = False,
) -> jax.Array:
    """The LASI distance of two images (H W or H W C, channels last): the mean of `distance_map`.

    With a mask m it is sum_t m_t d_t / sum_t m_t, and m also weights the sums
    of the regression, as in `distance_map`.

    It does not tell an image from its negative: turning the sign of all values in [-1, 1]
    leaves the embedding as it was, so that the negative of a photograph is nearer to it than
    any visible distortion. And it is singular at middle grey: even areas near the middle of
    the range, 127.5 of 255, have only noise to learn from. One level of noise on an even patch
    scores some .003 at grey 64 or 140, and .2 at 127; with `prior=1.0` it scores .003 everywhere.

    Args:
      x: an image as in `coefficients`. A batch goes through `jax.vmap`. Under `jit` no values
        are looked at: floats of 0..255 at the default range give wrong numbers in silence,
        unless the caller checks by `jax.experimental.checkify`.
      y: an image of the same shape; its dtype may differ.
      neighborhood_size: N, the number of elements that predict one.
      value_range: the least and the greatest value of a float image.
      mask: as in `distance_map`.
      decay: weight of an example per unit of distance.
      ridge: added to the diagonal; on the scale of values in [-1, 1].
      prior: as in `distance_map`: 0.0 as released, 1.0 against noise at middle grey.
      volume: whether images of four axes or more (D H W C, ...) are one image each.

    Returns:
      A scalar from 0 to 2; 0 if x and y are identical, and next to 0 for an image and its
      negative. It is symmetric in x and y, differentiable in both and in the mask, with finite
      gradients everywhere. Derivatives of every order and mode work; where the images are
      equal, all of them are 0.

    Raises:
      As `distance_map`.

    Source: Severo, Theis and Ballé, ICLR 2024; see `coefficients`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.linspace(0, 1, 64).reshape(8, 8)
      >>> float(distance(x, x)), bool(distance(x, x.T) > 0), bool(distance(x, 1 - x) < 1e-5)
      (0.0, True, True)
      >>> bool(jnp.isfinite(jax.grad(distance)(x, x)).all())
      True
    """
    checked = _checked(
        x,
        y,
        neighborhood_size=neighborhood_size,
        value_range=value_range,
        mask=mask,
        decay=decay,
        ridge=ridge,
        prior=prior,
        volume=volume,
    )
    return _compiled_mean(*checked)
