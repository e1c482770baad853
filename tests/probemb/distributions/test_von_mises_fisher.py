import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.special import gammaln, ive

from probemb import VonMisesFisher


def unit_of(shape, seed=0, dtype=np.float64):
    vectors = np.random.default_rng(seed).normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(dtype)


def distribution_of(dimension, concentration, seed=0, dtype=np.float64):
    return VonMisesFisher(unit_of((dimension,), seed, dtype), np.asarray(concentration, dtype))


def scipy_of(p):
    return scipy.stats.vonmises_fisher(p.mean_direction, float(p.concentration))


def mean_length(dimension, concentration):
    order, positive = dimension / 2.0 - 1.0, np.maximum(concentration, 1e-9)
    return ive(order + 1.0, positive) / ive(order, positive)


def sphere():
    """Points and weights that integrate over the sphere in three dimensions."""
    height, weight = np.polynomial.legendre.leggauss(80)
    angle = np.arange(80) * 2.0 * np.pi / 80
    radius = np.sqrt(1.0 - height**2)[:, None]
    points = np.stack(
        np.broadcast_arrays(radius * np.cos(angle), radius * np.sin(angle), height[:, None]), -1
    )
    weights = np.broadcast_to(weight[:, None] * 2.0 * np.pi / 80, (80, 80))
    return points.reshape(-1, 3), weights.reshape(-1)


log_probs = jax.jit(lambda p, points: jax.vmap(p.log_prob)(points))
sample = jax.jit(lambda p, key: p.sample(key))


@jax.jit
def samples_with_slopes(p):
    """10 000 samples, and their derivatives in the concentration."""

    def sample(concentration):
        return p._replace(concentration=concentration).sample(jax.random.key(0), (10_000,))

    return jax.jvp(sample, (p.concentration,), (jnp.ones_like(p.concentration),))


CONCENTRATIONS = np.array([0.0, 0.5, 4.0, 40.0, 100.0])


def of_concentrations(dimension):
    """A distribution of each concentration, with its own direction."""
    return VonMisesFisher(unit_of((5, dimension)), CONCENTRATIONS)


@pytest.mark.parametrize("dimension", [2, 3, 8, 64])
@pytest.mark.parametrize("concentration", [0.1, 3.0, 50.0])
def test_equals_scipy(dimension, concentration):
    p, x = distribution_of(dimension, concentration), unit_of((5, dimension), 1)
    expected = scipy_of(p)
    np.testing.assert_allclose(log_probs(p, x), expected.logpdf(x), atol=1e-8)
    np.testing.assert_allclose(p.entropy(), expected.entropy(), atol=1e-8)
    length = mean_length(dimension, concentration)
    np.testing.assert_allclose(p.mean_resultant_length, length, rtol=1e-9)
    np.testing.assert_allclose(p.mean, length * p.mean_direction, rtol=1e-9)


@pytest.mark.parametrize("concentration", [0.0, 0.5, 20.0])
def test_density_integrates_to_one_on_the_circle(concentration):
    angle = np.arange(200) * 2.0 * np.pi / 200
    points = np.stack([np.cos(angle), np.sin(angle)], -1)
    density = np.exp(log_probs(distribution_of(2, concentration), points))
    np.testing.assert_allclose(density.sum() * 2.0 * np.pi / 200, 1.0, atol=1e-8)


@pytest.mark.parametrize("concentration", [0.0, 0.5, 20.0])
def test_moments_equal_quadrature_on_the_sphere(concentration):
    points, weights = sphere()
    p = distribution_of(3, concentration)
    log_density = np.asarray(log_probs(p, points))
    mass = weights * np.exp(log_density)
    np.testing.assert_allclose(mass.sum(), 1.0, atol=1e-8)
    np.testing.assert_allclose(p.entropy(), -(mass * log_density).sum(), atol=1e-8)
    mean = mass @ points
    np.testing.assert_allclose(p.mean, mean, atol=1e-8)
    np.testing.assert_allclose(p.variance, mass @ (points - mean) ** 2, atol=1e-8)


@pytest.mark.parametrize(("of_p", "of_q"), [(4.0, 9.0), (15.0, 0.0), (0.0, 2.0)])
def test_kl_divergence_equals_quadrature_on_the_sphere(of_p, of_q):
    points, weights = sphere()
    p, q = distribution_of(3, of_p, 1), distribution_of(3, of_q, 2)
    of_p, of_q = (np.asarray(log_probs(g, points)) for g in (p, q))
    expected = np.sum(weights * np.exp(of_p) * (of_p - of_q))
    np.testing.assert_allclose(p.kl_divergence(q), expected, atol=2e-8)


