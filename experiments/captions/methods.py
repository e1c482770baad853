"""The methods, one record each: how images and captions are embedded, trained and compared.

method      an embedding is              trained by
pcme        a Gaussian, local attention  the match probability of samples
pcmepp      a Gaussian, ProLIP's token   the closed-form sampled distance
prolip      a Gaussian, ProLIP's token   the inner product less half of the variances, inclusion
info_nce    a direction                  a softmax over the batch
siglip      a direction                  a sigmoid for every pair
triplet     a direction                  the hardest negative of the batch
meru        a point of hyperbolic space  a softmax, and cones that hold images

A new method is a new record in `METHODS`; every part of it must be given.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

import probemb
from experiments.captions.batches import Batch, masked
from experiments.uncertainty import baselines
from probemb import heads, hyperbolic, pairwise
from probemb.distributions.gaussians import DiagonalGaussian
from probemb.numerics.euclidean import normalized, product

# Narrow; the bottleneck widens what can be wide.
_INITIAL_LOG_VARIANCE = -6.0

# ProLIP: the share of a batch that is also seen masked, how much of it is masked, and the weight
# of the inclusion losses.
_MASKED_SHARE, _MASKED, _INCLUSION_WEIGHT = 0.125, 0.75, 0.1

Parameters = dict[str, Any]
"""Of a model: of its network, and what it learns beside it."""


class Settings(NamedTuple):
    """What a method's training is set to.

    Attributes:
      learning_rate: of Adam at the start.
      weight: of what the method adds to its loss (`Method.weighs`).
    """

    learning_rate: float
    weight: float = 0.0


class Embedder(Protocol):
    """What embeds inputs: a model."""

    def embed_images(self, parameters: Parameters, images: Any) -> Any:
        """Images (batch, ...) to embeddings."""

    def embed_texts(self, parameters: Parameters, texts: Any) -> Any:
        """Captions (batch, ...) to embeddings."""


class Embedded(NamedTuple):
    """A batch and its embeddings, and all that a loss may ask for.

    Attributes:
      images: embeddings (batch, ...).
      texts: embeddings (batch, ...).
      batch: what was embedded, and which match.
      model: embeds what else a loss wants to see.
      parameters: of the model.
      key: random.
      num_samples: of an embedding, where the loss draws some.
      weight: of what the method adds to its loss.
    """

    images: Any
    texts: Any
    batch: Batch
    model: Embedder
    parameters: Parameters
    key: jax.Array
    num_samples: int
    weight: float


class Method(NamedTuple):
    """How images and captions are embedded, trained and compared, and how sure they are.

    Attributes:
      head: widths of pooled and of local features, dimension, rngs -> a module of `heads`.
      finished: the head's output, parameters, "image" or "text" -> the embedding.
      learned: dimension -> numbers beside the network and the logit that are learned, at the start.
      logit: scale and shift at the start.
      loss: of an embedded batch; sums are divided by its size.
      scores: images, texts, parameters -> how well each caption fits each image (image, caption),
        the greater, the better: logits, in the sense of the method.
      is_probability: whether a score is the logit of a probability of matching.
      unsure: embeddings (item, ...), parameters -> what they say of their uncertainty, by name.
      judged_by: the measure that the method is judged by, of `unsure` or of scores.
      implies: narrow, wide, parameters -> how much each pair of captions looks like implication.
      is_distribution: whether an embedding is one.
      weighs: what `Settings.weight` is of.
      settings: by default, as `experiments.caption_settings` chose them on held-out digits.
    """

    head: Callable[[int, int, int, nnx.Rngs], nnx.Module]
    finished: Callable[[Any, Parameters, str], Any]
    learned: Callable[[int], dict[str, float]]
    logit: tuple[float, float]
    loss: Callable[[Embedded], jax.Array]
    scores: Callable[[Any, Any, Parameters], jax.Array]
    is_probability: bool
    unsure: Callable[[Any, Parameters], dict[str, jax.Array]]
    judged_by: str
    implies: Callable[[Any, Any, Parameters], jax.Array]
    is_distribution: bool
    weighs: Literal["", "bottleneck", "margin", "entailment"]
    settings: Settings


# --- what is learned --------------------------------------------------------------------------


def logit_parameters(parameters: Parameters) -> tuple[jax.Array, jax.Array]:
    """The learned scale, at most 100, and shift of the logit."""
    return jnp.minimum(jnp.exp(parameters["log_scale"]), 100.0), parameters["shift"]


def _curvature(parameters: Parameters) -> jax.Array:
    """MERU's learned c, kept within 0.1 to 10."""
    return jnp.exp(jnp.clip(parameters["log_curvature"], math.log(0.1), math.log(10.0)))


