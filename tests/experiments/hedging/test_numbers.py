import jax
import numpy as np
import pytest
import scipy.stats

from experiments.data.labelled import Labelled
from experiments.hedging import numbers
from experiments.hedging.evaluation import Outcome, Trial
from experiments.reports import estimates, tables

NUMBERS = np.arange(200) % 7


def trial():
    random = np.random.default_rng(0)
    queries = Labelled(np.zeros((200, 1, 1), np.uint8), NUMBERS)
    first, second = random.integers(0, 200, (2, 600))
    return Trial(queries, queries, first, second, NUMBERS[first] == NUMBERS[second])


def outcome(seed, error_rate, names=("eta",)):
    """Predictions that fail, the more so the greater `eta` is."""
    random = np.random.default_rng(seed)
    eta = random.uniform(size=200)
    wrong = random.uniform(size=200) < 2 * error_rate * eta
    match = trial().match
    score = np.clip(0.5 * match + random.uniform(0, 0.6, len(match)), 0, 1)
    return Outcome(
        match_to_gallery=np.zeros((200, 200)),
        predicted=np.where(wrong, NUMBERS + 1, NUMBERS),
        match_of_pairs=score.astype(np.float32),
        uncertainty=dict.fromkeys(names, eta),
        votes=np.zeros((200, 5), int),
    )


@pytest.fixture(scope="module")
def found():
    cells = [("test_seen", "clean"), ("test_seen", "corrupt")]
    trials = dict.fromkeys(cells, trial())
    outcomes = {
        cell: {
            "point": [outcome(seed, rate + 0.1, ("minus norm",)) for seed in (0, 1, 2)],
            "gaussian": [outcome(seed, rate) for seed in (0, 1, 2)],
        }
        for cell, rate in zip(cells, (0.2, 0.4), strict=True)
    }
    return numbers.numbers(outcomes, trials, key=jax.random.key(0), num_resamples=200)


def row(frame, **what):
    return tables.find(tables.records(frame), **what)


def test_over_seeds_is_a_t_interval():
    values = [0.5, 0.7, 0.9, 0.6]
    found = estimates.over_seeds(values)
    expected = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([found["low"], found["high"]], expected)
    assert found["mean"] == pytest.approx(0.675) and found["seeds"] == values
    single = estimates.over_seeds([0.5])
    assert single["mean"] == 0.5 and single["low"] is None and single["high"] is None


def test_binned_tau():
    uncertainty = np.random.default_rng(0).uniform(size=400)

    def performance(sign):
        return lambda chosen: sign * uncertainty[chosen].mean()

    assert numbers.binned_tau(uncertainty, performance(-1)) == pytest.approx(-1.0)
    assert numbers.binned_tau(uncertainty, performance(1)) == pytest.approx(1.0)
    assert numbers.binned_tau(uncertainty, lambda _: 0.5) == 0.0


def test_of_fewer_queries_than_bins_there_is_no_tau():
    """Of a user's own test set; the rest of the report is there."""
    values = np.random.default_rng(0).uniform(size=(20, 3))
    assert numbers._tau_of_identification(values, values)["mean"] == pytest.approx(1.0)
    assert numbers._tau_of_identification(values[1:], values[1:]) is None


def test_tau_of_verification_is_that_of_pairs():
    """Every image in one pair, which is as uncertain as the less certain of its two."""
    random = np.random.default_rng(1)
    uncertainty, score = random.uniform(size=200), random.uniform(size=100)
    match = np.arange(100) % 2 == 0
    pairs = trial()._replace(first=np.arange(100), second=np.arange(100, 200), match=match)
    one = outcome(0, 0.4)._replace(match_of_pairs=score)
    order = np.argsort(np.maximum(uncertainty[:100], uncertainty[100:]))
    precisions = []
    for ids in np.array_split(order, 20):
        ranked = match[ids][np.argsort(-score[ids])]
        precision = np.cumsum(ranked) / np.arange(1, 6)
        precisions.append(precision[ranked].mean() if ranked.any() else 0.0)
    expected = scipy.stats.kendalltau(np.arange(20), precisions).statistic
    found = numbers._tau_of_verification(uncertainty, one, pairs)
    assert found == pytest.approx(expected) and found != 0.0


