import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import expit

import probemb
from probemb import DiagonalGaussian, GaussianMixture
from probemb.pairs import matching


def isotropic(distance, variance, dimension, dtype=np.float64):
    """Two Gaussians whose means are `distance` and whose variances add up to `variance`.

    They stand in 128 dimensions, so that one program serves all, and have no width in the others.
    """
    mean, unit = np.zeros(128, dtype), np.eye(1, 128, dtype=dtype)[0]
    one, other = (
        np.where(np.arange(128) < dimension, np.log(share * variance), -300.0).astype(dtype)
        for share in (0.3, 0.7)
    )
    return DiagonalGaussian(distance * unit, one), DiagonalGaussian(mean, other)


@functools.cache
def expected_by_scipy(distance, variance, dimension, a, b):
    """Over the noncentral chi-squared distribution of |z_1 - z_2|^2 / variance."""
    chi = stats.ncx2(dimension, distance**2 / variance) if distance else stats.chi2(dimension)
    high = np.sqrt(variance * chi.isf(1e-15))
    low = max(0.0, high - 40.0 * np.sqrt(variance))

    def integrand(r):
        return expit(b - a * r) * chi.pdf(r * r / variance) * 2.0 * r / variance

    threshold = np.clip(b / a, low, high)
    options = {"limit": 400, "epsabs": 1e-13, "epsrel": 1e-12}
    return sum(
        integrate.quad(integrand, left, right, **options)[0]
        for left, right in ((low, threshold), (threshold, high))
    )


CASES = [
    (distance, variance, dimension, a, b)
    for dimension in (1, 2, 3, 16, 128)
    for variance in (1e-3, 0.3, 4.0)
    for distance in (0.0, 0.4, 3.0)
    for a, b in ((1.0, 0.5), (15.0, 15.0))
    if distance**2 / variance < 3e3
]


# A quadrature is a large program, here for few numbers: to optimize it takes longer than to run it.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@jit
def expected_match_probability(p, q, a, b):
    return probemb.expected_match_probability(p, q, negative_scale=a, shift=b)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 2e-9), (np.float32, 2e-6)])
def test_isotropic_gaussians_are_exact(dtype, tolerance):
    pairs = [isotropic(*case[:3], dtype) for case in CASES]
    p, q = jax.tree.map(lambda *leaves: np.stack(leaves), *pairs)
    a, b = np.array(CASES, dtype)[:, 3:].T
    values = jax.vmap(expected_match_probability)(p, q, a, b)
    expected = [expected_by_scipy(*case) for case in CASES]
    assert values.dtype == dtype
    np.testing.assert_allclose(values, expected, rtol=1e-7, atol=tolerance)


def test_rare_matches_keep_their_digits():
    p, q = isotropic(9.0, 1.0, 3)
    log_match, log_mismatch = jit(probemb.log_expected_match_probability)(
        p, q, negative_scale=6.0, shift=0.0
    )
    expected = expected_by_scipy(9.0, 1.0, 3, 6.0, 0.0)
    assert expected < 1e-8
    np.testing.assert_allclose(log_match, np.log(expected), rtol=1e-4)
    np.testing.assert_allclose(log_mismatch, -expected, atol=1e-15)


def test_no_variance_left_is_the_sigmoid_of_the_distance():
    p, q = (
        DiagonalGaussian(np.array(mean), np.full(2, -30.0)) for mean in ([0.3, 0.4], [0.0, 0.0])
    )
    value = expected_match_probability(p, q, 4.0, 1.0)
    np.testing.assert_allclose(value, expit(1.0 - 4.0 * 0.5), rtol=1e-9)


@pytest.mark.parametrize("dimension", [2, 16])
@pytest.mark.parametrize("ratio", [1.0, 10.0, 1000.0])
def test_diagonal_gaussians_against_a_million_samples(dimension, ratio):
    generator = np.random.default_rng(0)
    spread = np.geomspace(1.0, ratio, dimension)
    variance = 0.5 * dimension * spread / spread.sum()
    mean = generator.normal(size=dimension) / np.sqrt(dimension)
    p, q = (DiagonalGaussian(m, np.log(variance)) for m in (mean, 0.0 * mean))
    a, b = 3.0 / dimension**0.5, 3.0
    apart = mean + np.sqrt(2.0 * variance) * generator.normal(size=(10**6, dimension))
    matches = expit(b - a * np.linalg.norm(apart, axis=1))
    error = matches.std() / len(matches) ** 0.5
    value = expected_match_probability(p, q, a, b)
    bound = 4.0 * error if ratio == 1.0 else 0.01
    assert abs(float(value) - matches.mean()) < bound


def test_moments_are_matched():
    generator = np.random.default_rng(0)
    difference, log_variance = generator.normal(size=(2, 5))
    apart, spread = difference**2, np.exp(log_variance)
    variance, degrees = matching.matched_moments(apart, spread)
    chi = stats.ncx2(float(degrees), float(apart.sum() / variance), scale=float(variance))
    samples = difference + np.sqrt(spread) * generator.normal(size=(10**6, 5))
    squared = np.sum(samples**2, axis=1)
    assert chi.mean() == pytest.approx(float((apart + spread).sum()))
    exact = float((2 * spread**2 + 4 * apart * spread).sum())
    assert chi.var() == pytest.approx(exact)
    assert squared.var() == pytest.approx(exact, rel=0.02)


