import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import expit

import probemb
from probemb import DiagonalGaussian, GaussianMixture, GeneralizedGaussian, VonMisesFisher
from probemb.adapters import Adapter, uncertainty

OUTPUTS = ("generalized_gaussian", "gaussian", "von_mises_fisher")
LOCATIONS = {
    "generalized_gaussian": "residual",
    "gaussian": "frozen",
    "von_mises_fisher": "residual",
}
every_output = pytest.mark.parametrize("output", OUTPUTS)
both_widths = pytest.mark.parametrize("dtype", [np.float32, np.float64])
UNIT = 0.5  # 1 / sqrt(dimension)


def units_of(shape, seed=0):
    vectors = np.random.default_rng(seed).normal(size=shape)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return jnp.asarray(vectors, jnp.float32)


EMBEDDING, PARTNER = units_of((3, 4)), units_of((3, 4), 1)


def wide(tree):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), tree)


# What runs a few times is not worth optimizing.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
variance = compiled(lambda p: p.variance)


@functools.cache
def make(output):
    """An adapter, its first parameters, others that differ everywhere, and both as functions."""
    adapter = Adapter(4, output=output, location=LOCATIONS[output], hidden=(8, 6))
    first = compiled(adapter.initialize)(jax.random.key(0))
    noise = np.random.default_rng(2)
    other = jax.tree.map(
        lambda x: jnp.asarray(x + 0.3 * noise.normal(size=x.shape).astype(np.float32)),
        jax.tree.map(np.asarray, first),
    )

    @compiled
    @jax.value_and_grad
    def loss(parameters, z, target):
        return probemb.reconstruction(adapter.apply(parameters, z), target)

    return adapter, first, other, compiled(adapter.apply), loss


# --- one adapter -------------------------------------------------------------------------------


@every_output
def test_at_first_all_items_are_alike_around_their_embeddings(output):
    adapter, first, _, apply, _ = make(output)
    p, deviation = apply(first, EMBEDDING), UNIT * math.exp(-0.5)
    if adapter.output == "von_mises_fisher":
        assert isinstance(p, VonMisesFisher)
        np.testing.assert_allclose(p.mean_direction, EMBEDDING, atol=1e-7)
        np.testing.assert_allclose(p.concentration, np.full(3, deviation**-2), rtol=1e-6)
        return
    np.testing.assert_array_equal(p.mean, EMBEDDING)
    np.testing.assert_allclose(variance(p), np.full((3, 4), deviation**2), rtol=1e-5)
    if adapter.output == "gaussian":
        assert isinstance(p, DiagonalGaussian)
    else:  # a generalized Gaussian that starts as a Gaussian
        assert isinstance(p, GeneralizedGaussian)
        np.testing.assert_allclose(p.shape, np.full((3, 4), 2.0), rtol=1e-6)
        np.testing.assert_allclose(p.scale, np.full((3, 4), deviation * 2**0.5), rtol=1e-6)


def between(x, low, high, first):
    return low + (high - low) * expit(x + math.log((first - low) / (high - first)))


