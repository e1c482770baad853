import json

import jax
import numpy as np
import pytest

from experiments import runs
from experiments.captions import numbers, page, retrieval
from experiments.captions.methods import METHODS
from experiments.captions.retrieval import Outcome, Trial, Truth
from experiments.reports.tables import find
from experiments.uncertainty.baselines import BASELINES, Baseline

IMAGES, CAPTIONS = 40, 60


@pytest.fixture(scope="module")
def trial():
    random = np.random.default_rng(0)
    probability = random.choice([0.0, 0.0, 0.0, 0.2, 1.0], (IMAGES, CAPTIONS))
    probability[np.arange(CAPTIONS) % IMAGES, np.arange(CAPTIONS)] = 1.0
    positives = random.random(probability.shape) < probability
    annotated = np.zeros_like(positives)
    annotated[np.arange(CAPTIONS) % IMAGES, np.arange(CAPTIONS)] = True
    ambiguity = {"image": np.arange(IMAGES) % 4.0, "caption": np.arange(CAPTIONS) % 5.0}
    narrow, wide = random.integers(0, CAPTIONS, (2, 30))
    of_one_length = np.arange(CAPTIONS) % 3 > 0
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


@pytest.fixture(scope="module")
def content(trial):
    methods = {"pcmepp": 1.0, "prolip": -1.0, "info_nce": 0.0}
    outcomes = {
        method: [outcome(method, trial, seed, sign) for seed in (0, 1)]
        for method, sign in methods.items()
    }
    return make_content(outcomes, trial, list(methods))


def make_content(outcomes, trial, methods):
    return numbers.content(
        {"test": outcomes},
        {"test": trial},
        key=jax.random.key(0),
        num_resamples=100,
        command="python -m experiments.digit_captions",
        config={"methods": methods, "seeds": [0, 1], "toy": False},
        data="made up",
        versions={"jax": "0"},
        backend="cpu",
    )


def test_agreement_with_ambiguity_is_found_and_its_opposite(content):
    def spearman(method, measure):
        row = find(content["uncertainty"], method=method, measure=measure, side="caption")
        return row["spearman"]

    right, opposite = spearman("pcmepp", "total variance"), spearman("prolip", "total variance")
    assert right["mean"] > 0.95 and right["low"] > 0.9 and opposite["mean"] < -0.95
    row = find(content["uncertainty"], method="pcmepp", measure="total variance", side="caption")
    assert row["spearman_of_one_length"]["mean"] > 0.95
    noise = spearman("info_nce", "noise")
    assert abs(noise["mean"]) < 0.4 and noise["low"] < noise["mean"] < noise["high"]
    words = find(content["uncertainty"], method=numbers.NO_MODEL, side="caption")
    assert words["measure"] == "minus words" and not words["own"]


def test_a_baseline_of_one_row_is_in_the_report(trial, monkeypatch):
    first = Baseline(lambda texts: np.array([-len(text) for text in texts]), ("texts",))
    monkeypatch.setitem(BASELINES, "minus letters", first)
    found = make_content({"pcmepp": [outcome("pcmepp", trial, 0, 1.0)]}, trial, ["pcmepp"])
    row = find(found["uncertainty"], measure="minus letters")
    assert (row["method"], row["side"]) == (numbers.NO_MODEL, "caption")
    assert "| no model | minus letters |" in page.markdown(found, "Title")


def test_expectations_say_what_is_missed(content):
    met, missed = content["expectations"]
    assert met["method"] == "pcmepp" and met["met"] and met["ahead"]
    assert missed["method"] == "prolip" and not missed["met"] and not missed["ahead"]
    rival = max(
        (row for row in content["uncertainty"] if row["method"] in ("info_nce", "no model")),
        key=lambda row: (row["side"] == "caption", row["spearman"]["mean"]),
    )
    assert met["rival"] == f"the {rival['measure']} of {rival['method']}"
    assert met["rival_reached"] == rival["spearman"]
    text = page.markdown(content, "Title")
    assert "| met | " in text and "| MISSED | " in text
    assert "| yes |" in text and "| NO |" in text


def test_retrieval_has_the_ceiling_and_probabilities_their_skill(content, trial):
    ceiling = find(content["performance"], method=numbers.CEILING, side="image")
    known = retrieval.metrics(trial.truth.match_probability, trial)
    assert ceiling["R-Precision"]["mean"] == pytest.approx(known["image"]["R-Precision"].mean())
    assert ceiling["R-Precision"]["low"] is None
    rows = {row["method"]: row for row in content["probabilities"]}
    assert set(rows) == {"pcmepp", "prolip", numbers.CEILING}
    share = trial.positives.mean()
    error = np.mean((trial.truth.match_probability - trial.positives) ** 2)
    assert rows[numbers.CEILING]["skill"]["mean"] == pytest.approx(
        1 - error / (share * (1 - share))
    )


def test_implication_is_detected(content):
    for row in content["implication"]:
        assert row["detected"]["mean"] == 1.0


def test_without_truth_there_is_no_ambiguity(trial):
    bare = trial._replace(truth=None, positives=trial.annotated)
    one = outcome("pcmepp", trial, 0, 1.0)
    one = one._replace(metrics=retrieval.metrics(one.scores, bare), implication=None)
    found = make_content({"pcmepp": [one]}, bare, ["pcmepp"])
    assert found["expectations"] == found["implication"] == [] and not found["has_truth"]
    text = page.markdown(found, "Title")
    assert "ambiguity" not in text and "all that is true" not in text
    json.dumps(found, allow_nan=False)


def test_where_nothing_fails_no_failure_is_predicted(trial):
    perfect = (10.0 * trial.annotated).astype(np.float32)
    bare = trial._replace(truth=None, positives=trial.annotated)
    one = outcome("pcmepp", trial, 0, 1.0)._replace(
        scores=perfect, metrics=retrieval.metrics(perfect, bare), implication=None
    )
    found = make_content({"pcmepp": [one]}, bare, ["pcmepp"])
    row = find(found["uncertainty"], method="pcmepp", side="caption", measure="total variance")
    assert row["r_auroc"] is row["level_score"] is row["bin_correlation"] is None
    assert "undefined" in page.markdown(found, "Title")


def test_numbers_survive_json_and_text_is_made_of_them(content, tmp_path):
    again = json.loads(json.dumps(content, allow_nan=False))
    assert page.markdown(again, "Title") == page.markdown(content, "Title")
    runs.Run("command", {}, tmp_path).save(content, "Title")
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == again
