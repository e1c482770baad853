"""Weighted least squares at every element, streamed over blocks of rows.

Element t is regressed on its neighbourhood over all earlier elements j:

    A_t = sum_j m_j decay^|j-t| phi_j phi_j^T + ridge I
    b_t = sum_j m_j decay^|j-t| x_j phi_j + ridge prior / N
    theta_t = A_t^{-1} b_t

with phi_j the N neighbourhood values of j and m_j its weight. `regress` walks the
blocks top to bottom and hands each solved block to a function of the caller;
`pull_back` walks them bottom to top with the adjoint of the same sums. With
theta's cotangent g and lambda = A^{-1} g, the moments' cotangents are
dA = -lambda theta^T and db = lambda, so no factor has to be kept.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lasi_jax.batching import zero
from lasi_jax.wls import least_squares
from lasi_jax.wls.causal_sums import causal_sums
from lasi_jax.wls.neighborhood import neighbor_pattern
from lasi_jax.wls.tiling import Tiling, from_tiles, tiling, to_tiles, window_index


class Regression(NamedTuple):
    """The static options of a regression."""

    neighborhood_size: int
    decay: float
    ridge: float
    prior: float = 0.0


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, terms)


def _products(features: jax.Array, weights: jax.Array | None, axis: int) -> jax.Array:
    """The products m phi_i phi_k, 0 <= i < n, i <= k <= n; feature n is the element itself."""
    n = features.shape[axis] - 1
    weighted = features if weights is None else features * weights
    # Without the square of the element itself, which no normal equation has: n (n + 3) / 2 planes.
    products = [
        lax.slice_in_dim(weighted, i, i + 1, axis=axis)
        * lax.slice_in_dim(features, i, n + 1, axis=axis)
        for i in range(n)
    ]
    return jnp.concatenate(products, axis)


def _pull_products(features: jax.Array, weights: jax.Array | None, cotangent: jax.Array, axis: int):
    """The cotangents of features and weights under `_products`.

    Written out because XLA's CPU reductions over the feature axis, which
    automatic differentiation would use, crash in jaxlib 0.10.2.
    """
    n = features.shape[axis] - 1

    def plane(values: jax.Array, k: int) -> jax.Array:
        return lax.index_in_dim(values, k, axis)

    # A square, i = k, is in both sums below, which makes the 2 of its derivative.
    pairs = [(i, k) for i in range(n) for k in range(i, n + 1)]
    product = {pair: plane(cotangent, p) for p, pair in enumerate(pairs)}
    ahead = [_sum(product[i, k] * plane(features, k) for k in range(i, n + 1)) for i in range(n)]
    behind = [
        _sum(product[i, k] * plane(features, i) for i in range(min(k + 1, n))) for k in range(n + 1)
    ]
    pulled = [_sum(both) for both in zip(ahead, behind[:n], strict=True)]
    features_cotangent = jnp.concatenate([*pulled, behind[n]], axis)
    if weights is None:
        return features_cotangent, None
    per_image = _sum(a * plane(features, i) for i, a in enumerate(ahead))
    stack = range(features.shape[axis + 1])
    weights_cotangent = _sum(lax.index_in_dim(per_image, i, axis + 1) for i in stack)
    return features_cotangent * weights, weights_cotangent


def _moments_cotangent(coefficients: jax.Array, adjoint: jax.Array, axis: int) -> jax.Array:
    """-(lambda_i theta_k + lambda_k theta_i), half of it for i = k, and lambda_i for k = n."""
    n = coefficients.shape[axis]
    # With (lambda, 0) and (theta, -1), k = n is no special case.
    ones = jnp.ones_like(lax.slice_in_dim(adjoint, 0, 1, axis=axis))
    left = jnp.concatenate([adjoint, jnp.zeros_like(ones)], axis)
    right = jnp.concatenate([coefficients, -ones], axis)
    rows = []
    for i in range(n):
        left_i, right_i = (lax.slice_in_dim(x, i, i + 1, axis=axis) for x in (left, right))
        left_k, right_k = (lax.slice_in_dim(x, i + 1, n + 1, axis=axis) for x in (left, right))
        rows += [-left_i * right_i, -(left_i * right_k + left_k * right_i)]
    return jnp.concatenate(rows, axis)


class _Windows(NamedTuple):
    """A stack of images as padded rows, and where each block finds its features in them."""

    rows: jax.Array  # (stack, depth + blocks * rows, row_size)
    index: jax.Array  # see `window_index`
    cut: Tiling
    depth: int

    @classmethod
    def of(cls, images: jax.Array, cut: Tiling, n: int) -> "_Windows":
        depth = len(neighbor_pattern(cut.shape[1:], n)) - 1
        below = cut.blocks * cut.rows - cut.shape[0]
        rows = images.reshape(*images.shape[:2], cut.row_size)
        rows = jnp.pad(rows, ((0, 0), (depth, below), (0, 0)))
        return cls(rows, jnp.asarray(window_index(cut, n)), cut, depth)

    def index_of(self, block: jax.Array) -> jax.Array:
        kind = jnp.minimum(block, len(self.index) - 1)
        return lax.dynamic_index_in_dim(self.index, kind, keepdims=False)

    def features(self, block: jax.Array) -> jax.Array:
        """Neighbour values, then own values: (*chunks, n + 1, stack, *counts, row)."""
        cut = self.cut
        window = lax.dynamic_slice_in_dim(self.rows, block * cut.rows, self.depth + cut.rows, 1)
        window = jnp.pad(window.reshape(len(window), -1), ((0, 0), (0, 1)))
        return jnp.moveaxis(window[:, self.index_of(block)], 0, cut.axes + 1)


def neighbor_values(images: jax.Array, n: int) -> jax.Array:
    """The values (n, stack, *shape) of every element's neighbours, 0 where missing."""
    cut = tiling(images.shape[1:], len(images))
    windows = _Windows.of(images, cut, n)
    tiles = lax.map(windows.features, jnp.arange(cut.blocks))
    return from_tiles(tiles, cut)[:n]


