"""A frozen encoder of digit captions with its ProbVLM adapters: what it finds, how sure it is.

The encoder is trained on one half of a split, the adapters on every other image of the other half;
what is left is for neither.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import runs
from experiments.adapters import evaluation, frozen, training
from experiments.adapters.frozen import Frozen
from experiments.adapters.training import Method, Model
from experiments.captions import digit_encoder
from experiments.captions import methods as caption_methods
from experiments.captions.digit_encoder import Encoder
from experiments.captions.retrieval import SIDES, Outcome, Side, Trial
from experiments.data import embedding_files
from experiments.data.captioned_digits import Captioned

METRICS: tuple[str, ...] = ("R-Precision", "R@1")
"""Of retrieval, where all that is true counts. The first is the one that answers are about."""
_EVALUATION_SEED = 0
_FILES = ("images", "texts")
_EVERY = {"checkpoint_every": 500, "log_every": 100}
_LEAST = {
    "dimension": 2,
    "encoder_steps": 1,
    "adapter_steps": 1,
    "hidden": 1,
    "num_members": 2,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of encoders, adapters and runs."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Encoders and adapters for each."""
    dimension: int = 32
    """Of an embedding."""
    encoder_steps: int = 1500
    """Steps of an encoder's training."""
    method: Method = "probvlm"
    """How the adapters are trained (`adapters.training`); all but pfe, whose location is frozen."""
    adapter_steps: int = 1000
    """Steps of the adapters' training."""
    hidden: tuple[int, ...] = (256, 256)
    """The lengths of an adapter's hidden layers."""
    learning_rate: float = 1e-3
    """The rate of Adam at the start; it falls to 0 along a cosine."""
    num_members: int = 10
    """Passes with dropout."""
    datasets: Path = Path("results/datasets")
    """Where the data set of digit captions is prepared, once."""
    output: Path | None = None
    """The folder of the run. Default: in results, named after all options."""


def check(options: Options) -> None:
    """Refuse options that nothing can be trained with.

    Raises:
      ValueError: an option is out of range.
    """
    runs.check_least(options, _LEAST)
    runs.check_training(options)
    methods = tuple(method for method in training.METHODS if method != "pfe")
    if options.method not in methods:  # members of pfe have one mean, so that none disagree
        raise ValueError(f"method must be one of {methods}, got {options.method!r}")
    if not options.hidden:
        raise ValueError("hidden must be one length at least, got none")


class AdaptedEncoder(NamedTuple):
    """An encoder and its adapters, trained no more.

    Attributes:
      encoder: of images and captions.
      model: of the adapters.
      parameters: side -> parameters of the adapter, on a leading axis of one seed.
    """

    encoder: Encoder
    model: Model
    parameters: dict[Side, Any]


def parts(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images that the encoder is trained on, those of the adapters, and those left."""
    of_encoder, others = digit_encoder.halves(number)
    return of_encoder, others[::2], others[1::2]


def train(split: Captioned, folder: Path, options: Options, *, seed: int) -> AdaptedEncoder:
    """Train an encoder and its adapters on a split, gone on with where they were stopped.

    Args:
      split: for training.
      folder: of this encoder, this split and this seed alone.
      options: of both.
      seed: of both.
    """
    of_encoder, of_adapters, _ = parts(len(split.images))
    encoder = digit_encoder.train(
        split,
        of_encoder,
        folder / "runs",
        dimension=options.dimension,
        num_steps=options.encoder_steps,
        seed=seed,
    )
    paths = tuple(folder / "embeddings" / f"{name}.safetensors" for name in _FILES)
    if not all(path.is_file() for path in paths):
        digit_encoder.export(encoder, split, of_adapters, (paths[0], paths[1]))
    paired = embedding_files.read(*paths)
    model = Model(options.method, options.dimension, options.hidden, 0.1, 100.0)
    parameters = training.train(
        model,
        paired,
        embedding_files.whole(paired),
        folder,
        seeds=(seed,),
        num_steps=options.adapter_steps,
        batch_size=256,
        learning_rate=options.learning_rate,
        **_EVERY,
    )
    return AdaptedEncoder(encoder, model, parameters)


def uncertainty(
    adapted: AdaptedEncoder, inputs: Any, *, num_members: int, side: Side = "image"
) -> dict[str, np.ndarray]:
    """Every measure of uncertainty (item), each the logarithm of a total variance.

    Args:
      adapted: the encoder, and its adapters.
      inputs: pictures (image, height, width) uint8, or captions.
      num_members: passes with dropout.
      side: what the inputs are.
    """
    embed: Any = digit_encoder.embed_images if side == "image" else digit_encoder.embed_captions
    found = evaluation.uncertainty(
        adapted.model,
        adapted.parameters[side],
        np.ones(1, np.float32),
        embed(adapted.encoder, inputs),
        key=jax.random.key(_EVALUATION_SEED),
        num_members=num_members,
    )
    return {name: values[:, 0] for name, values in found.items()}


def cosines(encoder: Encoder, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Cosines (image, caption) of pictures with embedded captions."""
    return digit_encoder.embed_images(encoder, images) @ captions.T


def trial(split: Captioned) -> Trial:
    """A split to be retrieved from, whatever its images; its texts are not embedded yet."""
    return Trial(split.images, split.captions, np.zeros(0), split.positives, split.annotated, None)


def outcome(encoder: Encoder, of_split: Trial, captions: np.ndarray) -> Outcome:
    """What an encoder makes of a trial, and what cosines say of uncertainty.

    Args:
      encoder: of the images.
      of_split: as of `trial`.
      captions: embeddings (caption, dimension) of its captions.
    """
    embedded = of_split._replace(
        images=digit_encoder.embed_images(encoder, of_split.images), texts=captions
    )
    scale, _ = caption_methods.logit_parameters(encoder.parameters)
    return frozen.outcome(Frozen(embedded, {}, {}, {}, {}), float(scale))


def retrieval(found: Outcome) -> dict[str, float]:
    """Means over queries of either side, and over both sides."""
    means = {
        f"{metric}, {side}": float(found.metrics[side][metric].mean())
        for metric in METRICS
        for side in SIDES
    }
    for metric in METRICS:
        means[metric] = float(np.mean([means[f"{metric}, {side}"] for side in SIDES]))
    return means
