"""Captioned digits as they are trained on and tried: batches, models, and all that is known."""

import functools
from collections.abc import Callable
from typing import Literal

import grain
import numpy as np

from experiments.captions import retrieval
from experiments.captions.batches import annotated_batches
from experiments.captions.retrieval import Side, Trial, Truth
from experiments.captions.two_towers import Model, Pictures, Words
from experiments.data import caption_grammar, words
from experiments.data.captioned_digits import Captioned

_EVALUATION_SEED = 0

Matches = Literal["annotated", "all"]
"""What training takes for a match: what images and captions were written of each other, as on
COCO, or all that is true."""
CHANNELS = (16, 32)
"""Output channels of the two convolutions of the image tower, by default."""
VOCABULARY = words.Vocabulary((*caption_grammar.WORDS, ","))
"""The words of the grammar."""


def encode(texts: tuple[str, ...]) -> np.ndarray:
    """Word numbers (caption, length) of captions of the grammar, all of one length."""
    return VOCABULARY.encode(texts, length=caption_grammar.MOST_WORDS)


def make_trial(split: Captioned) -> Trial:
    """A split as it is evaluated, with all that is known of it."""
    narrow, wide, implied = retrieval.pairs_of_captions(split.denotations, seed=_EVALUATION_SEED)
    ambiguity: dict[Side, np.ndarray] = {
        "image": split.image_ambiguity,
        "caption": split.caption_ambiguity,
    }
    return Trial(
        split.images,
        split.captions,
        encode(split.captions),
        split.positives,
        split.annotated,
        Truth(ambiguity, split.match_probability, narrow, wide, implied, split.of_one_length),
    )


def make_model(
    method: str, split: Captioned, *, dimension: int, width: int, channels: tuple[int, int]
) -> Model:
    """The model of a method for the images and captions of a split.

    Args:
      method: by its name.
      split: whose images give the height and width.
      dimension: of an embedding.
      width: of the text tower.
      channels: output channels of the two convolutions of the image tower.
    """
    height, side = split.images.shape[1:]
    return Model(
        method,
        dimension,
        Pictures(height, side, channels),
        Words(len(VOCABULARY), caption_grammar.MOST_WORDS, width),
    )


def make_batches(
    split: Captioned, *, num_steps: int, batch_size: int, matches: Matches = "annotated"
) -> Callable[..., grain.MapDataset]:
    """Batches of a training on a split, of a seed by keyword."""
    return functools.partial(
        annotated_batches,
        split.images,
        encode(split.captions),
        split.annotations,
        num_steps,
        batch_size=batch_size,
        positives=split.positives if matches == "all" else None,
    )
