"""The regression of whole images as operations, and their derivatives of every order.

With psi_j = (phi_j, x_j) the neighbourhood of element j and its own value, everything here comes
from one form, which is linear in each of its arguments,

    T(m, x, x', u, v) = sum_t sum_{j<t} decay^|j-t| m_j
                        ((u_t . phi_j) (v_t . psi'_j) + (u_t . phi'_j) (v_t . psi_j))

for weights m, images x and x', vectors u of N components and v of N + 1, whose last one, `own`, is
the same at every element: -1, or 0. Its derivatives by u, x and m are `apply_moments`,
`pull_image` and `pull_weights`. As T is linear, their tangents are themselves with a tangent in
the place of an argument, and the transpose of one of them is another. In these terms

    theta' = A^{-1} (b' - A' theta) = -A^{-1} (T_u(m, x', x, (theta, -1)) + ...)

so that the tangents of `coefficients` and `solve` need no derivative of a factor.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lasi_jax.wls import least_squares, regression
from lasi_jax.wls.kernel import Kernel
from lasi_jax.wls.operation import Operation
from lasi_jax.wls.regression import Regression, regress
from lasi_jax.wls.tiling import Tiling, from_tiles, tiling, to_tiles


class Form(NamedTuple):
    """The static options of T."""

    regression: Regression
    own: float

    def of_sums(self) -> dict[str, float]:
        """What the native kernel is told of it."""
        return {"decay": self.regression.decay, "own": self.own}


def _vectors(options: Regression, image: jax.Array) -> list[tuple[int, ...]]:
    return [(options.neighborhood_size, *image.shape)]


def _tiles(planes: jax.Array, cut: Tiling) -> jax.Array:
    """Planes (n, *shape) of one image as tiles."""
    return to_tiles(planes[:, None], cut)


# --- coefficients: theta (n, *shape), of an image in [-1, 1] and weights


def _coefficients(options, image, weights, *, cpu):
    cut = tiling(image.shape, 1, cpu=cpu)
    tiles = regress(
        image[None], weights, options, cut, lambda _, theta, __: jnp.stack(theta, cut.axes)
    )
    return (from_tiles(tiles, cut)[:, 0],)


def _coefficients_natively(options, image, weights):
    return _solve_natively(options, image, weights, None)


coefficients = Operation(
    "lasi_coefficients",
    _coefficients,
    lambda options, image, _: _vectors(options, image),
    _coefficients_natively,
)

# --- solve: A^{-1} g, of an image, weights and g (n, *shape)


def _solve(options, image, weights, right, *, cpu):
    cut = tiling(image.shape, 1, cpu=cpu)

    def consume(factor, _, tile):
        planes = regression.planes(tile, cut.axes)
        return jnp.stack(least_squares.solve(factor, planes), cut.axes)

    tiles = regress(image[None], weights, options, cut, consume, _tiles(right, cut))
    return (from_tiles(tiles, cut)[:, 0],)


def _solve_natively(options, image, weights, right):
    n = options.neighborhood_size
    arrays, system = [image, right], options.of_system()
    return Kernel(image, n)("solve", arrays, [n], weights=weights, **system)


solve = Operation(
    "lasi_solve", _solve, lambda options, image, *_: _vectors(options, image), _solve_natively
)

# --- the derivatives of T by u, x and m


def _apply_moments(options, weights, left, right, v, *, cpu):
    cut = tiling(left.shape, 1, cpu=cpu)
    tiles = regression.apply_moments(
        left[None], right[None], weights, options.regression, cut, _tiles(v, cut), options.own
    )
    return (from_tiles(tiles, cut)[:, 0],)


def _apply_moments_natively(options, weights, left, right, v):
    n = options.regression.neighborhood_size
    arrays, sums = [left, right, v], options.of_sums()
    return Kernel(left, n)("apply_moments", arrays, [n], weights=weights, **sums)


apply_moments = Operation(
    "lasi_apply_moments",
    _apply_moments,
    lambda options, _, left, *__: _vectors(options.regression, left),
    _apply_moments_natively,
)


def _pull_image(options, weights, right, u, v, *, cpu):
    cut = tiling(right.shape, 1, cpu=cpu)
    vectors = _tiles(u, cut), _tiles(v, cut)
    pulled = regression.pull_back(
        None, right[None], weights, options.regression, cut, *vectors, options.own
    )
    return (pulled.images[0],)


def _pull_image_natively(options, weights, right, u, v):
    kernel = Kernel(right, options.regression.neighborhood_size)
    arrays = [None, right, u, v]
    return kernel("pull", arrays, [0, None], weights=weights, **options.of_sums())


pull_image = Operation(
    "lasi_pull_image",
    _pull_image,
    lambda _, __, right, *___: [right.shape],
    _pull_image_natively,
)


def _pull_weights(options, left, right, u, v, *, cpu):
    cut = tiling(right.shape, 1, cpu=cpu)
    pulled = regression.pull_back(
        left[None],
        right[None],
        None,
        options.regression,
        cut,
        _tiles(u, cut),
        _tiles(v, cut),
        options.own,
        to_images=False,
    )
    return (pulled.weights,)


def _pull_weights_natively(options, left, right, u, v):
    kernel = Kernel(right, options.regression.neighborhood_size)
    return kernel("pull", [left, right, u, v], [None, 0], **options.of_sums())


pull_weights = Operation(
    "lasi_pull_weights",
    _pull_weights,
    lambda _, left, *__: [left.shape],
    _pull_weights_natively,
)


def _linear_in_each(operation: Operation) -> None:
    """Set the tangents of an operation that is linear in each argument, v the last of them."""

    def rule(options, arguments, tangents):
        terms = []
        for i, tangent in enumerate(tangents):
            if tangent is not None:
                # Its last component is constant, so that the tangent of v ends in 0.
                last = i == len(arguments) - 1
                moved = [*arguments[:i], tangent, *arguments[i + 1 :]]
                terms += operation(options._replace(own=0.0) if last else options, *moved)
        return operation(options, *arguments), (sum(terms[1:], terms[0]),)

    operation.define_jvp(rule)


def _by(options: Form, name: str, weights, left, right, u, v) -> jax.Array:
    """The derivative of T by the argument of this name, which is not looked at."""
    if name == "weights":
        return pull_weights(options, left, right, u, v)[0]
    if name in ("left", "right"):
        return pull_image(options, weights, right if name == "left" else left, u, v)[0]
    if name == "u":
        return apply_moments(options, weights, left, right, v)[0]
    # v without its last component is to T what u is.
    return apply_moments(options._replace(own=0.0), weights, left, right, u)[0]


def _transposed_by(derivative_by: str, names: tuple[str, ...]) -> Callable:
    """The transpose of T's derivative: the cotangent of its result is the argument it lacks."""

    def rule(options, cotangent, position, arguments):
        given = dict(zip(names, arguments, strict=True)) | {derivative_by: cotangent}
        return _by(options, names[position], **given)

    return rule


