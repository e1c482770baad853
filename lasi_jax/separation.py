"""How far apart the embeddings of two images are, as operations with derivatives of every order.

An element's separation depends on its own coefficients alone, so its lambda = A^{-1} dmap/dtheta
is known while its system is solved. With lambda, the tangent of the map is a sum of moments,

    map' = lambda . (b' - A' theta),

and the gradient is the adjoint of that sum: no system is formed and factored again.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from lasi_jax.embedding import normalize
from lasi_jax.wls import derivatives, least_squares
from lasi_jax.wls.kernel import Kernel
from lasi_jax.wls.operation import Operation
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


# --- map: |e_x - e_y| (*shape), of two images in [-1, 1] and weights


def _map(options, x, y, weights, *, cpu):
    cut = tiling(x.shape, 2, cpu=cpu)
    tiles = regress(
        jnp.stack([x, y]), weights, options, cut, lambda _, theta, __: _separation(theta, cut.axes)
    )
    return (from_tiles(tiles, cut),)


def _map_natively(options, x, y, weights):
    kernel = Kernel(x, options.neighborhood_size)
    return kernel("map", [x, y], [0], weights=weights, **options.of_system())


separation_map = Operation("lasi_map", _map, lambda _, x, *__: [x.shape], _map_natively)

# --- solved: the map, theta of x and y, and lambda = A^{-1} dmap/dtheta of both


def _solve_pair(options: Regression, x: jax.Array, y: jax.Array, weights: jax.Array | None, cut):
    """Tiles of the map, of theta and of lambda, the last two of a stack of both images."""

    def separate(factor, theta, _):
        separation, pull = jax.vjp(lambda theta: _separation(theta, cut.axes), theta)
        adjoint = least_squares.solve(factor, *pull(jnp.ones_like(separation)))
        return separation, jnp.stack(theta, cut.axes), jnp.stack(adjoint, cut.axes)

    return regress(jnp.stack([x, y]), weights, options, cut, separate)


def _solved(options, x, y, weights, *, cpu):
    cut = tiling(x.shape, 2, cpu=cpu)
    separation, *vectors = _solve_pair(options, x, y, weights, cut)
    planes = (from_tiles(tiles, cut) for tiles in vectors)
    return (from_tiles(separation, cut), *(of[:, i] for of in planes for i in (0, 1)))


def _solved_shapes(options, x, *_):
    return [x.shape] + 4 * [(options.neighborhood_size, *x.shape)]


def _solved_natively(options, x, y, weights):
    n = options.neighborhood_size
    results, system = [0] + 4 * [n], options.of_system()
    return Kernel(x, n)("solved", [x, y], results, weights=weights, **system)


solved = Operation("lasi_solved", _solved, _solved_shapes, _solved_natively)

# --- pulled: the map, and what a cotangent of it gives for x, y and the weights


class Pull(NamedTuple):
    """The static options of `_pulled`: the regression, and the cotangents that are wanted."""

    regression: Regression
    wanted: tuple[bool, ...]  # x, y, weights


def _pulled(options, x, y, weights, cotangent, *, cpu):
    cut = tiling(x.shape, 2, cpu=cpu)
    separation, theta, adjoint = _solve_pair(options.regression, x, y, weights, cut)
    # What fills up a tile has a lambda too; the zeros that fill up the cotangent silence it.
    adjoint = -adjoint * to_tiles(cotangent[None, None], cut)
    pair = jnp.stack([x, y])
    *of_images, of_weights = options.wanted
    cotangents = pull_back(
        0.5 * pair if of_weights else None,
        pair,
        weights,
        options.regression,
        cut,
        adjoint,
        theta,
        -1.0,
        to_images=any(of_images),
    )
    images = [cotangents.images[i] for i, wanted in enumerate(of_images) if wanted]
    return (from_tiles(separation, cut), *images, *([cotangents.weights] if of_weights else []))


def _pulled_natively(options, x, y, weights, cotangent):
    kernel = Kernel(x, options.regression.neighborhood_size)
    results = [0] + [0 if wanted else None for wanted in options.wanted]
    system = options.regression.of_system()
    return kernel("pulled", [x, y, cotangent], results, weights=weights, **system)


pulled = Operation(
    "lasi_pulled",
    _pulled,
    lambda options, x, *_: (1 + sum(options.wanted)) * [x.shape],
    _pulled_natively,
)

# --- their derivatives, made of those of the regression


def _solved_again(options, x, y, weights):
    """`solved`, of operations that have derivatives."""
    theta = [derivatives.coefficients(options, image, weights)[0] for image in (x, y)]
    separation, pull = jax.vjp(lambda *theta: _separate_all(options, *theta), *theta)
    adjoint = [
        derivatives.solve(options, image, weights, right)[0]
        for image, right in zip((x, y), pull(jnp.ones_like(separation)), strict=True)
    ]
    return separation, *theta, *adjoint


def _separate_all(options, theta_x: jax.Array, theta_y: jax.Array) -> jax.Array:
    """The separation (images, *shape) of coefficients (images, n, *shape)."""
    both = jnp.stack([theta_x, theta_y])
    return _separation([both[:, :, k] for k in range(options.neighborhood_size)], 0)


def _push_map(options, arguments, tangents):
    x, y, weights = arguments
    *of_images, of_weights = tangents
    separation, *vectors = solved(options, x, y, weights)
    terms = []
    for image, tangent, theta, adjoint in zip(
        (x, y), of_images, vectors[:2], vectors[2:], strict=True
    ):
        moved = derivatives.moved(options, -1.0, image, weights, (tangent, of_weights), theta)
        if moved is not None:
            terms += [jnp.sum(adjoint * moved, 1)]
    return (separation,), (sum(terms[1:], terms[0]),)


def _of_moving(function, arguments, tangents):
    """`function`'s results and tangents, differentiated only by what moves."""
    moving = [i for i, tangent in enumerate(tangents) if tangent is not None]

    def of(*moved):
        full = list(arguments)
        for i, value in zip(moving, moved, strict=True):
            full[i] = value
        return function(*full)

    return jax.jvp(of, [arguments[i] for i in moving], [tangents[i] for i in moving])


