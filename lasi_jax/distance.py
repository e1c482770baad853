"""How far apart two images are: the distance of their embeddings."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from numpy.typing import ArrayLike

from lasi_jax import images
from lasi_jax.batching import one_at_a_time, zero
from lasi_jax.embedding import DECAY, RIDGE, normalize
from lasi_jax.wls import least_squares
from lasi_jax.wls.regression import Regression, pull_back, regress
from lasi_jax.wls.tiling import from_tiles, tiling, to_tiles

# Embeddings closer than this many units of rounding coincide. The direction of
# their difference is noise, and without the rule it would enter the gradient.
_ROUNDING = 4.0


def _separation(coefficients: list[jax.Array], axis: int) -> jax.Array:
    """|e_x - e_y|_2 from planes whose `axis` holds x and y; gradient 0 where they coincide."""
    squared = 0.0
    for plane in normalize(coefficients):
        of_x, of_y = (lax.index_in_dim(plane, i, axis, keepdims=False) for i in (0, 1))
        squared = squared + jnp.square(of_x - of_y)
    same = squared <= (_ROUNDING * float(jnp.finfo(coefficients[0].dtype).eps)) ** 2
    # The root sees no 0: its infinite derivative there, times the outer 0, would be NaN.
    return jnp.where(same, 0.0, jnp.sqrt(jnp.where(same, 1.0, squared)))


def _learnt_the_same(x: jax.Array, y: jax.Array) -> jax.Array:
    """Where all earlier elements of x and y are equal, and hence, exactly, the embeddings."""
    differs = (x != y).reshape(-1)
    # `argmax` of no difference at all is 0, which would mean the first element.
    first = jnp.where(jnp.any(differs), jnp.argmax(differs), differs.size)
    # That element too: it is not among its own examples.
    return (jnp.arange(differs.size) <= first).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _map(options: Regression, pair: jax.Array, weights: jax.Array | None) -> jax.Array:
    """The distance (*shape) of every element of a pair (2, *shape) in [-1, 1]."""
    cut = tiling(pair.shape[1:], 2)

    def separate(_, coefficients, __):
        return _separation(coefficients, cut.axes)

    def forward(pair, weights):
        separation = regress(pair, weights, options, separate)
        return from_tiles(separation, cut)

    return one_at_a_time(forward)(pair, weights)


def _map_forward(options, pair, weights):
    """Each element's distance depends on its own coefficients alone, so lambda is known here.

    The backward pass only scales lambda by the cotangent of the element's
    distance; it need not form and factor the system again.
    """
    cut = tiling(pair.shape[1:], 2)

    def separate(factor, coefficients, _):
        distance, pull = jax.vjp(lambda x: _separation(x, cut.axes), coefficients)
        adjoint = least_squares.solve(factor, *pull(jnp.ones_like(distance)))
        return distance, jnp.stack(coefficients, cut.axes), jnp.stack(adjoint, cut.axes)

    def forward(pair, weights):
        distance, *solved = regress(pair, weights, options, separate)
        return from_tiles(distance, cut), solved

    distance, solved = one_at_a_time(forward)(pair, weights)
    return distance, (pair, weights, solved)


def _map_backward(options, residuals, cotangent):
    cut = tiling(cotangent.shape, 2)

    def backward(pair, weights, solved, cotangent):
        coefficients, adjoint = solved
        # What fills up a tile has a lambda too; the zeros that fill up the cotangent silence it.
        scaled = adjoint * to_tiles(cotangent[None, None], cut)
        return pull_back(pair, weights, options, coefficients, scaled)

    return one_at_a_time(backward)(*residuals, cotangent)


_map.defvjp(_map_forward, _map_backward)


# One program per shape and options: eagerly, every step of it would be compiled by itself.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled_map(
    options: Regression,
    value_range: tuple[float, float],
    x: jax.Array,
    y: jax.Array,
    mask: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None]:
    """The map, 0 where the mask is, and the mask as weights."""
    x, y = images.rescale_pair(x, y, value_range)
    shape = images.compact_shape(x.shape)
    weights = None if mask is None else images.repeated(mask, x)
    compact = None if weights is None else weights.reshape(shape)
    nothing = zero(x, y) if weights is None else zero(x, y, weights)
    pair = jnp.stack([x.reshape(shape) + nothing, y.reshape(shape) + nothing])
    compact = None if compact is None else compact + nothing
    separation = jnp.reshape(_map(options, pair, compact), x.shape)
    separation = jnp.where(_learnt_the_same(x, y), 0.0, separation)
    return separation if weights is None else jnp.where(weights == 0.0, 0.0, separation), weights


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled_mean(options, value_range, x, y, mask) -> jax.Array:
    separation, weights = _compiled_map(options, value_range, x, y, mask)
    if weights is None:
        return jnp.mean(separation)
    total = jnp.sum(weights)
    # Under `jit` nobody refuses a mask that is 0 throughout: it gives 0, not NaN.
    return jnp.sum(weights * separation) / jnp.where(total > 0.0, total, 1.0)


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
        an empty axis, N not in 1..size-1, options out of range, or concrete values outside
        the range or NaN.

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
    return _compiled_map(*checked)[0]


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
      gradients everywhere. Second derivatives are those of `jax.jvp` of `jax.grad`.

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
