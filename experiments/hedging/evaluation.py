"""What a hedged embedding is good for: verification, identification, and knowing when it fails.

Of every label's test images the first half is the gallery, always clean, and queries
come from the rest, clean or corrupt. Identification takes the vote of the 5 images of
the gallery with the greatest match probability. Verification scores pairs of queries,
half of them of one label.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

import probemb
from experiments.data import labelled
from experiments.data.labelled import Corrupt, Labelled
from experiments.hedging import model as hedged_model
from experiments.hedging.model import Model
from experiments.runs.in_parts import in_parts
from experiments.uncertainty.baselines import Evidence, measured

NEIGHBORS = 5
_SAMPLES_OF_ETA = 128
_SAMPLES_OF_PAIR = 32
_EMBEDDED_AT_ONCE = 512
CONDITIONS = {"clean": 0.0, "corrupt": 1.0}
"""Of a trial's queries, with the probability of damage."""


class Trial(NamedTuple):
    """One test set under one condition, the same for every model.

    Attributes:
      gallery: clean images (item, height, width, ...), and their labels.
      queries: images (query, height, width, ...), clean or corrupt, and their labels.
      first: the query (pair) that is the first of a pair.
      second: the other.
      match: whether they are of one label (pair).
    """

    gallery: Labelled
    queries: Labelled
    first: np.ndarray
    second: np.ndarray
    match: np.ndarray


class Outcome(NamedTuple):
    """What one model makes of a trial.

    Attributes:
      match_to_gallery: match probabilities (query, item), or None where they were let go.
      predicted: the label (query) voted for by the nearest of the gallery.
      match_of_pairs: match probabilities (pair).
      uncertainty: name -> (query), the greater the less certain.
      votes: the labels (query, 5) of the nearest.
    """

    match_to_gallery: np.ndarray | None
    predicted: np.ndarray
    match_of_pairs: np.ndarray
    uncertainty: dict[str, np.ndarray]
    votes: np.ndarray