def _pulled_again(options, x, y, weights, cotangent):
    """`pulled`, of operations that have derivatives."""
    separation, *vectors = solved(options.regression, x, y, weights)
    form = derivatives.Form(options.regression, -1.0)
    *of_images, of_weights = options.wanted
    images, of_weight = [], []
    for image, wanted, theta, adjoint in zip(
        (x, y), of_images, vectors[:2], vectors[2:], strict=True
    ):
        scaled = -adjoint * cotangent[:, None]
        if wanted:
            images += derivatives.pull_image(form, weights, image, scaled, theta)
        if of_weights:
            of_weight += derivatives.pull_weights(form, 0.5 * image, image, scaled, theta)
    return (separation, *images, *([sum(of_weight[1:], of_weight[0])] if of_weights else []))


separation_map.define_jvp(_push_map)
for _operation, _again in ((solved, _solved_again), (pulled, _pulled_again)):
    _operation.define_jvp(
        lambda options, arguments, tangents, again=_again: _of_moving(
            functools.partial(again, options), arguments, tangents
        )
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def weighted_sum(options: Regression, x, y, weights, counts):
    """sum_t counts_t map_t, of what counts."""
    (separation,) = separation_map(options, x, y, weights)
    return _sum_of(counts, separation)


def _sum_of(counts: jax.Array, separation: jax.Array) -> jax.Array:
    # What does not count may be infinite or NaN.
    return jnp.sum(jnp.where(counts == 0.0, 0.0, counts * separation))


@functools.partial(weighted_sum.defjvp, symbolic_zeros=True)
def _push_weighted_sum(options, arguments, tangents):
    """Value and gradient in one pass: what the map's cotangent will be is known before it."""
    *arguments, counts = arguments
    *moving, of_counts = (None if isinstance(t, SymbolicZero) else t for t in tangents)
    wanted = tuple(tangent is not None for tangent in moving)
    if any(wanted):
        separation, *gradients = pulled(Pull(options, wanted), *arguments, counts)
    else:
        separation, *gradients = separation_map(options, *arguments)
    moved = [tangent for tangent in moving if tangent is not None]
    terms = [jnp.sum(g * t) for g, t in zip(gradients, moved, strict=True)]
    if of_counts is not None:
        terms += [jnp.sum(of_counts * separation)]
    return _sum_of(counts, separation), sum(terms[1:], terms[0])