def by_hand(adapter, parameters, z):
    """Location, deviation and shape in NumPy."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), parameters)

    def linear(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    hidden = z / UNIT
    for k in range(len(adapter.hidden)):
        hidden = np.maximum(linear(p["hidden"][k], hidden), 0.0)
    location = z + (UNIT * linear(p["step"], hidden) if "step" in p else 0.0)
    deviation = UNIT * np.exp(between(linear(p["log_deviation"], hidden), -7.0, 3.0, -0.5))
    if "log_shape" not in p:
        return location, deviation, None
    bounds = np.log([0.5, 4.0, 2.0])
    return location, deviation, np.exp(between(linear(p["log_shape"], hidden), *bounds))


@every_output
def test_an_adapter_is_its_formula(output):
    adapter, _, parameters, apply, _ = make(output)
    p = apply(parameters, EMBEDDING)
    location, deviation, shape = by_hand(adapter, parameters, np.asarray(EMBEDDING, float))
    if adapter.output == "von_mises_fisher":
        assert deviation.shape == (3, 1)
        np.testing.assert_allclose(p.concentration, deviation[:, 0] ** -2, rtol=1e-5)
        direction = location / np.linalg.norm(location, axis=1, keepdims=True)
        np.testing.assert_allclose(p.mean_direction, direction, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_allclose(p.mean, location, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.sqrt(variance(p)), deviation, rtol=1e-5)
    if shape is not None:
        np.testing.assert_allclose(p.shape, shape, rtol=1e-5)
        assert np.ptp(shape) > 0.1
        spread = scipy.stats.gennorm.std(shape, scale=np.asarray(p.scale, float))
        np.testing.assert_allclose(spread, deviation, rtol=1e-5)
    assert np.ptp(deviation) > 0.1
    moved = np.abs(location - np.asarray(EMBEDDING)).max()
    assert moved > 0.1 if adapter.location == "residual" else moved == 0.0


@every_output
def test_jit_eager_vmap_and_any_batch_axes(output):
    adapter, _, parameters, apply, _ = make(output)
    eager = adapter.apply(parameters, EMBEDDING)
    expected = jax.tree.map(np.asarray, apply(parameters, EMBEDDING))
    chex.assert_trees_all_close(eager, expected, rtol=1e-5, atol=1e-6)
    mapped = compiled(jax.vmap(adapter.apply, (None, 0)))(parameters, EMBEDDING)
    chex.assert_trees_all_close(mapped, expected, rtol=1e-5, atol=1e-6)
    grid = apply(parameters, np.asarray(EMBEDDING)[:, None])
    expected = jax.tree.map(lambda x: x[:, None], expected)
    chex.assert_trees_all_close(grid, expected, rtol=1e-5, atol=1e-6)


def test_the_first_call_may_be_a_traced_one():
    """What an adapter remembers of its network must hold nothing of a trace."""
    adapter, _, parameters, apply, _ = make("gaussian")
    fresh = dataclasses.replace(adapter)
    traced = compiled(fresh.apply)(parameters, EMBEDDING)
    chex.assert_trees_all_equal(traced, apply(parameters, EMBEDDING))
    chex.assert_trees_all_close(fresh.apply(parameters, EMBEDDING), traced, rtol=1e-6)
    assert fresh == adapter and hash(fresh) == hash(adapter) != hash(make("von_mises_fisher")[0])


@pytest.mark.parametrize("output", ["generalized_gaussian", "von_mises_fisher"])
def test_gradients(output, check_to_second_order):
    adapter, _, parameters, *_ = make(output)
    check_to_second_order(adapter.apply, (wide(parameters), wide(EMBEDDING)))


@every_output
def test_float32_beside_float64(output):
    _, _, parameters, apply, loss = make(output)
    p = apply(parameters, EMBEDDING)
    chex.assert_type(jax.tree.leaves(p), jnp.float32)
    exact = apply(wide(parameters), wide(EMBEDDING))
    chex.assert_type(jax.tree.leaves(exact), jnp.float64)
    chex.assert_trees_all_close(wide(p), exact, rtol=1e-4, atol=1e-6)
    value, gradient = loss(parameters, EMBEDDING, PARTNER)
    assert all(np.abs(leaf).max() > 0.0 for leaf in jax.tree.leaves(gradient))
    if output == "von_mises_fisher":
        return  # its Bessel functions take long to compile
    exact = loss(wide(parameters), wide(EMBEDDING), wide(PARTNER))
    chex.assert_trees_all_close(wide((value, gradient)), exact, rtol=1e-3, atol=1e-4)


HEADS = ("log_deviation", "log_shape")


def set_to(parameters, value, names, dtype):
    """The parameters whose path holds one of the names, all of one value."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.asarray(
            np.full(x.shape, value, dtype)
            if any(n in jax.tree_util.keystr(path) for n in names)
            else np.asarray(x, dtype)
        ),
        parameters,
    )