def test_kl_divergence_of_equals_is_zero():
    p = VonMisesFisher(unit_of((3, 5)), np.array([0.0, 7.0, 1e6]))
    np.testing.assert_array_equal(p.kl_divergence(p), np.zeros(3))


@pytest.mark.parametrize("dimension", [2, 3, 16])
def test_uniform_at_concentration_zero(dimension):
    p = distribution_of(dimension, 0.0)
    log_area = np.log(2.0) + 0.5 * dimension * np.log(np.pi) - gammaln(0.5 * dimension)
    np.testing.assert_allclose(p.entropy(), log_area, atol=1e-9)
    np.testing.assert_allclose(p.mean, np.zeros(dimension), atol=0.0)
    np.testing.assert_allclose(p.variance, np.full(dimension, 1.0 / dimension), rtol=1e-12)


@pytest.mark.parametrize("dimension", [2, 3, 10])
def test_sample_moments(dimension):
    p = of_concentrations(dimension)
    samples = np.asarray(samples_with_slopes(p)[0])
    assert samples.shape == (10_000, 5, dimension)
    np.testing.assert_allclose(np.linalg.norm(samples, axis=-1), 1.0, rtol=1e-9)
    along = np.sum(samples * p.mean_direction, axis=-1)
    length = mean_length(dimension, CONCENTRATIONS)
    across = length / np.maximum(CONCENTRATIONS, 1e-9)  # its limit, 1 / dimension, at zero
    for values, expected in (
        (samples, p.mean),
        ((samples - np.asarray(p.mean)) ** 2, p.variance),
        (along, length),
        (along**2, 1.0 - (dimension - 1) * across),
    ):
        error = np.std(values, axis=0) / np.sqrt(len(values))
        assert np.all(np.abs(values.mean(0) - np.asarray(expected)) < 5.0 * error)


@pytest.mark.parametrize("dimension", [2, 3, 10])
def test_sample_derivatives_in_the_concentration_have_the_right_mean(dimension):
    p, step = of_concentrations(dimension), 1e-4
    slopes = np.sum(np.asarray(samples_with_slopes(p)[1]) * p.mean_direction, axis=-1)[:, 1:]
    after, before = (mean_length(dimension, CONCENTRATIONS[1:] + h) for h in (step, -step))
    expected = (after - before) / (2 * step)
    error = np.std(slopes, axis=0) / np.sqrt(len(slopes))
    assert np.all(error < 0.1 * expected)
    assert np.all(np.abs(np.mean(slopes, axis=0) - expected) < 5.0 * error)


def test_sample_derivatives_equal_those_of_the_quantile_function():
    """In three dimensions cos t = 1 + log(u + (1 - u) exp(-2 k)) / k for a fixed quantile u."""
    p = of_concentrations(3)
    k, direction = p.concentration[2], p.mean_direction[2]
    cosine, slope = (np.asarray(x)[:, 2] @ direction for x in samples_with_slopes(p))
    u = (np.exp(k * (cosine - 1.0)) - np.exp(-2 * k)) / (1.0 - np.exp(-2 * k))
    inner = u + (1.0 - u) * np.exp(-2.0 * k)
    expected = -np.log(inner) / k**2 - 2.0 * (1.0 - u) * np.exp(-2.0 * k) / (inner * k)
    np.testing.assert_allclose(slope, expected, rtol=1e-7, atol=1e-9)


FUNCTIONS = {
    "log_prob": lambda p, q, x: p.log_prob(x),
    "entropy": lambda p, q, x: p.entropy(),
    "mean": lambda p, q, x: p.mean,
    "variance": lambda p, q, x: p.variance,
    "kl_divergence": lambda p, q, x: p.kl_divergence(q),
}


def everything(p, q, x):
    return {name: function(p, q, x) for name, function in FUNCTIONS.items()}


@pytest.mark.slow
def test_gradients_equal_finite_differences_to_second_order(check_to_second_order):
    x, of_p, of_q = unit_of((3, 4))
    p, q = VonMisesFisher(of_p, np.array(3.0)), VonMisesFisher(of_q, np.array(8.0))
    check_to_second_order(lambda p, q: everything(p, q, x), (p, q))


