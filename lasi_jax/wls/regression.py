"""Weighted least squares at every element, streamed over blocks of rows.

Element t is regressed on its neighbourhood over all earlier elements j:

    A_t = sum_j m_j decay^|j-t| phi_j phi_j^T + ridge I
    b_t = sum_j m_j decay^|j-t| x_j phi_j + ridge prior / N
    theta_t = A_t^{-1} b_t

with phi_j the N neighbourhood values of j and m_j its weight. `regress` walks the
blocks top to bottom and hands each solved block to a function of the caller.
`apply_moments` forms the same sums of two images and multiplies them with vectors;
`pull_back` walks the blocks bottom to top with the adjoint of these sums. All
derivatives are made of the three, see `derivatives`.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

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

    def of_system(self) -> dict[str, float]:
        """What the native kernel is told, beside N."""
        return {"decay": self.decay, "ridge": self.ridge, "prior": self.prior}


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


def _mixed_products(left: jax.Array, right: jax.Array, axis: int) -> jax.Array:
    """The products left_i right_k + left_k right_i, 0 <= i < n, i <= k <= n."""
    n = left.shape[axis] - 1
    rows = []
    for i in range(n):
        left_i, right_i = (lax.slice_in_dim(x, i, i + 1, axis=axis) for x in (left, right))
        left_k, right_k = (lax.slice_in_dim(x, i, n + 1, axis=axis) for x in (left, right))
        rows.append(left_i * right_k + left_k * right_i)
    return jnp.concatenate(rows, axis)


def _pairs(n: int) -> list[tuple[int, int]]:
    """The moments in the order of the planes: 0 <= i < n, i <= k <= n, n (n + 3) / 2 of them."""
    return [(i, k) for i in range(n) for k in range(i, n + 1)]


def _with_plane(planes: jax.Array, value: float, axis: int) -> jax.Array:
    """The planes and one more, which is constant."""
    one = jnp.full_like(lax.slice_in_dim(planes, 0, 1, axis=axis), value)
    return jnp.concatenate([planes, one], axis)


def _times(moments: jax.Array, planes: list[jax.Array], axis: int) -> list[jax.Array]:
    """The symmetric matrix of moments, whose last entry is 0, times a vector of n + 1 planes.

    Written out because XLA's CPU reductions over the feature axis crash in jaxlib 0.10.2.
    """
    n = len(planes) - 1
    moment = {
        pair: lax.index_in_dim(moments, p, axis, keepdims=False) for p, pair in enumerate(_pairs(n))
    }
    rows = [[moment[min(i, k), max(i, k)] * planes[k] for k in range(n + 1)] for i in range(n)]
    return [_sum(row) for row in rows] + [_sum(moment[i, n] * planes[i] for i in range(n))]


def planes(features: jax.Array, axis: int) -> list[jax.Array]:
    """The planes along an axis of a tile, without it."""
    return [
        lax.index_in_dim(features, k, axis, keepdims=False) for k in range(features.shape[axis])
    ]


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
    cut = tiling(images.shape[1:], len(images), cpu=False)
    windows = _Windows.of(images, cut, n)
    tiles = lax.map(windows.features, jnp.arange(cut.blocks))
    return from_tiles(tiles, cut)[:n]


def _weight_tiles(weights: jax.Array | None, cut: Tiling) -> jax.Array | None:
    return None if weights is None else to_tiles(weights[None, None], cut)


def regress(
    images: jax.Array,
    weights: jax.Array | None,
    options: Regression,
    cut: Tiling,
    consume: Callable,
    extra: jax.Array | None = None,
):
    """Solve every element's regression, block by block.

    Args:
      images: (stack, *shape).
      weights: (*shape) of m_j, shared by the stack, or None for ones.
      options: neighbourhood size, decay, ridge and prior.
      cut: the cut of the stack.
      consume: (factor, coefficients, extra tile) -> pytree, called once per
        block with planes (*chunks, stack, *counts, row).
      extra: tiles handed to `consume`, one per block.

    Returns:
      What `consume` returned, stacked over the blocks.
    """
    n = options.neighborhood_size
    windows = _Windows.of(images, cut, n)

    def solve_block(carry, inputs):
        block, weight, given = inputs
        products = _products(windows.features(block), weight, cut.axes)
        carry, sums = causal_sums(products, carry, cut, decay=options.decay)
        moment = dict(zip(_pairs(n), planes(sums, cut.axes), strict=True))
        factor = least_squares.cholesky(
            lambda i, k: moment[k, i] + options.ridge if i == k else moment[k, i], n
        )
        right = [moment[i, n] for i in range(n)]
        if options.prior:
            right = [plane + options.ridge * options.prior / n for plane in right]
        coefficients = least_squares.solve(factor, right)
        return carry, consume(factor, coefficients, given)

    inputs = (jnp.arange(cut.blocks), _weight_tiles(weights, cut), extra)
    return lax.scan(solve_block, _no_sums(images, cut, n), inputs)[1]


def _no_sums(images: jax.Array, cut: Tiling, n: int, *more: jax.Array) -> jax.Array:
    """The carry of `causal_sums` before the first block."""
    planes = (*cut.chunks, n * (n + 3) // 2, len(images), *cut.counts)
    return jnp.full(planes, zero(images, *more))


def apply_moments(
    left: jax.Array,
    right: jax.Array,
    weights: jax.Array | None,
    options: Regression,
    cut: Tiling,
    vectors: jax.Array,
    own: float,
) -> jax.Array:
    """The moments of two images, a matrix at every element, times a vector there.

    Args:
      left: (1, *shape).
      right: (1, *shape).
      weights: (*shape), or None for ones.
      options: neighbourhood size and decay.
      cut: the cut of one image.
      vectors: tiles (blocks, *chunks, n, 1, *counts, row).
      own: the last, constant component of the vector: that of the element's own value.

    Returns:
      Tiles of vectors' shape: sum_j w_tj m_j (phi_j (psi'_j . v_t) + phi'_j (psi_j . v_t)), with
      psi_j the N neighbours of j and its own value, phi_j the neighbours alone, in `left`, and
      with primes in `right`.
    """
    n = options.neighborhood_size
    windows = [_Windows.of(image, cut, n) for image in (left, right)]

    def apply_block(carry, inputs):
        block, weight, vector = inputs
        first, second = (window.features(block) for window in windows)
        first = first if weight is None else first * weight
        products = _mixed_products(first, second, cut.axes)
        carry, sums = causal_sums(products, carry, cut, decay=options.decay)
        full = _with_plane(vector, own, cut.axes)
        return carry, jnp.stack(_times(sums, planes(full, cut.axes), cut.axes)[:n], cut.axes)

    nothing = _no_sums(left, cut, n, right)
    inputs = (jnp.arange(cut.blocks), _weight_tiles(weights, cut), vectors)
    return lax.scan(apply_block, nothing, inputs)[1]


class Pulled(NamedTuple):
    """What `pull_back` gives: cotangents of one factor each, None where not asked for."""

    images: Any
    weights: Any


def pull_back(
    left: jax.Array | None,
    right: jax.Array,
    weights: jax.Array | None,
    options: Regression,
    cut: Tiling,
    adjoint: jax.Array,
    vectors: jax.Array,
    own: float,
    *,
    to_images: bool = True,
) -> Pulled:
    """The adjoint of `apply_moments`: bottom to top, the same sums.

    Args:
      left: (stack, *shape), for the cotangent of the weights, or None for none.
      right: (stack, *shape).
      weights: (*shape), or None for ones.
      options: neighbourhood size and decay.
      cut: the cut of the stack.
      adjoint: tiles (blocks, *chunks, n, stack, *counts, row), zero where a tile is padding: the
        cotangent of the result.
      vectors: tiles of the same shape.
      own: as in `apply_moments`.
      to_images: whether the cotangent of `left` is wanted.

    Returns:
      The cotangents of `left` (stack, *shape) and of the weights (*shape), summed over the stack.
    """
    n = options.neighborhood_size
    windows = _Windows.of(right, cut, n)
    others = None if left is None else _Windows.of(left, cut, n)
    above, inside = windows.depth * cut.row_size, cut.rows * cut.row_size

    def pull_block(carry, inputs):
        sums, window = carry
        block, weight, u, v = inputs
        products = _mixed_products(
            _with_plane(u, 0.0, cut.axes), _with_plane(v, own, cut.axes), cut.axes
        )
        sums, products = causal_sums(products, sums, cut, decay=options.decay, reverse=True)
        # Always true, but XLA cannot know and fuses nothing through a conditional: otherwise
        # it would compute every plane of the sums again in each of its many uses.
        products = lax.cond(block >= 0, lambda planes: planes, jnp.negative, products)
        pulled = _times(products, planes(windows.features(block), cut.axes), cut.axes)
        of_weight = None
        if others is not None:
            features = planes(others.features(block), cut.axes)
            per_image = _sum(a * b for a, b in zip(pulled, features, strict=True))
            of_weight = _sum(lax.index_in_dim(per_image, i, cut.axes) for i in range(len(right)))
            of_weight = jnp.expand_dims(of_weight, cut.axes)
        if not to_images:
            return (sums, window), (None, of_weight)
        features = jnp.stack(pulled, cut.axes)
        features = features if weight is None else features * weight
        features = jnp.moveaxis(features, cut.axes + 1, 0)
        window = window.at[:, windows.index_of(block)].add(features)
        # The last place, to which all that is missing points, is dropped.
        # The block's own rows are complete; the rows above it go on to the next block.
        done = window[:, above : above + inside]
        window = jnp.pad(window[:, :above], ((0, 0), (inside, 1)))
        return (sums, window), (done, of_weight)

    more = (adjoint, vectors)
    window = jnp.full((len(right), above + inside + 1), zero(right, *more))
    inputs = (jnp.arange(cut.blocks), _weight_tiles(weights, cut), adjoint, vectors)
    carry = _no_sums(right, cut, n, *more), window
    _, (rows, weight) = lax.scan(pull_block, carry, inputs, reverse=True)
    if rows is not None:
        rows = rows.swapaxes(0, 1).reshape(len(right), cut.blocks * cut.rows, *cut.shape[1:])
        rows = rows[:, : cut.shape[0]]
    return Pulled(rows, None if weight is None else from_tiles(weight, cut)[0, 0])