@every_output
@both_widths
@pytest.mark.parametrize("huge", [1e6, -1e6])
def test_nothing_leaves_its_bounds(output, dtype, huge):
    """Here the bounds are reached; a step beyond them has the gradient 0, not NaN."""
    adapter, _, parameters, apply, loss = make(output)
    z, target = np.asarray(EMBEDDING, dtype), np.asarray(PARTNER, dtype)
    parameters = set_to(parameters, huge, HEADS, dtype)
    p = apply(parameters, z)
    if adapter.output == "von_mises_fisher":
        deviation = np.asarray(p.concentration) ** -0.5 / UNIT
    else:
        deviation = np.sqrt(variance(p)) / UNIT
    reached = math.exp(3.0 if huge > 0.0 else -7.0)
    np.testing.assert_allclose(deviation, np.full_like(deviation, reached), rtol=1e-5)
    if adapter.output == "generalized_gaussian":
        np.testing.assert_allclose(p.shape, np.full((3, 4), 4.0 if huge > 0 else 0.5), rtol=1e-6)
    if output == "von_mises_fisher" and dtype == np.float64:
        return  # as above
    value, gradient = loss(parameters, z, target)
    chex.assert_tree_all_finite((value, gradient))
    for name in set(HEADS) & set(gradient):
        assert all(np.all(leaf == 0.0) for leaf in jax.tree.leaves(gradient[name]))


@every_output
@both_widths
@pytest.mark.parametrize("huge", [1e6, -1e6])
def test_huge_parameters_everywhere_leave_all_spreads_within_bounds(output, dtype, huge):
    adapter, _, parameters, apply, _ = make(output)
    parameters = set_to(parameters, huge, ("",), dtype)
    p = apply(parameters, np.asarray(EMBEDDING, dtype))
    chex.assert_tree_all_finite(p)
    if adapter.output == "von_mises_fisher":
        np.testing.assert_allclose(np.linalg.norm(p.mean_direction, axis=1), 1.0, rtol=1e-6)
        deviation = np.asarray(p.concentration) ** -0.5 / UNIT
    else:
        deviation = np.sqrt(variance(p)) / UNIT
    slack = 1e-5
    assert np.all(deviation > math.exp(-7.0) * (1.0 - slack))
    assert np.all(deviation < math.exp(3.0) * (1.0 + slack))


@both_widths
def test_gradients_are_finite_where_an_embedding_explains_itself(dtype):
    """A residual of 0 under a shape below 1 is the tip of a cusp."""
    _, first, _, apply, loss = make("generalized_gaussian")
    parameters = set_to(first, -2.0, ("log_shape",), dtype)
    z = np.asarray(EMBEDDING, dtype)
    p = apply(parameters, z)
    assert np.all(p.shape < 1.0) and np.all(p.location == z)
    value, gradient = loss(parameters, z, z)
    chex.assert_tree_all_finite((value, gradient))
    exact = scipy.stats.gennorm.logpdf(0.0, np.asarray(p.shape, float), 0.0, np.asarray(p.scale))
    np.testing.assert_allclose(value, -exact.mean(), rtol=1e-5)
    assert np.all(gradient["log_deviation"]["bias"] > 0.0)  # narrower is likelier


@every_output
def test_a_zero_embedding_has_finite_gradients(output):
    adapter, _, parameters, *_ = make(output)

    @compiled
    @functools.partial(jax.grad, argnums=(0, 1))
    def slopes(parameters, z):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(adapter.apply(parameters, z)))

    chex.assert_tree_all_finite(slopes(parameters, jnp.zeros((2, 4), jnp.float32)))


# --- keys: of parameters and of dropout --------------------------------------------------------


