import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln, ive, logsumexp

from probemb.numerics.bessel import log_bessel_and_ratio

ORDERS = [-0.5, 0.0, 0.5, 1.0, 7.0, 31.0, 255.0, 1023.0]
X = np.array([0.0, 1e-8, 1e-3, 0.3, 1.0, 4.0, 30.0, 300.0, 1e4, 1e5, 1e6])

# What Debye's expansion leaves out, in absolute terms.
TRUNCATION = 5e-9

both = jax.jit(lambda order, x: log_bessel_and_ratio(order, x)[:2])
rest = jax.jit(lambda order, x: log_bessel_and_ratio(order, x)[2])


@jax.jit
def slopes_and_bends(order, x):
    slope = jax.grad(lambda x: log_bessel_and_ratio(order, x)[0])
    return jax.vmap(lambda x: jax.jvp(slope, (x,), (jnp.ones_like(x),)))(x)


def of_all_x(order, dtype=np.float64):
    return tuple(np.asarray(values) for values in both(order, X.astype(dtype)))


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
    known = (X > 0) & (ive(order, X) > 1e-280)
    assert np.sum(known) >= 2
    x, value, ratio = (values[known] for values in (X, *of_all_x(order)))
    expected = np.log(ive(order, x)) - order * np.log(x)
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=TRUNCATION)
    np.testing.assert_allclose(ratio, ive(order + 1, x) / (x * ive(order, x)), rtol=1e-11)


@pytest.mark.parametrize("order", [*ORDERS, 5000.0])
def test_equals_the_power_series_at_small_x(order):
    x, value, ratio = (values[:6] for values in (X, *of_all_x(order)))
    np.testing.assert_allclose(value, by_series(order, x), rtol=1e-12, atol=TRUNCATION)
    following = by_series(order + 1, x) - by_series(order, x)
    np.testing.assert_allclose(ratio, np.exp(following), rtol=1e-10)


@pytest.mark.parametrize("order", ORDERS)
def test_limit_at_zero(order):
    value, ratio = (values[0] for values in of_all_x(order))
    expected = -order * np.log(2.0) - gammaln(order + 1.0)
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=TRUNCATION)
    np.testing.assert_allclose(ratio, 1.0 / (2.0 * order + 2.0), rtol=1e-13)


@pytest.mark.parametrize("order", ORDERS)
def test_float32_is_as_good_as_its_digits(order):
    narrow, wide = of_all_x(order, np.float32), of_all_x(order)
    chex.assert_type(list(narrow), jnp.float32)
    np.testing.assert_allclose(narrow[0], wide[0], rtol=2e-6, atol=2e-5)
    np.testing.assert_allclose(narrow[1], wide[1], rtol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_derivative_is_the_ratio_times_x_minus_one(order):
    slope, _ = slopes_and_bends(order, X)
    np.testing.assert_allclose(slope, X * of_all_x(order)[1] - 1.0, atol=TRUNCATION)


@pytest.mark.parametrize("order", [-0.5, 0.0, 0.25, 0.5, 7.0, 31.0])
def test_derivatives_are_those_of_the_function_itself(order):
    """A - 1 and A' = 1 - A^2 - (2v + 1) A / x for A = I_{v+1}(x) / I_v(x) by SciPy."""
    x, slope, bend = (np.asarray(values)[3:8] for values in (X, *slopes_and_bends(order, X)))
    ratio = ive(order + 1.0, x) / ive(order, x)
    np.testing.assert_allclose(slope, ratio - 1.0, atol=TRUNCATION)
    expected = 1.0 - ratio**2 - (2.0 * order + 1.0) * ratio / x
    np.testing.assert_allclose(bend, expected, rtol=1e-7, atol=1e-8)


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("x", [0.0, 1e-30, 1e6, 1e12, 1e18])
def test_values_and_derivatives_are_finite(x, dtype):
    chex.assert_tree_all_finite(all_with_slopes(np.array([x], dtype)))


def test_finite_up_to_the_largest_floats():
    chex.assert_tree_all_finite(all_with_slopes(np.array([1e30], np.float32)))
    chex.assert_tree_all_finite(all_with_slopes(np.array([1e250])))


def test_broadcasts_with_the_order():
    x, orders = np.array([0.5, 20.0]), np.array([0.0, 3.5])
    single = [both(v, a) for v, a in zip(orders, x, strict=True)]
    expected = [np.stack(each) for each in zip(*single, strict=True)]
    for function in (both, jax.vmap(both), lambda *pair: log_bessel_and_ratio(*pair)[:2]):
        chex.assert_trees_all_close(list(function(orders, x)), expected, rtol=1e-13)


@pytest.mark.parametrize("order", ORDERS)
def test_what_the_ratio_leaves_to_1_keeps_its_digits(order):
    far = X[-2:]
    np.testing.assert_allclose(rest(order, X)[:7], 1.0 - (X * of_all_x(order)[1])[:7], atol=1e-14)
    m = 2.0 * order + 1.0
    expansion = m / (2.0 * far) - m * (m - 2.0) / (8.0 * far**2) * (1.0 + 1.0 / far)
    if order < 20:
        for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-5)):
            found = rest(order, X.astype(dtype))[-2:]
            np.testing.assert_allclose(found, expansion, rtol=tolerance, atol=1e-11)
