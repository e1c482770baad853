"""The models of images and captions: two towers, a head for each method, its loss, batches.

method      an embedding is              trained by
pcme        a Gaussian, local attention  the match probability of samples
pcmepp      a Gaussian, token            the closed-form sampled distance
prolip      a Gaussian, token            the inner product less half of the variances
info_nce    a direction                  a softmax over the batch
siglip      a direction                  a sigmoid for every pair
triplet     a direction                  the hardest negative of the batch
meru        a point of hyperbolic space  a softmax, and cones that hold images
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple, get_args

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import probemb
from experiments import image_tower, text_tower, training
from probemb import heads, hyperbolic, pairwise
from probemb.gaussians import DiagonalGaussian

Method = Literal["pcme", "pcmepp", "prolip", "info_nce", "siglip", "triplet", "meru"]
"""How images and captions are embedded and trained."""
METHODS: tuple[Method, ...] = get_args(Method)
PROBABILISTIC: tuple[Method, ...] = ("pcme", "pcmepp", "prolip")

_LOCAL_HEADS = {
    "pcme": heads.LocalAttentionHead,
    "pcmepp": heads.UncertaintyTokenHead,
    "prolip": heads.UncertaintyTokenHead,
}
_INITIAL_LOG_VARIANCE = {"pcme": -4.0, "pcmepp": -4.0, "prolip": -4.0}
# The learned scale and shift of the logit at the start.
_INITIAL_LOGIT = {
    "pcme": (10.0, 10.0),
    "pcmepp": (5.0, 5.0),
    "prolip": (1.0 / 0.07, -10.0),
    "info_nce": (1.0 / 0.07, 0.0),
    "siglip": (10.0, -10.0),
    "triplet": (1.0, 0.0),
    "meru": (1.0 / 0.07, 0.0),
}

# ProLIP: the share of a batch that is also seen masked, how much of it is masked, and the weight
# of the inclusion losses.
_MASKED_SHARE, _MASKED, _INCLUSION_WEIGHT = 0.125, 0.75, 0.1


class Batch(NamedTuple):
    """Images (batch, ...), word numbers (batch, length) and what matches (batch, batch)."""

    images: Any
    tokens: Any
    labels: Any


class FeatureTower(nnx.Module):
    """Frozen features (batch, place, feature) to pooled ones (batch, 128) and local ones.

    Args:
      num_features: of a place.
      width: of a local feature vector.
      rngs: of the initial parameters.
    """

    def __init__(self, num_features: int, width: int, *, rngs: nnx.Rngs):
        self.local = nnx.Linear(num_features, width, rngs=rngs)
        self.hidden = nnx.Linear(width, image_tower.HIDDEN, rngs=rngs)

    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Pooled and local features."""
        local = nnx.relu(self.local(features))
        return nnx.relu(self.hidden(local.mean(1))), local


class _Network(nnx.Module):
    def __init__(self, model: "Model", rngs: nnx.Rngs):
        if model.of_features:
            self.images = FeatureTower(model.image_shape[1], model.width, rngs=rngs)
            local = model.width
        else:
            height, width = model.image_shape
            self.images = image_tower.ImageTower(height, width, model.channels, rngs=rngs)
            local = model.channels[1]
        self.texts = text_tower.TextTower(model.num_words, model.length, model.width, rngs=rngs)
        self.image_head = _head(model, image_tower.HIDDEN, local, rngs)
        self.text_head = _head(model, text_tower.HIDDEN, model.width, rngs)
        self.is_local = model.method in _LOCAL_HEADS

    def embed_images(self, images: jax.Array) -> Any:
        if isinstance(self.images, FeatureTower):
            pooled, local = self.images(images)
        else:
            grid = self.images.local(images)
            pooled = self.images.pooled(grid)
            local = grid.reshape(len(images), -1, grid.shape[-1])
        return self.image_head(pooled, local) if self.is_local else self.image_head(pooled)

    def embed_texts(self, tokens: jax.Array) -> Any:
        pooled, local, mask = self.texts(tokens)
        return self.text_head(pooled, local, mask) if self.is_local else self.text_head(pooled)


