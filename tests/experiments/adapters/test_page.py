import copy
import json

import jax
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from experiments.adapters import page as adapter_page
from experiments.adapters import pictures
from experiments.adapters.evaluation import OWN, RANKINGS, Evaluation, Fit, Frozen
from experiments.adapters.page import FROZEN
from experiments.captions import evaluation
from experiments.captions import page as caption_page
from experiments.captions.evaluation import SIDES, Outcome, Trial, Truth
from experiments.reports import estimates
from experiments.reports.tables import find
from probemb import calibration

NUMBER, DIMENSION = 40, 3  # images, and as many captions: what is compiled is so once
METHODS = ("probvlm", "released", "von_mises_fisher")
TITLE = "ProbVLM adapters"


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
    before = Outcome(scores, evaluation.metrics(scores, trial), {}, None)

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
                evaluation.metrics(scores_of(trial, seed, 0.3 + 0.2 * way), trial)
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
    return adapter_page.content(
        frozen,
        before,
        evaluations,
        key=jax.random.key(0),
        num_resamples=100,
        command="python -m experiments.probvlm_adapters",
        config={"methods": list(evaluations), "seeds": [0, 1, 2], "cross_modal_weight": 100.0},
        data="made up",
        versions={"jax": "0"},
        backend="cpu",
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
    adapter_page._DIFFERENCE[name]: lambda one, other, known, of=STATISTICS[of]: (
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
        assert row["R@1"]["low"] is None and "change of R@1" not in row
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


# --- the answer ---------------------------------------------------------------------------------


def test_right_uncertainty_says_more(known, unknown):
    text = known[3]["answer"]
    for side in SIDES:
        assert f"The total uncertainty of probvlm of {side}s has 0.9" in text
    assert text.count("by Spearman's correlation with the true ambiguity: more than the best") == 2
    assert "It predicts the failures of captions with an R-AUROC of " in text
    other = unknown[3]["answer"]
    assert other.count("by R-AUROC of the failures of frozen retrieval: more than the best") == 2
    assert "It predicts" not in other and "ambiguity" not in other
    row = find(unknown[3]["fits"], method="probvlm", side="caption")
    shares = row["coverage"]["mean"], row["coverage_tempered"]["mean"]
    assert (
        f"Intervals of 90% around captions hold {shares[0]:.1%} of the partners' coordinates, "
        f"{shares[1]:.1%} after temperature scaling." in other
    )
    assert shares[0] < 0.85 < shares[1]
    change = find(unknown[3]["retrieval"], method="probvlm", ranking="locations", side="image")
    mean = change["change of R@1"]["mean"]
    assert f"instead of the frozen embeddings changes R@1 by {mean:.3f} [" in other and mean > 0.0


def interval(low, high):
    return {"mean": 0.5 * (low + high), "low": low, "high": high}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.2, "more"),
        (-0.01, 0.2, "no more and no less, within the interval,"),
        (-0.2, 0.01, "no more and no less, within the interval,"),
        (-0.2, -0.01, "less"),
    ],
)
@pytest.mark.parametrize("side", SIDES)
def test_the_verdict_is_that_of_the_difference(known, unknown, low, high, said, side):
    for of in (known[3], unknown[3]):
        content = copy.deepcopy(of)
        row = find(content["comparisons"], side=side)
        row |= {
            "rival": "minus best cosine",
            "rival_score": interval(0.4, 0.6),
            "all_own": interval(0.5, 0.7),
            "all_difference": interval(low, high),
        }
        text = adapter_page.verdict(content, "probvlm", side)
        assert text in adapter_page.answer(content)
        assert f"of probvlm of {side}s has 0.600 [0.500, 0.700] by" in text
        assert (
            f": {said} than the best that needs no adapter, minus best cosine, "
            f"0.500 [0.400, 0.600] (difference {0.5 * (low + high):.3f} [{low:.3f}, {high:.3f}])."
        ) in text


def test_what_training_has_not_is_told_apart(known):
    frozen, before, evaluations, content = known
    row = find(content["comparisons"], side="caption")
    assert (row["all_items"], row["new_items"]) == (NUMBER, NUMBER - 10)
    ambiguity = frozen.trial.truth.ambiguity["caption"]
    values = [o.uncertainty["caption"][OWN] for o in evaluations["probvlm"].outcomes]
    rival = before.uncertainty["caption"].get(row["rival"])
    if rival is None:
        rival = evaluation.minus_words(frozen.trial.captions)
    for name, first in (("all", 0), ("new", 10)):
        own, other = (
            np.mean([scipy.stats.spearmanr(v[first:], ambiguity[first:]).statistic for v in each])
            for each in (values, [rival])
        )
        assert row[f"{name}_own"]["mean"] == pytest.approx(own, abs=1e-4)
        assert row[f"{name}_difference"]["mean"] == pytest.approx(own - other, abs=1e-4)
    assert "Of the 30 whose vectors are not in training too it has" in content["answer"]


