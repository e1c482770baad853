"""Losses on the match probability of samples: HIB for a pair, PCME for all pairs of a batch.

Both take the mean over samples first and the logarithm last: -log E sigmoid(l)
for a match, -log E sigmoid(-l) for none, with l = -a |z_1 - z_2| + b.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from probemb.distributions import monte_carlo
from probemb.distributions.gaussians import (
    DiagonalGaussian,
    GaussianMixture,
    gaussian_or_mixture,
    gaussians,
    standard_normal,
)
from probemb.losses.batches import (
    check_labels,
    check_pair,
    check_shapes,
    item_keys,
    labels_of,
    with_labels,
)
from probemb.losses.regularizers import kl_to_standard_normal
from probemb.numerics import arguments
from probemb.numerics.arguments import Number
from probemb.numerics.euclidean import centered, squared_distance
from probemb.numerics.reduction import batch_sum, reduce_pairs, total
from probemb.pairs import matching, separation

# Squared distances below this count as 0.
_COINCIDENT = 1e-30


def _cross_entropy(log_match: jax.Array, log_mismatch: jax.Array, match: jax.Array) -> jax.Array:
    """-[m log p + (1 - m) log(1 - p)] for a label m from 0 to 1."""
    return -(match * log_match + (1.0 - match) * log_mismatch)


def _label(match: Any, like: jax.Array) -> jax.Array:
    """A checked label of one pair."""
    match = arguments.probabilities("match", match, like)
    if match.shape != ():
        raise ValueError(f"match must be a scalar (map over pairs with vmap), got {match.shape}")
    return match


def _bottleneck(key: jax.Array, p: Any, num_samples: int) -> jax.Array:
    """KL(p || N(0, I)): closed for a Gaussian, from samples for a mixture."""
    if isinstance(p, DiagonalGaussian):
        return kl_to_standard_normal(p)
    return monte_carlo.kl_divergence(key, p, standard_normal(p.mean), num_samples=num_samples)


def soft_contrastive(
    key: jax.Array,
    p: DiagonalGaussian | GaussianMixture,
    q: DiagonalGaussian | GaussianMixture,
    match: Number,
    *,
    negative_scale: Number,
    shift: Number,
    num_samples: int = 8,
    bottleneck_weight: Number = 1e-4,
) -> jax.Array:
    """HIB's loss of one pair of inputs, from samples of their embeddings.

    -log p(m | x_1, x_2) + beta (KL(p || N(0, I)) + KL(q || N(0, I))).

    Args:
      key: a random key.
      p: a `DiagonalGaussian` (dimension) or `GaussianMixture` (component, dimension).
      q: the distribution of the other input.
      match: m, 1 for a match and 0 for none, or a probability between.
      negative_scale: a > 0.
      shift: b.
      num_samples: K; all K x K pairs count (of every component of a mixture).
      bottleneck_weight: beta.

    Returns:
      A scalar. For a batch, `vmap`.

    Raises:
      TypeError, ValueError: arguments that do not fit, or values out of range.

    Source: HIB (Oh et al., ICLR 2019). No official training code exists.
    The samples of a mixture are stratified, which makes the loss differentiable in its
    weights; the divergence of a mixture is estimated from K samples.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(2), jnp.zeros(2))
      >>> loss = soft_contrastive(jax.random.key(0), p, p, 1, negative_scale=1, shift=0)
      >>> bool(loss > 0.69)
      True
    """
    of_p, of_q, of_p_divergence, of_q_divergence = jax.random.split(arguments.key(key), 4)
    p, q = gaussian_or_mixture("p", p), gaussian_or_mixture("q", q)
    if p.mean.shape != q.mean.shape:
        raise ValueError(f"p and q must have one dimension, got {p.mean.shape} and {q.mean.shape}")
    x = matching.weighted_samples(of_p, "p", p, num_samples)
    y = matching.weighted_samples(of_q, "q", q, num_samples)
    loss = soft_contrastive_of_samples(x, y, match, negative_scale=negative_scale, shift=shift)
    beta = arguments.not_negative("bottleneck_weight", bottleneck_weight, loss)
    divergence = _bottleneck(of_p_divergence, p, num_samples)
    divergence += _bottleneck(of_q_divergence, q, num_samples)
    return loss + beta * divergence


def soft_contrastive_of_samples(
    x: ArrayLike | tuple[ArrayLike, ArrayLike],
    y: ArrayLike | tuple[ArrayLike, ArrayLike],
    match: Number,
    *,
    negative_scale: Number,
    shift: Number,
) -> jax.Array:
    """HIB's loss of one pair of inputs from given samples, without the bottleneck.

    -log p(m | x_1, x_2). One sample a side is the loss of two points, HIB's deterministic
    baseline: -log sigmoid(-a |x - y| + b) for a match.

    Args:
      x: samples (sample, dimension), or (samples, log-weights) as of
        `GaussianMixture.stratified_sample`; weights are divided by their sum.
      y: samples of the other input; as many as there are.
      match: m, 1 for a match and 0 for none, or a probability between.
      negative_scale: a > 0.
      shift: b.

    Returns:
      A scalar. For a batch, `vmap`.

    Raises:
      TypeError, ValueError: shapes that do not fit, or values out of range.

    Source: HIB (Oh et al., ICLR 2019).

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.zeros((1, 2))
      >>> round(float(soft_contrastive_of_samples(x, x, 1, negative_scale=1, shift=0)), 4)
      0.6931
    """
    log_match, log_mismatch = matching.log_monte_carlo(x, y, negative_scale, shift)
    return _cross_entropy(log_match, log_mismatch, _label(match, log_match))


def soft_contrastive_quadrature(
    p: DiagonalGaussian,
    q: DiagonalGaussian,
    match: Number,
    *,
    negative_scale: Number,
    shift: Number,
    bottleneck_weight: Number = 1e-4,
) -> jax.Array:
    """`soft_contrastive` of two Gaussians without samples, by quadrature.

    Args:
      p: a `DiagonalGaussian` (dimension).
      q: the Gaussian of the other input.
      match: m, 1 for a match and 0 for none, or a probability between.
      negative_scale: a > 0.
      shift: b.
      bottleneck_weight: beta.

    Returns:
      A scalar. For a batch, `vmap`.

    Raises:
      TypeError, ValueError: arguments that do not fit, or values out of range.

    Source: HIB (Oh et al., ICLR 2019); see `matching.expected_match_probability`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(2), jnp.zeros(2))
      >>> bool(soft_contrastive_quadrature(p, p, 1, negative_scale=1, shift=0) > 0.69)
      True
    """
    if isinstance(p, GaussianMixture) or isinstance(q, GaussianMixture):
        raise TypeError(
            "p and q must be DiagonalGaussians: the bottleneck of a mixture needs samples, "
            "as soft_contrastive takes them"
        )
    p, q = gaussians(p, q)
    log_match, log_mismatch = matching.log_expected_match_probability(
        p, q, negative_scale=negative_scale, shift=shift
    )
    match = _label(match, log_match)
    beta = arguments.not_negative("bottleneck_weight", bottleneck_weight, log_match)
    divergence = kl_to_standard_normal(p) + kl_to_standard_normal(q)
    return _cross_entropy(log_match, log_mismatch, match) + beta * divergence


def _log_mean_sigmoid(logits: jax.Array) -> jax.Array:
    """Log mean_kl sigmoid(l_ikjl), (i, j), with one exponential per logit.

    sigmoid(l) = e^c / (e^c + e^(c - l)), and c = min(max l, 0) keeps both exponentials in range.
    """
    most = 0.9 * math.log(jnp.finfo(logits.dtype).max)
    c = jax.lax.stop_gradient(jnp.minimum(jnp.max(logits, axis=(1, 3)), 0.0))
    c_of_all = c[:, None, :, None]
    scaled = 1.0 / (jnp.exp(c_of_all) + jnp.exp(jnp.minimum(c_of_all - logits, most)))
    return c + jnp.log(jnp.mean(scaled, axis=(1, 3)))


def _samples_tile(offset: float, rows: dict, columns: dict, parameters: tuple):
    """Losses of all pairs of rows (b, K, D) and columns (c, L, D), summed for each row."""
    a, b = parameters
    x, y = rows["samples"], columns["samples"]
    apart = squared_distance(*(z.reshape(-1, z.shape[-1]) for z in (x, y)))
    # The lower bound has the derivative 0, where that of a square root would be infinite.
    squared = jnp.maximum(apart, _COINCIDENT) + offset
    # One axis at a time, as a mesh with explicit axes has it.
    squared = squared.reshape(*x.shape[:2], -1).reshape(*x.shape[:2], *y.shape[:2])
    logits = b - a * jnp.sqrt(squared)
    match = labels_of(rows, columns, logits.dtype)
    if "labels" in rows:
        losses = _cross_entropy(_log_mean_sigmoid(logits), _log_mean_sigmoid(-logits), match)
    else:
        # A match is 0 or 1 here: the sign of the logit tells which of both logarithms is needed.
        losses = -_log_mean_sigmoid((2.0 * match - 1.0)[:, None, :, None] * logits)
    return jnp.sum(losses, axis=1), ()


def _expected_tile(rows: dict, columns: dict, parameters: tuple):
    """The same for Gaussians in place of samples, by quadrature."""
    log_match, log_mismatch = matching.pairwise_log_expected(
        rows["gaussian"], columns["gaussian"], *parameters
    )
    match = labels_of(rows, columns, log_match.dtype)
    return jnp.sum(_cross_entropy(log_match, log_mismatch, match), axis=1), ()


def _exact_tile(rows: dict, columns: dict, parameters: tuple):
    return _samples_tile(0.0, rows, columns, parameters)


def _released_tile(rows: dict, columns: dict, parameters: tuple):
    a, b = parameters
    return _samples_tile(1e-6, rows, columns, (2.0 * a, 2.0 * b))


def _sum_over_samples(image_samples, text_samples, negative_scale, shift, labels, axis_name, tile):
    x, y = arguments.one_dtype(
        arguments.batch("image_samples", image_samples, "batch sample dimension"),
        arguments.batch("text_samples", text_samples, "batch sample dimension"),
    )
    check_shapes(x.shape, y.shape, "batch sample dimension")
    a = arguments.positive("negative_scale", negative_scale, x)
    b = arguments.scalar("shift", shift, x)
    labels = check_labels(labels, x, axis_name)
    elements = x.shape[1] * y.shape[1]
    x, y = centered(x, y, axis_name)
    rows, columns = with_labels({"samples": x}, {"samples": y}, labels, axis_name)
    losses, _ = reduce_pairs(
        tile, total, rows, columns, (a, b), elements_per_pair=elements, axis_name=axis_name
    )
    return batch_sum(losses, axis_name)


def pcme_of_samples(
    image_samples: ArrayLike,
    text_samples: ArrayLike,
    *,
    negative_scale: Number,
    shift: Number,
    labels: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """PCME's loss of a batch from given samples: the sum over all pairs of image and text.

    sum_ij -log p_ij for matches and -log(1 - p_ij) for the others, where p_ij is the
    mean of sigmoid(-a |v_i^k - t_j^l| + b) over all pairs of samples.

    Args:
      image_samples: (batch, sample, dimension). Squared distances are matrix products of samples
        around their mean: in float32, pairs much closer than the samples lie far apart lose digits.
      text_samples: (batch, sample, dimension); samples may differ in number.
      negative_scale: a > 0.
      shift: b.
      labels: match probabilities (batch, batch); by default 1 on the diagonal, 0 elsewhere.
      axis_name: within `shard_map`, the axis over which the batch is sharded; labels
        then have this device's rows and all columns.

    Returns:
      A scalar, the same on all devices.

    Raises:
      TypeError, ValueError: shapes that do not fit, or values out of range.

    Source: PCME (Chun et al., CVPR 2021). `pcme_released` is the loss
    of the release.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.zeros((2, 3, 4))
      >>> round(float(pcme_of_samples(x, x, negative_scale=1, shift=0)), 4)  # 4 log 2
      2.7726
    """
    return _sum_over_samples(
        image_samples, text_samples, negative_scale, shift, labels, axis_name, _exact_tile
    )


def pcme_released(
    image_samples: ArrayLike,
    text_samples: ArrayLike,
    *,
    negative_scale: Number,
    shift: Number,
    axis_name: str | None = None,
) -> jax.Array:
    """PCME's loss as released: `pcme_of_samples` with 2a and 2b, counted twice.

    Its sigmoid is e^l / (e^l + e^-l) = sigmoid(2 l), so that a and b mean half of
    what the paper's mean. Image-to-text and text-to-image losses are one number,
    computed twice and added. And 1e-6 is added to each squared distance.

    Args:
      image_samples: (batch, sample, dimension).
      text_samples: (batch, sample, dimension).
      negative_scale: a > 0, in the release's meaning.
      shift: b, in the release's meaning.
      axis_name: as in `pcme_of_samples`.

    Returns:
      A scalar.

    Raises:
      TypeError, ValueError: shapes that do not fit, or values out of range.

    Source: naver-ai/pcme, commit 4947684.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.zeros((2, 3, 4))
      >>> round(float(pcme_released(x, x, negative_scale=1, shift=0)), 2)  # 8 log 2, nearly
      5.55
    """
    return 2.0 * _sum_over_samples(
        image_samples, text_samples, negative_scale, shift, None, axis_name, _released_tile
    )


def pcme(
    key: jax.Array,
    image: DiagonalGaussian,
    text: DiagonalGaussian,
    *,
    negative_scale: Number,
    shift: Number,
    num_samples: int = 7,
    labels: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """PCME's loss of a batch of Gaussians, from samples of them.

    Args:
      key: a random key. An item's samples depend on the key and the item's place
        in the batch, not on the number of devices.
      image: Gaussians (batch, dimension).
      text: Gaussians (batch, dimension).
      negative_scale: a > 0.
      shift: b.
      num_samples: K; each pair of items takes K x K pairs of samples.
      labels: as in `pcme_of_samples`.
      axis_name: as in `pcme_of_samples`.

    Returns:
      A scalar.

    Raises:
      TypeError, ValueError: arguments that do not fit, or values out of range.

    Source: PCME (Chun et al., CVPR 2021). Its regularisers are in `regularizers`. The
    release samples with exp(log_variance) as a standard deviation, where its divergence
    reads the same tensor as a log-variance.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros((2, 4)), jnp.full((2, 4), -30.0))
      >>> round(float(pcme(jax.random.key(0), p, p, negative_scale=1, shift=0)), 4)
      2.7726
    """
    image, text = check_pair(image, text)
    number = arguments.count("num_samples", num_samples)
    samples = [
        jax.vmap(lambda key, p: p.sample(key, (number,)))(item_keys(key, len(p.mean), axis_name), p)
        for key, p in zip(jax.random.split(arguments.key(key)), (image, text), strict=True)
    ]
    return pcme_of_samples(
        *samples, negative_scale=negative_scale, shift=shift, labels=labels, axis_name=axis_name
    )


def pcme_quadrature(
    image: DiagonalGaussian,
    text: DiagonalGaussian,
    *,
    negative_scale: Number,
    shift: Number,
    labels: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """PCME's loss of a batch of Gaussians without samples, by quadrature.

    What `pcme` tends to with more and more samples: exactly for isotropic
    Gaussians, by moment matching for others.

    Args:
      image: Gaussians (batch, dimension).
      text: Gaussians (batch, dimension).
      negative_scale: a > 0.
      shift: b.
      labels: as in `pcme_of_samples`.
      axis_name: as in `pcme_of_samples`.

    Returns:
      A scalar, with neither noise nor a key.

    Raises:
      TypeError, ValueError: arguments that do not fit, or values out of range.

    Source: the model is PCME's (Chun et al., CVPR 2021); see
    `matching.expected_match_probability`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros((2, 4)), jnp.full((2, 4), -30.0))
      >>> round(float(pcme_quadrature(p, p, negative_scale=1, shift=0)), 4)
      2.7726
    """
    image, text = check_pair(image, text)
    a = arguments.positive("negative_scale", negative_scale, image.mean)
    b = arguments.scalar("shift", shift, image.mean)
    labels = check_labels(labels, image.mean, axis_name)
    rows, columns = with_labels({"gaussian": image}, {"gaussian": text}, labels, axis_name)
    losses, _ = reduce_pairs(
        _expected_tile,
        total,
        rows,
        columns,
        (a, b),
        # Of a pair, some eight arrays over the nodes, and four over the dimensions.
        elements_per_pair=8 * separation.NODES + 4 * image.mean.shape[1],
        axis_name=axis_name,
    )
    return batch_sum(losses, axis_name)
