import json

import numpy as np
import pytest
import scipy.stats

from experiments.adapters import numbers
from experiments.adapters.evaluation import OWN, RANKINGS
from experiments.adapters.numbers import FROZEN
from experiments.captions import numbers as caption_numbers
from experiments.captions.retrieval import SIDES
from experiments.reports import estimates
from experiments.reports.tables import find
from experiments.uncertainty import baselines
from probemb import calibration
from tests.experiments.adapters.made_up_results import (
    METHODS,
    NUMBER,
    content_of,
    made_up,
    scores_of,
)


def r_auroc(uncertainty, right):
    u, wrong = uncertainty, right == 0.0
    return scipy.stats.mannwhitneyu(u[wrong], u[~wrong]).statistic / (wrong.sum() * (~wrong).sum())


def coverage_error(central):
    levels = np.arange(1, 20) / 20
    return np.mean([abs((central <= level).mean() - level) for level in levels])


def aurc(uncertainty, wrong):
    return np.mean(np.cumsum(wrong[np.argsort(uncertainty)]) / np.arange(1, len(wrong) + 1))


STATISTICS = {
    calibration.r_auroc: r_auroc,
    calibration.aurc: aurc,
    calibration.spearman: lambda one, other: scipy.stats.spearmanr(one, other).statistic,
    calibration.kendall_tau: lambda one, other: scipy.stats.kendalltau(one, other).statistic,
    calibration.coverage_error: coverage_error,
}
STATISTICS |= {
    numbers._DIFFERENCE[name]: lambda one, other, known, of=STATISTICS[of]: (
        of(one, known) - of(other, known)
    )
    for name, of in (("spearman", calibration.spearman), ("r_auroc_annotated", calibration.r_auroc))
}


@pytest.fixture(scope="module", autouse=True)
def no_bootstrap(module_patch):
    """Means over seeds, by SciPy, with made-up ends: to compile resampling takes a minute."""

    def over_items(key, statistic, *items, num_resamples, groups):
        assert num_resamples == 100 and len(groups) == len(items[0])
        seeds = zip(*(np.moveaxis(item, 1, 0) for item in items), strict=True)
        mean = float(np.mean([STATISTICS[statistic](*seed) for seed in seeds]))
        return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}

    module_patch.setattr(estimates, "over_items", over_items)


@pytest.fixture(scope="module")
def known():
    found = made_up(True)
    return *found, content_of(*found)


@pytest.fixture(scope="module")
def unknown():
    found = made_up(False)
    return *found, content_of(*found)


# --- numbers ------------------------------------------------------------------------------------


def test_retrieval_before_and_after(unknown):
    """R@1 by argmax, and the difference of each seed to the frozen embeddings."""
    frozen, before, evaluations, content = unknown
    match = frozen.trial.annotated
    base = {
        "image": match[np.arange(NUMBER), before.scores.argmax(1)].mean(),
        "caption": match[before.scores.argmax(0), np.arange(NUMBER)].mean(),
    }
    for side in SIDES:
        row = find(content["retrieval"], method=FROZEN, side=side)
        assert row["ranking"] == "cosine" and row["R@1"]["seeds"] == pytest.approx([base[side]])
        assert row["R@1"]["low"] is None and row["change of R@1"] is None
        assert 0.2 < base[side] < 0.95
    scores = [scores_of(frozen.trial, seed, 0.5) for seed in (7, 8, 9)]  # of the second ranking
    hits = [match[s.argmax(0), np.arange(NUMBER)].mean() for s in scores]
    row = find(content["retrieval"], method="released", ranking="query's location", side="caption")
    assert row["R@1"]["seeds"] == pytest.approx(hits)
    assert row["change of R@1"]["seeds"] == pytest.approx([h - base["caption"] for h in hits])
    assert len(content["retrieval"]) == 2 * (1 + len(evaluations) * len(RANKINGS))


def test_widths_and_coverage(unknown):
    _, _, evaluations, content = unknown
    for method in ("probvlm", "released"):
        for side in SIDES:
            row = find(content["fits"], method=method, side=side)
            of = evaluations[method].fits[side]
            assert (
                row["temperature"]["seeds"] == [1.5, 2.0, 2.5] and row["temperature"]["mean"] == 2.0
            )
            assert row["loss"]["seeds"] == pytest.approx(of.loss.mean(1).tolist())
            assert row["loss_tempered"]["mean"] == pytest.approx(of.loss.mean() - 1.0)
            for name, central in (("", of.central), ("_tempered", of.central_tempered)):
                shares = [(one <= 0.9).mean() for one in central]
                assert row[f"coverage{name}"]["seeds"] == pytest.approx(shares)
                errors = [coverage_error(one) for one in central]
                interval = row[f"coverage_error{name}"]
                assert interval["mean"] == pytest.approx(np.mean(errors), rel=1e-4)
    row = find(content["fits"], method="von_mises_fisher", side="image")
    assert row["loss"]["seeds"] and row["coverage"] is row["coverage_error_tempered"] is None


