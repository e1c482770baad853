"""Made-up parameters of a model: nothing is compiled to draw them."""

import jax
import numpy as np


def parameters_of(model, seed=0):
    """Parameters of the form that a model begins with."""
    random = np.random.default_rng(seed)

    def drawn(leaf):
        return np.asarray(0.3 * random.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(drawn, jax.eval_shape(model.initialize, jax.random.key(0)))
