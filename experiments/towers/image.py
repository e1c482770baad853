"""HIB's small convolutional network: two 5 x 5 convolutions with pooling, one hidden layer."""

import jax
import jax.numpy as jnp
from flax import nnx

HIDDEN = 128


class ImageTower(nnx.Module):
    """Images (batch, height, width) or (batch, height, width, channel) uint8 to features.

    Features are (batch, 128).

    Args:
      height: 4 at least.
      width: 4 at least.
      channels: of the first and of the second convolution.
      image_channels: of an image, such as 3 of colors; of 1 the axis may be missing.
      rngs: of the initial parameters.

    Raises:
      ValueError: images that are too small.
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: tuple[int, int],
        *,
        image_channels: int = 1,
        rngs: nnx.Rngs,
    ):
        if min(height, width) < 4:
            raise ValueError(f"images must be 4 x 4 pixels at least, got {height} x {width}")
        self.shape = height, width, image_channels
        self.first = nnx.Conv(image_channels, channels[0], (5, 5), rngs=rngs)
        self.second = nnx.Conv(channels[0], channels[1], (5, 5), rngs=rngs)
        self.hidden = nnx.Linear(height // 4 * (width // 4) * channels[1], HIDDEN, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Features of images."""
        return self.pooled(self.local(images))

    def local(self, images: jax.Array) -> jax.Array:
        """What the convolutions see at every place: (batch, height / 4, width / 4, channel).

        Raises:
          ValueError: images of another shape.
        """
        x = images[..., None] if images.ndim == 3 else images
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"images must be (batch, height, width, channel) with {self.shape} behind the "
                f"batch, got {images.shape}"
            )
        x = x.astype(jnp.float32) / 255.0
        for convolution in (self.first, self.second):
            x = nnx.relu(_max_pool(convolution(x)))
        return x

    def pooled(self, local: jax.Array) -> jax.Array:
        """Features of images from the local ones."""
        return nnx.relu(self.hidden(local.reshape(local.shape[0], -1)))


def _max_pool(x: jax.Array) -> jax.Array:
    """The greatest of every 2 x 2 elements of (batch, height, width, channel).

    Of an odd side the last element is left out. Of a reshaped array: on a CPU the gradient of a
    windowed reduction is far slower.
    """
    batch, height, width, channels = x.shape
    down, across = height // 2, width // 2
    even = x[:, : 2 * down, : 2 * across]
    return even.reshape(batch, down, 2, across, 2, channels).max((2, 4))