def test_parameters_are_a_function_of_their_key():
    adapter, first, *_ = make("generalized_gaussian")
    initialize = compiled(adapter.initialize)
    again, other = (initialize(jax.random.PRNGKey(k)) for k in (0, 1))
    chex.assert_trees_all_equal(again, initialize(jax.random.PRNGKey(0)))
    chex.assert_trees_all_close(again, first, rtol=1e-6)  # a key of the older kind
    chex.assert_type(jax.tree.leaves(first), jnp.float32)
    for k in range(2):
        kernels = [np.asarray(x["hidden"][k]["kernel"]) for x in (first, other)]
        assert not np.any(kernels[0] == kernels[1])
        assert kernels[0].std() > 0.1
    for name in ("step", "log_deviation", "log_shape"):
        assert not np.any(first[name]["kernel"])


def test_an_ensemble_is_its_members():
    adapter, _, _, apply, _ = make("generalized_gaussian")
    keys = jax.random.split(jax.random.key(3), 2)
    ensemble = compiled(jax.vmap(adapter.initialize))(keys)
    alone = [compiled(adapter.initialize)(key) for key in keys]
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    chex.assert_trees_all_close(ensemble, together, rtol=1e-6)
    kernels = np.asarray(ensemble["hidden"][0]["kernel"])
    assert not np.any(kernels[0] == kernels[1])

    def shifted(parameters):  # heads that are not 0, so that the members differ
        return set_to(parameters, 0.1, ("log_deviation", "step"), np.float32)

    members = compiled(jax.vmap(adapter.apply, (0, None)))(shifted(ensemble), EMBEDDING)
    one_by_one = [apply(shifted(parameters), EMBEDDING) for parameters in alone]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *one_by_one)
    chex.assert_trees_all_close(members, expected, rtol=1e-5, atol=1e-6)
    found = uncertain(members)
    np.testing.assert_allclose(
        np.exp(found.log_epistemic), np.var(np.asarray(members.mean), 0), rtol=1e-4
    )
    assert np.all(found.log_epistemic > -20.0)