def test_mixtures_are_weighted_sums():
    components = DiagonalGaussian(np.array([[0.0, 0.0], [2.0, 0.0]]), np.zeros((2, 2)))
    p = GaussianMixture(np.log([0.2, 0.8]), components)
    q = DiagonalGaussian(np.zeros(2), np.zeros(2))
    parts = [
        expected_match_probability(jax.tree.map(lambda x, k=k: x[k], components), q, 2.0, 1.0)
        for k in range(2)
    ]
    value = expected_match_probability(p, q, 2.0, 1.0)
    np.testing.assert_allclose(value, 0.2 * parts[0] + 0.8 * parts[1], rtol=1e-12)

    @jit
    def estimate(p, q):
        x = p.stratified_sample(jax.random.key(0), 1000)
        y = q.sample(jax.random.key(1), (1000,))
        return probemb.monte_carlo_match_probability(x, y, negative_scale=2.0, shift=1.0)

    assert float(estimate(p, q)) == pytest.approx(float(value), abs=0.02)


@jit
def log_probabilities_with_gradients(p, q, a, b):
    def log_probabilities(p, q, a, b):
        yes, no = probemb.log_expected_match_probability(p, q, negative_scale=a, shift=b)
        return yes + 0.1 * no

    return jax.value_and_grad(log_probabilities, (0, 1, 2, 3))(p, q, a, b)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("log_variance", [-100.0, -30.0, 0.0, 30.0, 100.0])
@pytest.mark.parametrize("dimension", [1, 300])
def test_identical_gaussians_of_any_width_have_finite_gradients(dtype, log_variance, dimension):
    p = DiagonalGaussian(np.ones(dimension, dtype), np.full(dimension, log_variance, dtype))
    found = log_probabilities_with_gradients(p, p, dtype(15.0), dtype(5.0))
    chex.assert_tree_all_finite(found)


def test_a_hundred_standard_deviations_apart_with_sharp_logits():
    p, q = (
        DiagonalGaussian(np.full(1, m, np.float32), np.full(1, 4.0, np.float32)) for m in (0, 3500)
    )
    value, gradient = log_probabilities_with_gradients(p, q, np.float32(50.0), np.float32(0.0))
    assert float(value) == pytest.approx(-(3500.0**2) / (4.0 * np.exp(4.0)), rel=1e-3)
    chex.assert_tree_all_finite(gradient)
    assert expected_match_probability(p, q, np.float32(50.0), np.float32(0.0)) == 0.0


def test_float32_is_finite_and_near_float64_over_wide_ranges():
    generator, shape = np.random.default_rng(3), (2, 1500, 3)
    number = shape[1]
    means = 10.0 ** generator.uniform(-6.0, 6.0, (2, number, 1)) * generator.normal(size=shape)
    log_variances = generator.uniform(-35.0, 35.0, shape)
    means[:, :500, 1:], log_variances[:, :500, 1:] = 0.0, -35.0  # nearly one dimension
    equal = generator.random(number) < 0.2
    means[1, equal] = means[0, equal] * (1.0 + 1e-6)
    a = 10.0 ** generator.uniform(-3.0, 3.0, number)
    distance = np.sqrt(np.sum((means[0] - means[1]) ** 2 + np.exp(log_variances).sum(0), axis=-1))
    b = np.where(generator.random(number) < 0.5, a * distance, generator.uniform(-1e3, 1e3, number))
    p, q = (DiagonalGaussian(*one) for one in zip(means, log_variances, strict=True))
    narrow = jax.tree.map(np.float32, (p, q, a, np.clip(b, -1e3, 1e3)))
    near, exact = (
        wide_with_gradients(*jax.tree.map(dtype, narrow)) for dtype in (np.float32, np.float64)
    )
    chex.assert_tree_all_finite(near)
    # A shift of 1000 has no more digits than 6e-5.
    for mine, theirs in zip(near[0], exact[0], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=1e-4)
    for mine, theirs in zip(near[1][:2], exact[1][:2], strict=True):
        np.testing.assert_allclose(mine.log_variance, theirs.log_variance, atol=5e-5)
    np.testing.assert_allclose(near[1][3], exact[1][3], atol=2e-5)


@jit
@jax.vmap
def wide_with_gradients(p, q, a, b):
    """The two logarithms, and the gradient of the probability."""

    def probability(p, q, a, b):
        logs = probemb.log_expected_match_probability(p, q, negative_scale=a, shift=b)
        return jnp.exp(logs[0]), logs

    gradient, logs = jax.grad(probability, (0, 1, 2, 3), has_aux=True)(p, q, a, b)
    return logs, gradient


@jit
def monte_carlo_match_probability(x, y, a, b):
    return probemb.monte_carlo_match_probability(x, y, negative_scale=a, shift=b)


