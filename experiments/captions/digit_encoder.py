"""A small dual encoder of digit captions, frozen: what it embeds stands for anybody's embeddings.

It is trained with InfoNCE on one half of the training images; adapters have the other half:
other pictures, composed of the same handwritten digits, some of which look the same as one of the
encoder's. Tests are composed of other digits. What it makes of images and captions
is written to files of embeddings (`embedding_files`), the captions of an image each as a row with
the image's id.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.captions import digit_trials, evaluation, two_towers
from experiments.captions.batches import annotated_batches
from experiments.captions.retrieval import Known, Side, Truth
from experiments.captions.two_towers import Model, Pictures, Words
from experiments.data import caption_grammar, embedding_files
from experiments.data.captioned_digits import Captioned
from experiments.runs import training

MODEL = "digit captions, InfoNCE"
"""What the files say their embeddings are of."""
AUGMENTATIONS = 8
"""Changed versions of every input for testing."""
_SEED = 2026
_CHANNELS, _WIDTH, _BATCH, _RATE = (16, 32), 64, 64, 1e-3
# A changed image is shifted by up to a pixel and noisy; a changed caption lacks some words.
_NOISE, _DROPPED = 16.0, 0.15


class Encoder(NamedTuple):
    """Two towers that are trained no more."""

    model: Model
    parameters: dict[str, Any]


def halves(number: int) -> tuple[np.ndarray, np.ndarray]:
    """The images that an encoder is trained on, and those that are left for adapters."""
    order = np.random.RandomState(_SEED).permutation(number)
    return np.sort(order[: number // 2]), np.sort(order[number // 2 :])


def train(
    train_split: Captioned,
    images: np.ndarray,
    folder: Path,
    *,
    dimension: int,
    num_steps: int,
    seed: int = 0,
) -> Encoder:
    """An encoder of some images of a split, gone on with where it was stopped.

    Args:
      train_split: the images and their captions.
      images: which of them (image).
      folder: of the run.
      dimension: of an embedding.
      num_steps: of the training.
      seed: of parameters and batches.
    """
    height, width = train_split.images.shape[1:]
    model = Model(
        "info_nce",
        dimension,
        Pictures(height, width, _CHANNELS),
        Words(len(digit_trials.VOCABULARY), caption_grammar.MOST_WORDS, _WIDTH),
    )
    optimizer, step = training.with_adam(
        two_towers.train_step, model, _RATE, num_steps, num_samples=1, weight=0.0
    )
    annotations = train_split.annotations
    batches = functools.partial(
        annotated_batches,
        train_split.images,
        digit_trials.encode(train_split.captions),
        annotations[np.isin(annotations[:, 0], images)],
        num_steps,
        batch_size=_BATCH,
    )
    (parameters,) = training.fit_seeds(
        folder,
        "encoder",
        (seed,),
        model.initialize,
        optimizer,
        step,
        batches,
        num_steps=num_steps,
        checkpoint_every=500,
        log_every=100,
    )
    return Encoder(model, parameters)


def embed_images(encoder: Encoder, images: np.ndarray) -> np.ndarray:
    """Unit vectors (image, dimension) of pictures (image, height, width) uint8."""
    found = np.asarray(evaluation.embed_images(*encoder, images))
    return embedding_files.rows(found, np.arange(len(found)))


def embed_captions(encoder: Encoder, captions: tuple[str, ...]) -> np.ndarray:
    """Unit vectors (caption, dimension)."""
    words = digit_trials.encode(captions)
    found = np.asarray(evaluation.embed_texts(*encoder, words))
    return embedding_files.rows(found, np.arange(len(found)))


def changed_images(random: np.random.RandomState, images: np.ndarray) -> np.ndarray:
    """Pictures (image, height, width), each shifted a little and noisy."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    height, width = images.shape[1:]
    down, right = random.randint(0, 3, (2, len(images)))
    rows = down[:, None] + np.arange(height)
    columns = right[:, None] + np.arange(width)
    shifted = padded[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]]
    noisy = shifted + _NOISE * random.normal(size=images.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def changed_captions(random: np.random.RandomState, captions: tuple[str, ...]) -> tuple[str, ...]:
    """Captions, each without some of its words but for one at least."""
    changed = []
    for caption in captions:
        words = caption.split()
        kept = random.random_sample(len(words)) >= _DROPPED
        kept[random.randint(len(words))] = True
        changed.append(" ".join(word for word, keep in zip(words, kept, strict=True) if keep))
    return tuple(changed)


def export(
    encoder: Encoder,
    split: Captioned,
    images: np.ndarray,
    files: tuple[Path, Path],
    *,
    first_id: int = 0,
    augmentations: int = 0,
) -> None:
    """Write the embeddings of some images of a split and of their captions to two files.

    Args:
      encoder: that makes them.
      split: of images and captions.
      images: which of them (image).
      files: of the images and of the captions, .safetensors.
      first_id: of the split's first image; the others follow.
      augmentations: how many embeddings of changed inputs go with each.
    """
    image_of, caption = split.annotations[np.isin(split.annotations[:, 0], images)].T
    captions = tuple(split.captions[number] for number in caption)

    def write(path: Path, embed: Any, change: Any, inputs: Any, ids: np.ndarray, texts: Any):
        random = np.random.RandomState(_SEED)
        augmented = [embed(encoder, change(random, inputs)) for _ in range(augmentations)]
        path.parent.mkdir(parents=True, exist_ok=True)
        embedding_files.write(
            path,
            embed(encoder, inputs),
            first_id + ids,
            model=MODEL,
            augmented=np.stack(augmented, 1) if augmented else None,
            texts=texts,
        )

    write(files[0], embed_images, changed_images, split.images[images], images, None)
    write(files[1], embed_captions, changed_captions, captions, image_of, captions)


def known(split: Captioned, *, first_id: int = 0) -> Known:
    """What is true in a split, of images by their ids and of captions by their words."""
    place = {caption: number for number, caption in enumerate(split.captions)}

    def of(ids: np.ndarray, captions: tuple[str, ...]) -> tuple[np.ndarray, Truth]:
        images, some = ids - first_id, np.array([place[caption] for caption in captions])
        ambiguity: dict[Side, np.ndarray] = {
            "image": split.image_ambiguity[images],
            "caption": split.caption_ambiguity[some],
        }
        nothing = np.zeros(0, np.int64)  # nothing is asked of pairs of captions
        probability = split.match_probability[images][:, some]
        of_one_length = split.of_one_length[some]
        truth = Truth(ambiguity, probability, nothing, nothing, nothing.astype(bool), of_one_length)
        return split.positives[images][:, some], truth

    return of