def _head(model: "Model", num_features: int, num_local_features: int, rngs: nnx.Rngs) -> nnx.Module:
    if model.method not in _LOCAL_HEADS:
        return heads.PointHead(num_features, model.dimension, rngs=rngs)
    return _LOCAL_HEADS[model.method](
        num_features,
        num_local_features,
        model.dimension,
        initial_log_variance=_INITIAL_LOG_VARIANCE[model.method],
        rngs=rngs,
    )


@dataclasses.dataclass(frozen=True)
class Model:
    """Two towers and a method: pure functions of a tree of parameters.

    Attributes:
      method: how to embed and to train.
      dimension: D.
      image_shape: of an image, (height, width), or of its features, (place, feature).
      of_features: whether images are given as features.
      num_words: of the vocabulary.
      length: of the longest text.
      channels: of the two convolutions.
      width: of the text tower.
    """

    method: Method
    dimension: int
    image_shape: tuple[int, int]
    of_features: bool
    num_words: int
    length: int
    channels: tuple[int, int] = (16, 32)
    width: int = 64

    @functools.cached_property
    def _graph(self) -> nnx.GraphDef:
        return nnx.split(nnx.eval_shape(lambda: _Network(self, nnx.Rngs(0))))[0]

    def initialize(self, key: jax.Array) -> dict[str, Any]:
        """The network's parameters, and those of the logit."""
        _, network = nnx.split(_Network(self, nnx.Rngs(key)))
        scale, shift = _INITIAL_LOGIT[self.method]
        parameters = {
            "network": nnx.to_pure_dict(network),
            "log_scale": jnp.log(jnp.asarray(scale, jnp.float32)),
            "shift": jnp.asarray(shift, jnp.float32),
        }
        if self.method == "meru":
            length = jnp.asarray(-0.5 * np.log(self.dimension), jnp.float32)
            parameters |= {"log_image_length": length, "log_text_length": length}
            parameters["log_curvature"] = jnp.zeros((), jnp.float32)
        return parameters

    @property
    def is_probabilistic(self) -> bool:
        """Whether an embedding is a distribution."""
        return self.method in PROBABILISTIC

    def embed_images(self, parameters: dict[str, Any], images: jax.Array) -> Any:
        """Images (batch, ...) to Gaussians or points (batch, dimension)."""
        points = nnx.merge(self._graph, parameters["network"]).embed_images(images)
        return points * jnp.exp(parameters["log_image_length"]) if self.method == "meru" else points

    def embed_texts(self, parameters: dict[str, Any], tokens: jax.Array) -> Any:
        """Word numbers (batch, length) to Gaussians or points (batch, dimension)."""
        points = nnx.merge(self._graph, parameters["network"]).embed_texts(tokens)
        return points * jnp.exp(parameters["log_text_length"]) if self.method == "meru" else points


