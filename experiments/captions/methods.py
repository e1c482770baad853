"""The models of images and captions: two towers, a head for each method, its loss, batches.

method      an embedding is              trained by
pcme        a Gaussian, local attention  the match probability of samples
pcmepp      a Gaussian, ProLIP's token   the closed-form sampled distance
prolip      a Gaussian, ProLIP's token   the inner product less half of the variances, inclusion
info_nce    a direction                  a softmax over the batch
siglip      a direction                  a sigmoid for every pair
triplet     a direction                  the hardest negative of the batch
meru        a point of hyperbolic space  a softmax, and cones that hold images
"""

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple, get_args

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import probemb
from experiments.runs import training
from experiments.towers import image as image_tower
from experiments.towers import text as text_tower
from probemb import heads, hyperbolic, pairwise
from probemb.distributions.gaussians import DiagonalGaussian
from probemb.numerics.euclidean import normalized, product

Method = Literal["pcme", "pcmepp", "prolip", "info_nce", "siglip", "triplet", "meru"]
"""How images and captions are embedded and trained."""
METHODS: tuple[Method, ...] = get_args(Method)
PROBABILISTIC: tuple[Method, ...] = ("pcme", "pcmepp", "prolip")

_LOCAL_HEADS = {
    "pcme": heads.LocalAttentionHead,
    "pcmepp": heads.UncertaintyTokenHead,
    "prolip": heads.UncertaintyTokenHead,
}


class Settings(NamedTuple):
    """What a method's training is set to.

    Attributes:
      learning_rate: of Adam at the start.
      weight: of what the method adds to its loss: the bottleneck (pcme, pcmepp, prolip), the
        margin (triplet), the entailment (meru); the others add nothing.
    """

    learning_rate: float
    weight: float = 0.0


SETTINGS: dict[Method, Settings] = {
    "pcme": Settings(5e-4, 0.005),
    "pcmepp": Settings(1e-3, 0.02),
    "prolip": Settings(1e-3, 0.02),
    "info_nce": Settings(2e-3),
    "siglip": Settings(1.4e-3),
    "triplet": Settings(1e-3, 0.05),
    "meru": Settings(1e-3, 0.05),
}
"""Of each method by default: what `experiments.caption_settings` chose on held-out digits."""

# Narrow; the bottleneck widens what can be wide.
_INITIAL_LOG_VARIANCE = -6.0
# The learned scale and shift of the logit at the start.
_INITIAL_LOGIT = {
    "pcme": (12.0, 8.0),
    "pcmepp": (15.0, 8.0),
    "prolip": (30.0, -22.0),
    "info_nce": (1.0 / 0.07, 0.0),
    "siglip": (10.0, -10.0),
    "triplet": (1.0, 0.0),
    "meru": (1.0 / 0.07, 0.0),
}

# ProLIP: the share of a batch that is also seen masked, how much of it is masked, and the weight
# of the inclusion losses.
_MASKED_SHARE, _MASKED, _INCLUSION_WEIGHT = 0.125, 0.75, 0.1


class Batch(NamedTuple):
    """Images (batch, ...), captions (batch, ...) and which match (batch, batch)."""

    images: Any
    texts: Any
    labels: Any


class Pictures(NamedTuple):
    """Images (batch, height, width) uint8, for a tower of two convolutions."""

    height: int
    width: int
    channels: tuple[int, int]


class Words(NamedTuple):
    """Word numbers (batch, length), for a transformer of some width."""

    number: int
    length: int
    width: int


class Features(NamedTuple):
    """Frozen features (batch, place, feature) of either side, for two layers of some width."""

    number: int
    width: int


class _PictureTower(nnx.Module):
    def __init__(self, of: Pictures, *, rngs: nnx.Rngs):
        self.tower = image_tower.ImageTower(of.height, of.width, of.channels, rngs=rngs)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array, None]:
        grid = self.tower.local(images)
        return self.tower.pooled(grid), grid.reshape(len(images), -1, grid.shape[-1]), None


class _FeatureTower(nnx.Module):
    def __init__(self, of: Features, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(of.number, rngs=rngs)  # encoders differ in scale by far
        self.local = nnx.Linear(of.number, of.width, rngs=rngs)
        self.hidden = nnx.Linear(of.width, image_tower.HIDDEN, rngs=rngs)

    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array, None]:
        local = nnx.relu(self.local(self.norm(features)))
        return nnx.relu(self.hidden(local.mean(1))), local, None


