import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad
from scipy.special import digamma, gamma, gammainc
from scipy.stats import gennorm

from probemb import DiagonalGaussian, GeneralizedGaussian

SHAPES = [0.1, 0.5, 1.0, 2.0, 3.7, 10.0]


def distribution_of(shape, seed=0, dtype=np.float64):
    generator = np.random.default_rng(seed)
    return GeneralizedGaussian(
        generator.normal(size=shape).astype(dtype),
        generator.uniform(0.5, 2.0, shape).astype(dtype),
        generator.uniform(0.7, 4.0, shape).astype(dtype),
    )


def of_all_shapes(dtype=np.float64):
    """In every row another shape."""
    shape = np.repeat(np.array(SHAPES, dtype), 3).reshape(6, 3)
    return distribution_of((6, 3), dtype=dtype)._replace(shape=shape)


def points_of(shape, dtype=np.float64):
    return np.random.default_rng(7).normal(size=shape).astype(dtype)


def scipy_of(p):
    return gennorm(p.shape, p.location, p.scale)


FUNCTIONS = {
    "log_prob": lambda p, q, x: p.log_prob(x),
    "entropy": lambda p, q, x: p.entropy(),
    "variance": lambda p, q, x: p.variance,
    "kl_divergence": lambda p, q, x: p.kl_divergence_at_equal_location(q),
}


def everything(p, q, x):
    return {name: function(p, q, x) for name, function in FUNCTIONS.items()}


values = jax.jit(everything)
moments = jax.jit(lambda p: (p.entropy(), p.log_variance))
central_probability = jax.jit(lambda p, x: p.central_probability(x))


def test_equals_scipy():
    p, x = of_all_shapes(), points_of((6, 3))
    found, expected = values(p, p, x), scipy_of(p)
    np.testing.assert_allclose(found["log_prob"], expected.logpdf(x).sum(-1), rtol=1e-11)
    np.testing.assert_allclose(found["variance"], expected.var(), rtol=1e-10)
    np.testing.assert_allclose(found["entropy"], expected.entropy().sum(-1), rtol=1e-11)
    np.testing.assert_allclose(moments(p)[1], np.log(expected.var()), rtol=1e-10)
    np.testing.assert_allclose(p.mean, expected.mean())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_central_probability_equals_scipy(dtype):
    p, x = of_all_shapes(dtype), points_of((6, 3), dtype)
    found = central_probability(p, x)
    assert found.dtype == dtype
    wide = jax.tree.map(np.float64, p)
    exact, half = scipy_of(wide), np.abs(np.float64(x) - wide.location)
    expected = exact.cdf(wide.location + half) - exact.cdf(wide.location - half)
    rtol = 1e-9 if dtype == np.float64 else 1e-4  # the difference loses digits near the mean
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-15)
    np.testing.assert_allclose(central_probability(p, 2 * p.location - x), found, rtol=1e-4)
    np.testing.assert_array_equal(central_probability(p, p.location), np.zeros((6, 3)))
    blunt = p._replace(shape=np.maximum(p.shape, 1.0))
    np.testing.assert_allclose(central_probability(blunt, p.location + 1e3), np.ones((6, 3)))


def test_central_probability_at_the_mode_of_tiny_shapes_equals_scipy():
    order = np.array([60.0, 100.0, 140.0])
    residual = order**order  # its power of the shape 1 / order is the order, the mode
    p = GeneralizedGaussian(np.zeros(3), np.ones(3), 1.0 / order)
    found = central_probability(p, residual)
    np.testing.assert_allclose(found, gammainc(order, order), rtol=0.0, atol=1e-12)


