import csv
import functools
import gzip
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lasi_jax import agreement
from lasi_jax.judging.agreement import (
    UndefinedError,
    bootstrap_interval,
    fit_logistic,
    human_ceiling,
    jnd_average_precision,
    krcc,
    plcc,
    srcc,
    two_afc,
)

CURVES = ("logistic4", "logistic5")
KEY = jax.random.key(0)
CORRELATIONS = {
    "srcc": srcc,
    "krcc": krcc,
    **{curve: functools.partial(plcc, curve=curve) for curve in (*CURVES, "none")},
}
correlations = pytest.mark.parametrize("correlation", CORRELATIONS.values(), ids=CORRELATIONS)


def judged(count=200, seed=0):
    """Scores of a metric and opinions, both with ties."""
    generator = np.random.default_rng(seed)
    score = generator.normal(size=count).round(1)
    opinion = 5.0 / (1.0 + np.exp(-2.0 * score)) + 0.5 * generator.normal(size=count)
    return score, opinion.round(1)


def four(x, b1, b2, b3, b4):
    return (b1 - b2) / (1.0 + np.exp(-(x - b3) / b4)) + b2


def five(x, b1, b2, b3, b4, b5):
    return b1 * (0.5 - 1.0 / (1.0 + np.exp(b2 * (x - b3)))) + b4 * x + b5


FORMULAS = {"logistic4": four, "logistic5": five}


# 2AFC


def test_two_afc_by_hand():
    assert two_afc([1.0], [2.0], [0.25]) == 0.75
    assert two_afc([2.0], [1.0], [0.25]) == 0.25
    assert two_afc([1.0], [1.0], [0.25]) == 0.5
    assert two_afc([1.0, 2.0, 1.0], [2.0, 1.0, 1.0], [0.0, 1.0, 0.9]) == pytest.approx(2.5 / 3)


def test_two_afc_does_not_depend_on_which_image_is_first_nor_on_the_scale():
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 5, (2, 100)).astype(float)
    preference = generator.random(100)
    score = two_afc(first, second, preference)
    assert two_afc(second, first, 1.0 - preference) == pytest.approx(score)
    assert two_afc(np.exp(first), np.exp(second), preference) == score
    assert two_afc(-first, -second, preference) == pytest.approx(1.0 - score)


def test_a_judge_scores_the_human_ceiling_against_another():
    assert human_ceiling([0.0, 1.0]) == 1.0
    assert human_ceiling([0.5]) == 0.5
    assert human_ceiling([0.2, 0.75]) == pytest.approx((0.68 + 0.625) / 2)
    preference, generator = np.full(100_000, 0.3), np.random.default_rng(0)
    judge = (generator.random(100_000) < preference).astype(float)
    assert two_afc(judge, 1.0 - judge, preference) == pytest.approx(0.58, abs=5e-3)
    assert human_ceiling(preference) == pytest.approx(0.58)


# The file's own scores, and people's in table 5 of the LPIPS paper with how far they may be off:
# for two subsets these votes do not give what the table says.
BAPPS = {
    "traditional": (77.48, 80.8, 0.06),
    "cnn": (82.87, 84.4, 0.06),
    "superres": (71.19, 73.4, 0.25),
    "deblur": (61.04, 67.1, 1.05),
    "color": (65.23, 68.8, 0.06),
    "frameinterp": (62.43, 68.6, 0.06),
}


