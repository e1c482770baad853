"""The model of images and captions: two towers, each under the head of a method."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.captions import methods
from experiments.captions.batches import Batch
from experiments.captions.methods import METHODS, Embedded
from experiments.runs import training
from experiments.towers import image as image_tower
from experiments.towers import text as text_tower
from probemb import heads


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

    def __init__(self, method: str, dimension: int, of: Any, *, rngs: nnx.Rngs):
        if isinstance(of, Pictures):
            self.tower, local = _PictureTower(of, rngs=rngs), of.channels[1]
        elif isinstance(of, Words):
            self.tower, local = text_tower.TextTower(*of, rngs=rngs), of.width
        else:
            self.tower, local = _FeatureTower(of, rngs=rngs), of.width
        self.head = METHODS[method].head(image_tower.HIDDEN, local, dimension, rngs)

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
      method: how to embed and to train, by its name in `METHODS`.
      dimension: D.
      image: what an image is given as.
      text: what a caption is given as.
    """

    method: str
    dimension: int
    image: Pictures | Features
    text: Words | Features

    @functools.cached_property
    def _graph(self) -> nnx.GraphDef:
        return nnx.split(nnx.eval_shape(lambda: _Network(self, nnx.Rngs(0))))[0]

    def initialize(self, key: jax.Array) -> dict[str, Any]:
        """The network's parameters, those of the logit, and what else the method learns."""
        _, network = nnx.split(_Network(self, nnx.Rngs(key)))
        method = METHODS[self.method]
        scale, shift = method.logit
        return {
            "network": nnx.to_pure_dict(network),
            "log_scale": jnp.log(jnp.asarray(scale, jnp.float32)),
            "shift": jnp.asarray(shift, jnp.float32),
            **{
                name: jnp.asarray(value, jnp.float32)
                for name, value in method.learned(self.dimension).items()
            },
        }

    def embed_images(self, parameters: dict[str, Any], images: jax.Array) -> Any:
        """Images (batch, ...) to Gaussians or points (batch, dimension)."""
        embedding = nnx.merge(self._graph, parameters["network"]).image(images)
        return METHODS[self.method].finished(embedding, parameters, "image")

    def embed_texts(self, parameters: dict[str, Any], texts: jax.Array) -> Any:
        """Captions (batch, ...) to Gaussians or points (batch, dimension)."""
        embedding = nnx.merge(self._graph, parameters["network"]).text(texts)
        return METHODS[self.method].finished(embedding, parameters, "text")


def loss(
    model: Model,
    parameters: dict[str, Any],
    key: jax.Array,
    batch: Batch,
    *,
    num_samples: int,
    weight: float,
) -> jax.Array:
    """The loss of a method on a batch, for an image and its text: `methods.loss`."""
    images = model.embed_images(parameters, batch.images)
    texts = model.embed_texts(parameters, batch.texts)
    embedded = Embedded(images, texts, batch, model, parameters, key, num_samples, weight)
    return methods.loss(METHODS[model.method], embedded)


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
    scale, shift = methods.logit_parameters(state.parameters)
    return state, {"loss": value, "scale": scale, "shift": shift}