@pytest.mark.slow
def test_jit_eager_and_vmap_agree():
    def function(p, q, x):
        return everything(p, q, x), p.sample(jax.random.key(0))

    concentration = jnp.array([0.0, 1.0, 30.0])
    batch = (
        VonMisesFisher(unit_of((3, 4), 1), concentration),
        VonMisesFisher(unit_of((3, 4), 2), concentration + 1.0),
        unit_of((3, 4), 3),
    )
    one_by_one = [function(*jax.tree.map(lambda leaf, i=i: leaf[i], batch)) for i in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    chex.assert_trees_all_close(jax.vmap(function)(*batch), stacked, atol=1e-11)
    chex.assert_trees_all_close(jax.jit(function)(*batch), function(*batch), atol=1e-11)


# A large program for a few numbers: to optimize it takes longer than to run it.
@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def values_and_slopes(p, q, x):
    def at(k, c):
        of_k, of_c = p._replace(concentration=k), q._replace(concentration=c)
        return everything(of_k, of_c, x)

    ones = jnp.ones_like(p.concentration), jnp.ones_like(q.concentration)
    return jax.jvp(at, (p.concentration, q.concentration), ones)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dimension", [2, 32])
def test_finite_from_the_uniform_to_the_concentrated(dimension, dtype):
    for concentration in (0.0, 1e-20, 1.0, 1e6):
        p = distribution_of(dimension, concentration, 1, dtype)
        for q in (p, distribution_of(dimension, 5.0, 2, dtype)):
            found = values_and_slopes(p, q, unit_of((dimension,), 3, dtype))
            chex.assert_tree_all_finite(found)
            chex.assert_type(jax.tree.leaves(found), dtype)


@pytest.mark.parametrize("name", ["entropy", "kl_divergence", "variance"])
def test_float32_equals_float64(name):
    concentration = np.array([0.0, 1.0, 1e2, 1e4, 1e6])
    p = VonMisesFisher(unit_of((5, 8)), concentration)
    q = p._replace(concentration=0.5 * concentration)
    function = jax.jit(FUNCTIONS[name])
    narrow, wide = (function(*jax.tree.map(t, (p, q)), None) for t in (np.float32, np.float64))
    np.testing.assert_allclose(narrow, wide, rtol=1e-3, atol=1e-10)


def test_concentrated_samples_stay_near_the_mean_direction():
    p = distribution_of(3, 1e6, dtype=np.float32)
    samples = np.asarray(jax.jit(lambda p: p.sample(jax.random.key(0), (5000,)))(p), np.float64)
    apart = np.sum((samples - p.mean_direction) ** 2, axis=-1)
    error = np.std(apart) / np.sqrt(len(apart))
    assert abs(apart.mean() - 2e-6) < 5.0 * error


@functools.partial(jax.jit, static_argnums=0)
def few_samples_with_slopes(dimension, concentration):
    direction = jnp.zeros((*concentration.shape, dimension), concentration.dtype).at[:, 0].set(1.0)

    def sample(concentration):
        return VonMisesFisher(direction, concentration).sample(jax.random.key(0), (200,))

    return jax.jvp(sample, (concentration,), (jnp.ones_like(concentration),))


@pytest.mark.parametrize(
    ("dimension", "dtype"),
    [
        (2, np.float32),
        (3, np.float32),
        (64, np.float32),
        (2, np.float64),
        pytest.param(3, np.float64, marks=pytest.mark.slow),
        pytest.param(64, np.float64, marks=pytest.mark.slow),
    ],
)
def test_sampling_ends_for_any_concentration(dimension, dtype):
    """Under jit, where no value is checked: what is no concentration is NaN, and waits for none."""
    most = np.finfo(dtype).max
    large = np.array([1e19, 1e25, 1e37, most ** dtype(0.9), most / 2, most], dtype)
    small = [0.0, 1e-38, 1e-20, 1.0, 1e6]
    given = np.concatenate([[np.nan, -1.0, -most], large, [np.inf], small]).astype(dtype)
    samples, slopes = map(np.asarray, few_samples_with_slopes(dimension, given))
    assert samples.dtype == slopes.dtype == dtype
    assert np.all(np.isnan(samples[:, :3]))
    assert np.all(np.isfinite(samples[:, 3:]))
    assert np.all(np.isfinite(np.delete(slopes[:, 3:], len(large), axis=1)))
    np.testing.assert_allclose(np.linalg.norm(samples[:, 3:], axis=-1), 1.0, rtol=1e-5)
    across = np.linalg.norm(samples[:, 3 : 4 + len(large), 1:].astype(float), axis=-1)
    # |x - m|^2 is (D - 1) / kappa on average; the least floats are 0.
    scale = np.sqrt((dimension - 1.0) / np.append(large, np.inf).astype(float))
    assert np.all(across <= 8.0 * scale)
    np.testing.assert_allclose(np.mean(across[:, 0] ** 2), scale[0] ** 2, rtol=0.3)


def test_the_second_sample_compiles_nothing():
    p, q = (VonMisesFisher(unit_of((2, 3)), k) for k in (np.ones(2), np.full(2, 3.0)))
    keys = [jax.random.key(seed) for seed in range(2)]
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    p.sample(keys[0], (7,))
    first = len(compiled)
    q.sample(keys[1], (7,))
    assert first > 0 and len(compiled) == first


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_samples_within_a_shard_map(kind):
    """A loop's types are checked on a mesh of one device too."""
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(kind,), devices=jax.devices()[:1])
    rows, whole = PartitionSpec("batch"), PartitionSpec()
    p, key = VonMisesFisher(unit_of((4, 3)), np.array([0.0, 1.0, 10.0, 1e3])), jax.random.key(0)

    def samples(p, key):
        of_device = p.sample(jax.random.fold_in(key, jax.lax.axis_index("batch")))
        ones = jnp.ones_like(p.concentration)
        along = (lambda k: p._replace(concentration=k).sample(key), (p.concentration,), (ones,))
        return of_device, *jax.jvp(*along)

    mapped = jax.shard_map(samples, mesh=mesh, in_specs=(rows, whole), out_specs=rows)
    found = jax.jit(mapped)(jax.device_put(p, NamedSharding(mesh, rows)), key)
    chex.assert_tree_all_finite(found)
    np.testing.assert_allclose(found[1], sample(p, key), rtol=1e-12)


