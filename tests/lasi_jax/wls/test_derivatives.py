"""Derivatives of every order, of the operations and of what is made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import lasi_jax

SHAPE, OPTIONS = (4, 5, 2), {"neighborhood_size": 2}


def arrays(*shapes):
    generator = np.random.default_rng(0)
    return tuple(jnp.asarray(generator.uniform(0.1, 0.9, shape)) for shape in shapes)


def distance(x, y, mask=None):
    return lasi_jax.distance(x, y, mask=mask, **OPTIONS)


def distance_map(x, y, mask=None):
    return lasi_jax.distance_map(x, y, mask=mask, **OPTIONS)


def coefficients(x, mask=None):
    return lasi_jax.coefficients(x, mask=mask, **OPTIONS)


def check_second_order(function, arguments):
    """Forward and reverse mode, of each of the two again, against finite differences."""
    tolerance = {"eps": 1e-5, "rtol": 1e-4, "atol": 1e-5}
    check_grads(jax.jit(function), arguments, 2, modes=["fwd", "rev"], **tolerance)


def test_second_derivatives_of_the_distance():
    check_second_order(distance, arguments=arrays(SHAPE, SHAPE))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "images"),
    [(distance, 3), (distance_map, 2), (distance_map, 3), (coefficients, 1), (coefficients, 2)],
)
def test_second_derivatives(function, images):
    check_second_order(function, arrays(*(images * [SHAPE])))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 5), (3, 3, 2, 2)], ids=str)
def test_second_derivatives_of_other_ranks(shape):
    def of_volume(x, y):
        return lasi_jax.distance(x, y, volume=len(shape) > 3, **OPTIONS)

    check_second_order(of_volume, arrays(shape, shape))


def test_every_mode_gives_one_hessian():
    x, y, v = arrays(SHAPE, SHAPE, SHAPE)

    def at(x):
        return distance(x, y)

    gradient = jax.grad(at)
    products = {
        "forward over reverse": lambda v: jax.jvp(gradient, (x,), (v,))[1],
        "reverse over forward": jax.grad(lambda x: jax.jvp(at, (x,), (v,))[1]),
        "reverse over reverse": jax.grad(lambda x: jnp.vdot(gradient(x), v)),
        "linearized": lambda v: jax.linearize(gradient, x)[1](v),
    }
    found = {
        name: jax.jit(of)(x if name.startswith("reverse") else v) for name, of in products.items()
    }
    for name, product in found.items():
        np.testing.assert_allclose(product, found["linearized"], atol=1e-10, err_msg=name)
    batch = jnp.stack([v, 2.0 * v])
    both = jax.jit(jax.vmap(products["forward over reverse"]))(batch)
    product = found["linearized"]
    np.testing.assert_allclose(both, jnp.stack([product, 2.0 * product]), atol=1e-10)


def test_where_the_images_are_equal_all_derivatives_are_zero():
    (x,) = arrays(SHAPE)

    def at(x):
        return distance(x, jax.lax.stop_gradient(x))

    gradient, product = jax.jit(lambda x: jax.jvp(jax.grad(at), (x,), (jnp.ones_like(x),)))(x)
    np.testing.assert_array_equal(gradient, 0.0)
    np.testing.assert_array_equal(product, 0.0)


def test_the_leading_eigenvector_of_the_gram_matrix_of_the_jacobian():
    """The change of an image that changes the map most: an eigendistortion."""
    x, y = arrays((16, 16), (16, 16))

    def of(x):
        return lasi_jax.distance_map(x, y, neighborhood_size=4)

    @jax.jit
    def gram(x, v):  # J^T J v, by jvp and then vjp
        return jax.vjp(of, x)[1](jax.jvp(of, (x,), (v,))[1])[0]

    v = jnp.ones_like(x)
    for _ in range(300):
        v = gram(x, v)
        v = v / jnp.linalg.norm(v)
    jacobian = jax.jit(jax.jacfwd(of))(x).reshape(x.size, x.size)
    values, vectors = np.linalg.eigh(jacobian.T @ jacobian)
    np.testing.assert_allclose(jnp.vdot(v, gram(x, v)), values[-1], rtol=1e-6)
    assert abs(np.vdot(vectors[:, -1], v.reshape(-1))) > 1 - 1e-4
