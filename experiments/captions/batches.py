"""Batches of images and captions, whatever they are, and what is left of them when masked."""

from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.words import PADDING


class Batch(NamedTuple):
    """Images (batch, ...), captions (batch, ...) and which match (batch, batch)."""

    images: Any
    texts: Any
    labels: Any


def annotated_batches(
    images: np.ndarray,
    texts: np.ndarray,
    annotations: np.ndarray,
    num_steps: int,
    *,
    seed: int,
    batch_size: int,
    positives: np.ndarray | None = None,
) -> grain.MapDataset:
    """Batches of different images, each with one of its captions.

    Args:
      images: (image, ...).
      texts: (caption, ...).
      annotations: (pair, 2), the image and one of its captions.
      num_steps: how many batches.
      seed: batch k is a function of seed and k alone.
      batch_size: at most the number of images.
      positives: which captions (image, caption) match which images. By default each image
        matches its own caption of the batch alone, as if nothing else was known.
    """
    order = np.argsort(annotations[:, 0], kind="stable")
    captions = annotations[order, 1]
    ids, starts, counts = np.unique(annotations[order, 0], return_index=True, return_counts=True)
    if not 2 <= batch_size <= len(ids):
        raise ValueError(
            f"batch_size must lie in 2..{len(ids)}, the images with captions, got {batch_size}"
        )
    alone = np.eye(batch_size, dtype=np.float32)

    def draw(_: int, random: np.random.Generator) -> Batch:
        chosen = random.choice(len(ids), batch_size, replace=False)
        caption = captions[starts[chosen] + random.integers(0, counts[chosen])]
        image = ids[chosen]
        labels = alone if positives is None else positives[image][:, caption].astype(np.float32)
        return Batch(images[image], texts[caption], labels)

    return grain.MapDataset.range(num_steps).seed(seed).random_map(draw)


def masked(key: jax.Array, inputs: jax.Array, *, share: float) -> jax.Array:
    """What is left of inputs (batch, ...) of any kind when a share of them is masked.

    Of pictures cells of 4 x 4, of texts words, of features places, each with one probability.
    """
    if inputs.ndim == 2:
        hidden = jax.random.bernoulli(key, share, inputs.shape)
        return jnp.where(hidden, PADDING, inputs)
    batch, height, width = inputs.shape
    if inputs.dtype == jnp.uint8:
        cells = jax.random.bernoulli(key, share, (batch, height // 4, width // 4))
        hidden = jnp.repeat(jnp.repeat(cells, 4, axis=1), 4, axis=2)
    else:
        hidden = jax.random.bernoulli(key, share, (batch, height, 1))
    return jnp.where(hidden, jnp.zeros((), inputs.dtype), inputs)