def _nothing(dimension: int) -> dict[str, float]:
    return {}


def _lengths_and_curvature(dimension: int) -> dict[str, float]:
    length = -0.5 * math.log(dimension)
    return {"log_image_length": length, "log_text_length": length, "log_curvature": 0.0}


# --- embeddings -------------------------------------------------------------------------------


def _local_head(
    kind: Callable[..., nnx.Module], pooled: int, local: int, dimension: int, rngs: nnx.Rngs
) -> nnx.Module:
    variance = _INITIAL_LOG_VARIANCE
    return kind(pooled, local, dimension, initial_log_variance=variance, rngs=rngs)


def _point_head(pooled: int, local: int, dimension: int, rngs: nnx.Rngs) -> nnx.Module:
    return heads.PointHead(pooled, dimension, rngs=rngs)


def _as_it_is(embedding: Any, parameters: Parameters, side: str) -> Any:
    return embedding


def _of_learned_length(points: jax.Array, parameters: Parameters, side: str) -> jax.Array:
    return points * jnp.exp(parameters[f"log_{side}_length"])


# --- losses -----------------------------------------------------------------------------------


def _as_gaussians(embedded: Embedded) -> list[DiagonalGaussian]:
    sides = embedded.images, embedded.texts
    return [DiagonalGaussian(points, jnp.zeros_like(points)) for points in sides]


def _by_distance(embedded: Embedded) -> dict[str, Any]:
    scale, shift = logit_parameters(embedded.parameters)
    return {"negative_scale": scale, "shift": shift, "labels": embedded.batch.labels}


def _by_similarity(embedded: Embedded) -> dict[str, Any]:
    scale, shift = logit_parameters(embedded.parameters)
    return {"logit_scale": scale, "logit_bias": shift, "labels": embedded.batch.labels}


def _pcme(embedded: Embedded) -> jax.Array:
    images, texts = embedded.images, embedded.texts
    samples = {"num_samples": embedded.num_samples}
    value = probemb.pcme(embedded.key, images, texts, **samples, **_by_distance(embedded))
    return value / len(embedded.batch.labels)


def _pcmepp(embedded: Embedded) -> jax.Array:
    images, texts = embedded.images, embedded.texts
    mean = probemb.pcmepp(images, texts, kl_weight=0.0, **_by_distance(embedded))
    return len(embedded.batch.labels) * mean


def _prolip(embedded: Embedded) -> jax.Array:
    value = probemb.prolip(embedded.images, embedded.texts, **_by_similarity(embedded))
    return value + _INCLUSION_WEIGHT * _inclusion(embedded)


def _widths(p: DiagonalGaussian) -> DiagonalGaussian:
    return p._replace(mean=jnp.zeros_like(p.mean))


def _inclusion(embedded: Embedded) -> jax.Array:
    """ProLIP's inclusion losses of widths: of images in their texts, of inputs in masked ones.

    Both are of the share of the batch that is also seen masked.
    As the release has it in effect, means do not count. Where they do, the exact loss
    is the less the farther the narrow Gaussian lies from the wide one, and drives pairs apart.
    """
    batch, model, parameters = embedded.batch, embedded.model, embedded.parameters
    some = slice(max(1, round(_MASKED_SHARE * len(batch.labels))))
    of_images, of_texts = jax.random.split(embedded.key)
    masked_image = model.embed_images(
        parameters, masked(of_images, batch.images[some], share=_MASKED)
    )
    masked_text = model.embed_texts(parameters, masked(of_texts, batch.texts[some], share=_MASKED))
    whole = (jax.tree.map(lambda x: x[some], side) for side in (embedded.images, embedded.texts))
    image, text = map(_widths, whole)
    return probemb.inclusion_loss(image, text) + probemb.masked_inclusion_loss(
        image, _widths(masked_image), text, _widths(masked_text)
    )


