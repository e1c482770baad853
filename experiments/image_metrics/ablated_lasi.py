"""LASI with its parts exchangeable: which neighbours, how many, which examples, which remedy.

LASI predicts an element from the N nearest *earlier* elements and learns how
from all *earlier* ones. Nothing about comparing two images asks for an order,
so here both may also come from all sides:

                   neighbours of t                 examples of t, weight decay^|j-t|
    causal         the N nearest of all j < t      all j < t
    two-sided      the N nearest of all j != t     all j != t

The element itself is in neither, so what it is worth can be measured on it.

Where all values are near 0, at middle grey, the regression has nothing to learn from but noise,
and noise decides the direction of its coefficients. Remedies:

    prior          the ridge pulls to the mean of the N neighbours, |theta - 1 / N|^2, not to 0;
                   `lasi_jax` has it as the option `prior`
    intercept      a neighbour more whose value is always 1, with a coefficient of its own
    shift by 1     values in [0, 2]: the middle of the range is no longer 0, but black is
    shift by 2     values in [1, 3]: no value is near 0
    local means    of the examples, subtracted from their values: covariances instead of moments
    offset 0.03    in place of the 1e-6 that is added to the coefficients of an embedding

All examples are summed by matrix products over rows and over columns, simple
rather than fast: the time grows with the third power of an image's side.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lasi_jax import images
from lasi_jax.embedding import DECAY, OFFSET, RIDGE
from lasi_jax.wls.neighborhood import neighbor_index

NEIGHBORHOODS = ("causal", "two-sided")
REMEDIES = (
    *("none", "prior", "intercept", "shift by 1", "shift by 2", "local means", "offset 0.03"),
)
_SHIFTS = {"shift by 1": 1.0, "shift by 2": 2.0}
_WIDER_OFFSET = 0.03


class Variant(NamedTuple):
    """The parts of LASI.

    Attributes:
      neighborhood_size: N, the number of elements that predict one.
      neighborhood: "causal", which is LASI, or "two-sided".
      decay: weight of an example per unit of L1 distance.
      ridge: added to the diagonal; on the scale of values in [-1, 1].
      remedy: against noise at middle grey, see the head of this module; LASI has none.
    """

    neighborhood_size: int = 10
    neighborhood: str = "causal"
    decay: float = DECAY
    ridge: float = RIDGE
    remedy: str = "none"


class Measures(NamedTuple):
    """What a variant makes of two images in [-1, 1].

    Attributes:
      distance: (), the mean over elements of |e_x - e_y|, from 0 to 2;
        of equal images 0 to rounding.
      loss: (2,), of x and of y: the weighted mean of the squared residuals of an
        element's examples, averaged over the elements that have examples.
      prediction_error: (2,), of x and of y: the mean square of x_t - theta_t . phi_t.
    """

    distance: jax.Array
    loss: jax.Array
    prediction_error: jax.Array


class _Sums(NamedTuple):
    """The sum over the examples of each element, as S = F within^T + above F row^T.

    F is an image as a matrix, (height, row): a row holds all axes but the first.
    """

    within: np.ndarray  # (row, row), of the examples in the element's own row
    row: np.ndarray  # (row, row), decay^distance
    above: np.ndarray  # (height, height), of the other rows that hold examples


def two_sided_index(shape: tuple[int, ...], n: int) -> np.ndarray:
    """Flat indices (prod(shape), n) of the `n` nearest other elements of every element.

    Of offsets of one length, those that point back come in flat order, each
    followed by its mirror image, if that lies inside. Plain flat order would put
    all that point back first. Away from the borders the nearest 2n are therefore
    the causal n and their mirror images.

    Args:
      shape: of the image.
      n: less than the number of elements, so that none is missing.
    """
    reach = [min(n, length - 1) for length in shape]
    offsets = np.indices([2 * r + 1 for r in reach]).reshape(len(shape), -1).T - reach
    rank = np.arange(len(offsets))
    pair = np.minimum(rank, rank[::-1])  # in flat order, mirror images are equally far from the end
    order = np.lexsort((rank, pair, np.abs(offsets).sum(1)))[1:]

    position = np.indices(shape).reshape(len(shape), -1).T
    index = np.zeros((len(position), n), np.int32)
    found = np.zeros(len(position), int)
    wanting = np.arange(len(position))
    for offset in offsets[order]:
        there = position[wanting] + offset
        inside = ((there >= 0) & (there < shape)).all(1)
        rows = wanting[inside]
        index[rows, found[rows]] = np.ravel_multi_index(tuple(there[inside].T), shape)
        found[rows] += 1
        wanting = wanting[found[wanting] < n]
        if not wanting.size:
            break
    return index


def _decayed(shape: tuple[int, ...], decay: float) -> np.ndarray:
    """decay^|i-j| between all elements i and j."""
    position = np.indices(shape).reshape(len(shape), -1)
    return decay ** np.abs(position[:, :, None] - position[:, None]).sum(0).astype(float)


@functools.lru_cache(maxsize=8)
def _tables(shape: tuple[int, ...], variant: Variant) -> tuple[np.ndarray, _Sums]:
    """Neighbours (N, elements), -1 where missing, and the sums."""
    row, column = _decayed(shape[1:], variant.decay), _decayed(shape[:1], variant.decay)
    if variant.neighborhood == "causal":
        index = neighbor_index(shape, variant.neighborhood_size)
        sums = _Sums(np.tril(row, -1), row, np.tril(column, -1))
    else:
        index = two_sided_index(shape, variant.neighborhood_size)
        sums = _Sums(row - np.eye(len(row)), row, column - np.eye(len(column)))
    return index.T.astype(np.int32), sums


def _features(pair: jax.Array, index: jax.Array, ones: bool) -> jax.Array:
    """Neighbours' values, 0 where missing, `ones`, own values: (n + 1 or 2, 2, height, row)."""
    values = pair.reshape(2, -1)
    padded = jnp.pad(values, ((0, 0), (0, 1)))  # index -1 reads the zero at the end
    constant = [jnp.ones_like(values)[:, None]] * ones
    features = jnp.concatenate([padded[:, index], *constant, values[:, None]], 1)
    return features.swapaxes(0, 1).reshape(-1, 2, len(pair[0]), pair[0, 0].size)


