import functools
import inspect
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from jax.sharding import Mesh, PartitionSpec

from probemb import DiagonalGaussian, GeneralizedGaussian, calibration


def compiled(function):
    """One program for all of it, where eagerly each of its operations is one."""
    options = {"num_bins", "num_levels", "level"} & set(inspect.signature(function).parameters)
    return jax.jit(function, static_argnames=tuple(options))


r_auroc, aurc = compiled(calibration.r_auroc), compiled(calibration.aurc)
selective_risk, reliability = map(compiled, (calibration.selective_risk, calibration.reliability))
expected_calibration_error = compiled(calibration.expected_calibration_error)
spearman, level_score = compiled(calibration.spearman), compiled(calibration.level_score)
bin_correlation = compiled(calibration.bin_correlation)
equal_bins = compiled(calibration.equal_bins)
coverage, coverage_error = compiled(calibration.coverage), compiled(calibration.coverage_error)


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
        np.testing.assert_allclose(r_auroc(uncertainty, correct, weights=w), expected)
    single = r_auroc(uncertainty.astype(np.float32), correct.astype(np.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, r_auroc(uncertainty, correct), rtol=1e-5)


@pytest.mark.parametrize("levels", [None, 7])
def test_aurc_is_the_mean_risk_of_all_thresholds(levels):
    uncertainty, correct = items(2, levels=levels)
    error = 1 - correct
    risks = [error[uncertainty <= threshold].mean() for threshold in uncertainty]
    np.testing.assert_allclose(selective_risk(uncertainty, error), risks)
    np.testing.assert_allclose(aurc(uncertainty, error), np.mean(risks))


def test_risk_coverage_of_distinct_items_is_a_running_mean():
    uncertainty, correct = items(3)
    order = np.argsort(uncertainty)
    expected = np.cumsum(1 - correct[order]) / np.arange(1, len(order) + 1)
    risk = selective_risk(uncertainty, 1 - correct)
    np.testing.assert_allclose(risk[order], expected)


@pytest.mark.parametrize("statistic", [r_auroc, aurc])
def test_weights_are_repetitions(statistic):
    uncertainty, correct = items(4, 40, levels=9)
    weights = np.random.default_rng(5).integers(0, 3, 40)
    repeated = statistic(np.repeat(uncertainty, weights), np.repeat(correct, weights))
    weighted = statistic(uncertainty, correct, weights=weights)
    np.testing.assert_allclose(weighted, repeated)


def test_ties_are_accepted_together():
    risk = selective_risk(np.array([0.0, 1.0, 1.0, 1.0]), np.array([0, 1, 0, 1]))
    np.testing.assert_allclose(risk, [0.0, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("statistic", [r_auroc, aurc])
def test_only_the_order_counts(statistic):
    uncertainty, correct = items(6)
    place = np.random.default_rng(7).permutation(len(correct))
    expected = statistic(uncertainty, correct)
    np.testing.assert_allclose(statistic(np.exp(5 * uncertainty), correct), expected)
    np.testing.assert_allclose(statistic(uncertainty[place], correct[place]), expected)


def test_constant_uncertainty_tells_nothing():
    correct = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    same = np.full(5, 0.3)
    assert r_auroc(same, correct) == 0.5
    np.testing.assert_allclose(aurc(same, 1 - correct), 0.4)


@pytest.mark.slow
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
    place = np.asarray(equal_bins(uncertainty, num_bins=bins))
    sizes = np.bincount(place, minlength=bins)
    assert sizes.sum() == number and sizes.max() - sizes.min() <= 1
    assert (np.diff(place[np.argsort(uncertainty)]) >= 0).all()


def test_reliability_by_hand():
    probability = np.array([0.0, 0.1, 0.3, 0.8, 1.0])
    match = np.array([0, 1, 0, 1, 1])
    bins = reliability(probability, match, num_bins=4)
    np.testing.assert_allclose(bins.predicted, [0.05, 0.3, 0.0, 0.9])
    np.testing.assert_allclose(bins.observed, [0.5, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(bins.weight, [0.4, 0.2, 0.0, 0.4])
    error = expected_calibration_error(probability, match, num_bins=4)
    np.testing.assert_allclose(error, 0.4 * 0.45 + 0.2 * 0.3 + 0.4 * 0.1)


def by_guo(probability, match, num_bins):
    """The error by Guo et al.'s code, on NumPy; a probability of 0 goes into the first bin."""
    edges = np.linspace(0, 1, num_bins + 1).astype(probability.dtype)
    error = 0.0
    for low, high in itertools.pairwise(edges):
        within = (probability > low) & (probability <= high)
        within |= (probability == 0.0) & (low == 0.0)
        if within.any():
            gap = probability[within].mean(dtype=np.float64) - match[within].mean()
            error += abs(gap) * within.mean()
    return error


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("x64", [True, False])
def test_edges_of_bins_are_those_of_guo(dtype, x64):
    with jax.enable_x64(x64):
        error = calibration.expected_calibration_error([0.5, 0.9], [1, 0], num_bins=2)
        np.testing.assert_allclose(error, 0.7, rtol=1e-6)
        bins = calibration.reliability(np.array([0.0, 0.5, 1.0], dtype), [0, 1, 1], num_bins=2)
        np.testing.assert_allclose(bins.weight, [2 / 3, 1 / 3], rtol=1e-6)
        for num_bins in (3, 7, 10, 15):
            steps = np.arange(num_bins + 1)
            on_edges = (steps / num_bins, steps * (1 / num_bins), np.linspace(0, 1, num_bins + 1))
            exact = np.concatenate(on_edges).astype(dtype)
            exact = np.concatenate([exact, np.nextafter(exact, 0.5, dtype=dtype)]).clip(0, 1)
            match = np.random.default_rng(num_bins).integers(2, size=len(exact))
            found = calibration.expected_calibration_error(exact, match, num_bins=num_bins)
            np.testing.assert_allclose(found, by_guo(exact, match, num_bins), atol=1e-6)
        traced = jax.jit(functools.partial(calibration.expected_calibration_error, num_bins=10))
        single = (np.arange(11) / 10).astype(np.float32)
        expected = by_guo(single, match[:11], 10)
        np.testing.assert_allclose(traced(single, match[:11]), expected, atol=1e-6)


def test_a_calibrated_probability_has_no_error_but_for_sampling():
    random = np.random.default_rng(10)
    probability = random.uniform(size=200_000)
    match = random.uniform(size=200_000) < probability
    assert expected_calibration_error(probability, match) < 0.005
    assert expected_calibration_error(probability**3, match) > 0.2


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.3, 0.6])
def test_intervals_of_groups_cover_as_often_as_they_say(correlation):
    random = np.random.default_rng(15)
    image, caption = random.normal(size=(400, 80, 1)), random.normal(size=(400, 80, 5))
    values = np.sqrt(correlation) * image + np.sqrt(1 - correlation) * caption
    values = values.reshape(400, 400)
    names = [f"image {number}" for number in np.repeat(np.arange(80), 5)]
    covered = {}
    for kind, groups in (("groups", names), ("items", None)):

        def interval(key, sample, groups=groups):
            return calibration.bootstrap_interval(
                key, jnp.average, sample, num_resamples=300, groups=groups
            )

        keys = jax.random.split(jax.random.key(1), len(values))
        low, high = jax.jit(lambda keys: jax.lax.map(lambda x: interval(*x), (keys, values)))(keys)
        covered[kind] = np.mean((low < 0.0) & (high > 0.0))
    # Of 400 data sets the share that is covered has a standard error of 1.1 %.
    assert 0.91 < covered["groups"] < 0.98 and covered["items"] < 0.89


def test_groups_of_one_are_the_items_and_names_are_only_names():
    sample = np.random.default_rng(16).normal(size=30)

    def interval(groups):
        return calibration.bootstrap_interval(
            jax.random.key(0), jnp.average, sample, num_resamples=100, groups=groups
        )

    chex.assert_trees_all_equal(interval(range(30)), interval(None))
    place = np.arange(30) // 3
    expected = interval(place)
    assert expected != interval(None)
    mixed = [1, "1", 2.5, (3,), "a", b"a", "b", 7, 8, 9]  # no two are the same
    names = [
        *(place.astype(">i8"), jnp.asarray(place), [f"image {i}" for i in place]),
        *([mixed[i] for i in place], place.astype(str), place + 2**62, place * 1e-300),
    ]
    for groups in names:
        chex.assert_trees_all_equal(interval(groups), expected)


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


@pytest.mark.parametrize("statistic", [r_auroc, aurc])
def test_nan_stays_nan_where_it_cannot_be_looked_at(statistic):
    bad = jnp.array([0.1, jnp.nan, 0.3])
    assert np.isnan(jax.jit(statistic)(bad, jnp.array([1.0, 0.0, 0.0])))


def test_weights_of_a_calibration_error_are_repetitions():
    random = np.random.default_rng(14)
    probability, weights = random.uniform(size=50), random.integers(0, 3, 50)
    match = (random.uniform(size=50) < probability).astype(float)
    weighted = expected_calibration_error(probability, match, weights=weights)
    repeated = expected_calibration_error(
        np.repeat(probability, weights), np.repeat(match, weights)
    )
    np.testing.assert_allclose(weighted, repeated)


CORRELATIONS = [calibration.kendall_tau, spearman]
BINNED = [level_score, bin_correlation]


def two_orders(seed: int, number: int = 200, levels: int | None = None):
    """Orders that agree in part; few levels make ties in both."""
    x, noise = np.random.default_rng(seed).normal(size=(2, number))
    y = x + noise
    return (np.round(levels * x), np.round(levels * y)) if levels else (x, y)


@pytest.mark.parametrize("levels", [None, 1, 3])
def test_rank_correlations_are_those_of_scipy(levels):
    x, y = two_orders(20, 60, levels)
    expected = scipy.stats.kendalltau(x, y).statistic
    np.testing.assert_allclose(calibration.kendall_tau(x, y), expected, rtol=1e-12)
    expected = scipy.stats.spearmanr(x, y).statistic
    np.testing.assert_allclose(spearman(x, y), expected, rtol=1e-12)


@pytest.mark.parametrize("statistic", CORRELATIONS)
def test_rank_correlations_see_orders_alone(statistic):
    x, y = two_orders(21, 60, 2)
    place = np.random.default_rng(22).permutation(60)
    expected = statistic(x, y)
    np.testing.assert_allclose(statistic(np.exp(x)[place], y[place] ** 3), expected)
    np.testing.assert_allclose(statistic(y, x), expected)
    np.testing.assert_allclose(statistic(-x, y), -expected)
    np.testing.assert_allclose([statistic(x, x), statistic(x, -x)], [1.0, -1.0])


@pytest.mark.parametrize("statistic", CORRELATIONS)
def test_weights_of_rank_correlations_are_repetitions(statistic):
    x, y = two_orders(23, 60, 2)
    weights = np.random.default_rng(24).multinomial(60, np.full(60, 1 / 60))
    repeated = statistic(np.repeat(x, weights), np.repeat(y, weights))
    np.testing.assert_allclose(statistic(x, y, weights=weights), repeated, rtol=1e-12)
    np.testing.assert_allclose(statistic(x, y, weights=0.3 * weights), repeated, rtol=1e-12)


@pytest.mark.parametrize("statistic", CORRELATIONS)
def test_rank_correlations_in_float32_and_of_two_precisions(statistic):
    x, y = two_orders(25, 60)
    single = statistic(x.astype(np.float32), y.astype(np.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, statistic(x, y), rtol=1e-5)
    # Neither of the two is cut to the other's digits.
    close = 1.0 + 1e-12 * np.arange(60)
    np.testing.assert_allclose(statistic(close, np.arange(60, dtype=np.float32)), 1.0)


@pytest.mark.parametrize("statistic", CORRELATIONS)
def test_rank_correlations_under_jit_and_vmap(statistic):
    x, y = np.stack([two_orders(26, 60), two_orders(27, 60)], axis=1)
    compiled = jax.jit(statistic)
    each = [compiled(*one) for one in zip(x, y, strict=True)]
    np.testing.assert_allclose(jax.jit(jax.vmap(statistic))(x, y), each, rtol=1e-6)
    rising = np.arange(60.0)
    assert np.isnan(compiled(np.zeros(60), rising))
    assert np.isnan(compiled(rising, np.where(rising == 1, np.nan, rising)))
    # Weights that are no whole numbers leave rounding, which must not correlate.
    weights = np.array([0.1, 0.7, 0.3, 0.0])
    same = np.array([2.0, 2.0, 2.0, 1.0])
    assert np.isnan(compiled(same, np.arange(4.0), weights=weights))


def test_kendall_under_the_bootstrap_orders_once_and_holds_no_square_of_the_items():
    x, y = two_orders(28, 2000)
    of_weights = jax.vmap(lambda weights: calibration.kendall_tau(x, y, weights=weights))
    text = str(jax.make_jaxpr(of_weights)(jnp.ones((50, 2000))))
    # Blocks of pairs, and the places of the merge sort, are those of all resamples.
    assert "[16,128,128]" in text and "i32[2048]" in text
    assert "[50,16,128,128]" not in text and "i32[50,2048]" not in text and "2000,2000" not in text
    assert " sort[" not in text


@pytest.mark.parametrize(
    "number", [2, 129, 1000, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 127))]
)
def test_kendall_of_any_number_of_items(number):
    x, y = two_orders(35, number, levels=None if number < 5 else 3)
    expected = scipy.stats.kendalltau(x, y).statistic
    for one, other in ((x, y), (y, x), (jnp.asarray(x), jnp.asarray(y))):
        np.testing.assert_allclose(calibration.kendall_tau(one, other), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(calibration.kendall_tau)(x, y), expected, rtol=1e-12)


def test_kendall_within_shard_map():
    mesh = Mesh(np.array(jax.devices()[:1]), ("batch",))
    spec = PartitionSpec("batch")
    x, y = two_orders(38, 150)

    def of_share(x, y):
        return calibration.kendall_tau(x[0], y[0])[None]

    shared = jax.jit(jax.shard_map(of_share, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(shared(x[None], y[None])[0], calibration.kendall_tau(x, y))


def test_kendall_of_weights_is_the_sum_over_pairs():
    x, y = two_orders(36, 300, levels=2)
    weights = np.random.default_rng(37).uniform(size=300) * (np.arange(300) % 3 > 0)
    of_x, of_y = (np.sign(z[:, None] - z) for z in (x, y))
    pairs = weights[:, None] * weights
    expected = np.sum(pairs * of_x * of_y) / np.sqrt(
        np.sum(pairs * of_x**2) * np.sum(pairs * of_y**2)
    )
    for scale in (1.0, 1e-200, 1e200):  # no product leaves the floats
        value = calibration.kendall_tau(x, y, weights=scale * weights)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
    single = calibration.kendall_tau(*(np.float32(z) for z in (x, y)), weights=1e30 * weights)
    np.testing.assert_allclose(single, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("statistic", "items_of"),
    [
        *((one, two_orders) for one in CORRELATIONS),
        (level_score, items),
        pytest.param(bin_correlation, items, marks=pytest.mark.slow),
    ],
)
def test_bootstrap_intervals_of_correlations_hold_them(statistic, items_of):
    x, y = items_of(29, 2000)
    low, high = calibration.bootstrap_interval(
        jax.random.key(0), statistic, x, y, num_resamples=200
    )
    value = statistic(x, y)
    assert low <= value <= high and 0.0 < high - low < 0.15
    if statistic is spearman:  # of normal items, by Fisher's z with its usual widening
        error = (1 - value**2) * math.sqrt((1 + value**2 / 2) / 2000)
        np.testing.assert_allclose(high - low, 2 * 1.96 * error, rtol=0.2)


def binned(uncertainty, correct, num_bins):
    """Both binned scores, by SciPy on the bins of `equal_bins`."""
    place = np.asarray(equal_bins(uncertainty, num_bins=num_bins))
    mean = np.array([np.mean(correct[place == level]) for level in range(num_bins)])
    level = np.arange(num_bins)
    fit = scipy.stats.linregress(level, mean)
    score = -scipy.stats.spearmanr(level, mean).statistic * fit.rvalue**2
    return score, scipy.stats.pearsonr(level, mean).statistic


@pytest.mark.parametrize(("number", "num_bins"), [(60, 5), (63, 5), (23, 7)])
def test_binned_scores_are_those_of_scipy_on_equal_bins(number, num_bins):
    uncertainty, correct = items(30, number)
    score, pearson = binned(uncertainty, correct, num_bins)
    options = {"num_bins": num_bins}
    np.testing.assert_allclose(level_score(uncertainty, correct, **options), score)
    value = bin_correlation(uncertainty, correct, **options)
    np.testing.assert_allclose(value, pearson)


def test_binned_scores_by_hand():
    uncertainty = np.arange(10.0)
    falling = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0])  # 1, 1/2, 1/2, 0, 0
    # Levels -2..2 and mid-ranks 2, 1/2, 1/2, -3/2, -3/2: S = -9 / sqrt(90);
    # means minus 2/5 are 0.6, 0.1, 0.1, -0.4, -0.4: r = -2.5 / sqrt(10 * 0.7).
    pearson = -2.5 / math.sqrt(7.0)
    score = level_score(uncertainty, falling)
    np.testing.assert_allclose(score, 9 / math.sqrt(90) * pearson**2)
    np.testing.assert_allclose(bin_correlation(uncertainty, falling, num_bins=5), pearson)
    np.testing.assert_allclose(level_score(-uncertainty, falling), -score)
    single = level_score(uncertainty.astype(np.float32), falling)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, score, rtol=1e-5)


def test_binned_scores_do_not_see_how_far_the_line_falls():
    uncertainty = np.arange(400.0)
    for shares in ([1.0, 0.75, 0.5, 0.25], [0.53, 0.52, 0.51, 0.5]):
        correct = np.concatenate([np.arange(100) < round(100 * share) for share in shares])
        for statistic, ideal in zip(BINNED, (1.0, -1.0), strict=True):
            np.testing.assert_allclose(statistic(uncertainty, correct, num_bins=4), ideal)


def test_of_five_levels_four_percent_fall_by_chance():
    scores = [
        scipy.stats.spearmanr(order, range(5)).statistic
        for order in itertools.permutations(range(5))
    ]
    assert np.mean(np.array(scores) < -0.89) == 5 / 120


@pytest.mark.parametrize("statistic", BINNED)
def test_ties_are_spread_over_the_bins_that_they_span(statistic):
    uncertainty, correct = items(31, 60, levels=4)
    value = statistic(uncertainty, correct, num_bins=5)
    random = np.random.default_rng(32)
    for _ in range(3):
        place = random.permutation(60)
        again = statistic(uncertainty[place], correct[place], num_bins=5)
        np.testing.assert_allclose(again, value)
    # The means of bins are those over all orders of what ties.
    shuffled = []
    for _ in range(3000):
        place = random.permutation(60)
        order = place[np.argsort(uncertainty[place], kind="stable")]
        shuffled.append(correct[order].reshape(5, 12).mean(1))
    mean = np.mean(shuffled, axis=0)
    expected = scipy.stats.pearsonr(np.arange(5), mean).statistic
    value = bin_correlation(uncertainty, correct, num_bins=5)
    np.testing.assert_allclose(value, expected, atol=0.01)


@pytest.mark.parametrize("statistic", BINNED)
@pytest.mark.parametrize("levels", [None, 5])
def test_weights_of_binned_scores_are_repetitions(statistic, levels):
    uncertainty, correct = items(33, 60, levels)
    weights = np.random.default_rng(34).multinomial(60, np.full(60, 1 / 60))
    repeated = statistic(np.repeat(uncertainty, weights), np.repeat(correct, weights))
    np.testing.assert_allclose(statistic(uncertainty, correct, weights=weights), repeated)


@pytest.mark.parametrize("statistic", BINNED)
def test_binned_scores_where_nothing_can_be_told(statistic):
    same = np.tile([0.0, 1.0, 1.0], 10)  # each bin is right in two of three
    assert np.isnan(statistic(np.arange(30.0), same, num_bins=10))
    halves = np.repeat([0.0, 1.0], 15)  # one tie spans the bins 1 and 2 of three, and part of 0
    assert np.isnan(statistic(halves, np.tile([0.0, 1.0, 1.0], 10), num_bins=5))
    # Under `jit`, where nothing can be looked at.
    rising, halves = np.arange(30.0), np.tile([0.0, 1.0], 15)
    assert np.isnan(statistic(np.zeros(30), halves, num_bins=10))
    assert np.isnan(statistic(np.where(rising == 3, np.nan, rising), halves, num_bins=10))
    assert np.isnan(statistic(rising, np.ones(30), num_bins=10))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coverage_is_a_share_of_coordinates(dtype):
    found = np.random.default_rng(40).uniform(size=(50, 4)).astype(dtype)
    for level in (0.1, 0.5, 0.95):
        value = coverage(found, level=level)
        assert value.dtype == dtype
        np.testing.assert_allclose(value, np.mean(found <= level), rtol=1e-6)
    levels = np.arange(1, 20) / 20
    shares = np.array([np.mean(found <= level) for level in levels])
    error = coverage_error(found)
    assert error.dtype == dtype
    np.testing.assert_allclose(error, np.mean(np.abs(shares - levels)), rtol=1e-5)
    np.testing.assert_allclose(calibration.coverage_error(found), error, rtol=1e-6)
    place = np.random.default_rng(41).permutation(50)
    np.testing.assert_allclose(coverage_error(found[place][:, ::-1]), error, rtol=1e-5)


def test_coverage_by_hand():
    found = np.array([[0.0, 0.5], [0.6, 1.0]])
    assert coverage(found, level=0.5) == 0.5  # the end of an interval is within
    assert coverage(found, level=0.6) == 0.75
    weights = np.array([3.0, 1.0])
    assert coverage(found, level=0.5, weights=weights) == 0.75
    # Of levels 1/4, 1/2, 3/4 the shares are 1/4, 1/2, 3/4, then 3/8, 3/4, 7/8.
    np.testing.assert_allclose(coverage_error(found, num_levels=3), 0.0, atol=1e-15)
    value = coverage_error(found, num_levels=3, weights=weights)
    np.testing.assert_allclose(value, (1 / 8 + 1 / 4 + 1 / 8) / 3)
    for certain in (0.0, 1.0):  # every interval is too wide, or too narrow
        everywhere = np.full((3, 2), certain)
        np.testing.assert_allclose(coverage_error(everywhere), 0.5)


def test_weights_of_coverage_are_repetitions():
    random = np.random.default_rng(42)
    found, weights = random.uniform(size=(30, 3)), random.integers(0, 4, 30)
    repeated = np.repeat(found, weights, axis=0)
    for statistic in (
        functools.partial(coverage, level=0.7),
        functools.partial(coverage_error, num_levels=3),
    ):
        np.testing.assert_allclose(statistic(found, weights=weights), statistic(repeated))
        np.testing.assert_allclose(statistic(found, weights=0.1 * weights), statistic(repeated))


@pytest.mark.slow
def test_coverage_under_vmap():
    found = np.random.default_rng(43).uniform(size=(3, 20, 2))
    for statistic in (
        functools.partial(coverage, level=0.4),
        functools.partial(coverage_error, num_levels=3),
    ):
        expected = [statistic(one) for one in found]
        np.testing.assert_allclose(jax.vmap(statistic)(found), expected, rtol=1e-12)


def predictions(kind):
    """Distributions of 2000 items, and samples of SciPy from them."""
    random = np.random.default_rng(44)
    location, (scale, shape) = random.normal(size=(2000, 3)), random.uniform(0.6, 4.0, (2, 2000, 3))
    if kind == "gaussian":
        p = DiagonalGaussian(jnp.asarray(location), jnp.asarray(2.0 * np.log(scale)))
        return p, location + scale * random.normal(size=scale.shape)
    p = GeneralizedGaussian(*map(jnp.asarray, (location, scale, shape)))
    return p, scipy.stats.gennorm(shape, location, scale).rvs(random_state=random)


@pytest.mark.parametrize("kind", ["gaussian", "generalized_gaussian"])
def test_samples_of_predictions_are_covered_as_often_as_they_say(kind):
    p, x = predictions(kind)
    found = jax.jit(type(p).central_probability)(p, x)
    for level in (0.1, 0.5, 0.9):
        error = math.sqrt(level * (1 - level) / x.size)
        assert abs(coverage(found, level=level) - level) < 5 * error
    # Kolmogorov's distance exceeds 2 / sqrt(n) once in 1500.
    assert coverage_error(found) < 2 / math.sqrt(x.size)


def test_overconfident_predictions_cover_as_little_as_scipy_says():
    p, x = predictions("gaussian")
    narrow = p._replace(log_variance=p.log_variance - 2 * math.log(2.0))
    found = jax.jit(DiagonalGaussian.central_probability)(narrow, x)
    levels = np.arange(1, 20) / 20
    expected = 2 * scipy.stats.norm.cdf(0.5 * scipy.stats.norm.ppf(0.5 + 0.5 * levels)) - 1
    error = math.sqrt(0.25 / x.size)
    assert abs(coverage(found, level=0.9) - expected[17]) < 5 * error
    assert abs(coverage_error(found) - np.mean(levels - expected)) < 5 * error
    assert np.all(expected < levels)


def test_the_bootstrap_of_coverage_holds_it():
    found = np.random.default_rng(45).uniform(size=(400, 1))
    statistic = functools.partial(coverage, level=0.8)
    low, high = calibration.bootstrap_interval(
        jax.random.key(0), statistic, found, num_resamples=200
    )
    assert low < statistic(found) < high
    np.testing.assert_allclose(high - low, 2 * 1.96 * math.sqrt(0.8 * 0.2 / 400), rtol=0.25)


def grouped(groups):
    return calibration.bootstrap_interval(
        jax.random.key(0), jnp.average, np.arange(3.0), groups=groups
    )


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
        (
            lambda: calibration.kendall_tau(UNCERTAINTY, CORRECT[:2]),
            r"ambiguity must have one value per item, \(3,\), got \(2,\)",
        ),
        (
            lambda: calibration.spearman(UNCERTAINTY, np.full(3, 0.5)),
            "ambiguity must not be the same for all items that count, got 0.5 throughout",
        ),
        (
            lambda: calibration.kendall_tau(np.ones(3), CORRECT),
            "uncertainty must not be the same for all items that count, got 1 throughout",
        ),
        (
            lambda: calibration.kendall_tau(UNCERTAINTY, CORRECT, weights=CORRECT),
            "ambiguity must not be the same",
        ),
        (
            lambda: calibration.spearman(UNCERTAINTY, np.array([0.0, np.inf, 1.0])),
            r"ambiguity must be finite, got inf at index \(1,\)",
        ),
        (
            lambda: calibration.level_score(UNCERTAINTY, CORRECT),
            "num_bins must be at most the 3 items, got 5",
        ),
        (
            lambda: calibration.bin_correlation(UNCERTAINTY, CORRECT, num_bins=1),
            "num_bins must be at least 2, got 1",
        ),
        (
            lambda: calibration.bin_correlation(UNCERTAINTY, np.ones(3), num_bins=2),
            "correct must not be the same",
        ),
        (
            lambda: calibration.level_score(UNCERTAINTY, 2 * CORRECT, num_bins=2),
            r"correct must lie in 0..1",
        ),
        (
            lambda: calibration.level_score(
                UNCERTAINTY, CORRECT, num_bins=2, weights=np.array([1.0, 0.5, 1.0])
            ),
            "weights must be whole numbers, got 0.5",
        ),
        (lambda: calibration.equal_bins(UNCERTAINTY, num_bins=4), "at most the 3 items, got 4"),
        (lambda: calibration.equal_bins(UNCERTAINTY, num_bins=0), "num_bins must be at least 1"),
        (
            lambda: calibration.reliability(2 + UNCERTAINTY, CORRECT),
            r"probability must lie in 0..1",
        ),
        (
            lambda: calibration.coverage(UNCERTAINTY[:, None], level=1.0),
            r"level must lie between 0 and 1, got 1\.0",
        ),
        (
            lambda: calibration.coverage(UNCERTAINTY, level=0.5),
            r"central_probability must have shape \(item dimension\), got shape \(3,\)",
        ),
        (
            lambda: calibration.coverage(np.full((2, 1), np.nan), level=0.5),
            r"central_probability must be finite, got nan at index \(0, 0\)",
        ),
        (
            lambda: calibration.coverage_error(UNCERTAINTY[:, None] - 0.2),
            r"central_probability must lie in 0..1, got values from -0.1 to 0.1",
        ),
        (
            lambda: calibration.coverage_error(UNCERTAINTY[:, None], num_levels=0),
            "num_levels must be at least 1, got 0",
        ),
        (
            lambda: calibration.coverage_error(UNCERTAINTY[:, None], weights=np.ones(2)),
            r"weights must have one value per item, \(3,\), got \(2,\)",
        ),
        (
            lambda: calibration.coverage(UNCERTAINTY[:, None], level=0.5, weights=np.zeros(3)),
            "weights must be finite, not negative and not all 0, got values from 0 to 0",
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
        (lambda: grouped(np.zeros(3)), "groups must be two at least, got 1"),
        (lambda: grouped([0, 1]), "groups must be one name for each of 3 items, got 2"),
        (lambda: grouped([0, 1, np.nan]), "groups must be names such as numbers or strings, got n"),
        (lambda: grouped([[0], [1], [2]]), r"groups must be names such as .*, got \[0\]"),
        (
            lambda: calibration.bootstrap_interval(
                jax.random.key(0), calibration.r_auroc, UNCERTAINTY, np.ones(3)
            ),
            "correct must be 0 or 1 and hold both",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
