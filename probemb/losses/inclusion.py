"""Does one distribution lie within another? ProLIP's inclusion test and its losses."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from probemb.distributions.gaussians import DiagonalGaussian, gaussian, gaussians
from probemb.numerics import arguments
from probemb.numerics.arguments import Number
from probemb.numerics.euclidean import squared_quotient


def inclusion_test(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """H(p in q) = log of the integral of p(x)^2 q(x), for each dimension.

    -log(4 pi v_p) / 2 - log(pi (v_p + 2 v_q)) / 2 - (m_p - m_q)^2 / (v_p + 2 v_q). High where
    q is dense at the peak of p. ProLIP takes p to lie in q where H(p in q) > H(q in p), which
    asks which of the two is narrower, wherever their means are.

    Args:
      p: a Gaussian (..., dimension).
      q: a Gaussian of the same shape.

    Returns:
      (..., dimension). Its sum over dimensions is the test of the joint Gaussians.

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values not finite.

    Source: ProLIP (Chun et al., ICLR 2025). `inclusion_test_released` is what the
    release computes.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> narrow, wide = (DiagonalGaussian(jnp.zeros(1), jnp.full(1, v)) for v in (-1.0, 1.0))
      >>> bool(inclusion_test(narrow, wide) > inclusion_test(wide, narrow))
      True
    """
    p, q = gaussians(p, q)
    log_sum = jnp.logaddexp(p.log_variance, q.log_variance + math.log(2.0))
    deviation = squared_quotient(p.mean - q.mean, log_sum)
    return -0.5 * (p.log_variance + log_sum) - math.log(2.0 * math.pi) - deviation


def inclusion_test_released(
    p: DiagonalGaussian, q: DiagonalGaussian, *, mean_weight: Number = 1.0
) -> jax.Array:
    """The release's inclusion test, which counts the leading variances twice.

    -2 log v_p - log v_q - log(1 / v_p + 1 / (2 v_q)) / 2 - w (m_p - m_q)^2 / (v_p + 2 v_q).
    Its first two terms want the logarithm of sigma and receive that of sigma^2. The
    constant is missing, which a comparison of two tests does not notice.

    Args:
      p: a Gaussian (..., dimension).
      q: a Gaussian of the same shape.
      mean_weight: w. The release's training scripts make it e^-20: the means, and with
        them where the distributions are, then count for nothing.

    Returns:
      (..., dimension).

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values out of range.

    Source: naver-ai/prolip, commit 59f6324.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(1), jnp.ones(1))
      >>> round(float(inclusion_test_released(p, p)[0]), 4)
      -2.7027
    """
    p, q = gaussians(p, q)
    weight = arguments.not_negative("mean_weight", mean_weight, p.mean)
    log_sum = jnp.logaddexp(p.log_variance, q.log_variance + math.log(2.0))
    deviation = weight * squared_quotient(p.mean - q.mean, log_sum)
    log_precision = log_sum - p.log_variance - q.log_variance - math.log(2.0)
    return -2.0 * p.log_variance - q.log_variance - 0.5 * log_precision - deviation


def _differences(p: DiagonalGaussian, q: DiagonalGaussian) -> tuple[jax.Array, jax.Array]:
    """Of both tests, what sets H(q in p) and H(p in q) apart, from narrow to wide variances.

    log((v_p + 2 v_q) / (v_q + 2 v_p)) / 2 and d^2 / (v_p + 2 v_q) - d^2 / (v_q + 2 v_p) of the
    difference d of the means. Each test by itself grows without bound as both variances fall.
    """
    half = 0.5 * (p.log_variance - q.log_variance)
    log_2 = math.log(2.0)
    log_ratio = jnp.logaddexp(half, log_2 - half) - jnp.logaddexp(-half, log_2 + half)
    log_sum = jnp.logaddexp(p.log_variance, q.log_variance)
    # 4 v_p v_q / (v_p + v_q)^2, the square of 1 / cosh(half).
    product = jnp.exp(2.0 * (log_2 - jnp.logaddexp(half, -half)))
    apart = squared_quotient(p.mean - q.mean, log_sum)
    # tanh(half) is (v_p - v_q) / (v_p + v_q), and (8 + product) / 4 is (v_p + 2 v_q) (v_q + 2 v_p)
    # / (v_p + v_q)^2: of equal variances exactly 0.
    return 0.5 * log_ratio, apart * jnp.tanh(half) * 4.0 / (8.0 + product)


def inclusion_loss(p: DiagonalGaussian, q: DiagonalGaussian, *, scale: Number = 1.0) -> jax.Array:
    """-log sigmoid(c (H(p in q) - H(q in p))): is p within q? Averaged over everything.

    ProLIP asks it of images within their texts, and of inputs within the same input
    masked (`masked_inclusion_loss`).

    Args:
      p: Gaussians (..., dimension) that should be included.
      q: Gaussians of the same shape that should include them.
      scale: c > 0.

    Returns:
      A scalar, the mean over batch and dimensions. Within `shard_map`, `pmean` it.

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values out of range.

    Source: ProLIP (Chun et al., ICLR 2025).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(3), jnp.zeros(3))
      >>> round(float(inclusion_loss(p, p)), 4)  # log 2
      0.6931
    """
    p, q = gaussians(p, q)
    scale = arguments.positive("scale", scale, p.mean)
    log_ratio, deviation = _differences(p, q)
    apart = 0.5 * (p.log_variance - q.log_variance) + log_ratio + deviation
    return jnp.mean(jax.nn.softplus(scale * apart))


def inclusion_loss_released(
    p: DiagonalGaussian, q: DiagonalGaussian, *, scale: Number = 1.0, mean_weight: Number = 1.0
) -> jax.Array:
    """`inclusion_loss` on the release's test, with the faults of `inclusion_test_released`.

    Args:
      p: Gaussians (..., dimension) that should be included.
      q: Gaussians of the same shape that should include them.
      scale: c > 0.
      mean_weight: as in `inclusion_test_released`.

    Returns:
      A scalar.

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values out of range.

    Source: naver-ai/prolip, commit 59f6324.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(3), jnp.zeros(3))
      >>> round(float(inclusion_loss_released(p, p)), 4)
      0.6931
    """
    p, q = gaussians(p, q)
    scale = arguments.positive("scale", scale, p.mean)
    weight = arguments.not_negative("mean_weight", mean_weight, p.mean)
    log_ratio, deviation = _differences(p, q)
    apart = p.log_variance - q.log_variance + log_ratio + weight * deviation
    return jnp.mean(jax.nn.softplus(scale * apart))


def masked_inclusion_loss(
    image: DiagonalGaussian,
    masked_image: DiagonalGaussian,
    text: DiagonalGaussian,
    masked_text: DiagonalGaussian,
    *,
    scale: Number = 1.0,
) -> jax.Array:
    """Is every input within what is left of it when parts are masked? For both modalities.

    inclusion_loss(image, masked_image) + inclusion_loss(text, masked_text): whoever sees
    less cannot know more.

    Args:
      image: Gaussians (..., dimension) of whole images.
      masked_image: of the same images with parts masked.
      text: of whole texts.
      masked_text: of the same texts with parts masked.
      scale: c > 0.

    Returns:
      A scalar.

    Raises:
      TypeError, ValueError: not Gaussians of one shape, or values out of range.

    Source: ProLIP (Chun et al., ICLR 2025).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> narrow, wide = (DiagonalGaussian(jnp.zeros(3), jnp.full(3, v)) for v in (-2.0, 2.0))
      >>> learned = masked_inclusion_loss(narrow, wide, narrow, wide)
      >>> bool(learned < masked_inclusion_loss(wide, narrow, wide, narrow))
      True
    """
    image, masked_image = gaussian("image", image), gaussian("masked_image", masked_image)
    text, masked_text = gaussian("text", text), gaussian("masked_text", masked_text)
    of_image = inclusion_loss(image, masked_image, scale=scale)
    return of_image + inclusion_loss(text, masked_text, scale=scale)
