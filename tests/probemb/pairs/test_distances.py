import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from probemb import DiagonalGaussian, distances
from probemb.numerics import euclidean

FUNCTIONS = (
    "sampled_distance",
    "wasserstein_2",
    "kl_divergence",
    "jeffreys_divergence",
    "geometric_jensen_shannon_divergence",
    "bhattacharyya_distance",
    "log_expected_likelihood_kernel",
    "mutual_likelihood_score",
)
SYMMETRIC = tuple(name for name in FUNCTIONS if name != "kl_divergence")
ZERO_OF_EQUALS = FUNCTIONS[1:6]

every_function = pytest.mark.parametrize("name", FUNCTIONS)


def gaussian_of(shape, seed=0, dtype=np.float64):
    generator = np.random.default_rng(seed)
    return DiagonalGaussian(
        generator.normal(size=shape).astype(dtype),
        generator.uniform(-1.5, 1.0, shape).astype(dtype),
    )


P, Q = gaussian_of((3,), 1), gaussian_of((3,), 2)


@jax.jit
def everything(p, q):
    functions = {name: getattr(distances, name) for name in FUNCTIONS}
    return {name: jax.value_and_grad(f, (0, 1))(p, q) for name, f in functions.items()}


def value_of(name, p, q):
    return np.asarray(everything(p, q)[name][0])


def integral(function, low=-20.0, high=20.0):
    return quad(function, low, high, epsabs=1e-12, limit=200)[0]


def kl(p, q):
    return integral(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)))


def geometric_jensen_shannon(p, q):
    log_mass = np.log(integral(lambda x: np.sqrt(p.pdf(x) * q.pdf(x))))

    def to_middle(one):
        def integrand(x):
            log_middle = 0.5 * (p.logpdf(x) + q.logpdf(x)) - log_mass
            return one.pdf(x) * (one.logpdf(x) - log_middle)

        return integral(integrand)

    return 0.5 * (to_middle(p) + to_middle(q))


# The integrals in one dimension, each of which adds up over the dimensions.
INTEGRALS = {
    "kl_divergence": kl,
    "jeffreys_divergence": lambda p, q: kl(p, q) + kl(q, p),
    "geometric_jensen_shannon_divergence": geometric_jensen_shannon,
    "bhattacharyya_distance": lambda p, q: (
        -np.log(integral(lambda x: np.sqrt(p.pdf(x) * q.pdf(x))))
    ),
    "log_expected_likelihood_kernel": lambda p, q: np.log(integral(lambda x: p.pdf(x) * q.pdf(x))),
    "mutual_likelihood_score": lambda p, q: np.log(integral(lambda x: p.pdf(x) * q.pdf(x))),
}


@pytest.mark.parametrize("name", INTEGRALS)
def test_equals_quadrature(name):
    expected = sum(
        INTEGRALS[name](
            *(norm(float(g.mean[d]), float(np.exp(0.5 * g.log_variance[d]))) for g in (P, Q))
        )
        for d in range(3)
    )
    np.testing.assert_allclose(value_of(name, P, Q), expected, rtol=1e-8)


def test_sampled_distance_equals_the_mean_over_samples():
    generator = np.random.default_rng(3)
    x, y = (
        g.mean + np.exp(0.5 * g.log_variance) * generator.normal(size=(1_000_000, 3))
        for g in (P, Q)
    )
    squared = np.sum((x - y) ** 2, axis=1)
    error = np.std(squared) / np.sqrt(len(squared))
    assert abs(value_of("sampled_distance", P, Q) - squared.mean()) < 5.0 * error


def test_sampled_distance_of_equals_is_twice_the_trace():
    value = value_of("sampled_distance", P, P)
    np.testing.assert_allclose(value, 2.0 * np.exp(P.log_variance).sum())


def test_wasserstein_2_equals_the_integral_over_quantiles():
    squared = 0.0
    for d in range(3):
        p, q = (norm(float(g.mean[d]), float(np.exp(0.5 * g.log_variance[d]))) for g in (P, Q))
        squared += integral(lambda u, p=p, q=q: (p.ppf(u) - q.ppf(u)) ** 2, 0.0, 1.0)
    np.testing.assert_allclose(value_of("wasserstein_2", P, Q), np.sqrt(squared), rtol=1e-7)


def test_wasserstein_2_obeys_the_triangle_inequality():
    a, b, c = (gaussian_of((50, 4), seed) for seed in range(3))
    distance = jax.jit(distances.wasserstein_2)
    direct, first, second = (np.asarray(distance(*pair)) for pair in ((a, c), (a, b), (b, c)))
    assert np.all(direct <= first + second)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetry(name):
    np.testing.assert_allclose(value_of(name, P, Q), value_of(name, Q, P), rtol=1e-13)


def test_the_kl_divergence_is_not_symmetric():
    assert abs(value_of("kl_divergence", P, Q) - value_of("kl_divergence", Q, P)) > 0.1


@pytest.mark.parametrize("name", ZERO_OF_EQUALS)
def test_zero_of_equals_and_else_positive(name):
    function = jax.jit(getattr(distances, name))
    p, q = gaussian_of((100, 4), 4), gaussian_of((100, 4), 5)
    np.testing.assert_allclose(function(p, p), np.zeros(100), atol=1e-14)
    assert np.all(np.asarray(function(p, q)) > 0.0)