def _info_nce(embedded: Embedded) -> jax.Array:
    scale, _ = logit_parameters(embedded.parameters)
    labels = embedded.batch.labels
    return probemb.info_nce(*_as_gaussians(embedded), logit_scale=scale, labels=labels)


def _siglip(embedded: Embedded) -> jax.Array:
    return probemb.siglip(*_as_gaussians(embedded), **_by_similarity(embedded))


def _triplet(embedded: Embedded) -> jax.Array:
    labels = embedded.batch.labels
    value = probemb.triplet(*_as_gaussians(embedded), margin=embedded.weight, labels=labels)
    return value / len(labels)


def _meru(embedded: Embedded) -> jax.Array:
    scale, _ = logit_parameters(embedded.parameters)
    return probemb.meru(
        embedded.images,
        embedded.texts,
        logit_scale=scale,
        curvature=_curvature(embedded.parameters),
        entailment_weight=embedded.weight,
        labels=embedded.batch.labels,
    )


def loss(method: Method, embedded: Embedded) -> jax.Array:
    """The loss of a method; the bottleneck is added where that is what its weight is of.

    The bottleneck is the weight times the divergence from the standard normal distribution, in
    nats, a mean over images and one over texts.
    """
    value = method.loss(embedded)
    if method.weighs != "bottleneck":
        return value
    divergence = probemb.kl_to_standard_normal(embedded.images)
    divergence += probemb.kl_to_standard_normal(embedded.texts)
    return value + embedded.weight * jnp.mean(divergence)


# --- scores -----------------------------------------------------------------------------------


def _expected_match_logit(images: Any, texts: Any, parameters: Parameters) -> jax.Array:
    """The logit of the match probability, by quadrature."""
    scale, shift = logit_parameters(parameters)

    def of_image(image: DiagonalGaussian):
        def of_pair(text: DiagonalGaussian):
            return probemb.log_expected_match_probability(
                image, text, negative_scale=scale, shift=shift
            )

        return jax.vmap(of_pair)(texts)

    match, mismatch = jax.lax.map(of_image, images)
    return match - mismatch


def _sampled_distance_logit(images: Any, texts: Any, parameters: Parameters) -> jax.Array:
    scale, shift = logit_parameters(parameters)
    return shift - scale * pairwise.sampled_distance(images, texts)


def _less_traces(images: Any, texts: Any, parameters: Parameters) -> jax.Array:
    scale, shift = logit_parameters(parameters)
    traces = images.variance.sum(1)[:, None] + texts.variance.sum(1)
    return scale * (product(images.mean, texts.mean) - 0.5 * traces) + shift


def _cosine_logit(images: Any, texts: Any, parameters: Parameters) -> jax.Array:
    scale, shift = logit_parameters(parameters)
    return scale * product(normalized(images), normalized(texts)) + shift


def _lorentz_logit(images: Any, texts: Any, parameters: Parameters) -> jax.Array:
    scale, _ = logit_parameters(parameters)
    curvature = _curvature(parameters)
    points = (hyperbolic.exponential_map(x, curvature=curvature) for x in (images, texts))
    return -scale * hyperbolic.lorentz_distance(*points, curvature=curvature)


# --- uncertainty and implication ----------------------------------------------------------------


def _total_variance(embedding: DiagonalGaussian, parameters: Parameters) -> dict[str, jax.Array]:
    return {"total variance": embedding.variance.sum(1)}


def _variance_and_eta(embedding: DiagonalGaussian, parameters: Parameters) -> dict[str, jax.Array]:
    scale, shift = logit_parameters(parameters)
    eta = functools.partial(probemb.self_mismatch, negative_scale=scale, shift=shift)
    return {**_total_variance(embedding, parameters), "eta": jax.vmap(eta)(embedding)}