def test_uncertainty_and_failures(known):
    frozen, before, evaluations, content = known
    for side in SIDES:
        right = before.metrics[side]["annotated R@1"]
        assert content["failures"][side] == (right == 0.0).sum() > 5
        row = find(content["uncertainty"], method="probvlm", measure=OWN, side=side)
        values = [o.uncertainty[side][OWN] for o in evaluations["probvlm"].outcomes]
        known_ = frozen.trial.truth.ambiguity[side]
        expected = np.mean([scipy.stats.spearmanr(v, known_).statistic for v in values])
        assert row["spearman"]["mean"] == pytest.approx(expected, abs=1e-4)
        areas = [r_auroc(v, right) for v in values]
        assert row["r_auroc_annotated"]["mean"] == pytest.approx(np.mean(areas), abs=1e-4)
    own = {(row["method"], row["measure"]) for row in content["uncertainty"] if row["own"]}
    assert own == {(method, OWN) for method in METHODS}


# --- comparisons --------------------------------------------------------------------------------


def test_right_uncertainty_says_more(known, unknown):
    for content in (known[3], unknown[3]):
        for side in SIDES:
            row = find(content["comparisons"], side=side)
            assert row["all_own"]["mean"] > 0.9 and row["all_difference"]["low"] > 0.0
            best = [
                r[row["score"]]["mean"]
                for r in content["uncertainty"]
                if r["side"] == side and r["method"] in (FROZEN, caption_numbers.NO_MODEL)
            ]
            assert row["rival_score"]["mean"] == max(best)
    scores = {row["score"] for row in known[3]["comparisons"]}
    assert scores == {"spearman"}
    assert {row["score"] for row in unknown[3]["comparisons"]} == {"r_auroc_annotated"}
    fit = find(unknown[3]["fits"], method="probvlm", side="caption")
    assert fit["coverage"]["mean"] < 0.85 < fit["coverage_tempered"]["mean"]
    moved = find(unknown[3]["retrieval"], method="probvlm", ranking="locations", side="image")
    assert moved["change of R@1"]["mean"] > 0.0


def test_what_training_has_not_is_told_apart(known):
    frozen, before, evaluations, content = known
    row = find(content["comparisons"], side="caption")
    assert (row["all_items"], row["new_items"]) == (NUMBER, NUMBER - 10)
    ambiguity = frozen.trial.truth.ambiguity["caption"]
    values = [o.uncertainty["caption"][OWN] for o in evaluations["probvlm"].outcomes]
    rival = before.uncertainty["caption"].get(row["rival"])
    if rival is None:
        rival = baselines.minus_words(frozen.trial.captions)
    for name, first in (("all", 0), ("new", 10)):
        own, other = (
            np.mean([scipy.stats.spearmanr(v[first:], ambiguity[first:]).statistic for v in each])
            for each in (values, [rival])
        )
        assert row[f"{name}_own"]["mean"] == pytest.approx(own, abs=1e-4)
        assert row[f"{name}_difference"]["mean"] == pytest.approx(own - other, abs=1e-4)


def test_the_best_rival_may_be_the_number_of_words():
    """Only captions have one."""
    frozen, before, evaluations = made_up(True)
    words = -baselines.minus_words(frozen.trial.captions)
    frozen.trial.truth.ambiguity["caption"] = -words.astype(np.float64)
    content = content_of(frozen, before, evaluations)
    assert find(content["comparisons"], side="caption")["rival"] == "minus words"
    assert find(content["comparisons"], side="image")["rival"] != "minus words"


@pytest.mark.parametrize("has_truth", [False, True])
def test_where_nothing_fails_no_failure_is_predicted(has_truth):
    frozen, before, evaluations = made_up(has_truth, error=0.0)
    found = content_of(frozen, before, evaluations)
    assert found["failures"] == {"image": 0, "caption": 0}
    row = find(found["uncertainty"], method="probvlm", measure=OWN, side="image")
    assert row["r_auroc"] is row["r_auroc_annotated"] is row["level_score"] is None
    assert len(found["comparisons"]) == 2 * has_truth
    json.dumps(found, allow_nan=False)