@pytest.mark.parametrize("common", [0.0, np.log(2.0), -5.0])
def test_log_weights_count_by_their_shares(common):
    x, y = np.array([[0.0], [2.0]]), np.zeros((1, 1))
    log_weights = np.log([0.25, 0.75]) + common
    value = monte_carlo_match_probability((x, log_weights), y, 1.0, 0.0)
    np.testing.assert_allclose(value, 0.25 * 0.5 + 0.75 * expit(-2.0), rtol=1e-12)


def test_monte_carlo_is_the_mean_over_all_pairs(golden):
    samples = [np.asarray(golden(f"{name}_samples")) for name in ("image", "text")]
    a, b = 2.0 * golden("pcme/negative_scale"), 2.0 * golden("pcme/shift")
    for x, y, released in zip(*samples, golden("pcme/match_probability_rowwise"), strict=True):
        value = monte_carlo_match_probability(x, y, a, b)
        by_hand = np.mean([[expit(b - a * np.linalg.norm(v - t)) for t in y] for v in x])
        np.testing.assert_allclose(value, by_hand, rtol=1e-12)
        np.testing.assert_allclose(value, released, rtol=3e-6)  # 1e-6 added, and float32


def test_rounding_makes_no_probability_above_1():
    @jit
    @jax.vmap
    def probabilities(logits):
        zeros = jnp.zeros((3, 2), logits.dtype)
        p = GaussianMixture(logits, DiagonalGaussian(zeros, zeros - 20.0))
        x = p.stratified_sample(jax.random.key(0), 16)
        return (
            probemb.monte_carlo_match_probability(x, x, negative_scale=1.0, shift=25.0),
            probemb.expected_match_probability(p, p, negative_scale=1.0, shift=60.0),
            probemb.self_mismatch(p, negative_scale=1.0, shift=-60.0),
        )

    logits = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    for found in map(np.asarray, probabilities(logits)):
        assert found.max() == 1.0 and found.min() > 1.0 - 1e-6


def test_closed_form_logit():
    p, q = isotropic(1.5, 0.2, 3)
    logit = probemb.closed_form_match_logit(p, q, negative_scale=2.0, shift=5.0)
    np.testing.assert_allclose(logit, 5.0 - 2.0 * (1.5**2 + 3 * 0.2), rtol=1e-12)


def test_self_mismatch_grows_with_the_width_and_agrees_with_samples():
    @jit
    @jax.vmap
    def exact_and_estimate(log_variance):
        p = DiagonalGaussian(jnp.array([7.0, -3.0]), jnp.full(2, log_variance))
        options = {"negative_scale": 3.0, "shift": 2.0}
        return probemb.self_mismatch(p, **options), probemb.monte_carlo_self_mismatch(
            jax.random.key(0), p, num_samples=300, **options
        )

    etas, estimates = exact_and_estimate(np.array([-6.0, -2.0, 0.0, 2.0]))
    np.testing.assert_allclose(estimates, etas, rtol=0.0, atol=0.02)
    assert np.all(np.diff(etas) > 0.0) and etas[-1] > 5.0 * etas[0]


@pytest.mark.slow
def test_jit_and_vmap_agree_with_single_calls():
    generator = np.random.default_rng(0)
    p, q = (DiagonalGaussian(*jnp.asarray(generator.normal(size=(2, 4, 3)))) for _ in range(2))

    def probability(p, q):
        return probemb.expected_match_probability(p, q, negative_scale=2.0, shift=1.0)

    single = [float(probability(*jax.tree.map(lambda x, k=k: x[k], (p, q)))) for k in range(4)]
    np.testing.assert_allclose(jax.jit(jax.vmap(probability))(p, q), single, rtol=1e-12)


P = DiagonalGaussian(jnp.zeros(3), jnp.zeros(3))
SHORT = DiagonalGaussian(jnp.zeros(2), jnp.zeros(2))
OPTIONS = {"negative_scale": 1.0, "shift": 0.0}
POINTS, KEY = jnp.zeros((2, 3)), jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: probemb.expected_match_probability(P, SHORT, **OPTIONS), ValueError,
         r"in one dimension .* got means of shape \(3,\) and \(2,\)"),
        (lambda: probemb.expected_match_probability(P, P, negative_scale=-2.0, shift=0.0),
         ValueError, "negative_scale must be positive, got -2"),
        (lambda: probemb.expected_match_probability(P, P, negative_scale=1.0, shift=jnp.nan),
         ValueError, "shift must be finite, got nan"),
        (lambda: probemb.expected_match_probability(P, None, **OPTIONS), TypeError,
         "q must be a DiagonalGaussian"),
        (lambda: probemb.monte_carlo_match_probability(POINTS, POINTS[:, :2], **OPTIONS),
         ValueError, "x and y must have one dimension"),
        (lambda: probemb.monte_carlo_match_probability(POINTS[0], POINTS, **OPTIONS), ValueError,
          r"x must have shape \(sample dimension\), got shape \(3,\)"),
        (lambda: probemb.monte_carlo_self_mismatch(KEY, P, num_samples=1.5, **OPTIONS), TypeError,
          "must be an integer, got 1.5"),
        (lambda: probemb.closed_form_match_logit(P, SHORT, **OPTIONS), ValueError, "one shape"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
