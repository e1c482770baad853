"""Losses that ask of every pair of a batch: does it match? One logit, one cross-entropy.

PCME++ and ProLIP have a closed-form logit, in which the variance counts by its trace
alone; SigLIP has the same loss without a variance.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from probemb.distributions.gaussians import DiagonalGaussian
from probemb.losses.batches import (
    check_labels,
    check_pair,
    labels_of,
    partners,
    with_labels,
)
from probemb.losses.regularizers import kl_to_standard_normal
from probemb.numerics import arguments
from probemb.numerics.arguments import Number
from probemb.numerics.euclidean import centered, normalized, product, squared_distance
from probemb.numerics.reduction import batch_size, batch_sum, reduce_pairs, total

# Logits that differ by this many units of rounding are equal.
_ROUNDING = 16.0


def _mean_and_trace(p: DiagonalGaussian, mean: jax.Array) -> dict:
    return {"mean": mean, "trace": jnp.sum(p.variance, axis=1)}


def _traces(rows: dict, columns: dict) -> jax.Array:
    return rows["trace"][:, None] + columns["trace"][None]


def _pcmepp_tile(rows: dict, columns: dict, parameters: tuple):
    """PCME++'s losses of all pairs, summed for each row."""
    a, b, alpha = parameters
    logits = b - a * (squared_distance(rows["mean"], columns["mean"]) + _traces(rows, columns))
    softplus = jax.nn.softplus(logits)
    label = labels_of(rows, columns, logits.dtype)
    by_row = jnp.where(logits >= rows["positive_logit"][:, None], rows["label"][:, None], label)
    by_column = jnp.where(logits >= columns["positive_logit"][None], columns["label"][None], label)
    # BCE(l, y) is softplus(l) - y l: three labels of a pair share one softplus.
    losses = 2.0 * (softplus - label * logits)
    losses += alpha * (2.0 * softplus - (by_row + by_column) * logits)
    return jnp.sum(losses, axis=1), ()


def pcmepp(
    image: DiagonalGaussian,
    text: DiagonalGaussian,
    *,
    negative_scale: Number,
    shift: Number,
    labels: ArrayLike | None = None,
    pseudo_positive_weight: Number = 0.1,
    kl_weight: Number = 1e-4,
    axis_name: str | None = None,
) -> jax.Array:
    """PCME++'s loss of a batch, on the closed-form sampled distance.

    2 BCE(l, y) + alpha (BCE(l, y_rows) + BCE(l, y_columns)) + beta KL, with the logit
    l_ij = -a d_ij + b and BCE and KL means. Pseudo-positives: in row i, every text whose logit
    is at least that of the positive takes the positive's label, y_rows; and by columns.

    Args:
      image: Gaussians (batch, dimension).
      text: Gaussians (batch, dimension).
      negative_scale: a > 0.
      shift: b.
      labels: y, match probabilities (batch, batch), such as `mixing` gives; by default 1
        on the diagonal, 0 elsewhere.
      pseudo_positive_weight: alpha.
      kl_weight: beta.
      axis_name: within `shard_map`, the axis over which the batch is sharded; labels
        then have this device's rows and all columns.

    Returns:
      A scalar, the same on all devices.

    Raises:
      TypeError, ValueError: arguments that do not fit, or values out of range.

    Source: PCME++ (Chun, ICLR 2024); naver-ai/pcmepp.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.eye(2), jnp.full((2, 2), -30.0))
      >>> loss = pcmepp(p, p, negative_scale=5, shift=5, kl_weight=0)
      >>> bool(loss < pcmepp(p, p._replace(mean=p.mean[::-1]), negative_scale=5, shift=5))
      True
    """
    image, text = check_pair(image, text)
    a = arguments.positive("negative_scale", negative_scale, image.mean)
    b = arguments.scalar("shift", shift, image.mean)
    alpha = arguments.not_negative("pseudo_positive_weight", pseudo_positive_weight, image.mean)
    beta = arguments.not_negative("kl_weight", kl_weight, image.mean)
    labels = check_labels(labels, image.mean, axis_name)
    means = centered(image.mean, text.mean, axis_name)
    rows, columns = (_mean_and_trace(p, m) for p, m in zip((image, text), means, strict=True))

    def with_positive(items, partner, label):
        apart = jnp.sum(jnp.square(items["mean"] - partner["mean"]), axis=1)
        spread = items["trace"] + partner["trace"]
        logit = b - a * (apart + spread)
        # Duplicates of the positive tie with it; a tile's rounding must not decide.
        squares = jnp.sum(jnp.square(items["mean"]) + jnp.square(partner["mean"]), axis=1)
        slack = _ROUNDING * jnp.finfo(logit.dtype).eps * (a * (squares + spread) + jnp.abs(b))
        label = jnp.ones_like(logit) if label is None else label
        return {**items, "positive_logit": jax.lax.stop_gradient(logit - slack), "label": label}

    of_image, of_text = partners(rows, columns, labels, axis_name)
    rows, columns = with_labels(
        with_positive(rows, *of_image), with_positive(columns, *of_text), labels, axis_name
    )
    losses, _ = reduce_pairs(_pcmepp_tile, total, rows, columns, (a, b, alpha), axis_name=axis_name)
    batch = batch_size(len(image.mean), axis_name)
    divergence = kl_to_standard_normal(image) + kl_to_standard_normal(text)
    divergence = batch_sum(divergence, axis_name) / (batch * image.mean.shape[1])
    return batch_sum(losses, axis_name) / batch**2 + beta * divergence


