"""Losses of adapters: a distribution around a frozen embedding that has to explain embeddings.

For an embedding z with location m, scale alpha and shape beta of every dimension, the
negative log-likelihood is (|z - m| / alpha)^beta - log(beta / (2 alpha)) + log Gamma(1 / beta).
ProbVLM, BayesCap and PFE differ in whose embedding is to be explained.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from numpy.typing import ArrayLike

from probemb.distributions.gaussians import DiagonalGaussian, gaussian, point
from probemb.distributions.generalized_gaussian import GeneralizedGaussian, generalized_gaussian
from probemb.distributions.von_mises_fisher import VonMisesFisher, unit, von_mises_fisher
from probemb.numerics import arguments
from probemb.numerics.arguments import Number
from probemb.pairs.distances import mutual_likelihood_score

_CHECKS = {
    GeneralizedGaussian: generalized_gaussian,
    DiagonalGaussian: gaussian,
    VonMisesFisher: von_mises_fisher,
}


def around_embedding(name: str, value: Any) -> Any:
    """A checked distribution of those that adapters give; its first field is its location."""
    if type(value) not in _CHECKS:
        allowed = ", ".join(kind.__name__ for kind in _CHECKS)
        raise TypeError(f"{name} must be one of {allowed}, got {type(value).__name__}")
    return _CHECKS[type(value)](name, value)


def reconstruction(
    p: DiagonalGaussian | GeneralizedGaussian | VonMisesFisher, target: ArrayLike
) -> jax.Array:
    """The mean negative log-likelihood of embeddings under distributions around others.

    Args:
      p: `GeneralizedGaussian`, `DiagonalGaussian` or `VonMisesFisher` (..., dimension).
      target: z (..., dimension); of unit length for `VonMisesFisher`.

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
    p = around_embedding("p", p)
    target = point(target, p[0], "target")
    if isinstance(p, VonMisesFisher):
        unit("target", target)
    return -jnp.mean(p.log_prob(target)) / p[0].shape[-1]


def reconstruction_released(p: GeneralizedGaussian, target: ArrayLike) -> jax.Array:
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
    image, text = around_embedding("image", image), around_embedding("text", text)
    if image[0].shape != text[0].shape:
        raise ValueError(
            "image and text must have one shape (..., dimension), "
            f"got {image[0].shape} and {text[0].shape}"
        )
    image_embedding = point(image_embedding, image[0], "image_embedding")
    text_embedding = point(text_embedding, text[0], "text_embedding")
    weight = arguments.not_negative("cross_modal_weight", cross_modal_weight, image[0])
    within = loss(image, image_embedding) + loss(text, text_embedding)
    return within + weight * (loss(image, text_embedding) + loss(text, image_embedding))


def probvlm(
    image: DiagonalGaussian | GeneralizedGaussian | VonMisesFisher,
    text: DiagonalGaussian | GeneralizedGaussian | VonMisesFisher,
    image_embedding: ArrayLike,
    text_embedding: ArrayLike,
    *,
    cross_modal_weight: Number,
) -> jax.Array:
    """ProbVLM's loss: each modality explains its own embedding and the other's.

    R(image, z_image) + R(text, z_text) + lambda [R(image, z_text) + R(text, z_image)] with R
    of `reconstruction`.

    Where a location can be its own embedding, as with a residual connection, the likelihood of
    that embedding grows without bound as scale and shape fall to 0, faster than that of the other
    one falls: a small lambda ends at whatever bounds both (of a Gaussian, at a variance that is
    lambda / (1 + lambda) of the squared distance). With shapes from 0.5 on, as `adapters` has
    them, and a large lambda, such as 100, the other embedding decides.

    Args:
      image: distributions (..., dimension) of the images, as `reconstruction` takes them.
      text: those of the paired texts.
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
    image_embedding: ArrayLike,
    text_embedding: ArrayLike,
    *,
    cross_modal_weight: Number,
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


def bayescap(
    p: DiagonalGaussian | GeneralizedGaussian | VonMisesFisher,
    embedding: ArrayLike,
    target: ArrayLike,
    *,
    identity_weight: Number,
) -> jax.Array:
    """BayesCap's loss: stay close to the frozen output, and explain what it stands for.

    w |m - z|^2 + R(p, target), the squared distance a mean over the batch and R of
    `reconstruction`.

    Args:
      p: distributions (..., dimension), as `reconstruction` takes them.
      embedding: z (..., dimension), the frozen embedding that p is of.
      target: what it should have been (..., dimension): of an image, the embedding of its text.
      identity_weight: w.

    Returns:
      A scalar.

    Raises:
      TypeError, ValueError: shapes that do not fit, or values out of range.

    Source: BayesCap (Upadhyay et al., ECCV 2022), which regresses pixels; the partner's embedding
    in place of their ground truth is ours.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import GeneralizedGaussian
      >>> laplace = GeneralizedGaussian(jnp.zeros(3), jnp.ones(3), jnp.ones(3))
      >>> z = jnp.ones(3)
      >>> round(float(bayescap(laplace, z, z, identity_weight=1)), 4)  # 3 + 1 + log 2
      4.6931
    """
    p = around_embedding("p", p)
    embedding = point(embedding, p[0], "embedding")
    location, embedding = arguments.one_dtype(p[0], embedding)
    weight = arguments.not_negative("identity_weight", identity_weight, location)
    identity = jnp.mean(jnp.sum(jnp.square(location - embedding), axis=-1))
    return weight * identity + reconstruction(p, target)


def pfe(image: DiagonalGaussian, text: DiagonalGaussian) -> jax.Array:
    """PFE's loss: matching pairs should look as if they shared one point.

    Minus the mean `mutual_likelihood_score` of pairs, over the dimension. Where the means are
    frozen, it fits the sum of two variances to their squared distance.

    Args:
      image: Gaussians (..., dimension).
      text: Gaussians of the same shape, the partners.

    Returns:
      A scalar, in nats per dimension.

    Raises:
      TypeError, ValueError: as `distances.mutual_likelihood_score`.

    Source: PFE (Shi and Jain, ICCV 2019), there for two images of one face.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
      >>> round(float(pfe(p, p)), 4)
      1.2655
    """
    image, text = gaussian("image", image), gaussian("text", text)
    if image.mean.shape != text.mean.shape:
        raise ValueError(
            "image and text must have one shape (..., dimension), "
            f"got {image.mean.shape} and {text.mean.shape}"
        )
    score = mutual_likelihood_score(image, text)
    return -jnp.mean(score) / image.mean.shape[-1]