def _minus_norm(embedding: jax.Array, parameters: Parameters) -> dict[str, jax.Array]:
    return {"minus norm": baselines.minus_norm(embedding)}


def _minus_radius(embedding: jax.Array, parameters: Parameters) -> dict[str, jax.Array]:
    """General things lie near the root."""
    return {"minus radius": -jnp.linalg.norm(embedding, axis=1)}


def _inclusion_test(narrow: Any, wide: Any, parameters: Parameters) -> jax.Array:
    """ProLIP's log of the integral of p^2 q."""
    return probemb.inclusion_test(narrow, wide).sum(1)


def _cosine(narrow: jax.Array, wide: jax.Array, parameters: Parameters) -> jax.Array:
    return jnp.sum(normalized(narrow) * normalized(wide), axis=1)


def _depth_in_cone(narrow: jax.Array, wide: jax.Array, parameters: Parameters) -> jax.Array:
    """How deep the narrow caption lies in the cone of the wide one."""
    curvature = _curvature(parameters)
    narrow, wide = (hyperbolic.exponential_map(x, curvature=curvature) for x in (narrow, wide))
    angle = hyperbolic.exterior_angle(wide, narrow, curvature=curvature)
    return hyperbolic.half_aperture(wide, curvature=curvature) - angle


# --- the records ------------------------------------------------------------------------------

_PCME = Method(
    head=functools.partial(_local_head, heads.LocalAttentionHead),
    finished=_as_it_is,
    learned=_nothing,
    logit=(12.0, 8.0),
    loss=_pcme,
    scores=_expected_match_logit,
    is_probability=True,
    unsure=_variance_and_eta,
    judged_by="total variance",
    implies=_inclusion_test,
    is_distribution=True,
    weighs="bottleneck",
    settings=Settings(5e-4, 0.005),
)
_PCMEPP = _PCME._replace(
    head=functools.partial(_local_head, heads.UncertaintyTokenHead),
    logit=(15.0, 8.0),
    loss=_pcmepp,
    scores=_sampled_distance_logit,
    unsure=_total_variance,
    settings=Settings(1e-3, 0.02),
)
_PROLIP = _PCMEPP._replace(
    logit=(30.0, -22.0), loss=_prolip, scores=_less_traces, settings=Settings(1e-3, 0.02)
)
_INFO_NCE = Method(
    head=_point_head,
    finished=_as_it_is,
    learned=_nothing,
    logit=(1.0 / 0.07, 0.0),
    loss=_info_nce,
    scores=_cosine_logit,
    is_probability=False,
    unsure=_minus_norm,
    judged_by="minus best score",
    implies=_cosine,
    is_distribution=False,
    weighs="",
    settings=Settings(2e-3),
)
_SIGLIP = _INFO_NCE._replace(
    logit=(10.0, -10.0), loss=_siglip, is_probability=True, settings=Settings(1.4e-3)
)
_TRIPLET = _INFO_NCE._replace(
    logit=(1.0, 0.0), loss=_triplet, weighs="margin", settings=Settings(1e-3, 0.05)
)
_MERU = _INFO_NCE._replace(
    finished=_of_learned_length,
    learned=_lengths_and_curvature,
    loss=_meru,
    scores=_lorentz_logit,
    unsure=_minus_radius,
    judged_by="minus radius",
    implies=_depth_in_cone,
    weighs="entailment",
    settings=Settings(1e-3, 0.05),
)

METHODS: dict[str, Method] = {
    "pcme": _PCME,
    "pcmepp": _PCMEPP,
    "prolip": _PROLIP,
    "info_nce": _INFO_NCE,
    "siglip": _SIGLIP,
    "triplet": _TRIPLET,
    "meru": _MERU,
}
"""Every method by its name, in the order of reports."""


def is_distribution(method: str) -> bool:
    """Whether a row of a report is of a method whose embeddings are distributions."""
    return method in METHODS and METHODS[method].is_distribution