def trials(
    split: Labelled, *, corrupt: Corrupt, num_queries: int, num_pairs: int, seed: int
) -> dict[str, Trial]:
    """The clean and the corrupt trial of a test split: the same images, pairs and gallery.

    Args:
      split: for testing.
      corrupt: damages its images.
      num_queries: at most so many.
      num_pairs: of queries.
      seed: of all random choices.

    Raises:
      ValueError: a split that no pairs can be drawn of, or too few images for the gallery or
        queries.
    """
    labelled.check("the test split", split)
    random = np.random.default_rng(seed)
    classes = np.unique(split.labels)
    members = [np.flatnonzero(split.labels == label) for label in classes]
    gallery = np.concatenate([ids[: len(ids) // 2] for ids in members])
    if len(gallery) < NEIGHBORS:
        raise ValueError(
            f"the test split must leave {NEIGHBORS} images for the gallery, half of each label's, "
            f"got {len(gallery)} of {len(split.labels)}"
        )
    rest = np.concatenate([ids[len(ids) // 2 :] for ids in members])
    chosen = np.sort(random.permutation(rest)[:num_queries])
    labels = split.labels[chosen]
    first, second, match = _pairs(random, labels, num_pairs)

    def trial(probability: float) -> Trial:
        images = corrupt(random, split.images[chosen], probability=probability)
        items = Labelled(split.images[gallery], split.labels[gallery])
        return Trial(items, Labelled(images, labels), first, second, match)

    return {name: trial(probability) for name, probability in CONDITIONS.items()}


def _pairs(random: np.random.Generator, labels: np.ndarray, num_pairs: int):
    """Pairs of different queries, half of them of one label, half of two."""
    order = np.argsort(labels, kind="stable")
    _, of_class, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    starts = np.cumsum(sizes) - sizes
    if len(sizes) < 2 or sizes.max() < 2:
        raise ValueError(
            "num_queries must leave two labels, and one of them twice, "
            f"got {len(labels)} queries of {len(sizes)} labels"
        )
    alike = num_pairs // 2
    first = random.choice(np.flatnonzero(sizes[of_class] > 1), alike)
    size, start = sizes[of_class[first]], starts[of_class[first]]
    within = np.empty_like(order)
    within[order] = np.arange(len(order))  # the place of a query among the ordered ones
    second = order[start + (within[first] - start + random.integers(1, size)) % size]
    first_of_others = random.integers(0, len(labels), num_pairs - alike)
    # Anything outside of the label's own run of the ordered queries.
    size, start = sizes[of_class[first_of_others]], starts[of_class[first_of_others]]
    others = random.integers(0, len(labels) - size)
    second_of_others = order[np.where(others < start, others, others + size)]
    first = np.concatenate([first, first_of_others])
    second = np.concatenate([second, second_of_others])
    return first, second, labels[first] == labels[second]


@functools.partial(jax.jit, static_argnums=0)
def _embed(model: Model, parameters: Any, images: jax.Array) -> Any:
    return model.embed(parameters, images)


def embed(model: Model, parameters: Any, images: np.ndarray) -> Any:
    """Embeddings (image, ...) of any number of images."""
    of_part = functools.partial(_embed, model, parameters)
    return in_parts(of_part, images, _EMBEDDED_AT_ONCE)


def _samples(model: Model, key: jax.Array, embeddings: Any, number: int):
    """Samples of every embedding, each with a key of its own."""
    keys = jax.random.split(key, len(jax.tree.leaves(embeddings)[0]))
    return jax.vmap(lambda key, embedding: model.samples(key, embedding, number))(keys, embeddings)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _match_matrix(model, parameters, key, queries, gallery, num_samples):
    """Match probabilities (query, item) from K samples a side."""
    options = hedged_model.match_parameters(parameters)
    of_queries, of_gallery = jax.random.split(key)
    queries = _samples(model, of_queries, queries, num_samples)
    gallery = _samples(model, of_gallery, gallery, num_samples)

    def row(query):
        def entry(item):
            return probemb.monte_carlo_match_probability(query, item, **options)

        return jax.vmap(entry)(gallery)

    return jax.lax.map(row, queries)


@functools.partial(jax.jit, static_argnums=0)
def _match_pairs(model, parameters, key, first, second):
    options = hedged_model.match_parameters(parameters)
    of_first, of_second = jax.random.split(key)
    first = _samples(model, of_first, first, _SAMPLES_OF_PAIR)
    second = _samples(model, of_second, second, _SAMPLES_OF_PAIR)

    def of_pair(pair):
        return probemb.monte_carlo_match_probability(*pair, **options)

    return jax.lax.map(of_pair, (first, second), batch_size=256)


@functools.partial(jax.jit, static_argnums=0)
def _eta(model, parameters, key, embeddings):
    options = hedged_model.match_parameters(parameters)
    number = model.samples_of_component(_SAMPLES_OF_ETA)

    def of_one(key_and_embedding):
        key, embedding = key_and_embedding
        return probemb.monte_carlo_self_mismatch(key, embedding, num_samples=number, **options)

    keys = jax.random.split(key, len(jax.tree.leaves(embeddings)[0]))
    return jax.lax.map(of_one, (keys, embeddings), batch_size=32)


def vote(votes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The label (query) with the most votes (query, voter); of a tie, the one of more weight."""
    same = votes[:, :, None] == votes[:, None, :]
    support = same.sum(2) + 1e-3 * (same * weights[:, None, :]).sum(2)
    return np.take_along_axis(votes, support.argmax(1)[:, None], 1)[:, 0]


def nearest(match: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels (query, 5) of the items of greatest match probability, and what was voted."""
    ids = np.asarray(jax.lax.top_k(match, NEIGHBORS)[1])
    votes = labels[ids]
    return votes, vote(votes, np.take_along_axis(match, ids, 1))


def evaluate(
    model: Model, parameters: Any, trial: Trial, *, num_samples: int, key: jax.Array
) -> Outcome:
    """Run a model on a trial.

    Args:
      model: the model.
      parameters: as trained.
      trial: the test.
      num_samples: K, the samples of an embedding in the match probability to the gallery.
      key: of all samples.
    """
    of_matrix, of_pairs, of_eta = jax.random.split(key, 3)
    queries = embed(model, parameters, trial.queries.images)
    gallery = embed(model, parameters, trial.gallery.images)
    matrix = np.asarray(_match_matrix(model, parameters, of_matrix, queries, gallery, num_samples))
    votes, predicted = nearest(matrix, trial.gallery.labels)
    first = jax.tree.map(lambda x: x[trial.first], queries)
    second = jax.tree.map(lambda x: x[trial.second], queries)
    pairs = np.asarray(_match_pairs(model, parameters, of_pairs, first, second))
    if model.kind == "point":
        uncertainty = measured(Evidence(match=matrix, points=np.asarray(queries)))
    else:
        uncertainty = {
            "eta": np.asarray(_eta(model, parameters, of_eta, queries)),
            "total variance": np.asarray(queries.variance.sum(-1)),
            **measured(Evidence(match=matrix)),
        }
    return Outcome(matrix, predicted, pairs, uncertainty, votes)


def ensemble(outcomes: list[Outcome], trial: Trial) -> Outcome:
    """The mean match probability of several models, and the entropy of all their votes."""
    matrices = [o.match_to_gallery for o in outcomes if o.match_to_gallery is not None]
    matrix = np.mean(matrices, 0)
    votes, predicted = nearest(matrix, trial.gallery.labels)
    every = np.concatenate([outcome.votes for outcome in outcomes], 1)
    pairs = np.mean([outcome.match_of_pairs for outcome in outcomes], 0)
    return Outcome(matrix, predicted, pairs, measured(Evidence(votes=every)), votes)
