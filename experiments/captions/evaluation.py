"""What a model makes of a trial: how well each caption fits each image, and how unsure it is."""

import functools
from typing import Any

import jax
import numpy as np

from experiments.captions import retrieval
from experiments.captions.methods import METHODS
from experiments.captions.retrieval import SIDES, Outcome, Side, Trial
from experiments.captions.two_towers import Model
from experiments.runs.in_parts import in_parts
from experiments.uncertainty.baselines import Evidence, measured

_EMBEDDED_AT_ONCE = 256


@functools.partial(jax.jit, static_argnums=0)
def _embed_images(model: Model, parameters: Any, images: jax.Array) -> Any:
    return model.embed_images(parameters, images)


@functools.partial(jax.jit, static_argnums=0)
def _embed_texts(model: Model, parameters: Any, texts: jax.Array) -> Any:
    return model.embed_texts(parameters, texts)


def embed_images(model: Model, parameters: Any, images: np.ndarray) -> Any:
    """Embeddings (image, ...) of any number of images."""
    of_part = functools.partial(_embed_images, model, parameters)
    return in_parts(of_part, images, _EMBEDDED_AT_ONCE)


def embed_texts(model: Model, parameters: Any, texts: np.ndarray) -> Any:
    """Embeddings (caption, ...) of any number of captions."""
    of_part = functools.partial(_embed_texts, model, parameters)
    return in_parts(of_part, texts, _EMBEDDED_AT_ONCE)


@functools.partial(jax.jit, static_argnums=0)
def _scores(model: Model, parameters: Any, images: Any, texts: Any) -> jax.Array:
    return METHODS[model.method].scores(images, texts, parameters)


@functools.partial(jax.jit, static_argnums=0)
def _unsure(model: Model, parameters: Any, embedding: Any) -> dict[str, jax.Array]:
    return METHODS[model.method].unsure(embedding, parameters)


@functools.partial(jax.jit, static_argnums=0)
def _implication(model: Model, parameters: Any, narrow: Any, wide: Any) -> jax.Array:
    return METHODS[model.method].implies(narrow, wide, parameters)


def evaluate(model: Model, parameters: Any, trial: Trial) -> Outcome:
    """Run a model on a trial."""
    images = embed_images(model, parameters, trial.images)
    texts = embed_texts(model, parameters, trial.texts)
    scores = np.asarray(_scores(model, parameters, images, texts))
    implication = None
    if trial.truth is not None:
        pair = (
            jax.tree.map(lambda x, ids=ids: x[ids], texts)
            for ids in (trial.truth.narrow, trial.truth.wide)
        )
        implication = np.asarray(_implication(model, parameters, *pair))
    uncertainty: dict[Side, dict[str, np.ndarray]] = {}
    for side, own, of_side in zip(SIDES, (images, texts), (scores, scores.T), strict=True):
        found = jax.tree.map(np.asarray, _unsure(model, parameters, own))
        found |= measured(Evidence(scores=of_side))
        uncertainty[side] = dict(sorted(found.items()))  # reports have them by name
    return Outcome(scores, retrieval.metrics(scores, trial), uncertainty, implication)
