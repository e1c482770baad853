"""The methods that put distributions around frozen embeddings, and how they are trained.

method             a distribution is     trained to
probvlm            generalized Gaussian  explain its own embedding and, above all, its partner's
released           generalized Gaussian  the same by the release's loss, which learns no shape
probvlm_own        generalized Gaussian  explain its own above all, the weights of the release
released_own       generalized Gaussian  the same by the release's loss
gaussian           Gaussian              as probvlm
von_mises_fisher   von Mises-Fisher      as probvlm
bayescap           generalized Gaussian  stay close to its embedding and explain its partner's
pfe                Gaussian              share a point with its partner; its mean is frozen

All seeds of a method are trained at once, by `vmap`; each has batches and a dropout of its own.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

import probemb
from experiments.captions.retrieval import SIDES, Side
from experiments.data import embedding_files
from experiments.data.embedding_files import PairedEmbeddings, Part
from experiments.runs import training
from probemb.adapters import Adapter, Output

Method = Literal[
    "probvlm",
    "released",
    "probvlm_own",
    "released_own",
    "gaussian",
    "von_mises_fisher",
    "bayescap",
    "pfe",
]
"""How distributions are made and trained."""
METHODS: tuple[Method, ...] = get_args(Method)
_OUTPUT: dict[Method, Output] = {
    "gaussian": "gaussian",
    "pfe": "gaussian",
    "von_mises_fisher": "von_mises_fisher",
}
OWN_WEIGHT = 1e-4
"""lambda of the release: so little counts the partner's embedding."""
_IDENTITY_WEIGHT = 10.0


class Batch(NamedTuple):
    """Pairs of unit vectors, image and caption (seed, pair, dimension)."""

    image: Any
    caption: Any


@dataclasses.dataclass(frozen=True)
class Model:
    """An adapter for images and one for texts, and how they are trained.

    Attributes:
      method: how.
      dimension: of the embeddings.
      hidden: the lengths of the hidden layers.
      dropout: how probably a hidden unit is dropped.
      cross_modal_weight: lambda, of explaining the partner.
    """

    method: Method
    dimension: int
    hidden: tuple[int, ...]
    dropout: float
    cross_modal_weight: float

    @property
    def adapter(self) -> Adapter:
        """The adapter of either side."""
        return Adapter(
            self.dimension,
            output=_OUTPUT.get(self.method, "generalized_gaussian"),
            location="frozen" if self.method == "pfe" else "residual",
            hidden=self.hidden,
            dropout=self.dropout,
        )

    def initialize(self, key: jax.Array) -> dict[Side, Any]:
        """The parameters of both sides."""
        keys = jax.random.split(key)
        return {side: self.adapter.initialize(k) for side, k in zip(SIDES, keys, strict=True)}


def loss(model: Model, parameters: dict[Side, Any], key: jax.Array, batch: Batch) -> jax.Array:
    """The loss of one seed on pairs (pair, dimension), with dropout."""
    keys = jax.random.split(key)
    image, text = (
        model.adapter.apply(parameters[side], embedding, key=k)
        for side, embedding, k in zip(SIDES, batch, keys, strict=True)
    )
    embeddings = image, text, batch.image, batch.caption
    match model.method:
        case "pfe":
            return probemb.pfe(image, text)
        case "bayescap":
            weight = _IDENTITY_WEIGHT
            return probemb.bayescap(
                image, batch.image, batch.caption, identity_weight=weight
            ) + probemb.bayescap(text, batch.caption, batch.image, identity_weight=weight)
        case "released":
            weight = model.cross_modal_weight
            return probemb.probvlm_released(*embeddings, cross_modal_weight=weight)
        case "released_own":
            return probemb.probvlm_released(*embeddings, cross_modal_weight=OWN_WEIGHT)
        case "probvlm_own":
            return probemb.probvlm(*embeddings, cross_modal_weight=OWN_WEIGHT)
        case _:
            return probemb.probvlm(*embeddings, cross_modal_weight=model.cross_modal_weight)


def train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    state: training.TrainState,
    batch: Batch,
    *,
    seeds: tuple[int, ...],
) -> tuple[training.TrainState, dict[str, jax.Array]]:
    """One step of all seeds; pure. Their sum is minimised: they share no parameter."""

    def of_parameters(parameters: Any, key: jax.Array) -> jax.Array:
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.asarray(seeds, jnp.uint32))
        return jnp.sum(jax.vmap(functools.partial(loss, model))(parameters, keys, batch))

    state, value = training.take_step(optimizer, state, of_parameters)
    return state, {"loss": value / len(seeds)}


def batches(
    paired: PairedEmbeddings,
    part: Part,
    num_steps: int,
    *,
    seeds: tuple[int, ...],
    batch_size: int,
) -> grain.MapDataset:
    """Batches of images of a part, drawn with replacement, each with one of its texts.

    Batch k of a seed is a function of the seed and k alone. Only the rows of a batch are read.
    """
    order = np.argsort(paired.image_of[part.texts], kind="stable")
    texts = part.texts[order]
    images, starts, counts = np.unique(
        paired.image_of[texts], return_index=True, return_counts=True
    )

    def draw(step: int) -> Batch:
        of_image, of_text = [], []
        for seed in seeds:
            random = np.random.default_rng((seed, step))
            chosen = random.integers(0, len(images), batch_size)
            place = starts[chosen] + random.integers(0, counts[chosen])
            of_image.append(embedding_files.rows(paired.images.vectors, images[chosen]))
            of_text.append(embedding_files.rows(paired.texts.vectors, texts[place]))
        return Batch(np.stack(of_image), np.stack(of_text))

    return grain.MapDataset.range(num_steps).map(draw)


def train(
    model: Model,
    paired: PairedEmbeddings,
    part: Part,
    folder: Path,
    *,
    seeds: tuple[int, ...],
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    checkpoint_every: int,
    log_every: int,
) -> dict[Side, Any]:
    """The parameters of all seeds, on a leading axis; gone on with where it was stopped."""
    optimizer, step = training.with_adam(train_step, model, learning_rate, num_steps, seeds=seeds)
    parameters = jax.vmap(model.initialize)(jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32)))
    state = training.fit(
        folder / "runs" / model.method,
        training.begin(jax.random.key(0), parameters, optimizer),
        step,
        batches(paired, part, num_steps, seeds=seeds, batch_size=batch_size),
        num_steps=num_steps,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        label=f"{model.method}, {len(seeds)} seeds",
    )
    return state.parameters
