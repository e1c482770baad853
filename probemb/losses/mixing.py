"""Mixed images and the soft labels that go with them: Mixup and CutMix.

Image i is mixed with image partner[i]; it then matches its own text with
probability lambda and its partner's with 1 - lambda.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from probemb.numerics import arguments
from probemb.numerics.arguments import Number

# From here on Beta(a, a) is a Gaussian to 1e-5, and JAX's sampler takes ever longer.
_LARGE = 1e4


def _mixing(image: Any, partner: Any) -> tuple[jax.Array, jax.Array]:
    """Images (batch, ...), and the places of their partners."""
    image = arguments.floats("image", image)
    if image.ndim < 1:
        raise ValueError(f"image must have a batch axis, got shape {image.shape}")
    return image, _partners(partner, len(image))


def _partners(partner: Any, size: int | None) -> jax.Array:
    """Checked places in a batch; of any size where none is given."""
    partner = arguments.array("partner", partner)
    if not jnp.issubdtype(partner.dtype, jnp.integer):
        raise TypeError(f"partner must be an array of integers, got {partner.dtype}")
    if partner.ndim != 1 or len(partner) == 0 or len(partner) != (size or len(partner)):
        raise ValueError(f"partner must have shape ({size or 'batch'},), got {partner.shape}")
    size = len(partner)
    if arguments.concrete(partner):
        seen = np.asarray(partner)  # of an array within `jit`, no operation of JAX can be looked at
        if (bad := seen[(seen < 0) | (seen >= size)]).size:
            raise ValueError(f"partner must hold places in 0..{size - 1}, got {bad[0]}")
    return jnp.asarray(partner)


def soft_labels(partner: ArrayLike, own_share: ArrayLike) -> jax.Array:
    """Match probabilities of mixed images with the texts of a batch.

    y[i, i] = lambda_i and y[i, partner[i]] = 1 - lambda_i; where an image is its own
    partner both add up to 1.

    Args:
      partner: places (batch) of the partners, integers.
      own_share: lambda from 0 to 1, a scalar or (batch).

    Returns:
      Labels (batch, batch) for `pcmepp` and the other losses of all pairs.

    Raises:
      TypeError, ValueError: no integers, places out of range, or shares outside of 0..1.

    Source: mixup (Zhang et al., ICLR 2018), CutMix (Yun et al., ICCV 2019); for image and text
    in PCME++ (Chun, ICLR 2024).

    Example:
      >>> import jax.numpy as jnp
      >>> soft_labels(jnp.array([1, 0]), 0.75).tolist()
      [[0.75, 0.25], [0.25, 0.75]]
    """
    partner = _partners(partner, None)
    size = len(partner)
    given = getattr(own_share, "dtype", None)
    dtype = given if given in (np.float32, np.float64) else np.dtype(float)
    like = jnp.zeros((), jax.dtypes.canonicalize_dtype(dtype))
    share = arguments.probabilities("own_share", own_share, like)
    if share.shape not in ((), (size,)):
        raise ValueError(f"own_share must be a scalar or have shape ({size},), got {share.shape}")
    own, share = jnp.eye(size, dtype=share.dtype), share.reshape(-1, 1)
    places = jnp.arange(size, dtype=jnp.int32)
    of_partner = (partner.astype(jnp.int32)[:, None] == places[None]).astype(share.dtype)
    return share * own + (1.0 - share) * of_partner


def _own_share(key: jax.Array, a: jax.Array) -> jax.Array:
    """A sample of Beta(a, a), differentiable in a."""
    least = jnp.minimum(a, _LARGE)
    beta = jax.random.beta(key, least, least, dtype=a.dtype)
    noise = jax.random.normal(key, dtype=a.dtype)  # of the same key: only one of both is used
    # Beta(a, a) has the variance 1 / (4 (2 a + 1)).
    gaussian = jnp.clip(0.5 + 0.5 * noise / jnp.sqrt(2.0 * a + 1.0), 0.0, 1.0)
    return jnp.where(a > _LARGE, gaussian, beta)


def mixup(
    key: jax.Array, image: ArrayLike, partner: ArrayLike, *, concentration: Number = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Images as weighted sums with their partners, and the images' own shares.

    lambda x_i + (1 - lambda) x_partner[i], one lambda ~ Beta(a, a) for the batch.

    Args:
      key: a random key.
      image: floats (batch, ...).
      partner: places (batch) of the partners, integers, such as a permutation.
      concentration: a > 0 of the Beta distribution.

    Returns:
      Images of the same shape, and lambda for `soft_labels`.

    Raises:
      TypeError, ValueError: no key, no floats, places or values out of range.

    Source: mixup (Zhang et al., ICLR 2018).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([[0.0], [1.0]])
      >>> mixed, share = mixup(jax.random.key(0), x, jnp.array([1, 0]))
      >>> bool(jnp.allclose(mixed[1], share))
      True
    """
    image, partner = _mixing(image, partner)
    a = arguments.positive("concentration", concentration, image)
    share = _own_share(arguments.key(key), a)
    return share * image + (1.0 - share) * image[partner], share


def cutmix(
    key: jax.Array, image: ArrayLike, partner: ArrayLike, *, concentration: Number = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Images with a rectangle of their partners' in it, and the images' own shares.

    A rectangle of share 1 - lambda of the area, lambda ~ Beta(a, a), around a random
    centre; it is cut off at the border, and the returned share counts what is left.

    Args:
      key: a random key.
      image: floats (batch, height, width, channel).
      partner: places (batch) of the partners, integers, such as a permutation.
      concentration: a > 0 of the Beta distribution.

    Returns:
      Images of the same shape, and lambda for `soft_labels`.

    Raises:
      TypeError, ValueError: no key, no images, places or values out of range.

    Source: CutMix (Yun et al., ICCV 2019).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.stack([jnp.zeros((8, 8, 1)), jnp.ones((8, 8, 1))])
      >>> mixed, share = cutmix(jax.random.key(0), x, jnp.array([1, 0]))
      >>> bool(jnp.allclose(mixed[1].mean(), share))
      True
    """
    image, partner = _mixing(image, partner)
    if image.ndim != 4:
        raise ValueError(
            f"image must have shape (batch height width channel), got shape {image.shape}"
        )
    a = arguments.positive("concentration", concentration, image)
    of_share, of_row, of_column = jax.random.split(arguments.key(key), 3)
    side = jnp.sqrt(1.0 - _own_share(of_share, a))

    def within(key, length):
        center = jax.random.randint(key, (), 0, length)
        half = (side * length / 2.0).astype(center.dtype)
        place = jnp.arange(length, dtype=center.dtype)
        return (place >= center - half) & (place < center + half)

    height, width = image.shape[1:3]
    inside = within(of_row, height)[:, None] & within(of_column, width)[None]
    mixed = jnp.where(inside[None, :, :, None], image[partner], image)
    return mixed, 1.0 - jnp.mean(inside.astype(image.dtype))