@every_output
def test_dropout_is_a_function_of_its_key(output):
    adapter, _, parameters, apply, _ = make(output)
    heavy = dataclasses.replace(adapter, dropout=0.5)
    dropped = compiled(heavy.apply)
    first, again, other = (dropped(parameters, EMBEDDING, key=jax.random.key(k)) for k in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    deterministic = apply(parameters, EMBEDDING)
    assert not np.allclose(first[1], other[1]) and not np.allclose(first[1], deterministic[1])
    if output == "gaussian":
        eager = heavy.apply(parameters, EMBEDDING, key=jax.random.key(0))
        chex.assert_trees_all_close(eager, first, rtol=1e-5, atol=1e-6)


def test_dropout_drops_units_of_every_layer_and_keeps_the_mean():
    """Layers that change nothing, so that the step shows what was dropped."""
    adapter = Adapter(4, output="gaussian", hidden=(4, 4), dropout=0.3)
    same = {"kernel": jnp.eye(4, dtype=jnp.float32), "bias": jnp.zeros(4, jnp.float32)}
    parameters = compiled(adapter.initialize)(jax.random.key(0))
    parameters |= {"hidden": {0: same, 1: same}, "step": same}
    z = jnp.abs(EMBEDDING)

    def location(key):
        return adapter.apply(parameters, z, key=key).mean

    keys = jax.random.split(jax.random.key(1), 2000)
    steps = np.asarray(compiled(jax.vmap(location))(keys)) - np.asarray(z)
    kept = steps > 0.5 * np.asarray(z)
    expected = np.where(kept, np.asarray(z)[None] / 0.7**2, 0.0)
    np.testing.assert_allclose(steps, expected, rtol=1e-5, atol=1e-6)
    error = np.sqrt(0.49 * 0.51 / kept.size)
    assert abs(kept.mean() - 0.49) < 5.0 * error
    deterministic = np.asarray(compiled(adapter.apply)(parameters, z).mean) - np.asarray(z)
    np.testing.assert_allclose(deterministic, z, rtol=1e-6)
    error = steps.std(0) / np.sqrt(len(steps))
    assert np.all(np.abs(steps.mean(0) - deterministic) < 5.0 * error)
    flat = kept.reshape(2000, -1).astype(float)  # units and items are dropped one by one
    apart = np.corrcoef(flat, rowvar=False) - np.eye(12)
    assert np.abs(apart).max() < 5.0 / np.sqrt(2000)


# --- uncertainty -------------------------------------------------------------------------------


uncertain = compiled(uncertainty)


def members_of(output, seed=0, number=3):
    """Distributions (member, 2, 3), and SciPy's means and variances of them."""
    generator = np.random.default_rng(seed)
    mean = generator.normal(size=(number, 2, 3))
    if output == "gaussian":
        deviation = generator.uniform(0.5, 2.0, mean.shape)
        p = DiagonalGaussian(jnp.asarray(mean), jnp.asarray(2.0 * np.log(deviation)))
        return p, mean, deviation**2
    if output == "generalized_gaussian":
        scale, shape = generator.uniform((0.5,), 3.0, (2, *mean.shape))
        p = GeneralizedGaussian(jnp.asarray(mean), jnp.asarray(scale), jnp.asarray(shape))
        return p, mean, scipy.stats.gennorm.var(shape, scale=scale)
    direction = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    kappa = generator.uniform(1.0, 20.0, mean.shape[:-1])
    p = VonMisesFisher(jnp.asarray(direction), jnp.asarray(kappa))
    length = (1.0 / np.tanh(kappa) - 1.0 / kappa)[..., None]  # in three dimensions
    ratio = length / kappa[..., None]
    along = 1.0 - 2.0 * ratio - length**2
    return p, length * direction, ratio + (along - ratio) * direction**2


@every_output
def test_uncertainty_is_the_law_of_total_variance(output):
    p, mean, variance = members_of(output)
    found = jax.tree.map(np.exp, uncertain(p))
    np.testing.assert_allclose(found.log_aleatoric, variance.mean(0), rtol=1e-7)
    np.testing.assert_allclose(found.log_epistemic, mean.var(0), rtol=1e-7)
    np.testing.assert_allclose(found.log_total, variance.mean(0) + mean.var(0), rtol=1e-7)
    if output == "von_mises_fisher":
        return
    generator, samples = np.random.default_rng(1), 20_000  # of every member
    if output == "gaussian":
        noise = generator.normal(size=(samples, *mean.shape)) * np.sqrt(variance)
    else:
        shape, scale = np.asarray(p.shape), np.asarray(p.scale)
        noise = scipy.stats.gennorm(shape, 0.0, scale).rvs((samples, *mean.shape), generator)
    mixture = (mean + noise).reshape(-1, 2, 3)
    squared = np.square(mixture - mixture.mean(0))
    error = squared.std(0) / np.sqrt(len(squared))
    assert np.all(np.abs(squared.mean(0) - found.log_total) < 5.0 * error)


def test_the_total_is_the_variance_of_a_mixture():
    p, *_ = members_of("gaussian")
    mixture = jax.tree.map(
        jnp.asarray,
        GaussianMixture(np.zeros((2, 3)), jax.tree.map(lambda x: np.moveaxis(x, 0, 1), p)),
    )
    expected = variance(mixture)
    np.testing.assert_allclose(np.exp(uncertain(p).log_total), expected, rtol=1e-12)
    # One member that is a mixture itself.
    members = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[None]), mixture)
    np.testing.assert_allclose(uncertain(members).log_aleatoric, np.log(expected))


def test_neither_order_nor_place_nor_repetition_of_members_matters():
    p, *_ = members_of("gaussian")
    expected = uncertain(p)
    for other in (
        jax.tree.map(lambda x: np.asarray(x)[::-1], p),
        p._replace(mean=p.mean + 3.0),
        jax.tree.map(lambda x: np.concatenate([x, x]), p),
    ):
        chex.assert_trees_all_close(uncertain(other), expected, rtol=1e-10)
    scaled = DiagonalGaussian(3.0 * p.mean, p.log_variance + 2.0 * math.log(3.0))
    expected = jax.tree.map(lambda x: np.asarray(x) + 2.0 * math.log(3.0), expected)
    chex.assert_trees_all_close(uncertain(scaled), expected, rtol=1e-10)


