"""Losses that ask of every row and column of a batch: does the match come first?

The deterministic objectives that probabilistic ones are compared with. They
take the same Gaussians and see the directions of their means alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from probemb.distributions.gaussians import DiagonalGaussian
from probemb.losses import softmax
from probemb.losses.batches import check_labels, check_pair, labels_of, partners, with_labels
from probemb.numerics import arguments
from probemb.numerics.arguments import Number
from probemb.numerics.euclidean import normalized, product
from probemb.numerics.reduction import batch_size, batch_sum, reduce_pairs


def _softmax_tile(rows: dict, columns: dict, scale: jax.Array):
    logits = scale * product(rows["mean"], columns["mean"])
    return softmax.sums(logits, labels_of(rows, columns, logits.dtype))


def info_nce(
    image: DiagonalGaussian,
    text: DiagonalGaussian,
    *,
    logit_scale: Number,
    labels: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """InfoNCE of the means, as in CLIP: the mean of two softmax cross-entropies.

    Rows: -mean_i sum_j q_ij log softmax_j(s cos(m_i, m_j)), where q is the label divided by
    its sum over the row; the same for columns; and half the sum of both.

    Args:
      image: Gaussians (batch, dimension); only the directions of the means count.
      text: Gaussians (batch, dimension).
      logit_scale: s > 0, the inverse temperature.
      labels: match probabilities (batch, batch); by default 1 on the diagonal. A row or
        column without a label counts as 0.
      axis_name: within `shard_map`, the axis over which the batch is sharded; labels
        then have this device's rows and all columns.

    Returns:
      A scalar, the same on all devices.

    Raises:
      TypeError, ValueError: arguments that do not fit, or values out of range.

    Source: van den Oord et al., 2018; CLIP (Radford et al., ICML 2021).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.ones((4, 2)), jnp.zeros((4, 2)))
      >>> round(float(info_nce(p, p, logit_scale=10)), 4)  # log 4
      1.3863
    """
    image, text = check_pair(image, text)
    scale = arguments.positive("logit_scale", logit_scale, image.mean)
    labels = check_labels(labels, image.mean, axis_name)
    rows, columns = ({"mean": normalized(p.mean)} for p in (image, text))
    rows, columns = with_labels(rows, columns, labels, axis_name)
    both = reduce_pairs(
        _softmax_tile,
        softmax.merge,
        rows,
        columns,
        scale,
        has_column_values=True,
        axis_name=axis_name,
    )
    losses = sum((softmax.cross_entropy(of) for of in both), jnp.zeros((), image.mean.dtype))
    return 0.5 * batch_sum(losses, axis_name) / batch_size(len(image.mean), axis_name)


def _hardest_tile(rows: dict, columns: dict, _: tuple):
    """For each row and column: the greatest similarity of a pair that does not match."""
    similarity = product(rows["mean"], columns["mean"])
    label = labels_of(rows, columns, similarity.dtype)
    # -inf, so that an item without negatives has no loss, whatever the margin.
    negative = jnp.where(label == 0.0, similarity, -jnp.inf)
    return jnp.max(negative, axis=1), jnp.max(negative, axis=0)


def _merge_hardest(stacked: jax.Array) -> jax.Array:
    return jnp.max(stacked, axis=0)


def triplet(
    image: DiagonalGaussian,
    text: DiagonalGaussian,
    *,
    margin: Number = 0.2,
    labels: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """The triplet loss of the means with the hardest negatives of the batch.

    sum_i max(0, margin + max_j cos(m_i, m_j) - cos(m_i, positive of i)), j over the texts that
    do not match i, and the same with images and texts exchanged.

    Args:
      image: Gaussians (batch, dimension); only the directions of the means count.
      text: Gaussians (batch, dimension).
      margin: from 0 on.
      labels: match probabilities (batch, batch); by default 1 on the diagonal. Pairs with 0
        are negatives; an item's positive is the first pair of its greatest label. An item
        without a positive counts as 0.
      axis_name: as in `info_nce`.

    Returns:
      A scalar, the same on all devices; 0 where nothing is a negative.

    Raises:
      TypeError, ValueError: arguments that do not fit, or values out of range.

    Source: VSE++ (Faghri et al., BMVC 2018); VSE-infinity (Chen et al., CVPR
    2021) trains with the same loss.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.eye(3), jnp.zeros((3, 3)))
      >>> float(triplet(p, p)), round(float(triplet(p, p, margin=1.5)), 4)
      (0.0, 3.0)
    """
    image, text = check_pair(image, text)
    margin = arguments.not_negative("margin", margin, image.mean)
    labels = check_labels(labels, image.mean, axis_name)
    images, texts = ({"mean": normalized(p.mean)} for p in (image, text))
    of_image, of_text = partners(images, texts, labels, axis_name)
    rows, columns = with_labels(images, texts, labels, axis_name)
    hardest = reduce_pairs(
        _hardest_tile,
        _merge_hardest,
        rows,
        columns,
        (),
        has_column_values=True,
        axis_name=axis_name,
    )

    def hinge(items, hardest, partner, label):
        loss = jax.nn.relu(margin + hardest - jnp.sum(items["mean"] * partner["mean"], axis=1))
        return loss if label is None else jnp.where(label > 0.0, loss, 0.0)

    losses = hinge(images, hardest[0], *of_image) + hinge(texts, hardest[1], *of_text)
    return batch_sum(losses, axis_name)
