"""Made-up results of adapters: a test that is frozen, what methods make of it, a report."""

import jax
import numpy as np

from experiments.adapters import numbers
from experiments.adapters.evaluation import OWN, RANKINGS, Evaluation, Fit
from experiments.adapters.frozen import Frozen
from experiments.captions import retrieval
from experiments.captions.retrieval import SIDES, Outcome, Trial, Truth
from experiments.reports import tables

NUMBER, DIMENSION = 40, 3  # images, and as many captions: what is compiled is so once
METHODS = ("probvlm", "released", "von_mises_fisher")


def make_trial(has_truth):
    random = np.random.default_rng(0)
    annotated = np.eye(NUMBER, dtype=bool)[random.permutation(NUMBER)]
    texts = tuple("word " * (1 + k % 7) for k in range(NUMBER))
    if not has_truth:
        return Trial(np.zeros(NUMBER), texts, np.zeros(NUMBER), annotated, annotated, None)
    positives = annotated | (random.random(annotated.shape) < 0.1)
    ambiguity = {"image": np.arange(NUMBER) % 4.0, "caption": np.arange(NUMBER) % 5.0}
    nothing = np.zeros(0, int)
    every = np.ones(NUMBER, bool)
    truth = Truth(ambiguity, positives * 1.0, nothing, nothing, nothing, every)
    return Trial(np.zeros(NUMBER), texts, np.zeros(NUMBER), positives, annotated, truth)


def scores_of(trial, seed, noise):
    random = np.random.default_rng(seed)
    scores = trial.annotated + noise * random.normal(size=trial.annotated.shape)
    return scores.astype(np.float32)


def reference(trial, before, side):
    """What uncertainty should agree with: ambiguity where it is known, else failures."""
    if trial.truth is not None:
        return trial.truth.ambiguity[side]
    return 1.0 - before.metrics[side]["annotated R@1"]


def uncertain(values, sign, noise, seed):
    random = np.random.default_rng(seed)
    return (sign * values + noise * random.normal(size=len(values))).astype(np.float32)


def fit(seed, has_intervals):
    random = np.random.default_rng(seed)
    central = random.uniform(size=(3, NUMBER, DIMENSION)).astype(np.float32)
    loss = random.normal(size=(3, NUMBER))
    intervals = (central**0.5, central) if has_intervals else (None, None)
    return Fit(np.array([1.5, 2.0, 2.5]), loss, loss - 1.0, *intervals)


def made_up(has_truth, error=0.5):
    """Results of methods whose own uncertainty is right, but for some noise; nothing else is.

    Args:
      has_truth: whether ambiguity is known.
      error: the noise of frozen retrieval.
    """
    trial = make_trial(has_truth)
    scores = scores_of(trial, 0, error)
    before = Outcome(scores, retrieval.metrics(scores, trial), {}, None)

    def outcome(**measures):
        """Measures by name, each with the sign of its agreement and its seed."""
        of_side = {
            side: {
                name.replace("_", " "): uncertain(reference(trial, before, side), *options)
                for name, options in measures.items()
            }
            for side in SIDES
        }
        return before._replace(uncertainty=of_side)

    evaluations = {}
    for place, method in enumerate(METHODS):
        rankings = {
            name: [
                retrieval.metrics(scores_of(trial, seed, 0.3 + 0.2 * way), trial)
                for seed in (7, 8, 9)
            ]
            for way, name in enumerate(RANKINGS)
        }
        evaluations[method] = Evaluation(
            [
                outcome(**{OWN: (1.0, 0.1, 10 * place + seed), "aleatoric": (0.0, 1.0, seed)})
                for seed in (5, 6, 9)
            ],
            rankings,
            {side: fit(place, method != "von_mises_fisher") for side in SIDES},
        )
    before = outcome(minus_best_cosine=(0.0, 1.0, 1), minus_margin=(0.0, 1.0, 2))
    known_before = {side: np.arange(NUMBER) < 10 for side in SIDES}
    return Frozen(trial, {}, known_before, {}, {}), before, evaluations


def content_of(frozen, before, evaluations):
    found = numbers.numbers(frozen, before, evaluations, key=jax.random.key(0), num_resamples=100)
    return {
        "command": "python -m experiments.probvlm_adapters",
        "config": {"methods": list(evaluations), "seeds": [0, 1, 2], "cross_modal_weight": 100.0},
        "data": "made up",
        "versions": {"jax": "0"},
        "backend": "cpu",
        "has_truth": frozen.trial.truth is not None,
        "failures": numbers.failures(before),
        **{name: tables.records(frame) for name, frame in found.items()},
    }
