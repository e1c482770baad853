"""Frozen embeddings as a test: who belongs to whom, what cosines retrieve and how sure they are.

A trial merges texts whose vectors are the same into one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import probemb
from experiments.captions import retrieval
from experiments.captions.retrieval import SIDES, Known, Outcome, Side, Trial
from experiments.data import embedding_files
from experiments.data.embedding_files import Embeddings, PairedEmbeddings, Part
from experiments.uncertainty import baselines
from experiments.uncertainty.baselines import Evidence
from probemb.numerics.euclidean import product

KINDS = ("cosines", "logits", "changed", "points")
"""Of evidence that frozen embeddings can have, see `Evidence`."""
_LOGIT_SCALES = np.geomspace(1.0, 300.0, 60).astype(np.float32)


class Frozen(NamedTuple):
    """Unit vectors of a test (item, dimension), and what else the files know of them.

    Attributes:
      trial: images, captions and their vectors, and who belongs to whom.
      partner: side -> (item), a caption that belongs to each image, an image of each caption.
      known_before: side -> (item), whether training has a vector with the same values.
      augmented: side -> (item, augmentation, dimension), where there are some.
      norms: side -> (item) before they became unit vectors, where they differ.
    """

    trial: Trial
    partner: dict[Side, np.ndarray]
    known_before: dict[Side, np.ndarray]
    augmented: dict[Side, np.ndarray]
    norms: dict[Side, np.ndarray]


def freeze(
    paired: PairedEmbeddings,
    part: Part,
    trained_on: tuple[np.ndarray, np.ndarray],
    known: Known | None = None,
) -> Frozen:
    """A part of the pairs as a test.

    Args:
      paired: images and texts.
      part: rows of them.
      trained_on: `embedding_files.keys` of the images and of the texts that are for training.
      known: what else is known, of a controlled benchmark.

    Raises:
      ValueError: all images or all texts are the same.
    """
    images, texts = paired.images, paired.texts
    own_keys: dict[Side, np.ndarray] = {
        "image": embedding_files.keys("test images", np.asarray(images.vectors[part.images])),
        "caption": embedding_files.keys("test texts", np.asarray(texts.vectors[part.texts])),
    }
    for name, found in zip(("images", "texts"), own_keys.values(), strict=True):
        if len(np.unique(found)) < 2:
            raise ValueError(f"{name} for testing must be two different ones at least, got one")
    vectors = embedding_files.rows(texts.vectors, part.texts)
    _, first, caption_of = np.unique(vectors, axis=0, return_index=True, return_inverse=True)
    caption_of = caption_of.reshape(-1)
    image_of = np.searchsorted(part.images, paired.image_of[part.texts])
    annotated = np.zeros((len(part.images), len(first)), bool)
    annotated[image_of, caption_of] = True
    rows: dict[Side, np.ndarray] = {"image": part.images, "caption": part.texts[first]}
    sides: dict[Side, Embeddings] = {"image": images, "caption": texts}
    captions = tuple(
        f"text {row}" if texts.texts is None else str(texts.texts[int(row)])
        for row in rows["caption"]
    )
    positives, truth = annotated, None
    if known is not None:
        positives, truth = known(images.ids[part.images], captions)
    trial = Trial(
        embedding_files.rows(images.vectors, part.images),
        captions,
        vectors[first],
        positives,
        annotated,
        truth,
    )
    random = np.random.default_rng(0)
    partner: dict[Side, np.ndarray] = {
        side: np.array([random.choice(np.flatnonzero(own)) for own in of_side])
        for side, of_side in zip(SIDES, (annotated, annotated.T), strict=True)
    }
    known_before: dict[Side, np.ndarray] = {
        "image": np.isin(own_keys["image"], trained_on[0]),
        "caption": np.isin(own_keys["caption"][first], trained_on[1]),
    }
    augmented: dict[Side, np.ndarray] = {
        side: embedding_files.rows(found.augmented, rows[side])
        for side, found in sides.items()
        if found.augmented is not None
    }
    norms: dict[Side, np.ndarray] = {
        side: np.linalg.norm(np.asarray(found.vectors[rows[side]], np.float64), axis=1)
        for side, found in sides.items()
        if not found.normalized
    }
    return Frozen(trial, partner, known_before, augmented, norms)


def fit_logit_scale(image: np.ndarray, text: np.ndarray) -> float:
    """The scale of cosines (pair, dimension) at which a softmax over pairs is most likely."""
    sides = [
        probemb.DiagonalGaussian(x, jnp.zeros_like(x)) for x in map(jnp.asarray, (image, text))
    ]
    losses = jax.lax.map(
        lambda scale: probemb.info_nce(*sides, logit_scale=scale), jnp.asarray(_LOGIT_SCALES)
    )
    return float(_LOGIT_SCALES[int(jnp.argmin(losses))])


_cosines = jax.jit(product)


def outcome(frozen: Frozen, logit_scale: float) -> Outcome:
    """Retrieval by cosines, and what is to be had of uncertainty without any adapter.

    Args:
      frozen: the test.
      logit_scale: of cosines, see `fit_logit_scale`.
    """
    trial = frozen.trial
    scores = np.asarray(_cosines(trial.images, trial.texts))
    uncertainty: dict[Side, dict[str, np.ndarray]] = {}
    for side, of_side in zip(SIDES, (scores, scores.T), strict=True):
        norms = frozen.norms.get(side)
        evidence = Evidence(
            cosines=of_side,
            logits=np.float32(logit_scale) * of_side,
            changed=frozen.augmented.get(side),
            points=None if norms is None else norms[:, None],  # no more is asked than the length
        )
        uncertainty[side] = baselines.measured(evidence)
    return Outcome(scores, retrieval.metrics(scores, trial), uncertainty, None)
