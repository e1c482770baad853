import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad

from probemb import DiagonalGaussian, GaussianMixture
from probemb.distributions.gaussians import standard_normal


def gaussian_of(shape, seed=0, dtype=np.float64):
    generator = np.random.default_rng(seed)
    return DiagonalGaussian(
        generator.normal(size=shape).astype(dtype),
        generator.uniform(-1.0, 1.0, shape).astype(dtype),
    )


def mixture_of(shape, seed=0, dtype=np.float64):
    logits = np.random.default_rng(seed + 99).normal(size=shape[:-1]).astype(dtype)
    return GaussianMixture(logits, gaussian_of(shape, seed, dtype))


def points_of(shape, dtype=np.float64):
    return np.random.default_rng(7).normal(size=shape).astype(dtype)


def scipy_log_prob(p, x):
    return scipy.stats.norm.logpdf(x, p.mean, np.exp(0.5 * p.log_variance)).sum(-1)


FUNCTIONS = {
    "log_prob": lambda p, q, x: p.log_prob(x),
    "entropy": lambda p, q, x: p.entropy(),
    "kl_divergence": lambda p, q, x: p.kl_divergence(q),
    "sample": lambda p, q, x: p.sample(jax.random.key(0)),
    "central_probability": lambda p, q, x: p.central_probability(x),
}
OF_MIXTURES = {
    "log_prob": lambda p, x: p.log_prob(x),
    "variance": lambda p, x: p.variance,
    "stratified_sample": lambda p, x: p.stratified_sample(jax.random.key(0), 2),
}


def of_gaussians(p, q, x):
    return {name: function(p, q, x) for name, function in FUNCTIONS.items()}


def of_mixtures(p, x):
    return {name: function(p, x) for name, function in OF_MIXTURES.items()}


values = jax.jit(of_gaussians)
log_prob = jax.jit(lambda p, x: p.log_prob(x))
kl_divergence = jax.jit(lambda p, q: p.kl_divergence(q))
moments = jax.jit(lambda p: (p.mean, p.variance))
sample = jax.jit(lambda p, key, number: p.sample(key, (number,)), static_argnums=2)


def near_mean(samples, expected):
    """The mean over the first axis is within five standard errors of what it should be."""
    samples = np.asarray(samples)
    error = np.std(samples, axis=0) / np.sqrt(len(samples))
    assert np.all(np.abs(np.mean(samples, axis=0) - np.asarray(expected)) < 5.0 * error)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.int32])
def test_variances_of_every_number_type_are_those_of_the_logarithm(dtype):
    p = DiagonalGaussian(jnp.zeros(2), jnp.full(2, 5, dtype))
    np.testing.assert_allclose(p.variance.astype(jnp.float32), np.exp(5.0), rtol=1e-2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_variances_beyond_the_floats_leave_their_sums_finite(dtype):
    p = DiagonalGaussian(np.zeros(1000, dtype), np.full(1000, 2000.0, dtype))
    for of_all in (lambda p: jnp.sum(p.variance), lambda p: jnp.sum(p.standard_deviation)):
        chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(of_all))(p))