def test_two_afc_of_bapps(data):
    with gzip.open(data / "bapps_votes" / "lpips_alex.csv.gz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36_344
    for subset, (score, ceiling, off) in BAPPS.items():
        of_subset = [row for row in rows if row["subset"] == subset]
        d0, d1, preference = (
            [float(row[name]) for row in of_subset] for name in ("d0", "d1", "human_prefers_p1")
        )
        assert 100 * two_afc(d0, d1, preference) == pytest.approx(score, abs=5e-3), subset
        assert 100 * human_ceiling(preference) == pytest.approx(ceiling, abs=off), subset


# JND


def brute_force_average_precision(distance, same):
    """One threshold after the other; the precision at a recall is the best at that or more."""
    points = []
    for threshold in sorted(set(distance)):
        accepted = [s for d, s in zip(distance, same, strict=True) if d <= threshold]
        points.append((sum(accepted) / sum(same), sum(accepted) / len(accepted)))
    area, before = 0.0, 0.0
    for recall, _ in points:
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return area


def test_jnd_by_hand():
    assert jnd_average_precision([0.1, 0.2, 0.3], [1.0, 1.0, 0.0]) == 1.0
    # recall 0, 1/2, 1 at precision 0, 1/2, 2/3: the envelope is 2/3 throughout
    assert jnd_average_precision([0.1, 0.2, 0.3], [0.0, 1.0, 1.0]) == pytest.approx(2 / 3)
    assert jnd_average_precision([0.3, 0.2, 0.1], [1.0, 0.0, 0.5]) == pytest.approx(0.5)


@pytest.mark.parametrize("values", [5, 1000])
def test_jnd_equals_brute_force_with_soft_labels_and_ties(values):
    generator = np.random.default_rng(values)
    distance = generator.integers(0, values, 60) / 7.0
    same = generator.integers(0, 4, 60) / 3.0
    expected = brute_force_average_precision(distance.tolist(), same.tolist())
    assert jnd_average_precision(distance, same) == pytest.approx(expected, abs=1e-12)


def test_jnd_does_not_depend_on_the_order_of_items():
    generator = np.random.default_rng(0)
    distance, same = generator.integers(0, 4, 50), generator.integers(0, 4, 50) / 3.0
    order = generator.permutation(50)
    score = jnd_average_precision(distance, same)
    assert jnd_average_precision(distance[order], same[order]) == pytest.approx(score, abs=1e-12)
    assert jnd_average_precision(np.exp(distance), same) == score
    assert jnd_average_precision(np.zeros(50), same) == pytest.approx(same.mean())


# Correlations


def test_correlations_by_hand():
    score, opinion = [1.0, 2.0, 2.0, 4.0], [1.0, 3.0, 2.0, 2.0]
    # ranks 1 2.5 2.5 4 and 1 4 2.5 2.5: sums of squares 4.5, of products 1.5 * 1.5
    assert srcc(score, opinion) == pytest.approx(2.25 / 4.5)
    # 3 concordant pairs, 1 discordant, 1 tied in either
    assert krcc(score, opinion) == pytest.approx(2 / 5)
    assert plcc([0.0, 1.0, 2.0], [1.0, 0.0, 2.0], curve="none") == pytest.approx(0.5)


def test_correlations_equal_scipy_and_counted_pairs():
    score, opinion = judged()
    assert srcc(score, opinion) == pytest.approx(stats.spearmanr(score, opinion)[0], abs=1e-12)
    expected = stats.pearsonr(score, opinion)[0]
    assert plcc(score, opinion, curve="none") == pytest.approx(expected, abs=1e-12)
    of_score, of_opinion = (np.sign(x[:, None] - x) for x in (score, opinion))
    pairs = math.sqrt(np.sum(of_score != 0) * np.sum(of_opinion != 0))
    assert krcc(score, opinion) == pytest.approx(np.sum(of_score * of_opinion) / pairs, abs=1e-12)


@pytest.mark.parametrize("correlation", [srcc, krcc])
def test_a_monotone_map_leaves_rank_correlations(correlation):
    score, opinion = judged()
    value = correlation(score, opinion)
    assert correlation(np.exp(score), opinion**3) == pytest.approx(value, abs=1e-12)
    assert correlation(-score, opinion) == pytest.approx(-value, abs=1e-12)
    assert correlation(opinion, score) == pytest.approx(value, abs=1e-12)


def test_an_affine_map_leaves_plcc_and_a_fit_its_sign():
    score, opinion = judged()
    for curve in (*CURVES, "none"):
        value = plcc(score, opinion, curve=curve)
        moved = plcc(3e-7 * score - 5e-6, 1e4 * opinion + 1e5, curve=curve)
        assert moved == pytest.approx(value, abs=1e-6), curve
        falling = -value if curve == "none" else value
        assert plcc(-score, opinion, curve=curve) == pytest.approx(falling, abs=1e-6), curve


@correlations
def test_of_any_kind_of_array(correlation):
    score, opinion = judged(50)
    assert isinstance(correlation(score, opinion), float)
    as_jax = correlation(jnp.asarray(score, jnp.float32), jnp.asarray(opinion, jnp.float32))
    assert as_jax == pytest.approx(correlation(score, opinion), abs=1e-5)
    assert correlation(jnp.arange(8, dtype=jnp.bfloat16), list(range(8))) == pytest.approx(1.0)


# Fits


@pytest.mark.parametrize(
    ("curve", "parameters"),
    [
        ("logistic4", (4.5, 1.0, 30.0, 4.0)),
        ("logistic4", (1.0, 4.5, 30.0, 0.5)),
        ("logistic4", (1.0, 4.5, 45.0, 6.0)),  # its center lies beyond all scores
        ("logistic5", (-3.0, 0.3, 28.0, 0.01, 2.0)),
        ("logistic5", (3.0, 1.5, 33.0, -0.2, 9.0)),  # not monotone
    ],
    ids=str,
)
def test_a_curve_is_recovered(curve, parameters):
    score = np.random.default_rng(0).uniform(20.0, 40.0, 300)
    opinion = FORMULAS[curve](score, *parameters)
    fit = fit_logistic(score, opinion, curve=curve)
    np.testing.assert_allclose(fit.parameters, parameters, rtol=1e-4)
    np.testing.assert_allclose(fit(score), opinion, atol=1e-5)
    assert plcc(score, opinion, curve=curve) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("curve", CURVES)
def test_a_fit_evaluates_the_formula_of_its_parameters(curve):
    fit = fit_logistic(*judged(), curve=curve)
    places = np.linspace(-3.0, 3.0, 6).reshape(2, 3)
    np.testing.assert_allclose(fit(places), FORMULAS[curve](places, *fit.parameters), atol=1e-10)
    assert fit.curve == curve and np.isfinite(fit([-1e9, 1e9])).all()


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("of_score", [np.exp, np.negative, lambda x: 1e-9 * x + 1e-3])
def test_no_other_search_finds_a_better_fit(curve, of_score):
    from scipy import optimize

    score, opinion = judged(80)
    score = of_score(score)
    fit = fit_logistic(score, opinion, curve=curve)
    residual = np.square(fit(score) - opinion).sum()
    correlation = stats.pearsonr(fit(score), opinion)[0]
    assert plcc(score, opinion, curve=curve) == pytest.approx(correlation, abs=1e-9)

    def of_place(place):
        sigmoid = 1.0 / (1.0 + np.exp(-np.clip((x - place[0]) / np.exp(place[1]), -500, 500)))
        columns = [sigmoid, np.ones_like(x), *([x] if curve == "logistic5" else [])]
        linear = np.linalg.lstsq(np.stack(columns, 1), opinion, rcond=None)[0]
        return np.square(np.stack(columns, 1) @ linear - opinion).sum()

    x = stats.zscore(score)
    found = optimize.brute(
        of_place, ((-3.0, 3.0), (-4.0, 2.0)), Ns=25, finish=optimize.fmin, full_output=True
    )
    assert residual <= found[1] * (1.0 + 1e-6)


def test_five_parameters_are_never_worse_than_a_straight_line():
    for seed in range(10):
        score, opinion = np.random.default_rng(seed).standard_cauchy((2, 6 + 5 * seed))
        line = abs(plcc(score, opinion, curve="none"))
        assert plcc(score, opinion, curve="logistic5") >= line - 1e-9, seed
    score = np.linspace(2.0, 3.0, 20)
    fit = fit_logistic(score, 7.0 - 2.0 * score, curve="logistic5")
    np.testing.assert_allclose(fit(score), 7.0 - 2.0 * score, atol=1e-9)


@pytest.mark.parametrize("curve", CURVES)
def test_scores_that_hardly_allow_a_fit(curve):
    two = np.tile([0.0, 1.0], 6)
    opinion = np.arange(12.0)
    expected = abs(np.corrcoef(two, opinion)[0, 1])  # any curve only joins the two means
    assert plcc(two, opinion, curve=curve) == pytest.approx(expected, abs=1e-9)
    assert plcc(two, np.repeat([0.0, 1.0, 0.0], 4), curve=curve) == pytest.approx(0.0, abs=1e-7)
    step = np.where(opinion < 5.0, 2.0, 3.0)
    assert plcc(opinion, step, curve=curve) == pytest.approx(1.0, abs=1e-6)
    outlier = np.append(np.linspace(0.0, 1.0, 30), 1e6)
    assert 0.0 <= plcc(outlier, np.append(np.linspace(1.0, 0.0, 30), 0.5), curve=curve) <= 1.0


def test_skewed_scores_are_fitted():
    x = stats.norm.ppf((np.arange(300) + 0.5) / 300)
    four_parameters = plcc(x, np.exp(x), curve="logistic4")
    assert four_parameters == pytest.approx(0.999988, abs=1e-6)
    assert plcc(x, np.exp(x), curve="logistic5") >= four_parameters
    assert plcc(np.exp(x), x, curve="logistic5") >= plcc(np.exp(x), x, curve="logistic4") > 0.96


def test_noise_is_fitted_where_a_grid_says():
    generator = np.random.default_rng(25)
    score, opinion = generator.standard_normal(100), generator.standard_normal(100)
    least = plcc(score, opinion, curve="logistic4")
    assert 0.2631 <= least <= plcc(score, opinion, curve="logistic5")


def test_a_single_outlier_hides_no_curve():
    score = np.linspace(-3.0, 3.0, 100)
    opinion = np.append(1.0 / (1.0 + np.exp(-4.0 * score)), 1.0)
    for curve in CURVES:
        assert plcc(np.append(score, 1e4), opinion, curve=curve) > 0.999999, curve
        assert plcc(-np.append(score, 1e4), opinion, curve=curve) > 0.999999, curve


def best_of_a_grid(score, opinion, degree):
    """The greatest correlation of a curve whose sigmoid lies on a dense grid.

    By its own formula: the multiple correlation of the opinion with sigmoid and polynomial.
    """
    x, y = stats.zscore(score), stats.zscore(opinion)
    polynomial = np.linalg.qr(np.vander(x, degree + 1))[0]
    rest = y - polynomial @ (polynomial.T @ y)
    best = 0.0
    between = np.sort(np.concatenate([x, (np.sort(x)[1:] + np.sort(x)[:-1]) / 2]))
    for scale in np.geomspace(1e-3, 10.0, 40):
        near = (between[:, None] + scale * np.linspace(-2.0, 2.0, 9)).ravel()
        centers = near if scale < 0.1 else np.linspace(x.min() - 3.0, x.max() + 3.0, 300)
        z = (x - centers[:, None]) / scale
        sigmoid = 0.5 + 0.5 * np.tanh(z / 2.0)
        sigmoid -= (sigmoid @ polynomial) @ polynomial.T
        square = np.square(sigmoid).sum(1)
        gain = np.square(sigmoid @ rest) / np.where(square > 1e-12, square, np.inf)
        best = max(best, gain.max())
    return math.sqrt(1.0 - (rest @ rest - best) / len(x))


def odd_data(generator, kind, count=60):
    score, opinion = generator.standard_normal((2, count))
    return {
        "noise": lambda: (score, opinion),
        "skewed": lambda: (np.exp(2.0 * score), score + 0.5 * opinion),
        "bump": lambda: (score, np.exp(-np.square(score)) + 0.2 * opinion),
        "heavy tails": lambda: tuple(generator.standard_cauchy((2, count))),
        "ties": lambda: (score.round(), opinion),
        "falling": lambda: (score, np.tanh(-3.0 * score) + 0.3 * opinion),
        "few": lambda: (score[:7], opinion[:7]),
    }[kind]()


KINDS = ("noise", "skewed", "bump", "heavy tails", "ties", "falling", "few")


@pytest.mark.parametrize("kind", KINDS)
def test_no_dense_grid_beats_a_fit(kind):
    for seed in range(4):
        score, opinion = odd_data(np.random.default_rng(seed), kind)
        for degree, curve in enumerate(CURVES):
            found = plcc(score, opinion, curve=curve)
            assert found >= best_of_a_grid(score, opinion, degree) - 1e-6, (seed, curve)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS), st.integers(6, 400))