@every_output
def test_uncertainty_under_jit_and_vmap(output):
    p, *_ = members_of(output)
    expected = uncertain(p)
    chex.assert_trees_all_close(uncertainty(p), expected, rtol=1e-10)
    mapped = compiled(jax.vmap(uncertainty, in_axes=1))(p)
    chex.assert_trees_all_close(mapped, expected, rtol=1e-10)


def test_gradients_of_uncertainty(check_to_second_order):
    check_to_second_order(uncertainty, (members_of("generalized_gaussian")[0],))


slopes = compiled(jax.grad(lambda p: sum(jnp.sum(x) for x in uncertainty(p))))


@both_widths
@pytest.mark.parametrize("log_variance", [-69.0, 0.0, 69.0])
def test_members_that_agree(dtype, log_variance):
    """Seven of them, whose sum over seven is off by rounding."""
    mean = np.tile(np.asarray([[0.3, -1.7, 0.1]], dtype), (7, 1))
    p = DiagonalGaussian(jnp.asarray(mean), jnp.full((7, 3), log_variance, dtype))
    found = uncertain(p)
    chex.assert_type(list(found), dtype)
    np.testing.assert_allclose(found.log_aleatoric, np.full(3, log_variance), atol=1e-5)
    np.testing.assert_allclose(found.log_total, np.full(3, log_variance), atol=1e-5)
    gradient = slopes(p)
    np.testing.assert_allclose(gradient.log_variance, np.full((7, 3), 2.0 / 7.0), rtol=1e-5)
    np.testing.assert_allclose(found.log_epistemic, np.full(3, np.log(np.finfo(dtype).tiny)))
    np.testing.assert_array_equal(gradient.mean, np.zeros((7, 3)))


@pytest.mark.parametrize("deviation", [1e-15, 1.0, 1e15])
def test_variances_far_from_one_in_float32(deviation):
    mean = jnp.asarray([[deviation], [-deviation]], jnp.float32)
    log_variance = jnp.full((2, 1), 2.0 * math.log(deviation), jnp.float32)
    p = DiagonalGaussian(mean, log_variance)
    expected = 2.0 * np.log(deviation) + np.log([[1.0], [1.0], [2.0]])
    np.testing.assert_allclose(np.stack(uncertain(p)), expected, rtol=1e-6, atol=1e-6)
    chex.assert_tree_all_finite(slopes(p))


def test_members_of_dropout_disagree_and_one_network_does_not():
    adapter, _, parameters, *_ = make("gaussian")
    adapter = dataclasses.replace(adapter, location="residual")
    parameters = parameters | {"step": parameters["log_deviation"]}
    keys = jax.random.split(jax.random.key(0), 3)

    def members(adapter):
        def apply(key):
            return adapter.apply(parameters, EMBEDDING, key=key)

        return compiled(lambda keys: uncertainty(jax.vmap(apply)(keys)))(keys)

    none, some = (members(dataclasses.replace(adapter, dropout=rate)) for rate in (0.0, 0.5))
    assert np.all(none.log_epistemic < -80.0) and np.all(some.log_epistemic > -20.0)
    assert np.all(some.log_total > some.log_aleatoric)


# --- bad input ---------------------------------------------------------------------------------


def apply_to(embedding, **options):
    adapter, first, *_ = make("gaussian")
    return adapter.apply(first, embedding, **options)


