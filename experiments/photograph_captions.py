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
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import skimage.transform
from tqdm import tqdm

from experiments import runs
from experiments.captions import pictures
from experiments.captions import training as caption_training
from experiments.captions.batches import annotated_batches
from experiments.captions.evaluation import Trial
from experiments.captions.two_towers import Features, Model, Words
from experiments.data import array_files, embedding_files, photographs
from experiments.runs import files as results
from experiments.towers import text as text_tower
from lasi_jax.networks import squeezenet

_EVALUATION_SEED = 0
_FILES = ("captions", "photographs", "squeezenet", "features", "output")
QUESTION = runs.Question("experiments.photograph_captions", files=_FILES)
_ARRAYS = ("image_features", "image_ids", "caption_features", "caption_image_ids")
_SIDE, _PLACES = 227, 3
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
    vocabulary: text_tower.Vocabulary | None


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


# --- photographs ------------------------------------------------------------------------------


class Annotations(NamedTuple):
    """What a captions file says: files (image), captions, and the image (caption) of each."""

    files: tuple[Path, ...]
    captions: tuple[str, ...]
    image_of: np.ndarray


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _names_by_id(path: Path, named: list[tuple[Any, Any]]) -> dict[int, str]:
    """The file names of images by their ids, each of one image."""
    names: dict[int, str] = {}
    for image, name in named:
        if not _is_integer(image) or not isinstance(name, str):
            raise ValueError(
                f"captions must be a captions file as COCO has it, {path}: an image has the id "
                f"{image!r}, which must be an integer, and the file_name {name!r}, a text"
            )
        if image in names:
            raise ValueError(
                f"captions must give each image an id of its own, {path} has {image} of "
                f"{names[image]} and of {name}"
            )
        names[image] = name
    return names