def _moments(features: jax.Array, sums: _Sums) -> jax.Array:
    """Sums (planes, 2, height, row) of the products of features i <= k, row by row of a matrix."""
    product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)

    def plane(i: jax.Array, k: jax.Array) -> jax.Array:
        values = features[i] * features[k]
        return product(values, sums.within.T) + product(sums.above, product(values, sums.row.T))

    first, second = (jnp.asarray(side) for side in np.triu_indices(len(features)))
    return lax.map(lambda ik: plane(*ik), (first, second))


def _matrices(planes: jax.Array, size: int) -> jax.Array:
    """Symmetric matrices (..., size, size) from planes (planes, ...) of entries i <= k."""
    first, second = np.triu_indices(size)
    plane = np.zeros((size, size), int)
    plane[first, second] = plane[second, first] = np.arange(len(first))
    return jnp.moveaxis(planes[plane], (0, 1), (-2, -1))


def _directions(theta: jax.Array, offset: float) -> jax.Array:
    """The embeddings (..., n) of coefficients (..., n)."""
    return (theta + offset) / jnp.linalg.norm(theta + offset, axis=-1, keepdims=True)


def _centered(moment: jax.Array, own: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Moments and own features less the means of the examples; feature n, the ones, is left out."""
    weight = moment[..., n, n]
    rest = np.delete(np.arange(n + 2), n)
    mean = moment[..., n, rest] / jnp.where(weight > 0.0, weight, 1.0)[..., None]
    products = weight[..., None, None] * mean[..., :, None] * mean[..., None, :]
    return moment[..., rest, :][..., rest] - products, own[..., rest] - mean


@functools.partial(jax.jit, static_argnames="remedy")
def _measure(
    pair: jax.Array, index: jax.Array, sums: _Sums, ridge: jax.Array, *, remedy: str
) -> Measures:
    """The measures of images (2, *shape); variants of one N and remedy share a compilation."""
    centers = remedy == "local means"
    pair = pair + _SHIFTS.get(remedy, 0.0)
    features, n = _features(pair, index, centers or remedy == "intercept"), len(index)
    moments = _moments(features, sums)
    size = len(features) - 1 - centers
    prior = ridge / size if remedy == "prior" else jnp.zeros_like(ridge)
    offset = _WIDER_OFFSET if remedy.startswith("offset") else OFFSET

    def measure_row(h: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        moment = _matrices(moments[:, :, h], len(features))  # (2, row, features, features)
        own = jnp.moveaxis(features[:, :, h], 0, -1)
        if centers:
            moment, own = _centered(moment, own, n)
        # Both images in one call: two calls in one computation can hang jax 0.10.
        system = moment[..., :size, :size] + ridge * jnp.eye(size, dtype=pair.dtype)
        theta = jnp.linalg.solve(system, moment[..., :size, size:] + prior)[..., 0]
        of_x, of_y = _directions(theta, offset)
        # The residual is -(theta, -1) . (phi, x), of an example and of the element itself.
        signed = jnp.concatenate([theta, -jnp.ones_like(theta[..., :1])], -1)
        squares = jnp.einsum("...i,...ij,...j", signed, moment, signed, precision="highest")
        return jnp.linalg.norm(of_x - of_y, axis=-1), squares, jnp.sum(signed * own, -1)

    distance, squares, own = lax.map(measure_row, jnp.arange(features.shape[2]))
    weight = sums.within.sum(1) + sums.above.sum(1)[:, None] * sums.row.sum(1)
    taught = (weight > 0.0)[:, None]
    mean_square = jnp.maximum(squares, 0.0) / jnp.where(taught, weight[:, None], 1.0)
    loss = jnp.where(taught, mean_square, 0.0).sum((0, 2)) / taught.sum()
    return Measures(distance.mean(), loss, jnp.square(own).mean((0, 2)))


def measure(x: Any, y: Any, *, variant: Variant) -> Measures:
    """A variant's distance of two images, and how well it predicts either.

    With w_jt the weight of example j of element t, phi_j the values of the
    neighbours of j and x_j its value, as in `lasi_jax.coefficients`,

        theta_t = (sum_j w_jt phi_j phi_j^T + ridge I)^{-1} sum_j w_jt x_j phi_j
        e_t = (theta_t + 1e-6) / |theta_t + 1e-6|
        loss_t = sum_j w_jt (x_j - theta_t . phi_j)^2 / sum_j w_jt

    Compiled once per shape and N if not called under `jit`.

    Args:
      x: an image of two axes or more; floats in 0..1, or uint8.
      y: an image of the same shape.
      variant: the parts of LASI.

    Raises:
      TypeError: dtypes other than floats and uint8, or a size that is no integer.
      ValueError: another neighbourhood or remedy, shapes that differ, options or values out of
        range.

    Source: Severo, Theis and Ballé, ICLR 2024, for the causal variant, whose
    distance is `lasi_jax.distance`.

    Example:
      >>> x = jnp.linspace(0, 1, 64).reshape(8, 8)
      >>> result = measure(x, x.T, variant=Variant(4, "two-sided"))
      >>> result.distance.shape, result.loss.shape
      ((), (2,))
    """
    unit = (0.0, 1.0)
    x, y = images.check_pair(x, y, unit)
    options = variant.neighborhood_size, variant.decay, variant.ridge
    images.check_options(x.shape, *options, prior=0.0)
    if variant.neighborhood not in NEIGHBORHOODS:
        raise ValueError(
            f"neighborhood must be one of {', '.join(NEIGHBORHOODS)}, got {variant.neighborhood!r}"
        )
    if variant.remedy not in REMEDIES:
        raise ValueError(f"remedy must be one of {', '.join(REMEDIES)}, got {variant.remedy!r}")
    pair = jnp.stack(images.rescale_pair(x, y, unit))
    index, sums = _tables(x.shape, variant)
    sums = _Sums(*(matrix.astype(pair.dtype) for matrix in sums))
    ridge = np.asarray(variant.ridge, pair.dtype)
    return _measure(pair, index, sums, ridge, remedy=variant.remedy)
