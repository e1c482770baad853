import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.optimize import minimize_scalar

from probemb import (
    DiagonalGaussian,
    GeneralizedGaussian,
    VonMisesFisher,
    fit_temperature,
    tempered,
)

KINDS = ("generalized_gaussian", "gaussian", "von_mises_fisher")
every_kind = pytest.mark.parametrize("kind", KINDS)
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
fit = compiled(fit_temperature)
likelihood = compiled(lambda p, target: jnp.sum(p.log_prob(target)))
temper = compiled(lambda p, temperature: tempered(p, temperature=temperature))


def held_out(kind, dtype=np.float64, items=40):
    """Distributions of three dimensions, too narrow or too wide, and what they should explain."""
    generator = np.random.default_rng(0)
    mean, noise = generator.normal(size=(2, items, 3))
    spread = generator.uniform(0.2, 0.5, mean.shape)
    target = mean + spread * noise
    if kind == "gaussian":
        p = DiagonalGaussian(mean, 2.0 * np.log(2.5 * spread))
    elif kind == "generalized_gaussian":
        p = GeneralizedGaussian(mean, 0.4 * spread, generator.uniform(0.6, 4.0, mean.shape))
    else:
        mean, target = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (mean, target))
        p = VonMisesFisher(mean, generator.uniform(1.0, 3.0, items))
    return jax.tree.map(lambda x: x.astype(dtype), (p, target))


def log_likelihood(p, target, temperature):
    """SciPy's, of all items at once; on the sphere in three dimensions, by hand."""
    if isinstance(p, GeneralizedGaussian):
        location, scale, shape = p
        return scipy.stats.gennorm.logpdf(target, shape, location, scale * temperature).sum()
    if isinstance(p, DiagonalGaussian):
        deviation = np.exp(0.5 * p.log_variance)
        return scipy.stats.norm.logpdf(target, p.mean, deviation * temperature).sum()
    kappa = p.concentration / temperature**2
    below = np.sum(p.mean_direction * target, axis=1) - 1.0
    # kappa / (4 pi sinh(kappa)) exp(kappa cosine)
    return np.sum(kappa * below + np.log(kappa / (2.0 * np.pi * -np.expm1(-2.0 * kappa))))


@every_kind
def test_tempered_has_the_likelihood_of_another_scale(kind):
    p, target = held_out(kind)
    for temperature in (0.3, 1.0, 4.0):
        found = likelihood(temper(p, temperature), target)
        np.testing.assert_allclose(found, log_likelihood(p, target, temperature), rtol=1e-8)
    assert type(temper(p, 4.0)) is type(p)
    np.testing.assert_array_equal(temper(p, 4.0)[0], p[0])
    chex.assert_trees_all_close(temper(p, 1), p, rtol=1e-15)


@every_kind
def test_temperatures_multiply(kind):
    p, _ = held_out(kind)
    chex.assert_trees_all_close(temper(temper(p, 0.7), 3.0), temper(p, 2.1), rtol=1e-12)
    if kind != "von_mises_fisher":  # of which only narrow ones have a variance of 1 / kappa
        moments = compiled(lambda p: (p.variance, p.entropy()))
        (variance, entropy), (before, entropy_before) = moments(temper(p, 3.0)), moments(p)
        np.testing.assert_allclose(variance, 9.0 * np.asarray(before), rtol=1e-12)
        # The order stays.
        np.testing.assert_allclose(np.asarray(entropy) - entropy_before, 3.0 * math.log(3.0))


@every_kind
def test_a_fit_is_where_a_scan_finds_the_greatest_likelihood(kind):
    p, target = held_out(kind)
    logarithms = np.linspace(-3.0, 3.0, 61)
    scan = [log_likelihood(p, target, math.exp(x)) for x in logarithms]
    best = logarithms[np.argmax(scan)]
    assert abs(best) < 2.9 and np.sum(np.diff(np.sign(np.diff(scan))) != 0) == 1
    found = minimize_scalar(
        lambda x: -log_likelihood(p, target, math.exp(x)),
        bounds=(best - 0.1, best + 0.1),
        options={"xatol": 1e-9},
    )
    np.testing.assert_allclose(math.log(fit(p, target)), found.x, atol=1e-6)


