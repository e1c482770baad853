"""A compiled function of a batch, over any number of inputs: in parts of one size."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def in_parts(function: Callable[[np.ndarray], Any], inputs: np.ndarray, size: int) -> Any:
    """function(inputs), a tree of arrays (input, ...), which compiles for `size` inputs alone.

    The last part is filled up with its last input.
    """
    number = len(inputs)
    padding = [(0, -number % size)] + [(0, 0)] * (inputs.ndim - 1)
    inputs = np.pad(inputs, padding, mode="edge")
    parts = [function(part) for part in np.split(inputs, len(inputs) // size)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:number], *parts)
