import jax
import numpy as np
import pytest
import scipy.stats

from experiments.reports import estimates, tables
from probemb import calibration


def test_an_interval_over_seeds_stays_where_values_can_lie():
    values = [1.0, 0.5, 0.75]
    found = estimates.over_seeds(values, bounds=estimates.SHARE)
    low, high = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert high > 1.0 and found["high"] == 1.0
    np.testing.assert_allclose([found["low"], found["mean"]], [low, 0.75])
    positive = estimates.over_seeds([0.0, 0.001, 0.008], bounds=estimates.POSITIVE)
    assert positive["low"] == 0.0 < positive["mean"] < positive["high"]
    assert tables.number(positive) == "0.003 [0.000, 0.014]"
    free = estimates.over_seeds(values)
    np.testing.assert_allclose([free["low"], free["high"]], [low, high])
    at_the_bound = estimates.over_seeds([1.0, 1.0, 1.0 + 1e-7], bounds=estimates.SHARE)
    assert (at_the_bound["low"], at_the_bound["high"]) == (1.0, 1.0)
    with pytest.raises(ValueError, match=r"values must lie in -1..1, got \[0.5, 1.2\]"):
        estimates.over_seeds([0.5, 1.2], bounds=estimates.CORRELATION)


def test_two_seeds_are_too_few():
    found = estimates.over_seeds([1.0, -1.0], bounds=estimates.CORRELATION)
    assert found["low"] is None and found["high"] is None and found["seeds"] == [1.0, -1.0]
    assert tables.number(found) == "0.000 (too few seeds)"
    assert tables.number(estimates.over_seeds([0.25])) == "0.250"
    assert tables.number(None) == "undefined"


def test_of_one_group_there_is_no_interval_over_items():
    values = np.arange(8.0, dtype=np.float32).reshape(4, 2)
    options = {"num_resamples": 100, "groups": ["one"] * 4}
    statistic = calibration.coverage_error
    assert estimates.over_items(jax.random.key(0), statistic, values, **options) is None


def test_an_interval_over_items_draws_their_groups():
    random = np.random.default_rng(0)
    image = np.repeat(random.uniform(size=60), 5)
    uncertainty = np.stack([image + 0.01 * random.normal(size=300) for _ in range(3)], axis=1)
    right = np.repeat(random.uniform(size=60), 5) > image  # all captions of an image, or none
    correct = np.repeat(right[:, None], 3, axis=1).astype(float)
    items, groups = (uncertainty, correct), np.repeat(np.arange(60), 5)
    alone, together = (
        estimates.over_items(
            jax.random.key(0), calibration.r_auroc, *items, num_resamples=200, groups=names
        )
        for names in (None, groups)
    )
    wrong = correct[:, 0] == 0.0
    areas = [
        scipy.stats.mannwhitneyu(u[wrong], u[~wrong]).statistic / (wrong.sum() * (~wrong).sum())
        for u in uncertainty.T
    ]
    for found in (alone, together):
        assert found["mean"] == pytest.approx(np.mean(areas))
        assert found["low"] < found["mean"] < found["high"]
    assert together["high"] - together["low"] > 1.3 * (alone["high"] - alone["low"])
