import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.towers import image

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 16), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(8, 16), (7, 14), (4, 5)])
def test_it_is_two_convolutions_with_windowed_pooling_and_a_hidden_layer(height, width):
    @jax.jit
    def found_and_expected(images):
        tower = image.ImageTower(height, width, (4, 6), rngs=nnx.Rngs(0))
        x = jnp.asarray(images, jnp.float32)[..., None] / 255.0
        for layer in (tower.first, tower.second):
            assert layer.kernel.shape[:2] == (5, 5)
            kernel = layer.kernel[...]
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + layer.bias[...])
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(3, -1) @ tower.hidden.kernel[...] + tower.hidden.bias[...]
        return tower(images), jax.nn.relu(x)

    features, expected = found_and_expected(IMAGES[:, :height, :width])
    assert features.shape == (3, image.HIDDEN)
    chex.assert_trees_all_close(features, expected, atol=1e-5)


def test_colors_are_channels_of_the_first_convolution():
    @jax.jit
    def features(images):
        tower = image.ImageTower(8, 16, (4, 6), image_channels=3, rngs=nnx.Rngs(0))
        assert tower.first.kernel.shape == (5, 5, 3, 4)
        colored = tower(jnp.stack([images, images[::-1], images], -1))
        # Gray is the sum of what the kernel sees in its channels.
        gray = image.ImageTower(8, 16, (4, 6), rngs=nnx.Rngs(0))
        for name in ("second", "hidden"):
            setattr(gray, name, getattr(tower, name))
        gray.first.kernel[...] = tower.first.kernel[...].sum(2, keepdims=True)
        alike = tower(jnp.stack([images] * 3, -1))
        return colored, alike, gray(images), gray(images[..., None])

    colored, alike, gray, with_axis = features(IMAGES)
    assert colored.shape == (3, image.HIDDEN)
    chex.assert_trees_all_close(gray, alike, atol=1e-5)
    chex.assert_trees_all_equal(with_axis, gray)


@pytest.mark.parametrize("shape", [(3, 8, 16), (3, 16, 8, 3), (3, 8, 16, 4), (8, 16)])
def test_images_of_another_shape_are_one_error(shape):
    tower = nnx.eval_shape(
        lambda: image.ImageTower(8, 16, (4, 6), image_channels=3, rngs=nnx.Rngs(0))
    )
    with pytest.raises(ValueError, match=r"images must be .*\(8, 16, 3\).*got "):
        tower(np.zeros(shape, np.uint8))


def test_images_too_small_to_pool_twice_are_one_error():
    with pytest.raises(ValueError, match="images must be 4 x 4 pixels at least, got 3 x 16"):
        image.ImageTower(3, 16, (4, 6), rngs=nnx.Rngs(0))
