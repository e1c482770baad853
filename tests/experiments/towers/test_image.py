import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.towers import image

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 16), np.uint8)


def test_it_is_two_convolutions_with_windowed_pooling_and_a_hidden_layer():
    tower = image.ImageTower(8, 16, (4, 6), rngs=nnx.Rngs(0))
    x = jnp.asarray(IMAGES, jnp.float32)[..., None] / 255.0
    for layer in (tower.first, tower.second):
        assert layer.kernel.shape[:2] == (5, 5)
        kernel = layer.kernel[...]
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + layer.bias[...])
        x = nnx.max_pool(x, (2, 2), strides=(2, 2))
    x = x.reshape(3, -1) @ tower.hidden.kernel[...] + tower.hidden.bias[...]
    features = tower(IMAGES)
    assert features.shape == (3, image.HIDDEN)
    chex.assert_trees_all_close(features, jax.nn.relu(x), atol=1e-5)
