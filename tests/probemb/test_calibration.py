import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from probemb import calibration


def items(seed: int, number: int = 200, levels: int | None = None):
    """Uncertainties that predict errors in part; few levels make ties."""
    random = np.random.default_rng(seed)
    uncertainty = random.uniform(size=number)
    if levels:
        uncertainty = np.round(uncertainty * levels) / levels
    correct = (random.uniform(size=number) > uncertainty).astype(float)
    return uncertainty, correct


@pytest.mark.parametrize("levels", [None, 7])
def test_r_auroc_is_that_of_scikit_learn(levels):
    uncertainty, correct = items(0, levels=levels)
    weights = np.random.default_rng(1).integers(0, 4, len(correct)).astype(float)
    for w in (None, weights):
        expected = sklearn.metrics.roc_auc_score(1 - correct, uncertainty, sample_weight=w)
        np.testing.assert_allclose(calibration.r_auroc(uncertainty, correct, weights=w), expected)
    single = calibration.r_auroc(uncertainty.astype(np.float32), correct.astype(np.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, calibration.r_auroc(uncertainty, correct), rtol=1e-5)


@pytest.mark.parametrize("levels", [None, 7])
def test_aurc_is_the_mean_risk_of_all_thresholds(levels):
    uncertainty, correct = items(2, levels=levels)
    error = 1 - correct
    risks = [error[uncertainty <= threshold].mean() for threshold in uncertainty]
    np.testing.assert_allclose(calibration.selective_risk(uncertainty, error), risks)
    np.testing.assert_allclose(calibration.aurc(uncertainty, error), np.mean(risks))


def test_risk_coverage_of_distinct_items_is_a_running_mean():
    uncertainty, correct = items(3)
    order = np.argsort(uncertainty)
    expected = np.cumsum(1 - correct[order]) / np.arange(1, len(order) + 1)
    risk = calibration.selective_risk(uncertainty, 1 - correct)
    np.testing.assert_allclose(risk[order], expected)


@pytest.mark.parametrize("statistic", [calibration.r_auroc, calibration.aurc])
def test_weights_are_repetitions(statistic):
    uncertainty, correct = items(4, 40, levels=9)
    weights = np.random.default_rng(5).integers(0, 3, 40)
    repeated = statistic(np.repeat(uncertainty, weights), np.repeat(correct, weights))
    weighted = statistic(uncertainty, correct, weights=weights)
    np.testing.assert_allclose(weighted, repeated)


def test_ties_are_accepted_together():
    risk = calibration.selective_risk(np.array([0.0, 1.0, 1.0, 1.0]), np.array([0, 1, 0, 1]))
    np.testing.assert_allclose(risk, [0.0, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("statistic", [calibration.r_auroc, calibration.aurc])
def test_only_the_order_counts(statistic):
    uncertainty, correct = items(6)
    place = np.random.default_rng(7).permutation(len(correct))
    expected = statistic(uncertainty, correct)
    np.testing.assert_allclose(statistic(np.exp(5 * uncertainty), correct), expected)
    np.testing.assert_allclose(statistic(uncertainty[place], correct[place]), expected)


def test_constant_uncertainty_tells_nothing():
    correct = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    same = np.full(5, 0.3)
    assert calibration.r_auroc(same, correct) == 0.5
    np.testing.assert_allclose(calibration.aurc(same, 1 - correct), 0.4)


@pytest.mark.parametrize(
    "function", [calibration.r_auroc, calibration.aurc, calibration.expected_calibration_error]
)
def test_jit_and_vmap(function):
    uncertainty, correct = (np.stack(both) for both in zip(items(8), items(9), strict=True))
    each = [function(u, c) for u, c in zip(uncertainty, correct, strict=True)]
    chex.assert_trees_all_close(jax.jit(jax.vmap(function))(uncertainty, correct), jnp.stack(each))


@pytest.mark.parametrize(("number", "bins"), [(20, 20), (23, 5), (7, 3), (1, 1)])
def test_equal_bins_differ_by_one_item_at_most(number, bins):
    uncertainty = np.random.default_rng(number).uniform(size=number)
    place = np.asarray(calibration.equal_bins(uncertainty, num_bins=bins))
    sizes = np.bincount(place, minlength=bins)
    assert sizes.sum() == number and sizes.max() - sizes.min() <= 1
    assert (np.diff(place[np.argsort(uncertainty)]) >= 0).all()


def test_reliability_by_hand():
    probability = np.array([0.0, 0.1, 0.3, 0.8, 1.0])
    match = np.array([0, 1, 0, 1, 1])
    bins = calibration.reliability(probability, match, num_bins=4)
    np.testing.assert_allclose(bins.predicted, [0.05, 0.3, 0.0, 0.9])
    np.testing.assert_allclose(bins.observed, [0.5, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(bins.weight, [0.4, 0.2, 0.0, 0.4])
    error = calibration.expected_calibration_error(probability, match, num_bins=4)
    np.testing.assert_allclose(error, 0.4 * 0.45 + 0.2 * 0.3 + 0.4 * 0.1)


def test_a_calibrated_probability_has_no_error_but_for_sampling():
    random = np.random.default_rng(10)
    probability = random.uniform(size=200_000)
    match = random.uniform(size=200_000) < probability
    assert calibration.expected_calibration_error(probability, match) < 0.005
    assert calibration.expected_calibration_error(probability**3, match) > 0.2


def test_bootstrap_is_that_of_scipy():
    uncertainty, correct = items(11)
    low, high = calibration.bootstrap_interval(
        jax.random.key(0), calibration.r_auroc, uncertainty, correct, num_resamples=4000
    )
    expected = scipy.stats.bootstrap(
        (uncertainty, correct),
        lambda u, c: sklearn.metrics.roc_auc_score(1 - c, u),
        n_resamples=2000,
        paired=True,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(12),
    ).confidence_interval
    np.testing.assert_allclose([low, high], expected, atol=0.006)


def test_bootstrap_of_a_mean_covers_as_often_as_it_says():
    values = np.random.default_rng(13).normal(size=(300, 60))

    def interval(key, sample):
        return jnp.stack(
            calibration.bootstrap_interval(key, jnp.average, sample, num_resamples=300, level=0.9)
        )

    keys = jax.random.split(jax.random.key(1), len(values))
    low, high = np.asarray(jax.vmap(interval)(keys, values)).T
    covered = np.mean((low < 0.0) & (high > 0.0))
    assert 0.84 < covered < 0.94


def test_bootstrap_is_a_function_of_its_key():
    sample = np.arange(30.0)
    first, again, other = (
        calibration.bootstrap_interval(jax.random.key(k), jnp.average, sample, num_resamples=100)
        for k in (0, 0, 1)
    )
    chex.assert_trees_all_equal(first, again)
    assert first != other


def test_bootstrap_leaves_undefined_resamples_out():
    low, high = calibration.bootstrap_interval(
        jax.random.key(0), calibration.r_auroc, np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.0, 1.0])
    )
    assert np.isfinite([low, high]).all()


@pytest.mark.parametrize("statistic", [calibration.r_auroc, calibration.aurc])
def test_nan_stays_nan_where_it_cannot_be_looked_at(statistic):
    bad = jnp.array([0.1, jnp.nan, 0.3])
    assert np.isnan(jax.jit(statistic)(bad, jnp.array([1.0, 0.0, 0.0])))


def test_weights_of_a_calibration_error_are_repetitions():
    random = np.random.default_rng(14)
    probability, weights = random.uniform(size=50), random.integers(0, 3, 50)
    match = (random.uniform(size=50) < probability).astype(float)
    weighted = calibration.expected_calibration_error(probability, match, weights=weights)
    repeated = calibration.expected_calibration_error(
        np.repeat(probability, weights), np.repeat(match, weights)
    )
    np.testing.assert_allclose(weighted, repeated)


UNCERTAINTY, CORRECT = np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration.r_auroc(UNCERTAINTY, CORRECT[:2]), r"correct must have one value per"),
        (lambda: calibration.r_auroc(UNCERTAINTY[None], CORRECT), r"uncertainty must have shape"),
        (lambda: calibration.r_auroc(UNCERTAINTY, np.ones(3)), r"hold both, got \[1.0\]"),
        (lambda: calibration.r_auroc(UNCERTAINTY, np.array([0.5, 0, 1])), "correct must be 0 or 1"),
        (lambda: calibration.r_auroc(np.array([np.nan, 0, 1]), CORRECT), "uncertainty must be fin"),
        (lambda: calibration.r_auroc(np.zeros(0), np.zeros(0)), "uncertainty must not be empty"),
        (lambda: calibration.aurc(UNCERTAINTY, 3 * CORRECT), r"error must lie in 0..1"),
        (
            lambda: calibration.aurc(UNCERTAINTY, CORRECT, weights=np.ones(2)),
            "weights must have one value per item",
        ),
        (
            lambda: calibration.aurc(UNCERTAINTY, CORRECT, weights=-np.ones(3)),
            "weights must be finite, not negative",
        ),
        (
            lambda: calibration.r_auroc(UNCERTAINTY, CORRECT, weights=CORRECT),
            "weights must leave both an error and a success",
        ),
        (lambda: calibration.equal_bins(UNCERTAINTY, num_bins=4), "at most the 3 items, got 4"),
        (lambda: calibration.equal_bins(UNCERTAINTY, num_bins=0), "num_bins must be at least 1"),
        (
            lambda: calibration.reliability(2 + UNCERTAINTY, CORRECT),
            r"probability must lie in 0..1",
        ),
        (
            lambda: calibration.bootstrap_interval(
                jax.random.key(0), jnp.average, np.ones(3), np.ones(2)
            ),
            "items must be arrays",
        ),
        (
            lambda: calibration.bootstrap_interval(
                jax.random.key(0), jnp.average, np.array([0.0, np.nan])
            ),
            r"items must be finite, got nan at index \(1,\)",
        ),
        (
            lambda: calibration.bootstrap_interval(
                jax.random.key(0), jnp.average, np.ones(3), level=95
            ),
            "level must lie between 0 and 1, got 95",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
