"""Lengths and distances of points, with digits and derivatives that survive.

Products of matrices run at full precision, which accelerators otherwise lower.
"""

import jax
import jax.numpy as jnp


def square_root(squared: jax.Array) -> jax.Array:
    """sqrt(max(squared, 0)) whose derivative is 0, not infinite, where the distance is 0."""
    far = squared > 0.0
    return jnp.where(far, jnp.sqrt(jnp.where(far, squared, 1.0)), 0.0)


def normalized(x: jax.Array) -> jax.Array:
    """The unit vector x / |x| over the last axis; 0, with the derivative 0, where x is 0."""
    greatest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    x = x / jnp.where(greatest > 0.0, greatest, 1.0)  # so that no square leaves the floats
    length = square_root(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    return x / jnp.where(length > 0.0, length, 1.0)


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x_i . y_j (rows, columns) at full precision."""
    return jnp.einsum("id,jd->ij", x, y, precision="highest")


def centered(
    x: jax.Array, y: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Two sets (..., dimension) minus a common point, which no distance depends on.

    The point is halfway between the means of both sets, on all devices of a mesh's axis.
    """
    of_x, of_y = (jnp.mean(z, axis=tuple(range(z.ndim - 1))) for z in (x, y))
    middle = 0.5 * (of_x + of_y)
    if axis_name is not None:
        middle = jax.lax.pmean(middle, axis_name)
    middle = jax.lax.stop_gradient(middle)
    x, y = (z - middle.reshape((1,) * (z.ndim - 1) + middle.shape) for z in (x, y))
    return x, y


def squared_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """|x_i - y_j|^2 (rows, columns) of centred points, by a matrix product."""
    apart = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None] - 2.0 * product(x, y)
    return jnp.maximum(apart, 0.0)
