"""What a model makes of a trial: how well each caption fits each image, and how unsure it is."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.captions import retrieval
from experiments.captions.methods import METHODS
from experiments.captions.retrieval import METRICS, SIDES, Known, Outcome, Side, Trial, Truth
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
    uncertainty: dict[Side, dict[str, np.ndarray]] = {
        side: {
            **jax.tree.map(np.asarray, _unsure(model, parameters, own)),
            **measured(Evidence(scores=of_side)),
        }
        for side, own, of_side in zip(SIDES, (images, texts), (scores, scores.T), strict=True)
    }
    return Outcome(scores, retrieval.metrics(scores, trial), uncertainty, implication)


# What adapters still read here, until they read retrieval and the table of baselines.
__all__ = ["METRICS", "SIDES", "Known", "Outcome", "Side", "Trial", "Truth"]
metrics, metrics_of, ceiling = retrieval.metrics, retrieval.metrics_of, retrieval.ceiling


@jax.jit
def baselines(scores: jax.Array) -> dict[str, jax.Array]:
    """What any scores (query, item) say of uncertainty."""
    best = jax.lax.top_k(scores, 2)[0]
    share = jax.nn.log_softmax(scores, axis=1)
    return {
        "minus best score": -best[:, 0],
        "minus margin": best[:, 1] - best[:, 0],
        "entropy over items": -jnp.sum(jnp.exp(share) * share, axis=1),
    }


def minus_words(captions: tuple[str, ...]) -> np.ndarray:
    """Minus the number of words (caption): what is said in few words may be vague."""
    return -np.array([len(caption.split()) for caption in captions], np.float32)
