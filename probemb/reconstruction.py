"""ProbVLM's losses: a distribution around a frozen embedding, that has to explain it.

For an embedding z with location m, scale alpha and shape beta of every dimension, the
negative log-likelihood is (|z - m| / alpha)^beta - log(beta / (2 alpha)) + log Gamma(1 / beta).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from probemb import arguments
from probemb.gaussians import point
from probemb.generalized_gaussian import GeneralizedGaussian, generalized_gaussian


def reconstruction(p: Any, target: Any) -> jax.Array:
    """The mean negative log-likelihood of embeddings under generalized Gaussians.

    Args:
      p: `GeneralizedGaussian` (..., dimension).
      target: z (..., dimension).

    Returns:
      A scalar in nats per dimension, the mean over batch and dimensions. Finite with
      finite gradients, as `GeneralizedGaussian.log_prob`.

    Raises:
      TypeError, ValueError: shapes that do not fit, or values out of range.

    Source: ProbVLM (Upadhyay et al., ICCV 2023).
    `reconstruction_released` is the loss of the release.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import GeneralizedGaussian
      >>> laplace = GeneralizedGaussian(jnp.zeros(3), jnp.ones(3), jnp.ones(3))
      >>> round(float(reconstruction(laplace, jnp.ones(3))), 4)  # 1 + log 2
      1.6931
    """
    p = generalized_gaussian("p", p)
    target = point(target, p.location, "target")
    return -jnp.mean(p.log_prob(target)) / p.location.shape[-1]


def reconstruction_released(p: Any, target: Any) -> jax.Array:
    """The release's loss, whose residual is linear: |z - m| beta / alpha, not the power.

    Minimised over the scale, it depends on the shape by log Gamma(1 / beta) alone, which is
    least at beta = 0.684 whatever the data: the shape is never learned. It also clips the
    residual to 1e-4..1e3, adds 1e-4 to 1 / alpha and to beta, and leaves out log 2.

    Args:
      p: `GeneralizedGaussian` (..., dimension).
      target: z (..., dimension).

    Returns:
      A scalar.

    Raises:
      TypeError, ValueError: shapes that do not fit, or values out of range.

    Source: ExplainableML/ProbVLM, commit cb69f28.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import GeneralizedGaussian
      >>> laplace = GeneralizedGaussian(jnp.zeros(3), jnp.ones(3), jnp.ones(3))
      >>> round(float(reconstruction_released(laplace, jnp.ones(3))), 3)
      1.0
    """
    p = generalized_gaussian("p", p)
    p, target = arguments.one_dtype(p, point(target, p.location, "target"))
    inverse_scale, shape = 1.0 / p.scale + 1e-4, p.shape + 1e-4
    residual = jnp.clip(jnp.abs(target - p.location) * inverse_scale * shape, 1e-4, 1e3)
    return jnp.mean(residual - jnp.log(inverse_scale) + gammaln(1.0 / shape) - jnp.log(shape))


def _probvlm(loss, image, text, image_embedding, text_embedding, cross_modal_weight):
    image, text = generalized_gaussian("image", image), generalized_gaussian("text", text)
    if image.location.shape != text.location.shape:
        raise ValueError(
            "image and text must have one shape (..., dimension), "
            f"got {image.location.shape} and {text.location.shape}"
        )
    image_embedding = point(image_embedding, image.location, "image_embedding")
    text_embedding = point(text_embedding, text.location, "text_embedding")
    weight = arguments.not_negative("cross_modal_weight", cross_modal_weight, image.location)
    within = loss(image, image_embedding) + loss(text, text_embedding)
    return within + weight * (loss(image, text_embedding) + loss(text, image_embedding))


def probvlm(
    image: GeneralizedGaussian,
    text: GeneralizedGaussian,
    image_embedding: Any,
    text_embedding: Any,
    *,
    cross_modal_weight: Any,
) -> jax.Array:
    """ProbVLM's loss: each modality explains its own embedding and the other's.

    R(image, z_image) + R(text, z_text) + lambda [R(image, z_text) + R(text, z_image)] with R
    of `reconstruction`.

    Args:
      image: `GeneralizedGaussian` (..., dimension) of the images.
      text: `GeneralizedGaussian` of the paired texts.
      image_embedding: z_image (..., dimension), frozen.
      text_embedding: z_text (..., dimension), frozen.
      cross_modal_weight: lambda.

    Returns:
      A scalar. Within `shard_map`, `pmean` it.

    Raises:
      TypeError, ValueError: shapes that do not fit, or values out of range.

    Source: ProbVLM (Upadhyay et al., ICCV 2023).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import GeneralizedGaussian
      >>> laplace = GeneralizedGaussian(jnp.zeros(3), jnp.ones(3), jnp.ones(3))
      >>> z = jnp.ones(3)
      >>> round(float(probvlm(laplace, laplace, z, z, cross_modal_weight=0)), 4)
      3.3863
    """
    return _probvlm(
        reconstruction, image, text, image_embedding, text_embedding, cross_modal_weight
    )


def probvlm_released(
    image: GeneralizedGaussian,
    text: GeneralizedGaussian,
    image_embedding: Any,
    text_embedding: Any,
    *,
    cross_modal_weight: Any,
) -> jax.Array:
    """`probvlm` on `reconstruction_released`, with its faults: the shape is never learned.

    Args:
      image: `GeneralizedGaussian` (..., dimension) of the images.
      text: `GeneralizedGaussian` of the paired texts.
      image_embedding: z_image (..., dimension), frozen.
      text_embedding: z_text (..., dimension), frozen.
      cross_modal_weight: lambda.

    Returns:
      A scalar.

    Raises:
      TypeError, ValueError: shapes that do not fit, or values out of range.

    Source: ExplainableML/ProbVLM, commit cb69f28.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import GeneralizedGaussian
      >>> laplace = GeneralizedGaussian(jnp.zeros(3), jnp.ones(3), jnp.ones(3))
      >>> z = jnp.ones(3)
      >>> round(float(probvlm_released(laplace, laplace, z, z, cross_modal_weight=0)), 3)
      2.0
    """
    return _probvlm(
        reconstruction_released, image, text, image_embedding, text_embedding, cross_modal_weight
    )