def read_captions(path: Path, folder: Path) -> Annotations:
    """A captions file as COCO has it, with the files of its images in a folder.

    Images without captions are left out.

    Raises:
      ValueError: the file is missing, damaged or holds something else; an id that is no integer,
        or of two images; a file of a photograph is missing; a caption of an image that is not
        there, or without a word.
    """
    if not path.is_file():
        raise ValueError(f"captions must be a file, {path} is none")
    try:
        content = json.loads(path.read_bytes())  # of bytes a mark of their order may come first
        named = [(image["id"], image["file_name"]) for image in content["images"]]
        written = [(a["image_id"], a["caption"]) for a in content["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"captions must be a captions file as COCO has it, {path}: {error!r}"
        ) from None
    names = _names_by_id(path, named)
    for image, caption in written:
        if not _is_integer(image):
            raise ValueError(
                f"captions must be a captions file as COCO has it, {path}: an image_id must be an "
                f"integer, that of {caption!r} is {image!r}"
            )
    unknown = [image for image, _ in written if image not in names]
    if unknown or not written:
        what = (
            f"image_id {unknown[0]} is none of its images" if unknown else "it has no annotations"
        )
        raise ValueError(f"captions must describe images of the file, {path}: {what}")
    for image, caption in written:
        if not isinstance(caption, str) or not text_tower.words_of(caption):
            raise ValueError(f"captions must have words, {path} has {caption!r} of image {image}")
    ids = sorted({image for image, _ in written})
    files = tuple(folder / names[image] for image in ids)
    for file in files:
        if not file.is_file():
            raise ValueError(f"photographs must hold {file.name}, {folder} does not")
    place = {image: number for number, image in enumerate(ids)}
    image_of = np.array([place[image] for image, _ in written])
    return Annotations(files, tuple(caption for _, caption in written), image_of)


@jax.jit
def _fire9(parameters: squeezenet.Parameters, photograph: jax.Array) -> jax.Array:
    return squeezenet.features(photograph, parameters=parameters, layers=("fire9",))[0]


def frozen_features(parameters: squeezenet.Parameters, photograph: np.ndarray) -> np.ndarray:
    """SqueezeNet's last map of a photograph (height, width, 3) uint8, as (9, 512) float32.

    The photograph is resized to 227 x 227; the places are means over a 3 x 3 grid of the map.
    """
    resized = skimage.transform.resize(photograph, (_SIDE, _SIDE), anti_aliasing=True)
    found = np.asarray(_fire9(parameters, np.asarray(resized, np.float32)))
    parts = [np.array_split(band, _PLACES, axis=1) for band in np.array_split(found, _PLACES)]
    return np.stack([cell.mean((0, 1)) for band in parts for cell in band])


def digest_of(files: tuple[Path, ...]) -> np.ndarray:
    """Which photographs these are (32) uint8, by their names and what they hold."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\n" + file.read_bytes())
    return np.frombuffer(digest.digest(), np.uint8)


def features_of(
    files: tuple[Path, ...], digest: np.ndarray, weights: Path, kept: Path
) -> np.ndarray:
    """Frozen features (image, 9, 512) of photographs, or those that are kept in a file.

    Raises:
      ValueError: weights or a photograph are missing or damaged; kept are those of others.
    """
    if kept.is_file():
        arrays = _read_arrays(kept)
        if not np.array_equal(arrays.get("files", ()), digest):
            raise ValueError(f"{kept} must be of the same photographs, delete its folder")
        return arrays["image_features"]
    if not weights.is_file():
        raise ValueError(f"squeezenet must be a file, {weights} is none")
    parameters = squeezenet.load(weights)
    return np.stack(
        [
            frozen_features(parameters, photographs.read(file))
            for file in tqdm(files, desc="SqueezeNet", unit="photograph", mininterval=1)
        ]
    )


def keep_features(images: np.ndarray, digest: np.ndarray, kept: Path) -> None:
    """Save frozen features where `features_of` finds them."""
    results.save_tensors(kept, {"image_features": images, "files": digest})


# --- files of features ------------------------------------------------------------------------


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz (without pickle) or .safetensors file."""
    return array_files.read("features", path, suffixes=(".npz", ".safetensors")).arrays


def _checked_features(name: str, values: np.ndarray) -> np.ndarray:
    """Features (item, place, feature) float32 of (item, feature) or (item, place, feature)."""
    is_float = jnp.issubdtype(values.dtype, jnp.floating)  # bfloat16 too
    if values.ndim not in (2, 3) or 0 in values.shape or not is_float:
        raise ValueError(
            f"{name} must be floats (item, feature) or (item, place, feature), not empty, got "
            f"{values.shape} {values.dtype}"
        )
    with np.errstate(over="ignore"):
        single = np.asarray(values).astype(np.float32)
    if not np.isfinite(single).all():
        where = np.argwhere(~np.isfinite(single))[0].tolist()
        raise ValueError(f"{name} must be finite in float32, got {values[tuple(where)]} at {where}")
    return single[:, None] if single.ndim == 2 else single


def read_features(path: Path) -> Pairs:
    """Images and captions of a file of features.

    Raises:
      ValueError: the file is missing, damaged or holds something else; features that are not
        finite; ids that are not integers, given twice, or of no image.
    """
    arrays = _read_arrays(path)
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise ValueError(f"features must hold {', '.join(_ARRAYS)}; {path} lacks {missing[0]}")
    images, texts = (
        _checked_features(name, arrays[name]) for name in ("image_features", "caption_features")
    )
    ids, of_captions = (
        embedding_files.checked_ids(name, arrays[name], number)
        for name, number in (("image_ids", len(images)), ("caption_image_ids", len(texts)))
    )
    image_of = embedding_files.places(ids, of_captions, names=("image_ids", "caption_image_ids"))
    names = tuple(f"caption {number}" for number in range(len(texts)))
    return Pairs(images, texts, names, image_of, None)


# --- splits and the run -----------------------------------------------------------------------


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
        pairs = read_features(config.features)
        return pairs, _split(config, pairs.image_of, len(pairs.images))
    assert config.captions and config.photographs and config.squeezenet
    annotations = read_captions(config.captions, config.photographs)
    is_test = _split(config, annotations.image_of, len(annotations.files))
    of_training = [
        caption
        for caption, image in zip(annotations.captions, annotations.image_of, strict=True)
        if not is_test[image]
    ]
    vocabulary = text_tower.Vocabulary.of(of_training, least=2)
    longest = max(len(text_tower.words_of(caption)) for caption in annotations.captions)
    texts = vocabulary.encode(annotations.captions, length=min(longest, _MOST_WORDS))
    kept = this.folder / "features.safetensors"
    digest = digest_of(annotations.files)
    images = features_of(annotations.files, digest, config.squeezenet, kept)
    if not kept.is_file():
        this.begin()
        keep_features(images, digest, kept)
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