def _weight_tiles(weights: jax.Array | None, cut: Tiling) -> jax.Array | None:
    return None if weights is None else to_tiles(weights[None, None], cut)


def regress(
    images: jax.Array,
    weights: jax.Array | None,
    options: Regression,
    consume: Callable,
    extra: jax.Array | None = None,
):
    """Solve every element's regression, block by block.

    Args:
      images: (stack, *shape).
      weights: (*shape) of m_j, shared by the stack, or None for ones.
      options: neighbourhood size, decay, ridge and prior.
      consume: (factor, coefficients, extra tile) -> pytree, called once per
        block with planes (*chunks, stack, *counts, row).
      extra: tiles handed to `consume`, one per block.

    Returns:
      What `consume` returned, stacked over the blocks.
    """
    n = options.neighborhood_size
    cut = tiling(images.shape[1:], len(images))
    windows = _Windows.of(images, cut, n)

    def solve_block(carry, inputs):
        block, weight, given = inputs
        products = _products(windows.features(block), weight, cut.axes)
        carry, sums = causal_sums(products, carry, cut, decay=options.decay)
        planes = iter(range(sums.shape[cut.axes]))
        moment = {
            (i, k): lax.index_in_dim(sums, next(planes), cut.axes, keepdims=False)
            for i in range(n)
            for k in range(i, n + 1)
        }
        factor = least_squares.cholesky(
            lambda i, k: moment[k, i] + options.ridge if i == k else moment[k, i], n
        )
        right = [moment[i, n] for i in range(n)]
        if options.prior:
            right = [plane + options.ridge * options.prior / n for plane in right]
        coefficients = least_squares.solve(factor, right)
        return carry, consume(factor, coefficients, given)

    planes = (*cut.chunks, n * (n + 3) // 2, len(images), *cut.counts)
    carry = jnp.full(planes, zero(images))
    inputs = (jnp.arange(cut.blocks), _weight_tiles(weights, cut), extra)
    return lax.scan(solve_block, carry, inputs)[1]


def pull_back(
    images: jax.Array,
    weights: jax.Array | None,
    options: Regression,
    coefficients: jax.Array,
    adjoint: jax.Array,
) -> tuple[jax.Array, jax.Array | None]:
    """The cotangents of images and weights, from theta and lambda = A^{-1} g.

    Args:
      images: as given to `regress`.
      weights: as given to `regress`.
      options: as given to `regress`.
      coefficients: tiles (blocks, *chunks, n, stack, *counts, row) of theta.
      adjoint: tiles of lambda, zero where a tile is padding.
    """
    n = options.neighborhood_size
    cut = tiling(images.shape[1:], len(images))
    windows = _Windows.of(images, cut, n)
    above, inside = windows.depth * cut.row_size, cut.rows * cut.row_size

    def pull_block(carry, inputs):
        sums, window = carry
        block, weight, theta, lam = inputs
        cotangent = _moments_cotangent(theta, lam, cut.axes)
        sums, cotangent = causal_sums(cotangent, sums, cut, decay=options.decay, reverse=True)
        # Always true, but XLA cannot know and fuses nothing through a conditional: otherwise
        # it would compute every plane of the cotangent again in each of its many uses.
        cotangent = lax.cond(block >= 0, lambda planes: planes, jnp.negative, cotangent)
        features = windows.features(block)
        features, weight = _pull_products(features, weight, cotangent, cut.axes)
        features = jnp.moveaxis(features, cut.axes + 1, 0)
        window = window.at[:, windows.index_of(block)].add(features)
        # The last place, to which all that is missing points, is dropped.
        # The block's own rows are complete; the rows above it go on to the next block.
        done = window[:, above : above + inside]
        window = jnp.pad(window[:, :above], ((0, 0), (inside, 1)))
        return (sums, window), (done, weight)

    planes = (*cut.chunks, n * (n + 3) // 2, len(images), *cut.counts)
    nothing = zero(images, adjoint)
    carry = jnp.full(planes, nothing), jnp.full((len(images), above + inside + 1), nothing)
    inputs = (jnp.arange(cut.blocks), _weight_tiles(weights, cut), coefficients, adjoint)
    _, (rows, weight) = lax.scan(pull_block, carry, inputs, reverse=True)
    rows = rows.swapaxes(0, 1).reshape(len(images), cut.blocks * cut.rows, *cut.shape[1:])
    if weight is not None:
        weight = from_tiles(weight, cut)[0, 0]
    return rows[:, : cut.shape[0]], weight
