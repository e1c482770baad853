"""Images and captions of one's own: photographs with a COCO captions file, or features.

    python -m experiments.photograph_captions --features pairs.safetensors
    python -m experiments.photograph_captions --captions FILE --photographs FOLDER --squeezenet FILE

The methods of `digit_captions`, trained on the user's pairs: photographs become frozen features
of SqueezeNet, 3 x 3 places of 512; a file of features holds any encoder's. Then retrieval among
the images that were set aside for testing, and how well every uncertainty predicts failure.
What matches is what is annotated: nobody knows the rest.

A file of features, .npz or .safetensors:

    image_features     (image, feature) or (image, place, feature), floats
    image_ids          (image), integers, all different
    caption_features   (caption, feature) or (caption, place, feature), floats
    caption_image_ids  (caption), integers: the image that each caption was written of
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import runs
from experiments.captions import pictures
from experiments.captions import training as caption_training
from experiments.captions.batches import annotated_batches
from experiments.captions.retrieval import Trial
from experiments.captions.two_towers import Features, Model, Words
from experiments.data import coco_captions, embedding_files, frozen_features, words

_EVALUATION_SEED = 0
_FILES = ("captions", "photographs", "squeezenet", "features", "output")
QUESTION = runs.Question("experiments.photograph_captions", files=_FILES)
_MOST_WORDS = 32


@dataclasses.dataclass(frozen=True)
class Config(caption_training.Training):
    """Options of photograph captions."""

    captions: Path | None = None
    """A captions file as COCO has it: JSON with images (id, file_name) and annotations (image_id,
    caption)."""
    photographs: Path | None = None
    """The folder of its photographs."""
    squeezenet: Path | None = None
    """The weights of SqueezeNet, .npz or .safetensors: `lasi_jax.networks.squeezenet.load` reads
    them."""
    features: Path | None = None
    """Instead of those three: a file of features of images and captions."""
    test_share: float = 0.25
    """The share of the images that is set aside for testing."""
    batch_size: int = 32
    """Images of a batch, each with one caption."""
    num_steps: int = 1000
    """Steps of a training."""


class Pairs(NamedTuple):
    """Images and captions as towers take them.

    Attributes:
      images: features (image, place, feature) float32.
      texts: features (caption, place, feature) float32, or word numbers (caption, length).
      captions: (caption) as they read; of features their place in the file.
      image_of: the image (caption) that each was written of.
      vocabulary: of the word numbers, if they are some.
    """

    images: np.ndarray
    texts: np.ndarray
    captions: tuple[str, ...]
    image_of: np.ndarray
    vocabulary: words.Vocabulary | None


def resolved(config: Config) -> Config:
    """The configuration with its defaults filled in, checked.

    Raises:
      ValueError: an option out of range, missing, or two that contradict each other.
    """
    caption_training.check(config)
    photographs_given = [config.captions, config.photographs, config.squeezenet]
    if config.features is None and None in photographs_given:
        raise ValueError(
            "captions, photographs and squeezenet must be given, or features: "
            "--captions FILE --photographs FOLDER --squeezenet FILE, or --features FILE"
        )
    if config.features is not None and any(photographs_given):
        raise ValueError("features must be given alone, without captions and photographs")
    if not 0.0 < config.test_share < 1.0:
        raise ValueError(f"test_share must lie between 0 and 1, got {config.test_share}")
    return runs.shortened(config, caption_training.TOY) if config.toy else config


def options_of(config: Config) -> dict[str, Any]:
    """The options that numbers depend on; of the files what they hold, not where they lie."""
    options = runs.options(config, without=(*_FILES, "checkpoint_every", "log_every"))
    options["settings"] = caption_training.every_settings(config)
    for name in ("features", "captions", "squeezenet"):
        if (path := getattr(config, name)) is not None:
            options[f"{name}_sha256"] = embedding_files.digest(path, name=name)
    return options


def split_images(image_of: np.ndarray, number: int, test_share: float) -> np.ndarray:
    """Which images (image) are for testing: a fixed choice among those with captions.

    Raises:
      ValueError: fewer than two for training or for testing.
    """
    described = np.unique(image_of)
    count = round(test_share * len(described))
    if min(count, len(described) - count) < 2:
        raise ValueError(
            f"test_share must leave two images on either side, got {test_share} of "
            f"{len(described)} images with captions"
        )
    chosen = np.random.RandomState(_EVALUATION_SEED).permutation(described)[:count]
    return np.isin(np.arange(number), chosen)


def _split(config: Config, image_of: np.ndarray, number: int) -> np.ndarray:
    """Which images are for testing, if a batch fits into the others."""
    is_test = split_images(image_of, number, config.test_share)
    for_training = len(np.unique(image_of[~is_test[image_of]]))
    if config.batch_size > for_training:
        raise ValueError(
            f"batch_size must be at most {for_training}, the images for training, "
            f"got {config.batch_size}"
        )
    return is_test


def read_pairs(config: Config, this: runs.Run) -> tuple[Pairs, np.ndarray]:
    """Images and captions, and which images are for testing.

    Where something is wrong with them, no folder of a run begins.
    """
    if config.features is not None:
        found = frozen_features.read(config.features)
        names = tuple(f"caption {number}" for number in range(len(found.texts)))
        pairs = Pairs(found.images, found.texts, names, found.image_of, None)
        return pairs, _split(config, pairs.image_of, len(pairs.images))
    assert config.captions and config.photographs and config.squeezenet
    annotations = coco_captions.read(config.captions, config.photographs)
    is_test = _split(config, annotations.image_of, len(annotations.files))
    of_training = [
        caption
        for caption, image in zip(annotations.captions, annotations.image_of, strict=True)
        if not is_test[image]
    ]
    vocabulary = words.Vocabulary.of(of_training, least=2)
    longest = max(len(words.words_of(caption)) for caption in annotations.captions)
    texts = vocabulary.encode(annotations.captions, length=min(longest, _MOST_WORDS))
    kept = this.folder / "features.safetensors"
    digest = frozen_features.digest_of(annotations.files)
    images = frozen_features.of_photographs(annotations.files, digest, config.squeezenet, kept)
    if not kept.is_file():
        this.begin()
        frozen_features.keep(images, digest, kept)
    return Pairs(images, texts, annotations.captions, annotations.image_of, vocabulary), is_test


def make_trial(pairs: Pairs, is_test: np.ndarray) -> Trial:
    """The images for testing with all captions of theirs."""
    images = np.flatnonzero(is_test & np.isin(np.arange(len(is_test)), pairs.image_of))
    captions = np.flatnonzero(np.isin(pairs.image_of, images))
    annotated = images[:, None] == pairs.image_of[captions]
    return Trial(
        pairs.images[images],
        tuple(pairs.captions[caption] for caption in captions),
        pairs.texts[captions],
        annotated,
        annotated,
        None,
    )


def run(config: Config) -> dict[str, Any]:
    """Train what is not trained yet, evaluate, save the report, and return its numbers."""
    asked, config = config, resolved(config)
    this = QUESTION.run(asked, config, options_of(config))
    if (content := this.earlier()) is not None:
        return content
    pairs, is_test = read_pairs(config, this)
    trial = make_trial(pairs, is_test)
    training = np.flatnonzero(~is_test[pairs.image_of])
    annotations = np.stack([pairs.image_of[training], training], 1)
    data = (
        f"{len(np.unique(annotations[:, 0])):,} images with {len(training):,} captions for "
        f"training, {len(trial.images):,} with {len(trial.captions):,} for testing; "
        f"{config.num_steps:,} steps a training"
    )
    text = (
        Features(pairs.texts.shape[2], config.width)
        if pairs.vocabulary is None
        else Words(len(pairs.vocabulary), pairs.texts.shape[1], config.width)
    )
    models = {
        method: Model(method, config.dimension, Features(pairs.images.shape[2], config.width), text)
        for method in config.methods
    }
    batches = functools.partial(
        annotated_batches,
        pairs.images,
        pairs.texts,
        annotations,
        config.num_steps,
        batch_size=config.batch_size,
    )
    this.begin(data)
    return caption_training.compare(
        config,
        models,
        batches,
        {"test": trial},
        this,
        data,
        draw=lambda partial, _, outcomes: pictures.draw(partial, trial, outcomes["test"]),
        title="Photograph captions",
    )


if __name__ == "__main__":
    QUESTION.main(__doc__, Config, run)