DIRECTION = jnp.asarray(unit_of((2, 3)))
GOOD = VonMisesFisher(DIRECTION, jnp.ones(2))
BAD = {
    "not_unit": (
        lambda: GOOD._replace(mean_direction=2.0 * DIRECTION).entropy(),
        ValueError,
        "distribution.mean_direction must hold unit vectors, got one of length 2",
    ),
    "point_not_unit": (
        lambda: GOOD.log_prob(0.5 * DIRECTION),
        ValueError,
        "x must hold unit vectors, got one of length 0.5",
    ),
    "negative_concentration": (
        lambda: GOOD._replace(concentration=jnp.array([1.0, -3.0])).sample(jax.random.key(0)),
        ValueError,
        "distribution.concentration must not be negative, got -3",
    ),
    "one_dimension": (
        lambda: VonMisesFisher(jnp.ones(1), jnp.ones(())).entropy(),
        ValueError,
        r"two dimensions or more .* got \(1,\) and \(\)",
    ),
    "fields_of_two_shapes": (
        lambda: VonMisesFisher(DIRECTION, jnp.ones(3)).entropy(),
        ValueError,
        r"got \(2, 3\) and \(3,\)",
    ),
    "nan": (
        lambda: GOOD._replace(concentration=jnp.array([1.0, jnp.nan])).entropy(),
        ValueError,
        r"distribution.concentration must be finite, got nan at index \(1,\)",
    ),
    "integers": (
        lambda: VonMisesFisher(DIRECTION, jnp.ones(2, int)).entropy(),
        TypeError,
        "distribution.concentration must be floating point, got dtype int64",
    ),
    "other_type": (
        lambda: GOOD.kl_divergence(DIRECTION),
        TypeError,
        "q must be a VonMisesFisher, got ArrayImpl",
    ),
    "two_shapes": (
        lambda: GOOD.kl_divergence(VonMisesFisher(unit_of((3,)), jnp.ones(()))),
        ValueError,
        r"p and q must have one shape .* got \(2, 3\) and \(3,\)",
    ),
    "point_of_another_shape": (
        lambda: GOOD.log_prob(unit_of((3,))),
        ValueError,
        r"mean \(2, 3\), got \(3,\)",
    ),
    "no_key": (lambda: GOOD.sample(1.0), TypeError, "key must be a single key"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()