BAD = {
    "dimension": (lambda: Adapter(1), ValueError, "dimension must be at least 2, got 1"),
    "fraction": (lambda: Adapter(4.0), TypeError, r"dimension must be an integer, got 4\.0"),
    "list": (
        lambda: Adapter(4, hidden=[8]),
        TypeError,
        r"hidden must be a tuple of lengths, got \[8\]",
    ),
    "no_hidden": (
        lambda: Adapter(4, hidden=()),
        TypeError,
        r"hidden must be a tuple of lengths, got \(\)",
    ),
    "hidden": (lambda: Adapter(4, hidden=(8, 0)), ValueError, "hidden must be at least 1, got 0"),
    "output": (
        lambda: Adapter(4, output="laplace"),
        ValueError,
        r"output must be one of \('generalized_gaussian', .*\), got 'laplace'",
    ),
    "location": (
        lambda: Adapter(4, location=None),
        ValueError,
        r"location must be one of \('residual', 'frozen'\), got None",
    ),
    "dropout": (
        lambda: Adapter(4, dropout=1.0),
        ValueError,
        r"dropout must lie in 0..1, below 1, got 1\.0",
    ),
    "negative_dropout": (lambda: Adapter(4, dropout=-0.1), ValueError, r"dropout .* got -0\.1"),
    "nan_dropout": (lambda: Adapter(4, dropout=math.nan), ValueError, "dropout .* got nan"),
    "text_dropout": (lambda: Adapter(4, dropout="0.1"), ValueError, r"dropout .* got '0\.1'"),
    "no_key": (
        lambda: Adapter(4).initialize(0),
        TypeError,
        "key must be a single key of jax.random.key, got 0",
    ),
    "embedding_of_another_dimension": (
        lambda: apply_to(EMBEDDING[:, :3]),
        ValueError,
        r"embedding must have shape \(..., 4\), got \(3, 3\)",
    ),
    "scalar": (lambda: apply_to(1.0), ValueError, r"embedding must have shape .* got \(\)"),
    "nan": (
        lambda: apply_to(EMBEDDING.at[1, 2].set(jnp.nan)),
        ValueError,
        r"embedding must be finite, got nan at index \(1, 2\)",
    ),
    "integers": (
        lambda: apply_to(jnp.ones((3, 4), int)),
        TypeError,
        "embedding must be floating point, got dtype int64",
    ),
    "empty": (
        lambda: apply_to(EMBEDDING[:0]),
        ValueError,
        r"embedding must not be empty, got shape \(0, 4\)",
    ),
    "no_distributions": (
        lambda: uncertainty(EMBEDDING),
        TypeError,
        "p must be distributions, got ArrayImpl",
    ),
    "no_members": (
        lambda: uncertainty(DiagonalGaussian(jnp.zeros(3), jnp.zeros(3))),
        ValueError,
        r"p must have shape \(member, ..., dimension\), got \(3,\)",
    ),
    "nan_members": (
        lambda: uncertainty(DiagonalGaussian(jnp.full((2, 1), jnp.nan), jnp.zeros((2, 1)))),
        ValueError,
        r"p.mean must be finite, got nan at index \(0, 0\)",
    ),
    "key_of_dropout": (
        lambda: apply_to(EMBEDDING, key=3),
        TypeError,
        "key must be a single key of jax.random.key, got 3",
    ),
    "keys_of_dropout": (
        lambda: apply_to(EMBEDDING, key=jax.random.split(jax.random.key(0))),
        TypeError,
        "key must be a single key",
    ),
    "parameters_of_another_output": (
        lambda: make("gaussian")[0].apply(
            make("gaussian")[1] | {"log_deviation": make("von_mises_fisher")[1]["log_deviation"]},
            EMBEDDING,
        ),
        ValueError,
        "parameters",
    ),
    "nan_variances": (
        lambda: uncertainty(DiagonalGaussian(jnp.zeros((2, 1)), jnp.full((2, 1), jnp.nan))),
        ValueError,
        r"p.log_variance must be finite, got nan at index \(0, 0\)",
    ),
    "negative_scale": (
        lambda: uncertainty(GeneralizedGaussian(*[-jnp.ones((2, 1))] * 3)),
        ValueError,
        "p.*, got ",
    ),
    "variances_of_another_shape": (
        lambda: uncertainty(DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros(3))),
        ValueError,
        r"p .*got \(2, 3\) and \(3,\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()