def test_five_parameters_are_never_worse_than_four(seed, kind, count):
    score, opinion = odd_data(np.random.default_rng(seed), kind, count)
    try:
        four_parameters = plcc(score, opinion, curve="logistic4")
    except UndefinedError:  # ties throughout
        return
    five_parameters = plcc(score, opinion, curve="logistic5")
    assert five_parameters >= four_parameters - 1e-9
    assert five_parameters >= abs(plcc(score, opinion, curve="none")) - 1e-9


@pytest.mark.parametrize("unit", [1e-310, 1e-200, 1e200, 2e307])
def test_fits_and_correlations_of_any_magnitude(unit):
    score, opinion = judged(40)
    for name, correlation in CORRELATIONS.items():
        expected = correlation(score, opinion)
        assert correlation(unit * score, opinion) == pytest.approx(expected, abs=1e-5), name
        assert correlation(score, unit * opinion) == pytest.approx(expected, abs=1e-5), name


# Precision


def test_what_only_orders_compares_numbers_as_they_are_given():
    large = 2**53 + np.arange(4)  # of which float64 holds every other
    small = 1 + np.arange(4) * np.finfo(np.longdouble).eps
    assert len(np.unique(large.astype(np.float64))) < 4
    for score in (
        large,
        large.astype(np.uint64),
        np.uint64(2**64 - 4) + np.arange(4, dtype=np.uint64),
        small,
        np.arange(4) * 5e-324,
        np.array([1e300, 2e300, 3e300, 4e300]),
    ):
        for way in (score, score.astype(score.dtype.newbyteorder())):
            assert srcc(way, np.arange(4)) == krcc(way, np.arange(4)) == pytest.approx(1.0)
            assert two_afc(way[:-1], way[1:], np.zeros(3)) == 1.0
            assert two_afc(way[1:], way[:-1], np.zeros(3)) == 0.0
            assert jnd_average_precision(way, [1, 1, 0, 0]) == 1.0
    assert two_afc(large, large.astype(np.float64), np.ones(4)) == pytest.approx(0.5)
    assert two_afc([2**53], np.array([2**53 + 1], np.uint64), [0.0]) == 1.0