def test_ties_are_no_bins_of_their_place():
    """The performance follows the place of an item, of which a constant knows nothing."""
    place = np.arange(4000)
    assert abs(numbers.binned_tau(np.zeros(4000), lambda chosen: place[chosen].mean())) < 0.5


def test_numbers_of_a_report(found):
    corrupt = {"split": "test_seen", "condition": "corrupt"}
    gaussian = row(found["performance"], embedding="gaussian", **corrupt)
    rates = [(outcome(seed, 0.4).predicted == NUMBERS).mean() for seed in (0, 1, 2)]
    np.testing.assert_allclose(gaussian["accuracy"]["seeds"], rates)
    precisions, errors = [], []
    for seed in (0, 1, 2):
        score, match = outcome(seed, 0.4).match_of_pairs, trial().match
        hits = np.cumsum(match[np.argsort(-score)])
        precision = hits / np.arange(1, len(match) + 1)
        precisions.append(precision[np.diff(hits, prepend=0) == 1].mean())
        bins = np.minimum((score * 15).astype(int), 14)
        errors.append(
            sum(abs(score[bins == b].sum() - match[bins == b].sum()) for b in set(bins)) / 600
        )
    np.testing.assert_allclose(gaussian["average_precision"]["seeds"], precisions, rtol=1e-6)
    np.testing.assert_allclose(gaussian["calibration_error"]["seeds"], errors, rtol=1e-5)
    of_eta = row(found["uncertainty"], embedding="gaussian", **corrupt)
    expected = []
    for seed in (0, 1, 2):
        one = outcome(seed, 0.4)
        wrong = one.predicted != NUMBERS
        eta = one.uncertainty["eta"]
        result = scipy.stats.mannwhitneyu(eta[wrong], eta[~wrong])
        expected.append(result.statistic / (wrong.sum() * (~wrong).sum()))
    area = of_eta["r_auroc"]
    np.testing.assert_allclose(area["mean"], np.mean(expected), rtol=1e-5)
    assert area["low"] < area["mean"] < area["high"]
    assert of_eta["tau_identification"]["mean"] < -0.4


def test_expectations_say_what_is_met(found):
    rows = {row["what"]: row for row in tables.records(found["expectations"])}
    gain = rows["gaussian minus point, corrupt identification (accuracy)"]
    assert gain["met"] and gain["reached"]["mean"] > 0.0
    apart = rows["AUROC of eta, corrupt against clean"]
    assert not apart["met"] and apart["reached"]["mean"] == pytest.approx(0.5)
    assert rows["R-AUROC of eta on corrupt images"]["met"]


def test_an_expectation_that_is_not_defined_is_not_met(found):
    nothing = found["uncertainty"].assign(r_auroc=None)
    last = numbers.expectations({**found, "uncertainty": nothing}).iloc[-1]
    assert last["what"].startswith("R-AUROC") and last["reached"] is None and not last["met"]


def test_no_expectation_without_its_embedding(found):
    names = "performance", "uncertainty", "separation"
    points = {name: found[name][found[name]["embedding"] == "point"] for name in names}
    assert numbers.expectations(points).empty


def test_what_never_fails_is_undefined():
    cells = [("test_seen", "clean")]
    outcomes = {cells[0]: {"gaussian": [outcome(seed, 0.0) for seed in (0, 1, 2)]}}
    frame = numbers.uncertainty(
        outcomes, dict.fromkeys(cells, trial()), key=jax.random.key(0), num_resamples=200
    )
    assert frame["r_auroc"][0] is None and frame["aurc"][0]["mean"] == 0.0