class _Side(nnx.Module):
    """A tower and a head: inputs to embeddings."""

    def __init__(self, method: Method, dimension: int, of: Any, *, rngs: nnx.Rngs):
        if isinstance(of, Pictures):
            self.tower, local = _PictureTower(of, rngs=rngs), of.channels[1]
        elif isinstance(of, Words):
            self.tower, local = text_tower.TextTower(*of, rngs=rngs), of.width
        else:
            self.tower, local = _FeatureTower(of, rngs=rngs), of.width
        if method in _LOCAL_HEADS:
            self.head = _LOCAL_HEADS[method](
                image_tower.HIDDEN,
                local,
                dimension,
                initial_log_variance=_INITIAL_LOG_VARIANCE,
                rngs=rngs,
            )
        else:
            self.head = heads.PointHead(image_tower.HIDDEN, dimension, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> Any:
        pooled, local, mask = self.tower(inputs)
        if isinstance(self.head, heads.PointHead):
            return self.head(pooled)
        return self.head(pooled, local, mask)


class _Network(nnx.Module):
    def __init__(self, model: "Model", rngs: nnx.Rngs):
        self.image = _Side(model.method, model.dimension, model.image, rngs=rngs)
        self.text = _Side(model.method, model.dimension, model.text, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class Model:
    """Two towers and a method: pure functions of a tree of parameters.

    Attributes:
      method: how to embed and to train.
      dimension: D.
      image: what an image is given as.
      text: what a caption is given as.
    """

    method: Method
    dimension: int
    image: Pictures | Features
    text: Words | Features

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
        points = nnx.merge(self._graph, parameters["network"]).image(images)
        return points * jnp.exp(parameters["log_image_length"]) if self.method == "meru" else points

    def embed_texts(self, parameters: dict[str, Any], texts: jax.Array) -> Any:
        """Captions (batch, ...) to Gaussians or points (batch, dimension)."""
        points = nnx.merge(self._graph, parameters["network"]).text(texts)
        return points * jnp.exp(parameters["log_text_length"]) if self.method == "meru" else points


def logit_parameters(parameters: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """The learned scale, at most 100, and shift of the logit."""
    return jnp.minimum(jnp.exp(parameters["log_scale"]), 100.0), parameters["shift"]


def curvature_of(parameters: dict[str, Any]) -> jax.Array:
    """MERU's learned c, kept within 0.1 to 10."""
    return jnp.exp(jnp.clip(parameters["log_curvature"], math.log(0.1), math.log(10.0)))


def _as_gaussians(*sides: jax.Array) -> list[DiagonalGaussian]:
    return [DiagonalGaussian(points, jnp.zeros_like(points)) for points in sides]


def masked(key: jax.Array, inputs: jax.Array) -> jax.Array:
    """What is left of inputs (batch, ...) of any kind when most is masked.

    Of pictures cells of 4 x 4, of texts words, of features places, each with one probability.
    """
    if inputs.ndim == 2:
        hidden = jax.random.bernoulli(key, _MASKED, inputs.shape)
        return jnp.where(hidden, text_tower.PADDING, inputs)
    batch, height, width = inputs.shape
    if inputs.dtype == jnp.uint8:
        cells = jax.random.bernoulli(key, _MASKED, (batch, height // 4, width // 4))
        hidden = jnp.repeat(jnp.repeat(cells, 4, axis=1), 4, axis=2)
    else:
        hidden = jax.random.bernoulli(key, _MASKED, (batch, height, 1))
    return jnp.where(hidden, jnp.zeros((), inputs.dtype), inputs)


def _widths(p: DiagonalGaussian) -> DiagonalGaussian:
    return p._replace(mean=jnp.zeros_like(p.mean))


def _inclusion(model: Model, parameters: dict[str, Any], key: jax.Array, batch: Batch, both: Any):
    """ProLIP's inclusion losses of widths: of images in their texts, of inputs in masked ones.

    Both are of the share of the batch that is also seen masked.
    As the release has it in effect, means do not count. Where they do, the exact loss
    is the less the farther the narrow Gaussian lies from the wide one, and drives pairs apart.
    """
    some = slice(max(1, round(_MASKED_SHARE * len(batch.labels))))
    of_images, of_texts = jax.random.split(key)
    masked_image = model.embed_images(parameters, masked(of_images, batch.images[some]))
    masked_text = model.embed_texts(parameters, masked(of_texts, batch.texts[some]))
    whole = (jax.tree.map(lambda x: x[some], side) for side in both)
    image, text = map(_widths, whole)
    return probemb.inclusion_loss(image, text) + probemb.masked_inclusion_loss(
        image, _widths(masked_image), text, _widths(masked_text)
    )


def loss(
    model: Model,
    parameters: dict[str, Any],
    key: jax.Array,
    batch: Batch,
    *,
    num_samples: int,
    weight: float,
) -> jax.Array:
    """The loss of a method on a batch, for an image and its text: sums are divided by the batch.

    `weight` is that of `Settings`. The probabilistic ones have the bottleneck: the weight times the
    divergence from the standard normal distribution, in nats, a mean over images and one over
    texts.
    """
    images = model.embed_images(parameters, batch.images)
    texts = model.embed_texts(parameters, batch.texts)
    scale, shift = logit_parameters(parameters)
    labels, number = batch.labels, len(batch.labels)
    distance = {"negative_scale": scale, "shift": shift, "labels": labels}
    similarity = {"logit_scale": scale, "logit_bias": shift, "labels": labels}
    match model.method:
        case "pcme":
            value = probemb.pcme(key, images, texts, num_samples=num_samples, **distance) / number
        case "pcmepp":
            value = number * probemb.pcmepp(images, texts, kl_weight=0.0, **distance)
        case "prolip":
            value = probemb.prolip(images, texts, **similarity)
            both = images, texts
            value += _INCLUSION_WEIGHT * _inclusion(model, parameters, key, batch, both)
        case "info_nce":
            return probemb.info_nce(*_as_gaussians(images, texts), logit_scale=scale, labels=labels)
        case "siglip":
            return probemb.siglip(*_as_gaussians(images, texts), **similarity)
        case "triplet":
            sides = _as_gaussians(images, texts)
            return probemb.triplet(*sides, margin=weight, labels=labels) / number
        case "meru":
            curvature = curvature_of(parameters)
            return probemb.meru(
                images,
                texts,
                logit_scale=scale,
                curvature=curvature,
                entailment_weight=weight,
                labels=labels,
            )
    divergence = probemb.kl_to_standard_normal(images) + probemb.kl_to_standard_normal(texts)
    return value + weight * jnp.mean(divergence)


def train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    state: training.TrainState,
    batch: Batch,
    *,
    num_samples: int,
    weight: float,
) -> tuple[training.TrainState, dict[str, jax.Array]]:
    """One step on a batch; pure."""
    of_batch = functools.partial(loss, model, batch=batch, num_samples=num_samples, weight=weight)
    state, value = training.take_step(optimizer, state, of_batch)
    scale, shift = logit_parameters(state.parameters)
    return state, {"loss": value, "scale": scale, "shift": shift}


def batches(
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


def scores(model: Model, parameters: dict[str, Any], images: Any, texts: Any) -> jax.Array:
    """How well every caption fits every image (image, caption): the greater, the better.

    Logits, in the sense of the method: of a probability of matching (pcme, pcmepp, prolip,
    siglip) or of a softmax over items (info_nce, triplet, meru).
    """
    scale, shift = logit_parameters(parameters)
    if model.method == "pcme":
        match, mismatch = _log_match(images, texts, scale, shift)
        return match - mismatch
    if model.method == "pcmepp":
        return shift - scale * pairwise.sampled_distance(images, texts)
    if model.method == "prolip":
        traces = images.variance.sum(1)[:, None] + texts.variance.sum(1)
        return scale * (product(images.mean, texts.mean) - 0.5 * traces) + shift
    if model.method == "meru":
        curvature = curvature_of(parameters)
        points = (hyperbolic.exponential_map(x, curvature=curvature) for x in (images, texts))
        return -scale * hyperbolic.lorentz_distance(*points, curvature=curvature)
    return scale * product(normalized(images), normalized(texts)) + shift


def _log_match(
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