for _operation, _lacks, _names in (
    (apply_moments, "u", ("weights", "left", "right", "v")),
    (pull_image, "left", ("weights", "right", "u", "v")),
    (pull_weights, "weights", ("left", "right", "u", "v")),
):
    _linear_in_each(_operation)
    _operation.define_transpose(_transposed_by(_lacks, _names))


def moved(options, own, image, weights, tangents, v) -> Any:
    """(b' - A' theta) for v = (theta, -1), -A' v for v = (v, 0): minus the tangent of moments."""
    form, terms = Form(options, own), []
    image_tangent, weights_tangent = tangents
    if image_tangent is not None:
        terms += [-apply_moments(form, weights, image_tangent, image, v)[0]]
    if weights_tangent is not None:
        # T counts the square of an image twice.
        terms += [-0.5 * apply_moments(form, weights_tangent, image, image, v)[0]]
    return sum(terms[1:], terms[0]) if terms else None


def _push_coefficients(options, arguments, tangents):
    image, weights = arguments
    (theta,) = coefficients(options, image, weights)
    right = moved(options, -1.0, image, weights, tangents, theta)
    return (theta,), solve(options, image, weights, right)


def _push_solve(options, arguments, tangents):
    image, weights, right = arguments
    *tangents, right_tangent = tangents
    (solved,) = solve(options, image, weights, right)
    of_matrix = moved(options, 0.0, image, weights, tangents, solved)
    terms = [term for term in (of_matrix, right_tangent) if term is not None]
    return (solved,), solve(options, image, weights, sum(terms[1:], terms[0]))


coefficients.define_jvp(_push_coefficients)
solve.define_jvp(_push_solve)
solve.define_transpose(
    lambda options, cotangent, _, arguments: solve(options, *arguments[:2], cotangent)[0]
)
