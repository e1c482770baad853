import json

import numpy as np
import pytest

from experiments import runs
from experiments.captions import numbers, retrieval
from experiments.reports import estimates
from experiments.reports.tables import find
from experiments.uncertainty.baselines import BASELINES, Baseline
from probemb import calibration
from tests.experiments.captions.made_up_results import (
    SEEDS,
    content_of,
    outcomes_of,
    without_truth,
)

OVER_ITEMS = estimates.over_items


@pytest.fixture(scope="module", autouse=True)
def few_bootstraps(module_patch):
    """Of models' Spearman correlation alone: to compile a statistic takes a second a form."""

    def over_items(key, statistic, *items, **options):
        if statistic is calibration.spearman and items[0].shape[1] == len(SEEDS):
            return OVER_ITEMS(key, statistic, *items, **options)
        return {"mean": 0.5, "low": 0.4, "high": 0.6}

    module_patch.setattr(estimates, "over_items", over_items)


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


@pytest.mark.slow
def test_with_every_interval_all_numbers_are_numbers(trial, monkeypatch):
    monkeypatch.setattr(estimates, "over_items", OVER_ITEMS)
    bare, of_bare = without_truth(trial)
    for some, outcomes in ((trial, outcomes_of(trial)), (bare, of_bare)):
        found = content_of(outcomes, some)
        json.dumps(found, allow_nan=False)
        row = find(found["uncertainty"], method="pcmepp", measure="total variance", side="caption")
        r_auroc = row["r_auroc_annotated"]
        assert r_auroc["low"] < r_auroc["mean"] < r_auroc["high"]


def test_a_baseline_of_one_row_is_in_the_report(trial, monkeypatch):
    first = Baseline(lambda texts: np.array([-len(text) for text in texts]), ("texts",))
    monkeypatch.setitem(BASELINES, "minus letters", first)
    found = content_of({"pcmepp": outcomes_of(trial)["pcmepp"]}, trial)
    row = find(found["uncertainty"], measure="minus letters")
    assert (row["method"], row["side"]) == (numbers.NO_MODEL, "caption")


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
    bare, outcomes = without_truth(trial)
    found = content_of(outcomes, bare)
    assert found["expectations"] == found["implication"] == [] and not found["has_truth"]
    json.dumps(found, allow_nan=False)


def test_where_nothing_fails_no_failure_is_predicted(trial):
    bare, outcomes = without_truth(trial, (10.0 * trial.annotated).astype(np.float32))
    found = content_of(outcomes, bare)
    row = find(found["uncertainty"], method="pcmepp", side="caption", measure="total variance")
    assert row["r_auroc"] is row["level_score"] is row["bin_correlation"] is None


def test_numbers_survive_json(content, tmp_path):
    again = json.loads(json.dumps(content, allow_nan=False))
    assert again == content
    runs.Run("command", {}, tmp_path).save(content, "Title")
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == again