def test_shape_two_is_the_gaussian():
    p, x = distribution_of((6, 3)), points_of((6, 3))
    p = p._replace(shape=np.full((6, 3), 2.0))
    found, gaussian = values(p, p, x), scipy.stats.norm(p.location, p.scale / 2.0**0.5)
    half = np.abs(x - p.location)
    inside = gaussian.cdf(p.location + half) - gaussian.cdf(p.location - half)
    np.testing.assert_allclose(found["log_prob"], gaussian.logpdf(x).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(found["entropy"], gaussian.entropy().sum(-1), rtol=1e-12)
    np.testing.assert_allclose(found["variance"], gaussian.var(), rtol=1e-12)
    np.testing.assert_allclose(central_probability(p, x), inside, rtol=1e-12)


def test_kl_divergence_equals_quadrature():
    p, q = distribution_of((6, 3), 1), distribution_of((6, 3), 2)

    def in_one_dimension(d):
        one, other = (gennorm(g.shape[0, d], scale=g.scale[0, d]) for g in (p, q))
        half = quad(lambda x: one.pdf(x) * (one.logpdf(x) - other.logpdf(x)), 0.0, one.isf(1e-14))
        return 2.0 * half[0]

    found = values(p, q, p.location)["kl_divergence"]
    np.testing.assert_allclose(found[0], sum(map(in_one_dimension, range(3))), rtol=1e-7)


def test_kl_divergence_ignores_the_location_and_is_zero_of_equals():
    p, q = distribution_of((6, 3), 1), distribution_of((6, 3), 2)
    moved = p._replace(location=p.location + 3.0)
    of_moved, of_others = (values(p, g, p.location)["kl_divergence"] for g in (moved, q))
    np.testing.assert_allclose(of_moved, np.zeros(6), atol=1e-12)
    assert np.all(np.asarray(of_others) > 0.0)


def test_sample_moments():
    beta = np.repeat([0.5, 1.0, 2.0, 10.0], 2).reshape(4, 2)
    p = distribution_of((4, 2))._replace(shape=beta)
    samples = np.asarray(jax.jit(lambda p: p.sample(jax.random.key(0), (20_000,)))(p))
    assert samples.shape == (20_000, 4, 2)
    centered, exact = samples - p.location, scipy_of(p)
    for drawn, expected in (
        (samples, exact.mean()),
        (centered**2, exact.var()),
        (np.abs(centered / p.scale) ** beta, 1.0 / beta),
        (centered[..., 0] * centered[..., 1], 0.0),
    ):
        error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
        assert np.all(np.abs(np.mean(drawn, axis=0) - expected) < 5.0 * error)


@functools.partial(jax.jit, static_argnums=1)
def slopes_of_squares(p, number):
    def squares(p):
        return jnp.sum(jnp.square(p.sample(jax.random.key(1)) - 0.5))

    return jax.grad(squares)(jax.tree.map(lambda x: jnp.broadcast_to(x, (number, 5)), p))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("number", [5000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_samples_have_the_derivatives_of_their_variance(number, dtype):
    beta = np.array([0.5, 0.7, 2.0, 5.0, 100.0])
    p = GeneralizedGaussian(np.full(5, 0.5), np.full(5, 1.3), beta)
    slopes = slopes_of_squares(jax.tree.map(dtype, p), number)
    variance = scipy_of(p).var()
    of_shape = variance * (digamma(1.0 / beta) - 3.0 * digamma(3.0 / beta)) / beta**2
    for found, exact in zip(slopes, (0.0, 2.0 * variance / 1.3, of_shape), strict=True):
        found = np.asarray(found, float)
        error = found.std(0) / len(found) ** 0.5
        assert np.all(np.abs(found.mean(0) - exact) < 5.0 * error)


def test_gradients_equal_finite_differences_to_second_order(check_to_second_order):
    p, q = distribution_of((3,), 1), distribution_of((3,), 2)
    x = p.location + np.array([-0.6, 0.4, 1.5])
    check_to_second_order(everything, (p, q, x))


@pytest.mark.slow
def test_jit_eager_and_vmap_agree():
    def function(p, q, x):
        return everything(p, q, x), p.sample(jax.random.key(0))

    batch = distribution_of((4, 3), 1), distribution_of((4, 3), 2), points_of((4, 3))
    one_by_one = [function(*jax.tree.map(lambda leaf, i=i: leaf[i], batch)) for i in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    chex.assert_trees_all_close(jax.vmap(function)(*batch), stacked, atol=1e-12)
    chex.assert_trees_all_close(jax.jit(function)(*batch), function(*batch), atol=1e-12)


def _log_prob(p, x):
    return p.log_prob(x)


derivatives = jax.jit(
    lambda p, x: (
        _log_prob(p, x),
        jax.grad(_log_prob, (0, 1))(p, x),
        jax.hessian(_log_prob, (0, 1))(p, x),
    )
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 1.5, 2.0, 10.0])
@pytest.mark.parametrize("residual", [0.0, 1e-6, 1.0, 50.0, 1e15])
def test_derivatives_are_finite(beta, residual, dtype):
    p = GeneralizedGaussian(*(np.array([v], dtype) for v in (0.0, 1.5, beta)))
    found = derivatives(p, np.array([residual], dtype))
    chex.assert_tree_all_finite(found)
    chex.assert_type(jax.tree.leaves(found), dtype)


central_slopes = jax.jit(
    jax.value_and_grad(lambda p, x: p.central_probability(x)[0], (0, 1)),
    compiler_options={"xla_backend_optimization_level": 0},
)


def test_slopes_of_the_central_probability():
    """In x twice the density, in the scale -|x - m| / alpha times that, and differences."""
    for beta, residual in ((0.7, 0.4), (1.0, 1.1), (3.7, 0.9)):
        p = GeneralizedGaussian(*(np.array([v]) for v in (0.3, 1.5, beta)))
        x = np.array([0.3 + residual])
        value, (of_p, of_x) = central_slopes(p, x)
        np.testing.assert_allclose(value, central_probability(p, x)[0], rtol=1e-12)
        density = gennorm(beta, 0.3, 1.5).pdf(0.3 + residual)
        np.testing.assert_allclose(of_x, [2.0 * density], rtol=1e-7)
        np.testing.assert_allclose(of_p.location, [-2.0 * density], rtol=1e-7)
        np.testing.assert_allclose(of_p.scale, [-2.0 * density * residual / 1.5], rtol=1e-7)
        after, before = (2.0 * gennorm(beta + h, 0.0, 1.5).cdf(residual) for h in (1e-5, -1e-5))
        np.testing.assert_allclose(of_p.shape, [(after - before) / 2e-5], rtol=1e-5)


# From cusps to boxes, at residuals on both sides of the scale.
MANY_SHAPES = (1e-2, 0.1, 0.5, 1.0, 3.7, 20.0, 1e3, 1e4, 1e6)
MANY_RESIDUALS = (1e-6, 0.01, 0.5, 0.9, 0.99, 1.0, 1.001, 1.1, 3.0, 1e3)


def exact_central_probability(beta, residual):
    log_powered = beta * np.log(residual)
    near = residual / gamma(1.0 + 1.0 / beta)  # where the power is lost beside 1
    far = gammainc(1.0 / beta, np.exp(np.minimum(log_powered, 300.0)))
    return np.where(log_powered < -40.0, near, far)


@jax.jit
@jax.vmap
def to_second_order(beta, residual):
    def probability(beta, residual):
        p = GeneralizedGaussian(jnp.zeros_like(beta)[None], jnp.ones_like(beta)[None], beta[None])
        return p.central_probability(residual[None])[0]

    slopes = jax.grad(probability, (0, 1))
    of_shape = jax.jvp(lambda beta: slopes(beta, residual), (beta,), (jnp.ones_like(beta),))[1]
    return probability(beta, residual), slopes(beta, residual), of_shape


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_central_probability_and_its_derivatives_at_any_shape(dtype):
    """Beside SciPy's function and its differences; slopes per share of the shape."""
    beta, residual = (z.ravel() for z in np.meshgrid(MANY_SHAPES, MANY_RESIDUALS, indexing="ij"))
    beta, residual = beta.astype(dtype), residual.astype(dtype)
    found = to_second_order(beta, residual)
    chex.assert_tree_all_finite(found)
    chex.assert_type(jax.tree.leaves(found), dtype)
    value, (of_beta, of_residual), (twice, both) = jax.tree.map(
        lambda x: np.asarray(x, float), found
    )
    beta, residual = beta.astype(float), residual.astype(float)
    at = {k: exact_central_probability(beta * (1.0 + k * 2e-3), residual) for k in range(-2, 3)}
    with np.errstate(over="ignore"):
        density, *densities = (
            2.0 * gennorm(beta * (1.0 + k * 1e-4)).pdf(residual) for k in (0, 1, -1)
        )
    wide = dtype == np.float64
    for one, exact, atol in (
        (value, at[0], 1e-12),
        (of_residual, density, 1e-12),
        (beta * of_beta, (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * 2e-3), 1e-8),
        (beta**2 * twice,
         (16 * (at[1] + at[-1]) - 30 * at[0] - (at[2] + at[-2])) / (12 * 2e-3**2), 1e-6),
        (beta * both, (densities[0] - densities[1]) / 2e-4, 1e-6),
    ):  # fmt: skip
        rtol = 1e-5 if wide else 2e-4
        np.testing.assert_allclose(one, exact, rtol=rtol, atol=atol if wide else 1e-5)
    np.testing.assert_allclose(value, at[0], atol=1e-12 if wide else 2e-6)


def test_central_probability_of_a_box():
    box = GeneralizedGaussian(np.zeros(3), np.ones(3), np.full(3, 1000.0))
    found = central_probability(box, np.array([0.5, 1.0, 2.0]))
    np.testing.assert_allclose(found, [0.500288, 0.999780, 1.0], atol=1e-6)


@pytest.mark.slow
def test_central_probabilities_under_vmap():
    p, x = distribution_of((4, 3), 1), points_of((4, 3))
    mapped = jax.vmap(lambda p, x: p.central_probability(x))(p, x)
    np.testing.assert_allclose(mapped, p.central_probability(x), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("residual", [0.0, 1e-30, 1e-6, 1.0, 1e6, 1e15])
def test_slopes_of_the_central_probability_are_finite(beta, residual, dtype):
    p = GeneralizedGaussian(*(np.array([v], dtype) for v in (0.0, 1.5, beta)))
    value, slopes = central_slopes(p, np.array([residual], dtype))
    assert 0.0 <= value <= 1.0
    chex.assert_tree_all_finite(slopes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 2.0])
def test_the_derivative_at_the_mode_is_zero(beta, dtype):
    p = GeneralizedGaussian(*(np.array([v], dtype) for v in (0.3, 1.5, beta)))
    value, (of_p, of_x), _ = derivatives(p, p.location)
    np.testing.assert_allclose(value, gennorm(beta, 0.3, 1.5).logpdf(0.3), rtol=1e-5)
    assert of_x == 0.0 and of_p.location == 0.0
    np.testing.assert_allclose(of_p.scale, -1.0 / p.scale, rtol=1e-5)


def test_moments_of_float32_are_those_of_float64():
    narrow = of_all_shapes(np.float32)
    found, expected = moments(narrow), moments(jax.tree.map(np.float64, narrow))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-5)


def test_a_huge_residual_costs_more_than_a_large_one():
    p = GeneralizedGaussian(*(np.array([v], np.float32) for v in (0.0, 1.0, 4.0)))
    log_probs = [derivatives(p, np.float32([x]))[0] for x in (1e3, 1e6, 1e12, 1e24, 1e36)]
    assert np.all(np.diff(log_probs) < 0.0) and np.all(np.isfinite(log_probs))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sampling_ends_for_any_shape(dtype):
    """Under jit, where no value is checked."""
    given = [np.nan, np.inf, -np.inf, -1.0, -1e-45, 0.0, 1e-100, 1e-45, 1e-12, 1e-3]
    samples = np.asarray(samples_of_shapes(np.array([*given, 0.1, 1.0, 2.0, 10.0, 1e38], dtype)))
    assert np.all(np.isnan(samples[:, 0])) and np.all(np.isfinite(samples[:, -5:]))
    np.testing.assert_array_less(np.abs(samples[:, -1]), 1.0)  # a box


@jax.jit
def samples_of_shapes(shape):
    p = GeneralizedGaussian(jnp.zeros_like(shape), jnp.ones_like(shape), shape)
    return p.sample(jax.random.key(0), (100,))


ONES = jnp.ones((2, 3))
GOOD = GeneralizedGaussian(ONES, ONES, ONES)
BAD = {
    "negative_scale": (
        lambda: GOOD._replace(scale=ONES.at[0, 1].set(-2.0)).entropy(),
        ValueError,
        "distribution.scale must be positive, got -2",
    ),
    "zero_shape": (
        lambda: GOOD._replace(shape=ONES.at[1, 1].set(0.0)).sample(jax.random.key(0)),
        ValueError,
        "distribution.shape must be positive, got 0",
    ),
    "nan": (
        lambda: GOOD._replace(location=ONES.at[1, 0].set(jnp.nan)).log_prob(ONES),
        ValueError,
        r"distribution.location must be finite, got nan at index \(1, 0\)",
    ),
    "integers": (
        lambda: GOOD._replace(shape=jnp.ones((2, 3), int)).entropy(),
        TypeError,
        "distribution.shape must be floating point, got dtype int64",
    ),
    "fields_of_two_shapes": (
        lambda: GOOD._replace(scale=jnp.ones(3)).entropy(),
        ValueError,
        r"of one shape .* got \(2, 3\), \(3,\) and \(2, 3\)",
    ),
    "other_type": (
        lambda: GOOD.kl_divergence_at_equal_location(DiagonalGaussian(ONES, ONES)),
        TypeError,
        "q must be a GeneralizedGaussian, got DiagonalGaussian",
    ),
    "two_shapes": (
        lambda: GOOD.kl_divergence_at_equal_location(
            GeneralizedGaussian(jnp.ones(3), jnp.ones(3), jnp.ones(3))
        ),
        ValueError,
        r"p and q must have one shape .* got \(2, 3\) and \(3,\)",
    ),
    "point_of_another_shape": (
        lambda: GOOD.log_prob(jnp.ones(3)),
        ValueError,
        r"mean \(2, 3\), got \(3,\)",
    ),
    "central_point_of_another_shape": (
        lambda: GOOD.central_probability(jnp.ones(3)),
        ValueError,
        r"x must have the shape of the distribution's mean \(2, 3\), got \(3,\)",
    ),
    "zero_scale": (
        lambda: GOOD._replace(scale=0.0 * ONES).central_probability(ONES),
        ValueError,
        "distribution.scale must be positive, got 0",
    ),
    "no_key": (lambda: GOOD.sample(3), TypeError, "key must be a single key"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()