def test_standard_deviation_and_variance():
    p = DiagonalGaussian(np.zeros(2), np.log([4.0, 9.0]))
    np.testing.assert_allclose(p.variance, [4.0, 9.0])
    np.testing.assert_allclose(p.standard_deviation, [2.0, 3.0])


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 4)], ids=str)
def test_log_prob_and_entropy_equal_scipy(shape):
    p, x = gaussian_of(shape), points_of(shape)
    found = values(p, p, x)
    np.testing.assert_allclose(found["log_prob"], scipy_log_prob(p, x), rtol=1e-12)
    entropy = scipy.stats.norm.entropy(scale=np.exp(0.5 * p.log_variance)).sum(-1)
    np.testing.assert_allclose(found["entropy"], entropy, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_central_probability_equals_scipy(dtype):
    p, x = gaussian_of((2, 3), dtype=dtype), points_of((2, 3), dtype)
    central_probability = jax.jit(p.central_probability)
    found = central_probability(x)
    assert found.dtype == dtype
    mean, deviation = p.mean.astype(float), np.exp(0.5 * p.log_variance.astype(float))
    half = np.abs(x.astype(float) - mean)
    normal = scipy.stats.norm(mean, deviation)
    expected = normal.cdf(mean + half) - normal.cdf(mean - half)
    np.testing.assert_allclose(found, expected, rtol=1e-10 if dtype == np.float64 else 1e-5)
    np.testing.assert_allclose(central_probability(2 * p.mean - x), found, rtol=1e-5)
    np.testing.assert_array_equal(central_probability(p.mean), np.zeros((2, 3)))
    far = central_probability((mean + 40.0 * deviation).astype(dtype))
    np.testing.assert_array_equal(far, np.ones((2, 3)))


def test_float32_stays_float32():
    p, x = gaussian_of((2, 3), dtype=np.float32), points_of((2, 3), np.float32)
    found = values(p, p, x)
    chex.assert_type(list(found.values()), jnp.float32)
    expected = scipy_log_prob(jax.tree.map(np.float64, p), x)
    np.testing.assert_allclose(found["log_prob"], expected, rtol=1e-5)


def test_dtypes_mix_to_the_wider_and_half_precision_becomes_float32():
    mean, log_variance = np.ones(2, np.float32), np.full(2, 0.5)
    p = DiagonalGaussian(mean, log_variance)
    with jax.numpy_dtype_promotion("standard"):
        found = jax.eval_shape(lambda: (p.entropy(), p.log_prob(mean)))
    chex.assert_type(found, jnp.float64)
    half = DiagonalGaussian(*(np.ones(2, jnp.bfloat16) for _ in range(2)))
    found = jax.eval_shape(lambda: (half.entropy(), half.sample(jax.random.key(0))))
    chex.assert_type(found, jnp.float32)


def test_kl_divergence_equals_quadrature():
    p, q = gaussian_of((20, 3), 1), gaussian_of((20, 3), 2)

    def in_one_dimension(d):
        one, other = (
            scipy.stats.norm(g.mean[0, d], np.exp(0.5 * g.log_variance[0, d])) for g in (p, q)
        )
        return quad(
            lambda x: one.pdf(x) * (one.logpdf(x) - other.logpdf(x)), -12.0, 12.0, epsabs=1e-11
        )[0]

    expected = sum(map(in_one_dimension, range(3)))
    np.testing.assert_allclose(kl_divergence(p, q)[0], expected, rtol=1e-9)


def test_kl_divergence_of_equals_is_zero_and_else_positive():
    p, q = gaussian_of((20, 3), 1), gaussian_of((20, 3), 2)
    np.testing.assert_array_equal(kl_divergence(p, p), np.zeros(20))
    assert np.all(np.asarray(kl_divergence(p, q)) > 0.0)


def test_kl_to_the_standard_normal():
    p = gaussian_of((20, 3))
    variance = np.exp(p.log_variance)
    expected = 0.5 * np.sum(p.mean**2 + variance - 1.0 - np.log(variance), axis=-1)
    np.testing.assert_allclose(kl_divergence(p, standard_normal(p.mean)), expected, rtol=1e-12)


def test_sample_moments():
    p = gaussian_of((2, 3))
    samples = np.asarray(sample(p, jax.random.key(1), 20_000))
    assert samples.shape == (20_000, 2, 3)
    near_mean(samples, p.mean)
    near_mean((samples - p.mean) ** 2, np.exp(p.log_variance))
    near_mean(samples[:, :, 0] * samples[:, :, 1], p.mean[:, 0] * p.mean[:, 1])


def test_samples_carry_derivatives_in_both_fields():
    p = gaussian_of((3,))

    @jax.jit
    def sample_and_slopes(p):
        samples, pull_back = jax.vjp(lambda p: p.sample(jax.random.key(2)), p)
        return samples, pull_back(jnp.ones(3))[0]

    samples, gradient = sample_and_slopes(p)
    np.testing.assert_allclose(gradient.mean, np.ones(3))
    np.testing.assert_allclose(gradient.log_variance, 0.5 * (np.asarray(samples) - p.mean))


def test_the_same_key_gives_the_same_samples_and_another_key_others():
    p = mixture_of((3, 2))
    first, again, other = (np.asarray(sample(p, jax.random.key(k), 4)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == other)
    assert jax.eval_shape(p.sample, jax.random.PRNGKey(0)).shape == (2,)


@pytest.mark.parametrize("shape", [(3, 2), (2, 4, 3)], ids=str)
def test_mixture_log_prob_equals_the_sum_of_densities(shape):
    p, x = mixture_of(shape), points_of((*shape[:-2], shape[-1]))
    densities = np.exp(scipy_log_prob(p.components, x[..., None, :]))
    weights = np.exp(p.logits) / np.exp(p.logits).sum(-1, keepdims=True)
    expected = np.log((weights * densities).sum(-1))
    for same in (p, p._replace(logits=p.logits + 3.0)):
        np.testing.assert_allclose(log_prob(same, x), expected, rtol=1e-12)


def test_mixture_mean_and_variance_equal_quadrature():
    p = mixture_of((3, 1))

    def expected(f):
        def integrand(x):
            return np.exp(log_prob(p, np.array([x]))) * f(x)

        return quad(integrand, -15.0, 15.0, epsabs=1e-10, limit=200)[0]

    (mean,), (variance,) = moments(p)
    np.testing.assert_allclose(expected(lambda x: 1.0), 1.0, rtol=1e-8)
    np.testing.assert_allclose(mean, expected(lambda x: x), rtol=1e-8)
    np.testing.assert_allclose(variance, expected(lambda x: (x - float(mean)) ** 2), rtol=1e-8)


def test_a_mixture_of_one_is_its_component():
    p, x = mixture_of((1, 3)), points_of((3,))
    one = jax.tree.map(lambda leaf: leaf[0], p.components)
    mean, variance = moments(p)
    np.testing.assert_allclose(log_prob(p, x), scipy_log_prob(one, x), rtol=1e-12)
    np.testing.assert_allclose(mean, one.mean, rtol=1e-12)
    np.testing.assert_allclose(variance, np.exp(one.log_variance), rtol=1e-12)


def test_mixture_sample_moments():
    p = mixture_of((2, 3, 2))
    samples, (mean, variance) = np.asarray(sample(p, jax.random.key(3), 20_000)), moments(p)
    assert samples.shape == (20_000, 2, 2)
    near_mean(samples, mean)
    near_mean((samples - np.asarray(mean)) ** 2, variance)


def test_stratified_samples_weigh_one_in_total():
    p = mixture_of((2, 3, 4))
    points, log_weights = jax.jit(lambda p: p.stratified_sample(jax.random.key(4), 5))(p)
    assert points.shape == (15, 2, 4) and log_weights.shape == (15, 2)
    np.testing.assert_allclose(np.exp(log_weights).sum(0), np.ones(2), rtol=1e-12)


def test_stratified_estimates_and_their_derivatives_are_unbiased():
    p = mixture_of((3, 2))

    def estimate(p, key):
        points, log_weights = p.stratified_sample(key, 2)
        return jnp.sum(jnp.exp(log_weights)[:, None] * points**2, axis=0)

    def exact(p):
        return p.variance + p.mean**2

    def with_slopes(function):
        return lambda *given: (function(*given), jax.jacrev(function)(*given))

    keys = jax.random.split(jax.random.key(5), 4000)
    estimates, gradients = jax.jit(jax.vmap(with_slopes(estimate), (None, 0)))(p, keys)
    expected, slopes = jax.jit(with_slopes(exact))(p)
    near_mean(estimates, expected)
    near_mean(gradients.logits, slopes.logits)
    for d in range(2):  # elsewhere the derivative is zero, without any spread
        near_mean(gradients.components.mean[:, d, :, d], slopes.components.mean[d, :, d])


def test_gradients_equal_finite_differences_to_second_order(check_to_second_order):
    p, q, x = gaussian_of((3,), 1), gaussian_of((3,), 2), points_of((3,))
    check_to_second_order(of_gaussians, (p, q, x))


def test_mixture_gradients_equal_finite_differences_to_second_order(check_to_second_order):
    check_to_second_order(of_mixtures, (mixture_of((3, 2)), points_of((2,))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "batch"),
    [
        (of_gaussians, (gaussian_of((4, 3), 1), gaussian_of((4, 3), 2), points_of((4, 3)))),
        (of_mixtures, (mixture_of((4, 3, 2)), points_of((4, 2)))),
    ],
    ids=["of_gaussians", "of_mixtures"],
)
def test_jit_eager_and_vmap_agree(function, batch):
    one_by_one = [function(*jax.tree.map(lambda leaf, i=i: leaf[i], batch)) for i in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    chex.assert_trees_all_close(jax.vmap(function)(*batch), stacked, atol=1e-12)
    chex.assert_trees_all_close(jax.jit(function)(*batch), function(*batch), atol=1e-12)


@jax.jit
def sums_and_slopes(p, q, x):
    def sums(p, q, x):
        found = tuple(jnp.sum(function(p, q, x)) for function in FUNCTIONS.values())
        return found, found

    return jax.jacrev(sums, (0, 1, 2), has_aux=True)(p, q, x)


of_mixture = jax.jit(jax.value_and_grad(lambda p, x: p.log_prob(x), (0, 1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("log_variance", [-30.0, 30.0])
def test_extreme_variances_stay_finite(log_variance, dtype):
    extreme = DiagonalGaussian(np.ones(3, dtype), np.full(3, log_variance, dtype))
    plain, x = gaussian_of((3,), dtype=dtype), points_of((3,), dtype)
    for p, q in ((extreme, plain), (plain, extreme), (extreme, extreme)):
        chex.assert_tree_all_finite(sums_and_slopes(p, q, x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("log_variance", [-30.0, 30.0])
def test_mixtures_with_extreme_variances_and_logits_stay_finite(log_variance, dtype):
    p = mixture_of((2, 3), dtype=dtype)
    p = GaussianMixture(
        np.array([-100.0, 100.0], dtype),
        p.components._replace(log_variance=np.full((2, 3), log_variance, dtype)),
    )
    x = points_of((3,), dtype)
    chex.assert_tree_all_finite(of_mixture(p, x))


ZEROS = jnp.zeros((2, 3))
NAN = ZEROS.at[1, 2].set(jnp.nan)
GAUSSIAN = DiagonalGaussian(ZEROS, ZEROS)
BAD = {
    "other_type": (
        lambda: GAUSSIAN.kl_divergence((ZEROS, ZEROS)),
        TypeError,
        "q must be a DiagonalGaussian, got tuple",
    ),
    "no_array": (
        lambda: DiagonalGaussian("zero", ZEROS).entropy(),
        TypeError,
        "distribution.mean must be an array, got str",
    ),
    "integers": (
        lambda: DiagonalGaussian(ZEROS, jnp.zeros((2, 3), int)).entropy(),
        TypeError,
        "distribution.log_variance must be floating point, got dtype int64",
    ),
    "empty": (
        lambda: DiagonalGaussian(jnp.zeros((0, 3)), jnp.zeros((0, 3))).entropy(),
        ValueError,
        r"distribution.mean must not be empty, got shape \(0, 3\)",
    ),
    "nan": (
        lambda: DiagonalGaussian(NAN, ZEROS).entropy(),
        ValueError,
        r"distribution.mean must be finite, got nan at index \(1, 2\)",
    ),
    "infinite_point": (
        lambda: GAUSSIAN.log_prob(ZEROS.at[0, 1].set(jnp.inf)),
        ValueError,
        r"x must be finite, got inf at index \(0, 1\)",
    ),
    "fields_of_two_shapes": (
        lambda: DiagonalGaussian(ZEROS, jnp.zeros(3)).entropy(),
        ValueError,
        r"mean and log_variance of one shape .* got \(2, 3\) and \(3,\)",
    ),
    "no_dimension": (
        lambda: DiagonalGaussian(jnp.zeros(()), jnp.zeros(())).entropy(),
        ValueError,
        r"got \(\) and \(\)",
    ),
    "two_shapes": (
        lambda: GAUSSIAN.kl_divergence(DiagonalGaussian(jnp.zeros(3), jnp.zeros(3))),
        ValueError,
        r"p and q must have one shape .* got \(2, 3\) and \(3,\)",
    ),
    "point_of_another_shape": (
        lambda: GAUSSIAN.log_prob(jnp.zeros((5, 2, 3))),
        ValueError,
        r"mean \(2, 3\), got \(5, 2, 3\)",
    ),
    "central_point_of_another_shape": (
        lambda: GAUSSIAN.central_probability(jnp.zeros(3)),
        ValueError,
        r"x must have the shape of the distribution's mean \(2, 3\), got \(3,\)",
    ),
    "nan_central_point": (
        lambda: GAUSSIAN.central_probability(NAN),
        ValueError,
        r"x must be finite, got nan at index \(1, 2\)",
    ),
    "no_key": (lambda: GAUSSIAN.sample(0), TypeError, "key must be a single key"),
    "keys": (
        lambda: GAUSSIAN.sample(jax.random.split(jax.random.key(0))),
        TypeError,
        "key must be a single key",
    ),
    "components_of_another_type": (
        lambda: GaussianMixture(jnp.zeros(2), ZEROS).log_prob(jnp.zeros(3)),
        TypeError,
        "distribution.components must be a DiagonalGaussian",
    ),
    "logits_of_another_shape": (
        lambda: GaussianMixture(jnp.zeros(3), GAUSSIAN).log_prob(jnp.zeros(3)),
        ValueError,
        r"logits \(..., component\) .* got \(3,\) and \(2, 3\)",
    ),
    "nan_logits": (
        lambda: GaussianMixture(jnp.array([0.0, jnp.nan]), GAUSSIAN).sample(jax.random.key(0)),
        ValueError,
        r"distribution.logits must be finite, got nan at index \(1,\)",
    ),
    "no_number": (
        lambda: GaussianMixture(jnp.zeros(2), GAUSSIAN).stratified_sample(jax.random.key(0), 0),
        ValueError,
        "number must be at least 1, got 0",
    ),
    "fractional_number": (
        lambda: GaussianMixture(jnp.zeros(2), GAUSSIAN).stratified_sample(jax.random.key(0), 1.5),
        TypeError,
        "number must be an integer, got 1.5",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()
