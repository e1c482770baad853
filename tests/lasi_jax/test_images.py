"""Bad input: one error each, which names the argument, the rule and the value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lasi_jax

X = jnp.full((4, 4, 3), 0.5)


def one(image=X, **options):
    return lasi_jax.coefficients(image, **{"neighborhood_size": 2, **options})


def two(y, **options):
    return lasi_jax.distance(X, y, **{"neighborhood_size": 2, **options})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: one("astronaut.png"), TypeError, "image must be an array, got str"),
        (lambda: one(X.astype(int)), TypeError, "image must be floating point or uint8.*int64"),
        (lambda: one(X > 0), TypeError, "image must be floating point or uint8.*bool"),
        (lambda: one(X.astype(complex)), TypeError, "image must be floating.*complex128"),
        (lambda: one(X[0, 0]), ValueError, r"image must have at least two axes.*\(3,\)"),
        (lambda: one(X[:0]), ValueError, r"none of them empty.*\(0, 4, 3\)"),
        (lambda: one(X + 1.0), ValueError, r"image must lie in value_range \(0, 1\).*1.5 to 1.5"),
        (lambda: one(X.at[1, 1, 1].set(jnp.nan)), ValueError, "image must.*no NaN, got.*nan"),
        (lambda: one(X, value_range=(1.0, 0.0)), ValueError, r"value_range must be.*\(1.0, 0.0\)"),
        (lambda: one(X, value_range=255), ValueError, "value_range must be.*255"),
        (lambda: one(neighborhood_size=0), ValueError, "neighborhood_size must be at least 1.*0"),
        (lambda: one(neighborhood_size=48), ValueError, "neighborhood_size.*48 for shape.*got 48"),
        (lambda: one(neighborhood_size=2.0), TypeError, "neighborhood_size must be an integer"),
        (lambda: one(neighborhood_size=True), TypeError, "neighborhood_size must be an integer"),
        (lambda: one(decay=0.0), ValueError, "decay must be a number with 0 < decay <= 1, got 0.0"),
        (lambda: one(decay="0.8"), ValueError, "decay must be a number.*'0.8'"),
        (lambda: one(ridge=-1.0), ValueError, "ridge must be a finite positive number, got -1.0"),
        (lambda: one(mask=jnp.ones((4, 4))), ValueError, r"mask must have.*\(4, 4, 3\).*\(4, 4\)"),
        (
            lambda: one(mask=-jnp.ones(X.shape)),
            ValueError,
            "mask must hold weights from 0 to 1.*-1",
        ),
        (lambda: one(mask=jnp.zeros(X.shape)), ValueError, "at least one of them positive.*0 to 0"),
        (lambda: one(mask=jnp.full(X.shape, jnp.nan)), ValueError, "mask must.*nan"),
        (lambda: one(mask=jnp.full(X.shape, 1e30)), ValueError, "mask must hold weights.*1e.30"),
        (lambda: one(mask=jnp.ones(X.shape, complex)), TypeError, "mask must be boolean, integer"),
        (lambda: one(mask="all"), TypeError, "mask must be an array, got str"),
        (lambda: two(X[:3]), ValueError, r"x and y must have one shape, got \(4, 4, 3\) and"),
        (lambda: two(X * 3), ValueError, "y must lie in value_range"),
        (lambda: two(X.astype(jnp.int32)), TypeError, "y must be floating point or uint8"),
        (lambda: two(X, neighborhood=3), TypeError, "neighborhood"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_rounding_at_the_ends_of_the_range_is_no_error():
    one((X * 2.0).astype(jnp.float32) + jnp.float32(2e-7))


def test_static_rules_hold_under_jit_and_vmap():
    with pytest.raises(ValueError, match="one shape"):
        jax.jit(two)(X[:3])
    with pytest.raises(TypeError, match="floating point or uint8"):
        jax.vmap(one)(jnp.ones((2, 4, 4), int))


def test_a_constant_image_inside_jit_is_checked_too():
    bad = np.full((4, 4, 3), 9.0)
    with pytest.raises(ValueError, match="y must lie in"):
        jax.jit(lambda x: lasi_jax.distance(x, bad, neighborhood_size=2))(X)


def test_nested_lists_are_images():
    assert one([[0.1, 0.9], [0.4, 0.2]]).shape == (2, 2, 2)


def test_integers_and_lists_are_masks():
    expected = one(mask=jnp.ones(X.shape))
    np.testing.assert_array_equal(one(mask=jnp.ones(X.shape, jnp.uint8)), expected)
    np.testing.assert_array_equal(one(mask=[[[1]]]), expected)


def test_a_traced_size_is_told_how_to_be_static():
    with pytest.raises(TypeError, match="static_argnames"):
        jax.jit(lasi_jax.distance)(X, X, neighborhood_size=2)