def _inner_product_tile(rows: dict, columns: dict, parameters: tuple):
    """Cross-entropies of all pairs, summed for each row."""
    scale, bias = parameters
    inner = product(rows["mean"], columns["mean"]) - 0.5 * _traces(rows, columns)
    logits = scale * inner + bias
    label = labels_of(rows, columns, logits.dtype)
    return jnp.sum(jax.nn.softplus(logits) - label * logits, axis=1), ()


def _inner_product_loss(rows, columns, like, logit_scale, logit_bias, labels, axis_name):
    parameters = (
        arguments.positive("logit_scale", logit_scale, like),
        arguments.scalar("logit_bias", logit_bias, like),
    )
    labels = check_labels(labels, like, axis_name)
    rows, columns = with_labels(rows, columns, labels, axis_name)
    losses, _ = reduce_pairs(
        _inner_product_tile, total, rows, columns, parameters, axis_name=axis_name
    )
    return batch_sum(losses, axis_name) / batch_size(len(like), axis_name)


def prolip(
    image: DiagonalGaussian,
    text: DiagonalGaussian,
    *,
    logit_scale: Number,
    logit_bias: Number,
    labels: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """ProLIP's probabilistic pairwise contrastive loss of a batch.

    -sum_ij log sigmoid(+-l_ij) / B with l_ij = s (m_i . m_j - (sum v_i + sum v_j) / 2) + b,
    plus on the diagonal and minus elsewhere. For means of length 1 it is a
    logistic loss on the closed-form sampled distance.

    Args:
      image: Gaussians (batch, dimension) with means of length 1 (not enforced).
      text: Gaussians (batch, dimension).
      logit_scale: s > 0, the exponential of the learned parameter; ProLIP keeps it below 100.
      logit_bias: b.
      labels: match probabilities (batch, batch); by default 1 on the diagonal.
      axis_name: as in `pcmepp`.

    Returns:
      A scalar, the same on all devices. The inclusion losses are in `inclusion`.

    Raises:
      TypeError, ValueError: arguments that do not fit, or values out of range.

    Source: ProLIP (Chun et al., ICLR 2025). The release rotates stale tensors
    around its ring for every even number of devices, fails at 2, and adds regularisers
    at each step of the ring.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.eye(2), jnp.full((2, 2), -30.0))
      >>> round(float(prolip(p, p, logit_scale=10, logit_bias=-5)), 4)
      0.0134
    """
    image, text = check_pair(image, text)
    # Not centred: unlike a distance, an inner product depends on where 0 is.
    rows, columns = (_mean_and_trace(p, p.mean) for p in (image, text))
    return _inner_product_loss(
        rows, columns, image.mean, logit_scale, logit_bias, labels, axis_name
    )


def siglip(
    image: DiagonalGaussian,
    text: DiagonalGaussian,
    *,
    logit_scale: Number,
    logit_bias: Number,
    labels: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """SigLIP's pairwise sigmoid loss of the means: deterministic, whatever the variances.

    -sum_ij log sigmoid(+-l_ij) / B with l_ij = s cos(m_i, m_j) + b.

    Args:
      image: Gaussians (batch, dimension); only the directions of the means count.
      text: Gaussians (batch, dimension).
      logit_scale: s > 0.
      logit_bias: b.
      labels: match probabilities (batch, batch); by default 1 on the diagonal.
      axis_name: as in `pcmepp`.

    Returns:
      A scalar, the same on all devices.

    Raises:
      TypeError, ValueError: arguments that do not fit, or values out of range.

    Source: SigLIP (Zhai et al., ICCV 2023).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.eye(2), jnp.zeros((2, 2)))
      >>> round(float(siglip(p, p, logit_scale=10, logit_bias=-5)), 4)
      0.0134
    """
    image, text = check_pair(image, text)
    rows, columns = (
        {"mean": normalized(p.mean), "trace": jnp.zeros_like(p.mean[:, 0])} for p in (image, text)
    )
    return _inner_product_loss(
        rows, columns, image.mean, logit_scale, logit_bias, labels, axis_name
    )
