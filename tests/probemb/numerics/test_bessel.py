import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln, ive, logsumexp

from probemb.numerics.bessel import log_bessel_and_ratio

ORDERS = [-0.5, 0.0, 0.5, 1.0, 7.0, 31.0, 255.0, 1023.0]
X = np.array([0.0, 1e-8, 1e-3, 0.3, 1.0, 4.0, 30.0, 300.0, 1e4, 1e6])

# What Debye's expansion leaves out, in absolute terms.
TRUNCATION = 5e-9

both = jax.jit(lambda order, x: log_bessel_and_ratio(order, x)[:2])


@jax.jit
def slopes(order, x):
    return jax.vmap(jax.grad(lambda x: log_bessel_and_ratio(order, x)[0]))(x)


@jax.jit
def all_with_slopes(x):
    function = functools.partial(log_bessel_and_ratio, 3.0)
    return jax.jvp(function, (x,), (jnp.ones_like(x),))


def by_series(order, x, terms=60):
    """log(x^-v I_v(x) e^-x) from the power series, for x below about 2 sqrt(order + 1)."""
    k = np.arange(terms)[:, None]
    powers = np.where(k == 0, 0.0, 2.0 * k * np.log(np.maximum(x, 1e-300) / 2.0))
    log_terms = powers - gammaln(k + 1.0) - gammaln(order + k + 1.0)
    return logsumexp(log_terms, axis=0) - order * np.log(2.0) - x


@pytest.mark.parametrize("order", ORDERS)
def test_equals_scipy(order):
    x = X[(X > 0) & (ive(order, X) > 1e-280)]
    assert len(x) >= 2
    value, ratio = both(order, jnp.asarray(x))
    expected = np.log(ive(order, x)) - order * np.log(x)
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=TRUNCATION)
    np.testing.assert_allclose(ratio, ive(order + 1, x) / (x * ive(order, x)), rtol=1e-11)


@pytest.mark.parametrize("order", [*ORDERS, 5000.0])
def test_equals_the_power_series_at_small_x(order):
    x = np.array([0.0, 1e-8, 1e-3, 0.3, 1.0, 4.0])
    value, ratio = both(order, jnp.asarray(x))
    np.testing.assert_allclose(value, by_series(order, x), rtol=1e-12, atol=TRUNCATION)
    following = by_series(order + 1, x) - by_series(order, x)
    np.testing.assert_allclose(ratio, np.exp(following), rtol=1e-10)


@pytest.mark.parametrize("order", ORDERS)
def test_limit_at_zero(order):
    value, ratio = both(order, jnp.zeros(()))
    expected = -order * np.log(2.0) - gammaln(order + 1.0)
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=TRUNCATION)
    np.testing.assert_allclose(ratio, 1.0 / (2.0 * order + 2.0), rtol=1e-13)


@pytest.mark.parametrize("order", ORDERS)
def test_float32_is_as_good_as_its_digits(order):
    narrow, wide = both(order, jnp.asarray(X, jnp.float32)), both(order, jnp.asarray(X))
    chex.assert_type(list(narrow), jnp.float32)
    np.testing.assert_allclose(narrow[0], wide[0], rtol=2e-6, atol=2e-5)
    np.testing.assert_allclose(narrow[1], wide[1], rtol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_derivative_is_the_ratio_times_x_minus_one(order):
    x = jnp.asarray(X)
    np.testing.assert_allclose(slopes(order, x), x * both(order, x)[1] - 1.0, atol=TRUNCATION)


@pytest.mark.parametrize("order", [-0.5, 0.0, 0.25, 0.5, 7.0, 31.0])
def test_derivatives_are_those_of_the_function_itself(order):
    """A - 1 and A' = 1 - A^2 - (2v + 1) A / x for A = I_{v+1}(x) / I_v(x) by SciPy."""
    x = np.array([0.1, 1.0, 4.0, 30.0, 300.0])
    ratio = ive(order + 1.0, x) / ive(order, x)
    slope = np.vectorize(lambda x: float(slope_and_bend(order, x)[0]))(x)
    bend = np.vectorize(lambda x: float(slope_and_bend(order, x)[1]))(x)
    np.testing.assert_allclose(slope, ratio - 1.0, atol=TRUNCATION)
    expected = 1.0 - ratio**2 - (2.0 * order + 1.0) * ratio / x
    np.testing.assert_allclose(bend, expected, rtol=1e-7, atol=1e-8)


@jax.jit
def slope_and_bend(order, x):
    def slope(x):
        return jax.grad(lambda x: log_bessel_and_ratio(order, x)[0])(x)

    return jax.value_and_grad(slope)(x)


def test_derivative_in_the_order_is_that_of_the_function_itself():
    x, step = 3.0, 1e-3
    for order in (-0.5, 0.0, 1.0, 6.0):
        slope = jax.jvp(lambda v: log_bessel_and_ratio(v, jnp.asarray(x))[0], (order,), (1.0,))[1]
        values = [np.log(ive(order + k * step, x)) for k in (-2, -1, 1, 2)]
        expected = np.dot(values, [1.0, -8.0, 8.0, -1.0]) / (12.0 * step) - np.log(x)
        np.testing.assert_allclose(slope, expected, atol=1e-8)


def test_gradient_equals_finite_differences_to_second_order(check_to_second_order):
    order, x = jnp.array([-0.5, 0.0, 2.5, 100.0]), jnp.array([0.2, 3.0, 40.0, 7.0])
    check_to_second_order(lambda x: both(order, x), (x,))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("x", [0.0, 1e-30, 1e6, 1e12, 1e18])
def test_values_and_derivatives_are_finite(x, dtype):
    chex.assert_tree_all_finite(all_with_slopes(jnp.asarray([x], dtype)))


def test_finite_up_to_the_largest_floats():
    chex.assert_tree_all_finite(all_with_slopes(jnp.asarray([1e30], jnp.float32)))
    chex.assert_tree_all_finite(all_with_slopes(jnp.asarray([1e250], jnp.float64)))


def test_broadcasts_with_the_order():
    x = jnp.array([0.5, 20.0])
    orders = jnp.array([0.0, 3.5])
    expected = [
        jnp.stack(each)
        for each in zip(*(both(v, a) for v, a in zip(orders, x, strict=True)), strict=True)
    ]
    for function in (both, jax.vmap(both), lambda *pair: log_bessel_and_ratio(*pair)[:2]):
        chex.assert_trees_all_close(list(function(orders, x)), expected, rtol=1e-13)


@pytest.mark.parametrize("order", ORDERS)
def test_what_the_ratio_leaves_to_1_keeps_its_digits(order):
    near, far = jnp.asarray([0.0, 0.1, 2.0, 30.0]), np.array([1e5, 1e6])
    *_, rest = log_bessel_and_ratio(order, near)
    np.testing.assert_allclose(rest, 1.0 - near * both(order, near)[1], atol=1e-14)
    m = 2.0 * order + 1.0
    expansion = m / (2.0 * far) - m * (m - 2.0) / (8.0 * far**2) * (1.0 + 1.0 / far)
    if order < 20:
        for dtype, tolerance in ((jnp.float64, 1e-10), (jnp.float32, 1e-5)):
            *_, rest = log_bessel_and_ratio(order, jnp.asarray(far, dtype))
            np.testing.assert_allclose(rest, expansion, rtol=tolerance, atol=1e-11)
