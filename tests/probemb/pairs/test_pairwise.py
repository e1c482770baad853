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
        (offset + generator.normal(size=shape)).astype(dtype),
        generator.uniform(-1.5, 1.0, shape).astype(dtype),
    )


def of_all_pairs(name):
    each = getattr(distances, name)
    return jax.vmap(jax.vmap(each, (None, 0)), (0, None))


def as_type(dtype, *trees):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), trees)


P, Q = gaussian_of((5, 4), 1), gaussian_of((7, 4), 2)


WEIGHTS = np.random.default_rng(3).normal(size=(5, 7))


def with_gradients(function_of):
    @jax.jit
    def tables_and_gradients(p, q):
        def table_and_gradients(function):
            table, pull_back = jax.vjp(function, p, q)
            return table, pull_back(jnp.asarray(WEIGHTS, table.dtype))

        return {name: table_and_gradients(function_of(name)) for name in FUNCTIONS}

    return tables_and_gradients


of_pairwise = with_gradients(lambda name: getattr(pairwise, name))
of_distances = with_gradients(of_all_pairs)


@every_function
def test_equals_distances_of_each_pair(name):
    (table, gradients), (expected, of_expected) = (
        f(P, Q)[name] for f in (of_pairwise, of_distances)
    )
    assert table.shape == (5, 7)
    np.testing.assert_allclose(table, expected, rtol=1e-11)
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(of_expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@every_function
def test_jit_eager_and_vmap_agree(name):
    function = getattr(pairwise, name)
    p, q = gaussian_of((2, 5, 4), 1), gaussian_of((2, 7, 4), 2)
    one_by_one = [function(*jax.tree.map(lambda leaf, i=i: leaf[i], (p, q))) for i in range(2)]
    chex.assert_trees_all_close(jax.vmap(function)(p, q), jnp.stack(one_by_one), atol=1e-11)
    chex.assert_trees_all_close(jax.jit(function)(P, Q), function(P, Q), atol=1e-11)


def test_the_size_of_a_block_does_not_matter(monkeypatch):
    # Without its `jit`, which keeps programs of other blocks.
    monkeypatch.setattr(pairwise, "_in_blocks", pairwise._in_blocks.__wrapped__)
    monkeypatch.setattr(pairwise, "_BLOCK", 2 * Q.mean.size)
    found = jax.jit(lambda p, q: {name: getattr(pairwise, name)(p, q) for name in BLOCKS})(P, Q)
    for name, (expected, _) in of_distances(P, Q).items():
        if name in BLOCKS:
            np.testing.assert_allclose(found[name], expected, rtol=1e-12, err_msg=name)


def test_far_from_the_origin_float32_stays_accurate():
    p, q = (gaussian_of((6, 32), seed, np.float32, offset=100.0) for seed in (1, 2))
    found = jax.jit(lambda p, q: [getattr(pairwise, name)(p, q) for name in PRODUCTS])(p, q)
    # Rounding the input moves it: the truth is that of the rounded means.
    rows, columns = (jax.tree.map(np.float64, g) for g in (p, q))
    apart = rows.mean[:, None] - columns.mean
    one, other = np.exp(0.5 * rows.log_variance)[:, None], np.exp(0.5 * columns.log_variance)
    expected = (
        np.sum(apart**2 + one**2 + other**2, axis=-1),
        np.sqrt(np.sum(apart**2 + (one - other) ** 2, axis=-1)),
    )
    for table, exact in zip(found, expected, strict=True):
        assert table.dtype == jnp.float32
        np.testing.assert_allclose(table, exact, rtol=1e-6)


def test_squared_distance_equals_that_of_each_pair():
    x, y = np.random.default_rng(4).normal(size=(2, 6, 3))
    found = jax.jit(euclidean.squared_distance)(x, y[:4])
    np.testing.assert_allclose(found, ((x[:, None] - y[None, :4]) ** 2).sum(-1), rtol=1e-12)
    far = (x + 1000.0).astype(np.float32)
    wide = far.astype(np.float64)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(-1)
    found = jax.jit(lambda x: euclidean.squared_distance(*euclidean.centered(x, x)))(far)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_cannot_be_negative_is_not(dtype):
    p = gaussian_of((20, 16), dtype=dtype, offset=10.0)
    near = p._replace(mean=p.mean * dtype(1.0 + 1e-7))

    @jax.jit
    def everything(p, q):
        of_means = euclidean.squared_distance(p.mean, q.mean)
        return [of_means, *(getattr(pairwise, name)(p, q) for name in PRODUCTS)]

    for q in (p, near):
        assert all(np.all(np.asarray(table) >= 0.0) for table in everything(p, q))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("log_variance", [-30.0, 30.0])
def test_extreme_variances_stay_finite(log_variance, dtype):
    p, q = gaussian_of((5, 4), dtype=dtype), gaussian_of((7, 4), dtype=dtype)
    far = [g._replace(log_variance=np.full_like(g.mean, log_variance)) for g in (p, q)]
    chex.assert_tree_all_finite((of_pairwise(p, far[1]), of_pairwise(*far)))


def test_the_gradient_of_a_set_to_itself_is_finite_in_float32():
    p = gaussian_of((7, 4), dtype=np.float32)
    chex.assert_tree_all_finite(of_pairwise(jax.tree.map(lambda leaf: leaf[:5], p), p))


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