def logit_parameters(parameters: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """The learned scale, at most 100, and shift of the logit."""
    return jnp.minimum(jnp.exp(parameters["log_scale"]), 100.0), parameters["shift"]


def _as_gaussians(points: jax.Array) -> DiagonalGaussian:
    return DiagonalGaussian(points, jnp.zeros_like(points))


def masked_inputs(
    key: jax.Array, images: jax.Array, tokens: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What is left when most cells of images, or places of features, and most words are masked.

    Args:
      key: a random key.
      images: (batch, height, width) uint8, which has cells of 4 x 4, or features.
      tokens: (batch, length).
    """
    of_images, of_words = jax.random.split(key)
    batch, height, width = images.shape
    if images.dtype == jnp.uint8:
        cells = jax.random.bernoulli(of_images, _MASKED, (batch, height // 4, width // 4))
        cells = jnp.repeat(jnp.repeat(cells, 4, axis=1), 4, axis=2)
    else:
        cells = jax.random.bernoulli(of_images, _MASKED, (batch, height, 1))
    words = jax.random.bernoulli(of_words, _MASKED, tokens.shape)
    return jnp.where(cells, 0, images), jnp.where(words, text_tower.PADDING, tokens)


def loss(
    model: Model, parameters: dict[str, Any], key: jax.Array, batch: Batch, *, num_samples: int
) -> jax.Array:
    """The loss of a method on a batch, divided by its size where it is a sum."""
    images = model.embed_images(parameters, batch.images)
    texts = model.embed_texts(parameters, batch.tokens)
    scale, shift = logit_parameters(parameters)
    labels = batch.labels
    match model.method:
        case "pcme":
            total = probemb.pcme(
                key,
                images,
                texts,
                negative_scale=scale,
                shift=shift,
                num_samples=num_samples,
                labels=labels,
            )
            return total / len(labels)
        case "pcmepp":
            return len(labels) * probemb.pcmepp(
                images, texts, negative_scale=scale, shift=shift, labels=labels
            )
        case "prolip":
            contrastive = probemb.prolip(
                images, texts, logit_scale=scale, logit_bias=shift, labels=labels
            )
            some = slice(max(1, round(_MASKED_SHARE * len(labels))))
            masked = masked_inputs(key, batch.images[some], batch.tokens[some])
            images, texts = (jax.tree.map(lambda x: x[some], side) for side in (images, texts))
            inclusion = probemb.masked_inclusion_loss(
                images,
                model.embed_images(parameters, masked[0]),
                texts,
                model.embed_texts(parameters, masked[1]),
            )
            return contrastive + _INCLUSION_WEIGHT * (
                inclusion + probemb.inclusion_loss(images, texts)
            )
        case "meru":
            curvature = jnp.exp(parameters["log_curvature"])
            return probemb.meru(
                images, texts, logit_scale=scale, curvature=curvature, labels=labels
            )
    images, texts = _as_gaussians(images), _as_gaussians(texts)
    match model.method:
        case "info_nce":
            return probemb.info_nce(images, texts, logit_scale=scale, labels=labels)
        case "siglip":
            return probemb.siglip(images, texts, logit_scale=scale, logit_bias=shift, labels=labels)
        case "triplet":
            return probemb.triplet(images, texts, labels=labels) / len(labels)
    raise ValueError(f"method must be one of {METHODS}, got {model.method!r}")


def train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    state: training.TrainState,
    batch: Batch,
    *,
    num_samples: int,
) -> tuple[training.TrainState, dict[str, jax.Array]]:
    """One step on a batch; pure."""

    def of_parameters(parameters: dict[str, Any], key: jax.Array) -> jax.Array:
        return loss(model, parameters, key, batch, num_samples=num_samples)

    state, value = training.take_step(optimizer, state, of_parameters)
    scale, shift = logit_parameters(state.parameters)
    return state, {"loss": value, "scale": scale, "shift": shift}


def batches(
    images: np.ndarray,
    tokens: np.ndarray,
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
      tokens: (caption, length).
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
        return Batch(images[image], tokens[caption], labels)

    return grain.MapDataset.range(num_steps).seed(seed).random_map(draw)


def scores(model: Model, parameters: dict[str, Any], images: Any, texts: Any) -> jax.Array:
    """How well every caption fits every image (image, caption): the greater, the better.

    Logits, in the sense of the method: of a probability of matching (pcme, pcmepp, prolip,
    siglip) or of a softmax over items (info_nce, triplet, meru).
    """
    scale, shift = logit_parameters(parameters)
    if model.method == "pcme":
        match, mismatch = pairwise_log_match(images, texts, scale, shift)
        return match - mismatch
    if model.method == "pcmepp":
        return shift - scale * pairwise.sampled_distance(images, texts)
    if model.method == "prolip":
        inner = jnp.einsum("id,jd->ij", images.mean, texts.mean, precision="highest")
        traces = images.variance.sum(1)[:, None] + texts.variance.sum(1)
        return scale * (inner - 0.5 * traces) + shift
    if model.method == "meru":
        curvature = jnp.exp(parameters["log_curvature"])
        points = (hyperbolic.exponential_map(x, curvature=curvature) for x in (images, texts))
        return -scale * hyperbolic.lorentz_distance(*points, curvature=curvature)
    images, texts = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    return scale * jnp.einsum("id,jd->ij", images, texts, precision="highest") + shift


def pairwise_log_match(
    images: DiagonalGaussian, texts: DiagonalGaussian, scale: jax.Array, shift: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of matching and of not (image, caption), by quadrature."""

    def of_image(image: DiagonalGaussian):
        def of_pair(text: DiagonalGaussian):
            return probemb.log_expected_match_probability(
                image, text, negative_scale=scale, shift=shift
            )

        return jax.vmap(of_pair)(texts)

    return jax.lax.map(of_image, images)
