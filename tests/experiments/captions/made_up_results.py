"""Made-up results of captions: a trial whose truth is known, what methods make of it, a report."""

import jax
import numpy as np

from experiments.captions import numbers, retrieval
from experiments.captions.methods import METHODS
from experiments.captions.retrieval import Outcome, Trial, Truth

IMAGES, CAPTIONS, SEEDS = 40, 60, (0, 1)


def make_trial():
    random = np.random.default_rng(0)
    probability = random.choice([0.0, 0.0, 0.0, 0.2, 1.0], (IMAGES, CAPTIONS))
    probability[np.arange(CAPTIONS) % IMAGES, np.arange(CAPTIONS)] = 1.0
    positives = random.random(probability.shape) < probability
    annotated = np.zeros_like(positives)
    annotated[np.arange(CAPTIONS) % IMAGES, np.arange(CAPTIONS)] = True
    ambiguity = {"image": np.arange(IMAGES) % 4.0, "caption": np.arange(CAPTIONS) % 5.0}
    narrow, wide = random.integers(0, CAPTIONS, (2, 30))
    of_one_length = np.arange(CAPTIONS) < IMAGES  # one of each image: as many as there are
    truth = Truth(ambiguity, probability, narrow, wide, np.arange(30) < 15, of_one_length)
    texts = tuple("word " * (1 + k % 7) for k in range(CAPTIONS))
    return Trial(np.zeros(IMAGES), texts, np.zeros(CAPTIONS), positives, annotated, truth)


def outcome(method, trial, seed, sign):
    """Scores with some noise; the own uncertainty is the ambiguity, or its opposite, or noise."""
    random = np.random.default_rng(seed)
    scores = (4.0 * trial.positives + random.normal(size=trial.positives.shape)).astype(np.float32)
    uncertainty = {
        side: {
            METHODS[method].judged_by: (
                sign * values + 0.1 * random.normal(size=len(values))
            ).astype(np.float32),
            "noise": random.normal(size=len(values)).astype(np.float32),
        }
        for side, values in trial.truth.ambiguity.items()
    }
    implication = (trial.truth.implied + 0.01 * random.normal(size=30)).astype(np.float32)
    return Outcome(scores, retrieval.metrics(scores, trial), uncertainty, implication)


def outcomes_of(trial):
    """Two seeds of methods that are right about ambiguity, wrong about it, and ignorant of it."""
    methods = {"pcmepp": 1.0, "prolip": -1.0, "info_nce": 0.0}
    return {
        method: [outcome(method, trial, seed, sign) for seed in SEEDS]
        for method, sign in methods.items()
    }


def without_truth(trial, scores=None):
    """A trial of which only what is annotated is known, and outcomes of one method.

    Args:
      trial: with its truth.
      scores: of the outcomes; default: with some noise.
    """
    bare = trial._replace(truth=None, positives=trial.annotated)
    outcomes = outcomes_of(trial)["pcmepp"]
    for place, one in enumerate(outcomes):
        seen = one.scores if scores is None else scores
        metrics = retrieval.metrics(seen, bare)
        outcomes[place] = one._replace(scores=seen, metrics=metrics, implication=None)
    return bare, {"pcmepp": outcomes}


def content_of(outcomes, trial):
    return numbers.content(
        {"test": outcomes},
        {"test": trial},
        key=jax.random.key(0),
        num_resamples=100,
        command="python -m experiments.digit_captions",
        config={"methods": list(outcomes), "seeds": list(SEEDS), "toy": False},
        data="made up",
        versions={"jax": "0"},
        backend="cpu",
    )