def test_arrays_of_the_other_byte_order_and_strides():
    score, opinion = judged(50)
    for name, correlation in CORRELATIONS.items():
        odd = np.repeat(score.astype(">f8"), 2)[::2], opinion.astype(">f4")
        assert correlation(*odd) == pytest.approx(correlation(score, opinion), abs=1e-5), name


# Intervals


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
    generator, covered, widths = np.random.default_rng(0), 0, []
    for seed in range(200):
        low, high = bootstrap_interval(
            jax.random.key(seed), np.mean, generator.normal(size=50), num_resamples=100, level=0.8
        )
        covered += low <= 0.0 <= high
        widths.append(high - low)
    assert 0.72 <= covered / 200 <= 0.86  # 3 standard errors are 0.085
    assert np.mean(widths) == pytest.approx(2 * 1.2816 / math.sqrt(50), rel=0.05)


def test_an_interval_resamples_items_together_and_by_its_key():
    score, opinion = judged(60)

    def together(x, y):
        assert set(zip(x, y, strict=True)) <= set(zip(score, opinion, strict=True))
        return srcc(x, y)

    interval = bootstrap_interval(KEY, together, score, opinion, num_resamples=50)
    assert interval == bootstrap_interval(KEY, srcc, score, opinion, num_resamples=50)
    raw = jax.random.PRNGKey(0)
    assert interval == bootstrap_interval(raw, srcc, score, opinion, num_resamples=50)
    other = jax.random.key(1)
    assert interval != bootstrap_interval(other, srcc, score, opinion, num_resamples=50)
    assert -1.0 <= interval[0] < srcc(score, opinion) < interval[1] <= 1.0
    wide = bootstrap_interval(KEY, srcc, score, opinion, num_resamples=50, level=0.99)
    assert wide[0] <= interval[0] and interval[1] <= wide[1]


