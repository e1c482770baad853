"""Bad input: one error each, which names the argument, the rule and the value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

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
        (lambda: one(jnp.tile(X, (2, 2, 1)), neighborhood_size=65), ValueError, "at most 64.*65"),
        (lambda: one(neighborhood_size=2.0), TypeError, "neighborhood_size must be an integer"),
        (lambda: one(neighborhood_size=True), TypeError, "neighborhood_size must be an integer"),
        (lambda: one(decay=0.0), ValueError, "decay must be a number with 0 < decay <= 1, got 0.0"),
        (lambda: one(decay="0.8"), ValueError, "decay must be a number.*'0.8'"),
        (lambda: one(decay=True), ValueError, "decay must be a number.*True"),
        (lambda: one(ridge=True), ValueError, "ridge must be a finite positive number, got True"),
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
        (
            lambda: one(X[None]),
            ValueError,
            r"image must have.*jax.vmap.*volume=True.*\(1, 4, 4, 3\)",
        ),
        (lambda: lasi_jax.distance(X[None], X[None]), ValueError, "x and y must have.*jax.vmap"),
        (lambda: lasi_jax.embedding(X[None]), ValueError, "image must have.*jax.vmap"),
        (lambda: lasi_jax.prediction(X[None]), ValueError, "image must have.*jax.vmap"),
        (lambda: one(volume="yes"), TypeError, "volume must be True or False, got 'yes'"),
        (lambda: one(prior=np.nan), ValueError, "prior must be a finite number, got nan"),
        (lambda: one(prior="mean"), ValueError, "prior must be a finite number, got 'mean'"),
        (lambda: one([[0.1, 0.2], [0.3]]), ValueError, "image must be an array, got a list that"),
        (
            lambda: one(np.full((4, 4), 0.5, np.longdouble)),
            TypeError,
            "image must be floating point or uint8, of at most 64 bits, got dtype (float|long)",
        ),
        (
            lambda: one(mask=np.ones(X.shape, np.longdouble)),
            TypeError,
            "mask must be boolean, integer or floating, of at most 64 bits",
        ),
        (
            lambda: one(np.full((4, 4), 1.0000021, np.float32)),
            ValueError,
            r"image must lie in value_range \(0, 1\).*got values from 1.0000021 to 1.0000021",
        ),
        (
            lambda: one(np.full((4, 4), 1.0 + 1.1e-6)),
            ValueError,
            "got values from 1.0000011 to 1.0000011",
        ),
        (
            lambda: one(mask=np.full(X.shape, np.nextafter(1.0, 2.0))),
            ValueError,
            "mask must hold weights from 0 to 1.*got values from 1.0000000000000002 to",
        ),
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


def test_every_layout_of_memory_is_an_image():
    image = np.random.default_rng(0).uniform(size=(4, 6, 3))
    mask = np.random.default_rng(1).uniform(size=image.shape)
    expected = one(image, mask=mask)
    frozen = image.copy()
    frozen.flags.writeable = False
    for same in (
        image.astype(">f8"),
        np.asfortranarray(image),
        np.repeat(image, 2, 1)[:, ::2],
        frozen,
        image.tolist(),
    ):
        np.testing.assert_array_equal(one(same, mask=mask), expected)
    for swapped in (">f8", "<f8"):
        np.testing.assert_array_equal(one(image, mask=mask.astype(swapped)), expected)
    single = image.astype(np.float32)
    np.testing.assert_array_equal(one(single.astype(">f4")), one(single))
    np.testing.assert_array_equal(
        one(mask=np.ones(X.shape, ">i4")), one(mask=np.ones(X.shape, bool))
    )
    found = lasi_jax.prediction(image.astype(">f8"), neighborhood_size=2)
    np.testing.assert_array_equal(found, lasi_jax.prediction(image, neighborhood_size=2))


def test_a_volume_is_one_image_where_it_is_asked_for():
    volumes = np.random.default_rng(0).uniform(size=(2, 3, 4, 4, 2))
    found = lasi_jax.distance(*volumes, neighborhood_size=2, volume=True)
    batch = jax.vmap(lambda x, y: lasi_jax.distance(x, y, neighborhood_size=2))(*volumes)
    assert batch.shape == (3,) and abs(found - batch.mean()) > 1e-3


CHECKED = {
    "range": (255.0 * X, X, "x must lie in value_range (0, 1) and hold no NaN, got values from"),
    "NaN": (X, X * jnp.nan, "y must lie in value_range (0, 1) and hold no NaN, got values from"),
    "mask": (X, X, "mask must hold weights from 0 to 1"),
}


@pytest.fixture(scope="module")
def checked():
    def masked(x, y, mask):
        return lasi_jax.distance(x, y, mask=mask, neighborhood_size=2)

    return jax.jit(checkify.checkify(masked))


@pytest.mark.parametrize("case", CHECKED)
def test_under_jit_checkify_catches_what_is_wrong(case, checked):
    x, y, message = CHECKED[case]
    error, _ = checked(x, y, jnp.full(X.shape, 2.0 if case == "mask" else 1.0))
    with pytest.raises(checkify.JaxRuntimeError) as caught:
        error.throw()
    assert message in str(caught.value)
    assert checked(X, X, jnp.ones(X.shape))[0].get() is None


def test_checkify_looks_into_gradients_and_batches():
    bad = jnp.stack([X, 2.0 * X.at[1, 1, 1].set(1.0)])
    for function in (two, lambda y: jax.grad(two)(y).sum()):
        error, _ = jax.jit(checkify.checkify(jax.vmap(function)))(bad)
        assert "y must lie in value_range (0, 1)" in error.get()
        assert jax.jit(jax.vmap(function))(bad).shape == (2,)  # as ever, where nobody asks


def test_checkify_looks_at_half_precision():
    bad = jnp.full(X.shape, 1.25, jnp.bfloat16)
    assert "got values from 1.25 to 1.25" in checkify.checkify(jax.jit(two))(bad)[0].get()


def test_nested_lists_are_images():
    assert one([[0.1, 0.9], [0.4, 0.2]]).shape == (2, 2, 2)


def test_integers_and_lists_are_masks():
    expected = one(mask=jnp.ones(X.shape))
    np.testing.assert_array_equal(one(mask=jnp.ones(X.shape, jnp.uint8)), expected)
    np.testing.assert_array_equal(one(mask=[[[1]]]), expected)


def test_a_traced_size_is_told_how_to_be_static():
    with pytest.raises(TypeError, match="static_argnames"):
        jax.jit(lasi_jax.distance)(X, X, neighborhood_size=2)


def test_an_empty_batch_is_named():
    none = jnp.zeros((0, 6, 7, 3))
    expected = "a batch must hold at least one image, got an axis of length 0"
    with pytest.raises(ValueError, match=expected):
        jax.vmap(lasi_jax.distance)(none, none)
    with pytest.raises(ValueError, match=expected):
        jax.jit(jax.vmap(lasi_jax.coefficients))(none)
