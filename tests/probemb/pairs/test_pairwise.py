import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probemb import DiagonalGaussian, distances, pairwise
from probemb.numerics import euclidean

PRODUCTS = ("sampled_distance", "wasserstein_2")
BLOCKS = (
    "kl_divergence",
    "jeffreys_divergence",
    "geometric_jensen_shannon_divergence",
    "bhattacharyya_distance",
    "log_expected_likelihood_kernel",
    "mutual_likelihood_score",
)
FUNCTIONS = PRODUCTS + BLOCKS

every_function = pytest.mark.parametrize("name", FUNCTIONS)


def gaussian_of(shape, seed=0, dtype=np.float64, offset=0.0):
    generator = np.random.default_rng(seed)
    return DiagonalGaussian(
        jnp.asarray(offset + generator.normal(size=shape), dtype),
        jnp.asarray(generator.uniform(-1.5, 1.0, shape), dtype),
    )


def of_all_pairs(name):
    each = getattr(distances, name)
    return jax.vmap(jax.vmap(each, (None, 0)), (0, None))


def as_type(dtype, *trees):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), trees)


P, Q = gaussian_of((5, 4), 1), gaussian_of((7, 4), 2)


@jax.jit
def values_and_gradients(p, q):
    return {
        name: jax.value_and_grad(lambda p, q, f=f: jnp.sum(f(p, q)), (0, 1))(p, q)
        for name, f in ((name, getattr(pairwise, name)) for name in FUNCTIONS)
    }


@every_function
def test_equals_distances_of_each_pair(name):
    value = getattr(pairwise, name)(P, Q)
    assert value.shape == (5, 7)
    np.testing.assert_allclose(value, of_all_pairs(name)(P, Q), rtol=1e-11)


def test_gradients_equal_those_of_distances():
    weights = jnp.asarray(np.random.default_rng(3).normal(size=(5, 7)))

    @jax.jit
    def both(p, q):
        def gradient(function):
            return jax.grad(lambda p, q: jnp.sum(weights * function(p, q)), (0, 1))(p, q)

        return {
            name: (gradient(getattr(pairwise, name)), gradient(of_all_pairs(name)))
            for name in FUNCTIONS
        }

    for name, (found, expected) in both(P, Q).items():
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.slow
@every_function
def test_jit_eager_and_vmap_agree(name):
    function = getattr(pairwise, name)
    p, q = gaussian_of((2, 5, 4), 1), gaussian_of((2, 7, 4), 2)
    one_by_one = [function(*jax.tree.map(lambda leaf, i=i: leaf[i], (p, q))) for i in range(2)]
    chex.assert_trees_all_close(jax.vmap(function)(p, q), jnp.stack(one_by_one), atol=1e-11)
    chex.assert_trees_all_close(jax.jit(function)(P, Q), function(P, Q), atol=1e-11)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_size_of_a_block_does_not_matter(name, monkeypatch):
    expected = of_all_pairs(name)(P, Q)
    jax.clear_caches()
    monkeypatch.setattr(pairwise, "_BLOCK", 2 * Q.mean.size)
    np.testing.assert_allclose(getattr(pairwise, name)(P, Q), expected, rtol=1e-12)
    jax.clear_caches()


@pytest.mark.parametrize("name", ["sampled_distance", "wasserstein_2"])
def test_far_from_the_origin_float32_stays_accurate(name):
    p, q = (gaussian_of((6, 32), seed, offset=100.0) for seed in (1, 2))
    narrow = as_type(jnp.float32, p, q)
    # Rounding the input moves it: the truth is that of the rounded means.
    expected = of_all_pairs(name)(*as_type(jnp.float64, *narrow))
    found = getattr(pairwise, name)(*narrow)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_squared_distance_equals_that_of_each_pair():
    x, y = np.random.default_rng(4).normal(size=(2, 6, 3))
    found = euclidean.squared_distance(jnp.asarray(x), jnp.asarray(y[:4]))
    np.testing.assert_allclose(found, ((x[:, None] - y[None, :4]) ** 2).sum(-1), rtol=1e-12)
    far = jnp.asarray(x + 1000.0, jnp.float32)
    wide = np.asarray(far, np.float64)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(-1)
    found = euclidean.squared_distance(*euclidean.centered(far, far))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_cannot_be_negative_is_not(dtype):
    p = gaussian_of((20, 16), dtype=dtype, offset=10.0)
    near = p._replace(mean=p.mean * (1.0 + 1e-7))

    @jax.jit
    def everything(p, q):
        of_means = euclidean.squared_distance(p.mean, q.mean)
        return [of_means, *(getattr(pairwise, name)(p, q) for name in PRODUCTS)]

    for q in (p, near):
        assert all(np.all(table >= 0.0) for table in everything(p, q))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("log_variance", [-30.0, 30.0])
def test_extreme_variances_stay_finite(log_variance, dtype):
    p = gaussian_of((3, 4), dtype=dtype)
    q = p._replace(log_variance=jnp.full((3, 4), log_variance, dtype))
    chex.assert_tree_all_finite((values_and_gradients(p, q), values_and_gradients(q, q)))


def test_the_gradient_of_a_set_to_itself_is_finite_in_float32():
    names = ("wasserstein_2", "kl_divergence", "jeffreys_divergence")

    @jax.jit
    @jax.grad
    def gradient(p):
        return sum(jnp.sum(getattr(pairwise, name)(p, p)) for name in names)

    chex.assert_tree_all_finite(gradient(gaussian_of((6, 4), dtype=np.float32)))


def dots_of(jaxpr):
    """Every dot_general of a jaxpr and of the jaxprs inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from dots_of(inner)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_product_asks_for_the_highest_precision(name, gradient):
    function = getattr(pairwise, name)
    if gradient:
        function = jax.grad(lambda p, q: jnp.sum(getattr(pairwise, name)(p, q)), (0, 1))
    dots = list(dots_of(jax.make_jaxpr(function)(*as_type(jnp.float32, P, Q)).jaxpr))
    assert bool(dots) == (name in PRODUCTS)
    highest = jax.lax.Precision.HIGHEST
    assert all(dot.params["precision"] == (highest, highest) for dot in dots)


GOOD = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
BAD = {
    "other_type": ((GOOD, GOOD.mean), TypeError, "q must be a DiagonalGaussian, got ArrayImpl"),
    "one_distribution": (
        (DiagonalGaussian(jnp.zeros(3), jnp.zeros(3)), GOOD),
        ValueError,
        r"\(rows, dimension\) and \(columns, dimension\), got \(3,\) and \(2, 3\)",
    ),
    "two_dimensions": (
        (GOOD, DiagonalGaussian(jnp.zeros((2, 4)), jnp.zeros((2, 4)))),
        ValueError,
        r"got \(2, 3\) and \(2, 4\)",
    ),
    "nan": (
        (GOOD, GOOD._replace(mean=GOOD.mean.at[1, 2].set(jnp.nan))),
        ValueError,
        r"q.mean must be finite, got nan at index \(1, 2\)",
    ),
    "empty": (
        (DiagonalGaussian(GOOD.mean[:0], GOOD.mean[:0]), GOOD),
        ValueError,
        r"p.mean must not be empty, got shape \(0, 3\)",
    ),
    "integers": (
        (GOOD._replace(log_variance=jnp.zeros((2, 3), int)), GOOD),
        TypeError,
        "p.log_variance must be floating point, got dtype int64",
    ),
}


@every_function
@pytest.mark.parametrize("case", BAD)
def test_bad_input(name, case):
    pair, error, message = BAD[case]
    with pytest.raises(error, match=message):
        getattr(pairwise, name)(*pair)