def test_groups_are_drawn_whole():
    group = np.array(["b", "a", "b", "c", "a", "b"])
    sizes = {"a": 2, "b": 3, "c": 1}
    seen = []

    def count(names):
        times = {name: np.sum(names == name) / size for name, size in sizes.items()}
        seen.append(sum(times.values()))
        assert all(float(t).is_integer() for t in times.values())
        return len(names)

    low, high = bootstrap_interval(KEY, count, group, groups=group, level=0.999)
    assert set(seen) == {3.0} and (low, high) == (3.0, 9.0)


def test_what_a_group_shares_makes_the_interval_wider():
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 20)
    values = generator.normal(size=30)[group] + 0.1 * generator.normal(size=600)
    low, high = bootstrap_interval(KEY, np.mean, values, num_resamples=300)
    wide_low, wide_high = bootstrap_interval(KEY, np.mean, values, num_resamples=300, groups=group)
    assert (wide_high - wide_low) / (high - low) == pytest.approx(math.sqrt(20), rel=0.2)


def test_resamples_without_a_value_are_left_out():
    score, opinion = [0.0, 0.0, 0.0, 1.0], [1.0, 2.0, 3.0, 4.0]  # a third are constant
    interval = bootstrap_interval(KEY, srcc, score, opinion, num_resamples=200)

    for no_value in (np.nan, np.inf, -np.inf):

        def or_none(x, y, no_value=no_value):
            return srcc(x, y) if np.ptp(x) and np.ptp(y) else no_value

        assert interval == bootstrap_interval(KEY, or_none, score, opinion, num_resamples=200)
    assert np.isfinite(interval).all()
    with pytest.raises(UndefinedError, match="statistic must be defined for some of 5 resamples"):
        bootstrap_interval(KEY, lambda x: np.nan, score, num_resamples=5)