def test_the_best_rival_may_be_the_number_of_words():
    """Only captions have one."""
    frozen, before, evaluations = made_up(True)
    words = -evaluation.minus_words(frozen.trial.captions)
    frozen.trial.truth.ambiguity["caption"] = -words.astype(np.float64)
    content = content_of(frozen, before, evaluations)
    assert find(content["comparisons"], side="caption")["rival"] == "minus words"
    assert find(content["comparisons"], side="image")["rival"] != "minus words"


def test_the_answer_is_about_the_first_method(known):
    content = copy.deepcopy(known[3])
    content["config"]["methods"] = ["von_mises_fisher", "probvlm"]
    text = adapter_page.answer(content)
    assert "uncertainty of von_mises_fisher of" in text and "probvlm" not in text
    assert "Intervals of 90%" not in text  # directions have none


def test_few_failures_are_said_to_be_few(known, unknown):
    content = copy.deepcopy(unknown[3])
    content["failures"] = {"image": 19, "caption": 20}
    text = "Only 19 images fail: too few for R-AUROC"
    answer = adapter_page.answer(content)
    assert text in answer and answer.count("too few") == 1
    content = copy.deepcopy(known[3])
    content["failures"] = {"image": 19, "caption": 20}
    assert "too few" not in adapter_page.answer(content)


# --- the page -----------------------------------------------------------------------------------


def test_the_page_is_made_of_the_numbers(known, unknown):
    for content in (known[3], unknown[3]):
        again = json.loads(json.dumps(content, allow_nan=False))
        text = adapter_page.markdown(content, TITLE)
        assert text == adapter_page.markdown(again, TITLE)
        assert text.startswith(f"# {TITLE}: results\n") and content["answer"] in text
        assert content["command"] in text and "Seeds 0, 1, 2; jax 0 on cpu" in text
        for lines in text.split("\n\n"):
            table = [line for line in lines.splitlines() if line.startswith("|")]
            assert len({line.count("|") for line in table}) <= 1
    assert "Spearman, true ambiguity | R-AUROC | R-AUROC, annotated" in adapter_page.markdown(
        known[3], TITLE
    )
    text = adapter_page.markdown(unknown[3], TITLE)
    assert "ambiguity" not in text and "| R-AUROC |" not in text and "R-AUROC, annotated" in text


def test_the_exact_loss_stands_beside_the_released_one(known):
    text = adapter_page.markdown(known[3], TITLE)
    assert "## The exact loss beside the released one" in text
    assert "the partner's embedding decides" in text and "its own embedding decides" not in text
    assert "| probvlm | images | " in text and "| released | captions | " in text
    renamed = {"probvlm": "probvlm_own", "released": "released_own"}
    content = copy.deepcopy(known[3])
    for row in content["uncertainty"] + content["fits"] + content["retrieval"]:
        row["method"] = renamed.get(row["method"], row["method"])
    text = adapter_page.markdown(content, TITLE)
    assert "its own embedding decides" in text and "the partner's embedding decides" not in text
    for row in content["uncertainty"] + content["fits"]:
        row["method"] = {"released_own": "released"}.get(row["method"], row["method"])
    assert "beside the released one" not in adapter_page.markdown(content, TITLE)


def test_the_table_has_all_of_the_first_method_and_the_own_of_others(known):
    content = known[3]
    text = adapter_page.markdown(content, TITLE).split("Of captions as queries:")[1]
    rows = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith("| ")][2:]
    found = [(method.removeprefix("| "), measure) for method, measure in rows]
    assert set(found) == {
        *((method, OWN) for method in METHODS),
        ("probvlm", "aleatoric"),
        (FROZEN, "minus best cosine"),
        (FROZEN, "minus margin"),
        (caption_page.NO_MODEL, "minus words"),
    }
    means = [
        find(content["uncertainty"], method=method, measure=measure, side="caption")["spearman"][
            "mean"
        ]
        for method, measure in found
    ]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("has_truth", [False, True])
def test_where_nothing_fails_no_failure_is_predicted(has_truth):
    frozen, before, evaluations = made_up(has_truth, error=0.0)
    found = content_of(frozen, before, evaluations)
    assert found["failures"] == {"image": 0, "caption": 0}
    row = find(found["uncertainty"], method="probvlm", measure=OWN, side="image")
    assert row["r_auroc"] is row["r_auroc_annotated"] is row["level_score"] is None
    assert ("R-AUROC of the failures" in found["answer"]) is False
    assert ("Only 0 images fail" in found["answer"]) != has_truth
    json.dumps(found, allow_nan=False)
    text = adapter_page.markdown(found, TITLE)
    assert ("Spearman, true ambiguity" in text) == has_truth


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
