"""HIB's model: images to embeddings, pairs to a loss, batches of pairs."""

import dataclasses
import functools
from typing import Any, Literal

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import probemb
from experiments.data import labelled
from experiments.data.labelled import Corrupt, Labelled
from experiments.runs import training
from experiments.towers import image
from probemb import heads
from probemb.pairs import matching

Kind = Literal["point", "gaussian", "mixture"]
"""What an image is embedded as."""

NUM_COMPONENTS = 2

# Each starts from the b, of 1 and 5, that serves it better: with 5, points learn more slowly,
# with 1, distributions do.
_INITIAL_SHIFT = {"point": 1.0, "gaussian": 5.0, "mixture": 5.0}

# A batch is quadruples of images: two of one label, two of another. Four pairs of them:
_FIRST, _SECOND = np.array([0, 2, 0, 1]), np.array([1, 3, 2, 3])
_MATCH = np.array([1.0, 1.0, 0.0, 0.0], np.float32)


class _Network(nnx.Module):
    def __init__(self, model: "Model", rngs: nnx.Rngs):
        self.tower = image.ImageTower(
            model.height,
            model.width,
            model.channels,
            image_channels=model.image_channels,
            rngs=rngs,
        )
        size = image.HIDDEN
        if model.kind == "point":
            self.head = heads.PointHead(size, model.dimension, rngs=rngs)
        elif model.kind == "gaussian":
            self.head = heads.GaussianHead(size, model.dimension, rngs=rngs)
        else:
            self.head = heads.MixtureHead(
                size, model.dimension, num_components=NUM_COMPONENTS, rngs=rngs
            )

    def __call__(self, images: jax.Array) -> Any:
        return self.head(self.tower(images))


@dataclasses.dataclass(frozen=True)
class Model:
    """A hedged instance embedding: pure functions of a tree of parameters.

    Attributes:
      kind: of embedding.
      dimension: D.
      height: of an image.
      width: of an image.
      channels: of the two convolutions.
      image_channels: of an image, such as 3 of colors.
    """

    kind: Kind
    dimension: int
    height: int
    width: int
    channels: tuple[int, int]
    image_channels: int = 1

    @functools.cached_property
    def _graph(self) -> nnx.GraphDef:
        return nnx.split(nnx.eval_shape(lambda: _Network(self, nnx.Rngs(0))))[0]

    def initialize(self, key: jax.Array) -> dict[str, Any]:
        """The network's parameters, log a and b of the match probability."""
        _, network = nnx.split(_Network(self, nnx.Rngs(key)))
        return {
            "network": nnx.to_pure_dict(network),
            "log_negative_scale": jnp.zeros((), jnp.float32),
            "shift": jnp.asarray(_INITIAL_SHIFT[self.kind], jnp.float32),
        }

    def embed(self, parameters: dict[str, Any], images: jax.Array) -> Any:
        """Images (batch, height, width, ...) uint8 to points or distributions (batch, ...)."""
        return nnx.merge(self._graph, parameters["network"])(images)

    def samples(self, key: jax.Array, embedding: Any, number: int) -> matching.Samples:
        """`number` samples (sample, dimension) of one embedding, with their log-weights.

        A point is its own only sample. Of a mixture every component has its share.
        """
        if self.kind == "point":
            return embedding[None], jnp.zeros(1)
        return matching.weighted_samples(
            key, "embedding", embedding, self.samples_of_component(number)
        )

    def samples_of_component(self, number: int) -> int:
        """How many of `number` samples each component has."""
        return max(1, number // NUM_COMPONENTS) if self.kind == "mixture" else number


def match_parameters(parameters: dict[str, Any]) -> dict[str, jax.Array]:
    """The learned a and b as the arguments of probemb's functions."""
    return {
        "negative_scale": jnp.exp(parameters["log_negative_scale"]),
        "shift": parameters["shift"],
    }


def loss(
    model: Model,
    parameters: dict[str, Any],
    key: jax.Array,
    images: jax.Array,
    *,
    num_samples: int,
    bottleneck_weight: float,
) -> jax.Array:
    """The mean loss of the pairs of a batch (4, quadruple, height, width, ...)."""
    places, quadruples = images.shape[:2]
    flat = model.embed(parameters, images.reshape(-1, *images.shape[2:]))
    each = jax.tree.map(lambda x: x.reshape(places, quadruples, *x.shape[1:]), flat)
    first, second = (
        jax.tree.map(lambda x, place=place: x[place].reshape(-1, *x.shape[2:]), each)
        for place in (_FIRST, _SECOND)
    )
    match = jnp.repeat(_MATCH, quadruples)
    options = match_parameters(parameters)
    if model.kind == "point":

        def of_pair(p, q, m):
            return probemb.soft_contrastive_of_samples(p[None], q[None], m, **options)

        return jnp.mean(jax.vmap(of_pair)(first, second, match))

    def of_pair_with_key(key, p, q, m):
        return probemb.soft_contrastive(
            key,
            p,
            q,
            m,
            num_samples=model.samples_of_component(num_samples),
            bottleneck_weight=bottleneck_weight,
            **options,
        )

    keys = jax.random.split(key, len(match))
    return jnp.mean(jax.vmap(of_pair_with_key)(keys, first, second, match))


def train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    state: training.TrainState,
    images: jax.Array,
    *,
    num_samples: int,
    bottleneck_weight: float,
) -> tuple[training.TrainState, dict[str, jax.Array]]:
    """One step on a batch (4, quadruple, height, width, ...); pure."""
    of_batch = functools.partial(
        loss, model, images=images, num_samples=num_samples, bottleneck_weight=bottleneck_weight
    )
    state, value = training.take_step(optimizer, state, of_batch)
    return state, {"loss": value, **match_parameters(state.parameters)}


def batches(
    split: Labelled,
    num_steps: int,
    *,
    seed: int,
    quadruples: int,
    corrupt: Corrupt,
    probability: float,
) -> grain.MapDataset:
    """Batches (4, quadruple, height, width, ...) uint8: two images of a label, two of another.

    The pairs (0, 1) and (2, 3) match, (0, 2) and (1, 3) do not: as many of either kind.
    Batch k is a function of seed and k alone.

    Args:
      split: for training.
      num_steps: batches.
      seed: of all random choices.
      quadruples: of a batch.
      corrupt: damages images.
      probability: of damage.

    Raises:
      ValueError: a split that no pairs can be drawn of.
    """
    labelled.check("the training split", split)
    classes, of_class = np.unique(split.labels, return_inverse=True)
    members = [np.flatnonzero(of_class == class_) for class_ in range(len(classes))]
    sizes = np.array([len(ids) for ids in members])
    starts = np.cumsum(sizes) - sizes
    ordered = np.concatenate(members)

    def draw(_: int, random: np.random.Generator) -> np.ndarray:
        one = random.integers(0, len(classes), quadruples)
        other = (one + random.integers(1, len(classes), quadruples)) % len(classes)
        label = np.stack([one, one, other, other])
        place = random.integers(0, sizes[label])
        # Two images of a label are two different ones.
        step = random.integers(1, sizes[label[1::2]])
        place[1::2] = (place[0::2] + step) % sizes[label[1::2]]
        images = split.images[ordered[starts[label] + place]]
        flat = corrupt(random, images.reshape(-1, *images.shape[2:]), probability=probability)
        return flat.reshape(images.shape)

    return grain.MapDataset.range(num_steps).seed(seed).random_map(draw)