def test_a_mistake_in_a_statistic_is_not_taken_for_an_undefined_resample():
    def wrong(x):
        if len(set(x.tolist())) < len(x):
            raise ValueError("a mistake")
        return 0.0

    with pytest.raises(ValueError, match="a mistake"):
        bootstrap_interval(KEY, wrong, np.arange(50.0))


# Bad input


@correlations
def test_bad_items(correlation):
    good = np.arange(10.0)
    for bad, message in (
        (good[:9], "opinion must have one value per item as score has, 10, got 9"),
        (np.where(good == 3, np.nan, good), "opinion must be finite, got nan at item 3"),
        (np.where(good == 4, np.inf, good), "opinion must be finite, got inf at item 4"),
        (good[:, None], r"opinion must have shape \(item,\)"),
        (np.ones(10), "opinion must not be the same for all items, got 1 throughout"),
    ):
        with pytest.raises(ValueError, match=message):
            correlation(good, bad)
    with pytest.raises(UndefinedError, match="score must not be the same"):
        correlation(np.full(10, 0.1), good)
    with pytest.raises(ValueError, match=r"score must have .* at least one item"):
        correlation([], [])
    with pytest.raises(TypeError, match="opinion must hold real numbers, got dtype complex128"):
        correlation(good, good + 1j)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: two_afc([1.0], [1.0, 2.0], [0.5]), "distance_1 must have one value per item"),
        (lambda: two_afc([1.0], [np.nan], [0.5]), "distance_1 must be finite"),
        (lambda: two_afc([1.0], [2.0], [1.5]), r"preference must lie in 0\.\.1.* to 1.5"),
        (lambda: two_afc([], [], []), "distance_0 must have .* at least one item"),
        (lambda: human_ceiling([1.0, np.nextafter(1.0, 2.0)]), "to 1.0000000000000002"),
        (lambda: human_ceiling([-0.1, 0.2]), r"preference must lie in 0\.\.1.*from -0.1"),
        (lambda: human_ceiling([]), "preference must have"),
        (lambda: jnd_average_precision([1.0, 2.0], [1.0]), "same must have one value per item"),
        (lambda: jnd_average_precision([1.0], [3.0]), r"same must lie in 0\.\.1"),
        (lambda: jnd_average_precision([np.inf], [1.0]), "distance must be finite"),
        (lambda: jnd_average_precision([1.0], [0.0]), "same must be positive for some item"),
        (lambda: fit_logistic([1.0], [1.0], curve="none"), "curve must be one of .*got 'none'"),
        (lambda: fit_logistic([1.0], [1.0], curve=["logistic4"]), r"curve must be one of.*\['log"),  # type: ignore[arg-type]
        (lambda: plcc([1.0], [1.0], curve="cubic"), "curve must be one of .*none.*got 'cubic'"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("curve", "count"), [("logistic4", 4), ("logistic5", 5)])
