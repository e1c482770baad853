"""The mean of a map, which float32 would else blur where all values are much alike."""

import jax
import jax.numpy as jnp
from jax import lax


def mean(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The mean over some axes, to a rounding within the range of the values.

    A sum of thousands of like numbers loses digits, and where 1 less the mean is next to 0 they
    are all it has. So a first mean is taken, and then that of what is left, axis by axis.
    """
    first = lax.stop_gradient(jnp.mean(values, axes, keepdims=True))
    first = jnp.where(jnp.isfinite(first), first, 0.0)  # infinity less itself is NaN
    rest = values - first
    for axis in axes:
        rest = jnp.mean(rest, axis, keepdims=True)
    return jnp.squeeze(first + rest, axes)
