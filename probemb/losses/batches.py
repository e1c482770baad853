"""Batches of paired Gaussians with labels, checked and laid out for `reduction`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from probemb.distributions.gaussians import DiagonalGaussian, gaussian
from probemb.numerics import arguments
from probemb.numerics.reduction import batch_index, batch_size


def check_pair(image: Any, text: Any) -> tuple[DiagonalGaussian, DiagonalGaussian]:
    """Two sets (batch, dimension) of Gaussians in one dimension."""
    image, text = arguments.one_dtype(gaussian("image", image), gaussian("text", text))
    check_shapes(image.mean.shape, text.mean.shape, "batch dimension")
    return image, text


def check_shapes(of_image: tuple[int, ...], of_text: tuple[int, ...], axes: str) -> None:
    """Shapes with these axes, the first and the last of them equal."""
    rank = len(axes.split())
    fits = len(of_image) == len(of_text) == rank
    if not fits or of_image[0] != of_text[0] or of_image[-1] != of_text[-1]:
        raise ValueError(
            f"image and text must have shapes ({axes}) of one batch and one dimension, "
            f"got {of_image} and {of_text}"
        )


def check_labels(labels: Any, like: jax.Array, axis_name: str | None) -> jax.Array | None:
    """Match probabilities (batch, batch of all devices), or None for the diagonal."""
    rows, columns = len(like), batch_size(len(like), axis_name)
    if labels is None:
        return None
    labels = arguments.probabilities("labels", labels, like)
    if labels.shape != (rows, columns):
        raise ValueError(
            f"labels must have shape (image, text) = ({rows}, {columns}), got {labels.shape}"
        )
    return labels


def with_labels(
    image: dict, text: dict, labels: jax.Array | None, axis_name: str | None
) -> tuple[dict, dict]:
    """Rows and columns with their places in the whole batch, and the rows' labels."""
    size = len(jax.tree.leaves(image)[0])
    index = batch_index(size, axis_name)
    rows = {**image, "index": index}
    if labels is not None:
        rows["labels"] = labels
    return rows, {**text, "index": index}


def labels_of(rows: dict, columns: dict, dtype: Any) -> jax.Array:
    """The labels (rows, columns) of a tile: given, or 1 where the places are equal."""
    if "labels" in rows:
        # A tile's columns are one device's, all of them: their places follow one another.
        first, number = columns["index"][0], len(columns["index"])
        return jax.lax.dynamic_slice_in_dim(rows["labels"], first, number, axis=1)
    return (rows["index"][:, None] == columns["index"][None]).astype(dtype)


def item_keys(key: jax.Array, size: int, axis_name: str | None) -> jax.Array:
    """A key for each item of the whole batch, the same however it is sharded."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, batch_index(size, axis_name))


def positives(labels: jax.Array, axis_name: str | None):
    """Where the label of each row, and of each column, is greatest, and that label.

    Returns:
      (place of the text, label) of this device's images, and (place of the image,
      label) of this device's texts; places are those in the whole batch, and among
      equal labels the first counts.
    """
    of_rows = jnp.argmax(labels, axis=1), jnp.max(labels, axis=1)
    places, greatest = jnp.argmax(labels, axis=0), jnp.max(labels, axis=0)
    if axis_name is None:
        return of_rows, (places, greatest)
    rows = len(labels)
    # `argmax` takes the first of equals, on a device and then among devices: as on one device.
    everywhere = jax.lax.all_gather(greatest, axis_name)
    device = jnp.argmax(everywhere, axis=0)
    places = jnp.take_along_axis(jax.lax.all_gather(places, axis_name), device[None], axis=0)[0]
    first = jax.lax.axis_index(axis_name) * rows
    here = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=rows)
    return of_rows, (here(device * rows + places), here(jnp.max(everywhere, axis=0)))


def partners(image: dict, text: dict, labels: jax.Array | None, axis_name: str | None):
    """The text at each image's positive and the image at each text's, and their labels.

    Without labels an item's positive is its own partner, and the labels are None.
    """
    if labels is None:
        return (text, None), (image, None)
    (text_places, of_images), (image_places, of_texts) = positives(labels, axis_name)

    def taken(tree, places):
        if axis_name is not None:
            tree = jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), tree)
        return jax.tree.map(lambda x: x[places], tree)

    return (taken(text, text_places), of_images), (taken(image, image_places), of_texts)