def test_a_gaussian_has_the_root_mean_square_of_standardised_residuals():
    p, target = held_out("gaussian")
    residual = (target - p.mean) / np.exp(0.5 * p.log_variance)
    np.testing.assert_allclose(fit(p, target), np.sqrt(np.mean(residual**2)), rtol=1e-9)


def test_its_gradient_is_that_of_the_root_mean_square():
    p, target = held_out("gaussian")

    def closed_form(p, target):
        return jnp.sqrt(jnp.mean(jnp.square(target - p.mean) / p.variance))

    @functools.partial(compiled, static_argnums=0)
    def derivatives(function, p, target):
        def gradient(target):
            return jax.grad(function, (0, 1))(p, target)

        return jax.jvp(gradient, (target,), (jnp.ones_like(target),))

    first, second = derivatives(fit_temperature, p, target)
    expected, closed = derivatives(closed_form, p, target)
    chex.assert_trees_all_close(first, expected, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(second[1], closed[1], rtol=1e-6, atol=1e-12)


def test_next_to_no_concentration_stays_so_at_any_temperature():
    p = VonMisesFisher(np.eye(2), np.array([0.0, 1e-30]))
    assert temper(p, 1e-20).concentration.tolist() == pytest.approx([0.0, 1e10])


@pytest.mark.parametrize("shape", [0.5, 1.0, 4.0])
def test_of_one_shape_it_is_a_mean_of_powers(shape):
    p, target = held_out("generalized_gaussian")
    p = p._replace(shape=np.full_like(p.scale, shape))
    residual = np.abs((target - p.location) / p.scale)
    expected = (shape * np.mean(residual**shape)) ** (1.0 / shape)
    np.testing.assert_allclose(fit(p, target), expected, rtol=1e-9)


@every_kind
def test_a_fit_undoes_a_temperature_and_stays(kind):
    p, target = held_out(kind)
    temperature = fit(p, target)
    np.testing.assert_allclose(fit(temper(p, 3.0), target), temperature / 3.0, rtol=1e-8)
    np.testing.assert_allclose(fit(temper(p, temperature), target), 1.0, rtol=1e-8)
    place = np.random.default_rng(1).permutation(40)
    moved = jax.tree.map(lambda x: x[place], (p, target))
    np.testing.assert_allclose(fit(*moved), temperature, rtol=1e-10)


def test_what_samples_come_from_needs_no_temperature():
    _, scale, shape = held_out("generalized_gaussian")[0]
    samples = scipy.stats.gennorm(shape, 0.0, scale).rvs((50, 40, 3), np.random.default_rng(2))
    p = GeneralizedGaussian(*(np.stack([x] * 50) for x in (0 * scale, scale, shape)))
    # The information on log T is the shape, of every coordinate.
    error = 1.0 / math.sqrt(50 * np.sum(shape))
    assert abs(math.log(fit(p, samples))) < 5.0 * error
    assert abs(math.log(fit(p, 1.5 * samples) / 1.5)) < 5.0 * error


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_no_temperature_explains_best_is_refused(dtype):
    p, target = held_out("gaussian", dtype)
    q, _ = held_out("von_mises_fisher", dtype)
    direction = q.mean_direction
    below, above = "got .* at 0.0001 or less", "got .* at 10000 or more"
    for given, embeddings, bound in (
        (p, p.mean, below),
        (p, dtype(1e8) * target, above),
        (q, direction, below),
        (q, -direction, above),
    ):
        assert np.isnan(fit(given, embeddings))
        with pytest.raises(ValueError, match=f"target must be most likely at a .*{bound}"):
            fit_temperature(given, embeddings)
    assert np.isnan(fit(p, np.where(target == target[0, 0], dtype(np.nan), target)))
    for factor in map(dtype, (0.01, 1000.0)):
        np.testing.assert_allclose(
            fit(p, p.mean + factor * (target - p.mean)), factor * fit(p, target), rtol=1e-3
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_some_residuals_of_zero_under_a_cusp(dtype):
    p, target = held_out("generalized_gaussian", dtype)
    p = p._replace(shape=np.full_like(p.shape, 0.5))
    target[::2] = p.location[::2]
    residual = np.abs((target - p.location) / p.scale).astype(np.float64)
    expected = (0.5 * np.mean(np.sqrt(residual))) ** 2
    np.testing.assert_allclose(fit(p, target), expected, rtol=1e-4)


@every_kind
def test_jit_eager_vmap_and_float32(kind):
    p, target = held_out(kind)
    temperature = fit(p, target)
    single = fit(*held_out(kind, np.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, temperature, rtol=1e-4)
    several = compiled(jax.vmap(lambda temperature: tempered(p, temperature=temperature)))(
        np.array([0.5, 2.0])
    )
    second = jax.tree.map(lambda x: x[1], several)
    chex.assert_trees_all_close(second, tempered(p, temperature=2.0), rtol=1e-12)
    if kind == "von_mises_fisher":
        return  # its Bessel functions take long to compile
    np.testing.assert_allclose(fit_temperature(p, target), temperature, rtol=1e-10)
    halves = jax.tree.map(lambda x: x.reshape(2, 20, *x.shape[1:]), (p, target))
    mapped = compiled(jax.vmap(fit_temperature))(*halves)
    alone = [fit(*jax.tree.map(lambda x, k=k: x[k], halves)) for k in range(2)]
    np.testing.assert_allclose(mapped, alone, rtol=1e-10)


def test_gradients_of_tempered(check_to_second_order):
    def fields(*inputs):
        p, temperature = inputs[:-1], inputs[-1]
        return [tempered(one, temperature=temperature) for one in p]

    cases = [jax.tree.map(lambda x: x[:2], held_out(kind)[0]) for kind in KINDS]
    check_to_second_order(fields, (*cases, jnp.asarray(1.7)))


P, TARGET = jax.tree.map(jnp.asarray, held_out("gaussian", items=2))
DIRECTIONS = VonMisesFisher(np.eye(3)[:2], np.ones(2))
BAD = {
    "zero": (lambda: tempered(P, temperature=0), ValueError, "temperature must be positive, got 0"),
    "negative": (
        lambda: tempered(P, temperature=-2.0),
        ValueError,
        "temperature must be positive, got -2",
    ),
    "nan": (
        lambda: tempered(P, temperature=math.nan),
        ValueError,
        "temperature must be finite, got nan",
    ),
    "one_per_item": (
        lambda: tempered(P, temperature=np.ones(2)),
        ValueError,
        r"temperature must be a scalar, got shape \(2,\)",
    ),
    "text": (
        lambda: tempered(P, temperature="hot"),
        TypeError,
        "temperature must be an array, got str",
    ),
    "no_distribution": (
        lambda: tempered(TARGET, temperature=1.0),
        TypeError,
        "p must be one of GeneralizedGaussian, DiagonalGaussian, VonMisesFisher, got ArrayImpl",
    ),
    "negative_scale": (
        lambda: tempered(GeneralizedGaussian(TARGET, -np.ones((2, 3)), TARGET), temperature=1.0),
        ValueError,
        "p.scale must be positive, got -1",
    ),
    "no_distribution_to_fit": (
        lambda: fit_temperature((TARGET, TARGET), TARGET),
        TypeError,
        "p must be one of .*, got tuple",
    ),
    "target_of_another_shape": (
        lambda: fit_temperature(P, TARGET[0]),
        ValueError,
        r"target must have the shape of the distribution's mean \(2, 3\), got \(3,\)",
    ),
    "nan_target": (
        lambda: fit_temperature(P, TARGET.at[1, 0].set(jnp.nan)),
        ValueError,
        r"target must be finite, got nan at index \(1, 0\)",
    ),
    "target_off_the_sphere": (
        lambda: fit_temperature(DIRECTIONS, 2.0 * np.eye(3)[:2]),
        ValueError,
        "target must hold unit vectors, got one of length 2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()