@every_function
def test_a_common_shift_and_order_of_the_dimensions_do_not_matter(name):
    expected = value_of(name, P, Q)
    moved = [g._replace(mean=g.mean + 3.0) for g in (P, Q)]
    flipped = [jax.tree.map(lambda leaf: leaf[::-1], g) for g in (P, Q)]
    np.testing.assert_allclose(value_of(name, *moved), expected, rtol=1e-12)
    np.testing.assert_allclose(value_of(name, *flipped), expected, rtol=1e-12)


@every_function
def test_float32_equals_float64(name):
    value = value_of(name, *jax.tree.map(np.float32, (P, Q)))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, value_of(name, P, Q), rtol=2e-6)


@pytest.mark.slow
@every_function
def test_jit_eager_and_vmap_agree(name):
    function = getattr(distances, name)
    p, q = gaussian_of((4, 3), 1), gaussian_of((4, 3), 2)
    one_by_one = [function(*jax.tree.map(lambda leaf, i=i: leaf[i], (p, q))) for i in range(4)]
    chex.assert_trees_all_close(function(p, q), jnp.stack(one_by_one), atol=1e-12)
    chex.assert_trees_all_close(jax.vmap(function)(p, q), function(p, q), atol=1e-12)
    chex.assert_trees_all_close(jax.jit(function)(p, q), function(p, q), atol=1e-12)


def test_gradients_equal_finite_differences_to_second_order(check_to_second_order):
    check_to_second_order(
        lambda p, q: [getattr(distances, name)(p, q) for name in FUNCTIONS], (P, Q)
    )


@pytest.mark.parametrize("name", ZERO_OF_EQUALS)
def test_the_gradient_is_zero_at_equals(name):
    _, gradients = everything(P, P)[name]
    np.testing.assert_allclose(jax.tree.leaves(gradients), np.zeros((4, 3)), atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("log_variance", [-30.0, 0.0, 30.0])
def test_extreme_variances_stay_finite(log_variance, dtype):
    p = gaussian_of((3,), dtype=dtype)
    extreme = p._replace(log_variance=np.full(3, log_variance, dtype))
    for pair in ((p, extreme), (extreme, p), (extreme, extreme)):
        chex.assert_tree_all_finite(everything(*pair))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_opposite_extremes_stay_finite(dtype):
    wide, narrow = (
        DiagonalGaussian(np.full(3, mean, dtype), np.full(3, log_variance, dtype))
        for mean, log_variance in ((0.0, 30.0), (5.0, -30.0))
    )
    chex.assert_tree_all_finite((everything(wide, narrow), everything(narrow, wide)))


def test_normalized():
    x = np.array([[3.0, 4.0], [0.0, 0.0]])

    @jax.jit
    def units_and_slopes(x):
        units, pull_back = jax.vjp(euclidean.normalized, x)
        return units, pull_back(jnp.array([[1.0, 2.0], [1.0, 2.0]]))[0]

    units, gradient = map(np.asarray, units_and_slopes(x))
    np.testing.assert_allclose(units, [[0.6, 0.8], [0.0, 0.0]])
    # (w - (w . u) u) / |x| of w = (1, 2) and u = (0.6, 0.8)
    np.testing.assert_allclose(gradient[0], [-0.064, 0.048], rtol=1e-12)
    np.testing.assert_array_equal(np.isfinite(gradient), True)


def test_square_root():
    squared = np.array([-1.0, 0.0, 4.0])
    roots, slopes = jax.jit(jax.vmap(jax.value_and_grad(euclidean.square_root)))(squared)
    np.testing.assert_array_equal(roots, [0.0, 0.0, 2.0])
    np.testing.assert_array_equal(slopes, [0.0, 0.0, 0.25])


ZEROS = jnp.zeros((2, 3))
GOOD = DiagonalGaussian(ZEROS, ZEROS)
BAD = {
    "other_type": (
        (GOOD, ZEROS),
        TypeError,
        "q must be a DiagonalGaussian, got ArrayImpl",
    ),
    "tuple": (((ZEROS, ZEROS), GOOD), TypeError, "p must be a DiagonalGaussian, got tuple"),
    "nan": (
        (GOOD._replace(mean=ZEROS.at[1, 0].set(jnp.nan)), GOOD),
        ValueError,
        r"p.mean must be finite, got nan at index \(1, 0\)",
    ),
    "infinite": (
        (GOOD, GOOD._replace(log_variance=ZEROS.at[0, 2].set(-jnp.inf))),
        ValueError,
        r"q.log_variance must be finite, got -inf at index \(0, 2\)",
    ),
    "integers": (
        (GOOD, GOOD._replace(mean=jnp.zeros((2, 3), int))),
        TypeError,
        "q.mean must be floating point, got dtype int64",
    ),
    "empty": (
        (DiagonalGaussian(ZEROS[:0], ZEROS[:0]), GOOD),
        ValueError,
        r"p.mean must not be empty, got shape \(0, 3\)",
    ),
    "two_shapes": (
        (GOOD, DiagonalGaussian(ZEROS[0], ZEROS[0])),
        ValueError,
        r"p and q must have one shape \(..., dimension\), got \(2, 3\) and \(3,\)",
    ),
    "fields_of_two_shapes": (
        (DiagonalGaussian(ZEROS, ZEROS[0]), GOOD),
        ValueError,
        r"p must have mean and log_variance of one shape",
    ),
}


@every_function
@pytest.mark.parametrize("case", BAD)
def test_bad_input(name, case):
    pair, error, message = BAD[case]
    with pytest.raises(error, match=message):
        getattr(distances, name)(*pair)