def test_too_few_items_for_a_fit(curve, count):
    score = np.arange(count + 1.0)
    assert np.isfinite(plcc(score, score**2, curve=curve))
    with pytest.raises(UndefinedError, match=f"score must have more than {count} items"):
        plcc(score[:-1], score[:-1] ** 2, curve=curve)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_resamples": 0}, "num_resamples must be at least 1, got 0"),
        ({"level": 0.0}, "level must be a number with 0 < level < 1, got 0.0"),
        ({"level": 1.0}, "level must be .*got 1.0"),
        ({"level": math.nan}, "level must be .*got nan"),
        ({"groups": [0, 1]}, r"groups must have one value per item, \(3,\), got \(2,\)"),
        ({"groups": [0, 0, 0]}, "at least two groups"),
    ],
)
def test_bad_resampling(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(KEY, np.mean, np.arange(3.0), **options)


def test_an_interval_needs_a_key():
    for key in (0, None, np.mean, np.uint32([1, 2, 3]), jax.random.split(KEY), [0, 1]):
        with pytest.raises(
            TypeError, match=r"key must be one key of jax\.random with a value, got"
        ):
            bootstrap_interval(key, np.mean, np.arange(3.0))
    with pytest.raises(TypeError, match="key must be one key"):
        jax.jit(lambda key: bootstrap_interval(key, np.mean, np.arange(3.0)))(KEY)


def test_bad_items_of_an_interval():
    with pytest.raises(TypeError, match=r"num_resamples must be an integer, got 10\.0"):
        bootstrap_interval(KEY, np.mean, np.arange(3.0), num_resamples=10.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one length, at least one, got lengths \[3, 2\]"):
        bootstrap_interval(KEY, srcc, np.arange(3.0), np.arange(2.0))
    with pytest.raises(ValueError, match="items must be arrays of one length"):
        bootstrap_interval(KEY, np.mean)
    with pytest.raises(ValueError, match="items must be arrays of one length"):
        bootstrap_interval(KEY, np.mean, 1.0)
    with pytest.raises(agreement.UndefinedError, match="score must not be the same"):
        bootstrap_interval(KEY, srcc, np.ones(3), np.arange(3.0))
