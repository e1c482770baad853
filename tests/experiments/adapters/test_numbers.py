import copy
import json

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from experiments.adapters import numbers, page, pictures, training
from experiments.adapters.evaluation import OWN, RANKINGS, Evaluation, Fit
from experiments.adapters.frozen import KINDS, Frozen
from experiments.adapters.numbers import FROZEN
from experiments.captions import numbers as caption_numbers
from experiments.captions import retrieval
from experiments.captions.retrieval import SIDES, Outcome, Trial, Truth
from experiments.reports import estimates, plots, tables
from experiments.reports.tables import find
from experiments.uncertainty import baselines
from probemb import calibration

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
def no_bootstrap():
    """Means over seeds, by SciPy, with made-up ends: to compile resampling takes a minute."""

    def over_items(key, statistic, *items, num_resamples, groups):
        assert num_resamples == 100 and len(groups) == len(items[0])
        seeds = zip(*(np.moveaxis(item, 1, 0) for item in items), strict=True)
        mean = float(np.mean([STATISTICS[statistic](*seed) for seed in seeds]))
        return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimates, "over_items", over_items)
        yield


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
    text = page.markdown(found)
    assert ("Spearman, true ambiguity" in text) == has_truth


# --- the page -----------------------------------------------------------------------------------


def test_the_first_table_is_of_the_first_method_beside_the_best_without_one(known):
    content = copy.deepcopy(known[3])
    row = find(content["comparisons"], side="caption")
    row |= {
        "rival": "minus best cosine",
        "rival_score": interval(0.4, 0.6),
        "all_own": interval(0.5, 0.7),
        "all_difference": interval(-0.1, 0.3),
    }
    content["comparisons"] = [{k: v for k, v in row.items() if not k.startswith("new_o")}]
    content["config"]["methods"] = ["von_mises_fisher", "probvlm"]
    content["failures"] = {"image": 19, "caption": 20}
    text = page.markdown(content)
    assert "The total uncertainty of von_mises_fisher and the best" in text
    assert (
        "| captions | 20 | 0.600 [0.500, 0.700] | minus best cosine | 0.500 [0.400, 0.600] | "
        "0.100 [-0.100, 0.300] | 30 |  |"
    ) in text


def interval(low, high):
    return {"mean": 0.5 * (low + high), "low": low, "high": high}


def test_the_page_is_made_of_the_numbers(known, unknown):
    for content in (known[3], unknown[3]):
        again = json.loads(json.dumps(content, allow_nan=False))
        text = page.markdown(content)
        assert text == page.markdown(again)
        assert text.startswith("# ProbVLM adapters: results\n")
        assert content["command"] in text and "Seeds 0, 1, 2; jax 0 on cpu" in text
        for lines in text.split("\n\n"):
            table = [line for line in lines.splitlines() if line.startswith("|")]
            assert len({line.count("|") for line in table}) <= 1
    titles = "Spearman, true ambiguity | R-AUROC | R-AUROC, annotated"
    assert titles in page.markdown(known[3])
    text = page.markdown(unknown[3])
    assert "ambiguity" not in text and "| R-AUROC |" not in text and "R-AUROC, annotated" in text


def test_the_exact_loss_stands_beside_the_released_one(known):
    text = page.markdown(known[3])
    assert "## The exact loss beside the released one" in text
    assert "the partner's embedding decides" in text and "its own embedding decides" not in text
    assert "| probvlm | images | " in text and "| released | captions | " in text
    renamed = {"probvlm": "probvlm_own", "released": "released_own"}
    content = copy.deepcopy(known[3])
    for row in content["uncertainty"] + content["fits"] + content["retrieval"]:
        row["method"] = renamed.get(row["method"], row["method"])
    text = page.markdown(content)
    assert "its own embedding decides" in text and "the partner's embedding decides" not in text
    for row in content["uncertainty"] + content["fits"]:
        row["method"] = {"released_own": "released"}.get(row["method"], row["method"])
    assert "beside the released one" not in page.markdown(content)


def test_the_table_has_all_of_the_first_method_and_the_own_of_others(known):
    content = known[3]
    text = page.markdown(content).split("Of captions as queries:")[1]
    rows = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith("| ")][2:]
    found = [(method.removeprefix("| "), measure) for method, measure in rows]
    assert set(found) == {
        *((method, OWN) for method in METHODS),
        ("probvlm", "aleatoric"),
        (FROZEN, "minus best cosine"),
        (FROZEN, "minus margin"),
        (caption_numbers.NO_MODEL, "minus words"),
    }
    means = [
        find(content["uncertainty"], method=method, measure=measure, side="caption")["spearman"][
            "mean"
        ]
        for method, measure in found
    ]
    assert means == sorted(means, reverse=True)


# --- the picture --------------------------------------------------------------------------------


def test_the_picture_has_a_column_for_ambiguity_where_it_is_known(known, unknown, tmp_path):
    sizes = []
    for frozen, before, evaluations, _ in (known, unknown):
        path = tmp_path / "adapters.png"
        pictures.draw(path, frozen, before, evaluations)
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 10
            sizes.append(image.size)
    assert sizes[0][1] == sizes[1][1] and sizes[0][0] == pytest.approx(1.5 * sizes[1][0], abs=3)


@pytest.mark.parametrize("method", ["von_mises_fisher", "released_own"])
def test_a_picture_of_one_method(unknown, method, tmp_path):
    """Without an interval, and without a curve of rejection."""
    frozen, before, evaluations, _ = unknown
    one = {method: evaluations[method.removesuffix("_own")]}
    pictures.draw(tmp_path / "adapters.png", frozen, before, one)
    assert (tmp_path / "adapters.png").stat().st_size > 10_000


def test_no_two_curves_of_a_panel_have_one_color(known, monkeypatch):
    """With every method and every baseline."""
    frozen, before, evaluations, _ = known
    evaluations = dict.fromkeys(training.METHODS, evaluations["probvlm"])
    names = baselines.named(*KINDS)
    uncertainty = {side: dict.fromkeys(names, np.linspace(0.0, 1.0, NUMBER)) for side in SIDES}
    figures = []
    monkeypatch.setattr(plots, "save", lambda _, figure: figures.append(figure))
    pictures.draw(None, frozen, before._replace(uncertainty=uncertainty), evaluations)
    numbers_of_curves = []
    for axis in figures[0].axes:
        curves = {line.get_label(): line for line in axis.get_lines()}
        colors = [curve.get_color() for label, curve in curves.items() if label[0] != "_"]
        assert len(set(colors)) == len(colors)
        numbers_of_curves.append(len(colors))
    assert numbers_of_curves == [0, 6 + len(names), 8] * 2
    assert curves["released_own"].is_dashed()  # seen through it is what it lies on
    plt.close(figures[0])
