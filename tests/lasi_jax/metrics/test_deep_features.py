"""Losses over features against loops in NumPy, SciPy's interpolation and values by hand."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from scipy.ndimage import map_coordinates

from lasi_jax import deep_features
from lasi_jax.networks import lpips_heads, squeezenet

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 9, 14, 3))
FILTERS = RNG.normal(size=(12, 5)), RNG.normal(size=(5, 4))
HEADS = RNG.uniform(size=5), RNG.uniform(size=4)
LOSSES = {
    "distance": functools.partial(deep_features.distance, heads=HEADS),
    "distance_map": functools.partial(deep_features.distance_map, heads=HEADS),
    "feature_reconstruction": deep_features.feature_reconstruction,
    "style_reconstruction": deep_features.style_reconstruction,
    "deepsim": deep_features.deepsim,
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def features(image):
    """Filters over patches of 2 x 2: maps of half the size, (4, 7, 5) and (4, 7, 4) here."""
    high, wide = (length // 2 for length in image.shape[:2])
    patches = image[: 2 * high, : 2 * wide].reshape(high, 2, wide, 2, 3)
    patches = patches.transpose(0, 2, 1, 3, 4).reshape(high, wide, 12)
    first = jnp.einsum("hwp,pc->hwc", patches, FILTERS[0].astype(image.dtype))
    return [first, jnp.tanh(first @ FILTERS[1].astype(image.dtype))]


def identity(image):
    return (image,)


def layer_differences(heads=HEADS):
    """One element, one channel after the other."""
    for of_x, of_y, head in zip(features(X), features(Y), heads, strict=True):
        difference = np.zeros(of_x.shape[:2])
        for place in np.ndindex(*difference.shape):
            a, b = (np.asarray(f[place]) / (np.linalg.norm(f[place]) + 1e-10) for f in (of_x, of_y))
            for c, weight in enumerate(head):
                difference[place] += weight * (a[c] - b[c]) ** 2
        yield difference


def test_distance_of_a_pair_by_hand():
    x, y = np.array([[[3.0, 4.0]]]), np.array([[[0.0, 2.0]]])
    chex.assert_trees_all_close(deep_features.distance(x, y, features=identity), 0.36 + 0.04)
    weighted = deep_features.distance(x, y, features=identity, heads=[np.array([2.0, 0.5])])
    chex.assert_trees_all_close(weighted, 2.0 * 0.36 + 0.5 * 0.04)


@pytest.mark.parametrize("heads", [HEADS, None])
def test_distance_is_the_loop_over_elements(heads):
    wanted = layer_differences(heads or [np.ones(5), np.ones(4)])
    got = deep_features.distance(X, Y, features=features, heads=heads)
    chex.assert_trees_all_close(got, sum(layer.mean() for layer in wanted), rtol=1e-12)


def test_map_is_a_bilinear_interpolation_between_centres():
    """Of maps of 4 x 7, both up (to 9 x 14) and down (to 2 x 3) in size."""
    layers = list(layer_differences())
    for shape in [(9, 14), (2, 3)]:
        x, y = np.zeros(shape), np.ones(shape)
        got = deep_features.distance_map(
            x, y, features=lambda image, x=x: features(X if image is x else Y), heads=HEADS
        )
        centres = [
            (np.arange(out) + 0.5) * size / out - 0.5
            for out, size in zip(shape, (4, 7), strict=True)
        ]
        grid = np.meshgrid(*centres, indexing="ij")
        wanted = [map_coordinates(layer, grid, order=1, mode="nearest") for layer in layers]
        chex.assert_trees_all_close(got, sum(wanted), rtol=1e-12)


def test_mean_of_the_map_is_the_distance_where_sides_divide():
    x, y = X[:8], Y[:8]
    mean = deep_features.distance_map(x, y, features=features).mean()
    chex.assert_trees_all_close(mean, deep_features.distance(x, y, features=features), rtol=1e-12)


def test_reconstruction_losses_from_their_definitions():
    feature, style, summed = 0.0, 0.0, 0.0
    for of_x, of_y in zip(features(X), features(Y), strict=True):
        of_x, of_y = (np.asarray(f).reshape(-1, f.shape[-1]) for f in (of_x, of_y))
        summed += np.sum((of_x - of_y) ** 2)
        feature += np.sum((of_x - of_y) ** 2) / of_x.size
        grams = [f.T @ f / f.size for f in (of_x, of_y)]
        style += np.linalg.norm(grams[0] - grams[1], "fro") ** 2
    got = [
        loss(X, Y, features=features)
        for loss in (
            deep_features.feature_reconstruction,
            deep_features.style_reconstruction,
            deep_features.deepsim,
        )
    ]
    chex.assert_trees_all_close(got, [feature, style, summed], rtol=1e-12)


@every_loss
def test_symmetric_and_zero_for_identical_images(name):
    loss = functools.partial(LOSSES[name], features=features)
    chex.assert_trees_all_close(loss(X, Y), loss(Y, X), rtol=1e-12)
    assert np.all(np.asarray(loss(X, Y)) >= 0) and np.any(np.asarray(loss(X, Y)) > 0)
    assert not np.any(loss(X, X))


def test_what_each_loss_does_not_see():
    """LPIPS the length of a feature vector, the style where it stands; the others both."""
    longer, elsewhere = 3.0 * X, X[::-1]
    far = 1e-3
    for name, blind_to in {
        "distance": longer,
        "style_reconstruction": elsewhere,
        "feature_reconstruction": None,
        "deepsim": None,
    }.items():
        loss = functools.partial(getattr(deep_features, name), features=identity)
        for other in (longer, elsewhere):
            assert (loss(X, other) < 1e-12) == (other is blind_to), name
            assert (loss(X, other) > far) == (other is not blind_to), name


@pytest.mark.slow
@every_loss
def test_jit_eager_and_vmap_agree(name, jit):
    loss = functools.partial(LOSSES[name], features=features)
    xs, ys = np.stack([X, Y, X]), np.stack([Y, Y, 2.0 * Y])
    eager = jnp.stack([loss(x, y) for x, y in zip(xs, ys, strict=True)])
    chex.assert_trees_all_close(jit(jax.vmap(loss))(xs, ys), eager, rtol=1e-12)
    chex.assert_trees_all_close(jit(loss)(X, Y), eager[0], rtol=1e-12)


@every_loss
def test_gradients_are_finite_differences(name, check_gradients):
    check_gradients(functools.partial(LOSSES[name], features=features), (X[:4, :4], Y[:4, :4]))


def test_gradient_in_the_heads_is_each_channels_own_term(jit):
    def loss(heads):
        return deep_features.distance(X, Y, features=features, heads=heads)

    gradient = jit(jax.grad(loss))(HEADS)
    for layer, channel in [(0, 0), (1, 3)]:
        only = [np.zeros(5), np.zeros(4)]
        only[layer][channel] = 1.0
        chex.assert_trees_all_close(gradient[layer][channel], loss(only), rtol=1e-12)


def test_second_derivative_of_the_distance_is_a_finite_difference(jit):
    x, y, by = X[:4, :4], Y[:4, :4], X[4:8, :4]
    gradient = jax.grad(functools.partial(LOSSES["distance"], features=features))
    derivatives = jit(lambda x: jax.jvp(lambda x: gradient(x, y), (x,), (by,)))
    second, step = derivatives(x)[1], 1e-5
    wanted = (derivatives(x + step * by)[0] - derivatives(x - step * by)[0]) / (2 * step)
    chex.assert_trees_all_close(second, wanted, rtol=1e-6, atol=1e-8)


@every_loss
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_finite_where_images_are_flat_zero_or_the_same(name, dtype, jit):
    loss = functools.partial(LOSSES[name], features=identity)
    heads = {"heads": (jnp.ones(3, dtype),)} if name.startswith("distance") else {}

    def first_and_second(x, y):
        gradient = jax.grad(lambda x: loss(x, y, **heads).sum())
        return jax.jvp(gradient, (x,), (jnp.ones_like(x),))

    image = jnp.asarray(X[:3, :3], dtype)
    zero, flat = jnp.zeros_like(image), jnp.full_like(image, 0.5)
    x = jnp.stack([image, zero, flat, zero, image, flat, image.at[1].set(0.0)])
    y = jnp.stack([image, zero, flat, image, zero, zero, image[::-1]])
    first, second = jit(jax.vmap(first_and_second))(x, y)
    chex.assert_tree_all_finite((first, second))
    chex.assert_trees_all_close(first[:3], jnp.zeros_like(first[:3]), atol=1e-6)
    if name.startswith("distance"):
        assert not np.any(first[3]) and not np.any(first[6, 1]) and np.any(first[6, 0])


def test_tiny_and_large_features_have_the_released_value_and_finite_derivatives(jit):
    """In float32, where squares below 1e-38 and above 1e38 are lost, against float64."""
    scales = np.concatenate([[0.0, 1e-45, 1e-30], np.geomspace(1e-20, 1e18, 500)])
    xs = (scales[:, None, None, None] * X[:1, :1]).astype(np.float32)
    y = Y[:1, :1].astype(np.float32)

    def loss(x):
        return deep_features.distance(x, y, features=identity)

    def derivatives(x):
        return loss(x), *jax.jvp(jax.grad(loss), (x,), (y,))

    got, *finite = jit(jax.vmap(derivatives))(xs)
    a, b = (
        f / (np.linalg.norm(f, axis=-1, keepdims=True) + 1e-10)
        for f in (xs.astype(np.float64), y.astype(np.float64))
    )
    np.testing.assert_allclose(got, np.sum((a - b) ** 2, -1)[:, 0, 0], rtol=1e-6)
    chex.assert_tree_all_finite(finite)


@every_loss
def test_single_precision_stays_and_half_precision_widens(name, jit):
    loss = jit(functools.partial(LOSSES[name], features=features))
    x, y = X.astype(np.float32), Y.astype(np.float32)
    wanted = loss(X, Y)
    assert loss(x, y).dtype == jnp.float32
    chex.assert_trees_all_close(loss(x, y), wanted.astype(np.float32), rtol=2e-5)
    assert loss(x, Y).dtype == jnp.float64

    def in_half(image):
        return [planes.astype(jnp.bfloat16) for planes in features(image)]

    half = jit(functools.partial(LOSSES[name], features=in_half))(x, y)
    assert half.dtype == jnp.float32
    chex.assert_trees_all_close(half, wanted.astype(np.float32), rtol=0.1)


def test_gram_matrices_are_in_full_precision():
    loss = functools.partial(deep_features.style_reconstruction, features=identity)
    products = [e for e in jax.make_jaxpr(loss)(X, Y).eqns if e.primitive.name == "dot_general"]
    assert len(products) == 2
    assert all(set(e.params["precision"]) == {jax.lax.Precision.HIGHEST} for e in products)


def test_images_are_handed_over_as_they_are():
    seen = []

    def look(image):
        seen.append(image)
        return [jnp.asarray(image, jnp.float32)]

    x = np.array([[[0, 200]]], np.uint8)
    deep_features.deepsim(x, x, features=look)
    assert all(image is x for image in seen) and len(seen) == 2


WITH_NAN = np.where(np.arange(9 * 14 * 3).reshape(X.shape) == 5, np.nan, X)


@every_loss
@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        ("photo", Y, TypeError, "x must be an array, got str"),
        (X, None, TypeError, "y must be an array, got NoneType"),
        (X, Y[:8], ValueError, r"x and y must have one shape, got \(9, 14, 3\) and \(8, 14, 3\)"),
        (X[0, 0], Y[0, 0], ValueError, r"x must have at least two axes.*got shape \(3,\)"),
        (X[:0], Y[:0], ValueError, r"x must have.*none of them empty.*\(0, 14, 3\)"),
        (X, WITH_NAN, ValueError, "y must hold no NaN, got 1 of them"),
    ],
)
def test_bad_images_are_named(name, x, y, error, message):
    with pytest.raises(error, match=message):
        LOSSES[name](x, y, features=features)


@every_loss
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (3, TypeError, "features must be a function, got int"),
        (
            lambda image: image,
            TypeError,
            "must return a list or tuple of feature maps, got ndarray",
        ),
        (lambda image: [], ValueError, r"at least one feature map, got \[\]"),
        (
            lambda image: [image, image > 0],
            TypeError,
            r"layer 1 of features\(x\) must be a floating array, got dtype bool",
        ),
        (
            lambda image: [None],
            TypeError,
            r"layer 0 of features\(x\) must be a floating array, got NoneType",
        ),
        (
            lambda image: [image[0]],
            ValueError,
            r"layer 0 of features\(x\) must have shape \(height, width, channel\).*\(14, 3\)",
        ),
        (lambda image: [image[:0]], ValueError, r"no axis empty, got shape \(0, 14, 3\)"),
        (
            lambda image: [image] * (1 if image is X else 2),
            ValueError,
            r"as many maps.* for y as for x, got \[\(9, 14, 3\), \(9, 14, 3\)\] and \[\(9, 14",
        ),
        (
            lambda image: [image if image is X else image[:1]],
            ValueError,
            r"the same shapes.* got \[\(1, 14, 3\)\] and \[\(9, 14, 3\)\]",
        ),
    ],
)
def test_bad_features_are_named(name, wrong, error, message):
    with pytest.raises(error, match=message):
        LOSSES[name](X, Y, features=wrong)


@pytest.mark.parametrize("name", ["distance", "distance_map"])
@pytest.mark.parametrize(
    ("heads", "error", "message"),
    [
        (np.ones((2, 5)), TypeError, "heads must be a list or tuple of arrays, got ndarray"),
        (HEADS[:1], ValueError, "as many as the layers of features, 2, got 1"),
        ((HEADS[0], 1.0), TypeError, "head of layer 1 must be a floating array.*got float"),
        ((HEADS[0], np.ones(4, int)), TypeError, "head of layer 1 .* got dtype int64"),
        (HEADS[::-1], ValueError, r"head of layer 0 must have the shape \(5,\) .*, got \(4,\)"),
        ((HEADS[0], np.array([1, 2, -3.5, 0])), ValueError, "head of layer 1 .* got -3.5"),
        ((HEADS[0], np.array([1, np.nan, 1, 0])), ValueError, "layer 1 must be finite.* got nan"),
        ((HEADS[0], np.array([1, np.inf, 1, 0])), ValueError, "layer 1 must be finite.* got inf"),
    ],
)
def test_bad_heads_are_named(name, heads, error, message):
    with pytest.raises(error, match=message):
        getattr(deep_features, name)(X, Y, features=features, heads=heads)


def test_trained_heads_fit_squeezenet(data, jit):
    heads = lpips_heads.load(data / "lpips_heads" / "lpips_v0.1_heads.npz", network="squeezenet")
    parameters = squeezenet.initialize(jax.random.key(0), version="1.1")
    network = jit(functools.partial(squeezenet.features, parameters=parameters))
    x, y = RNG.uniform(size=(2, 40, 33, 3)).astype(np.float32)
    of_x, of_y = network(x), network(y)

    @jit
    def lpips(a, b):
        options = {"features": lambda image: a if image is x else b, "heads": heads}
        where = deep_features.distance_map(x, y, **options)
        return deep_features.distance(x, y, **options), where

    wanted = 0.0
    for head, *pair in zip(heads, of_x, of_y, strict=True):
        a, b = (np.asarray(f, np.float64) for f in pair)
        a, b = (f / (np.linalg.norm(f, axis=-1, keepdims=True) + 1e-10) for f in (a, b))
        wanted += np.mean((a - b) ** 2 @ np.asarray(head, np.float64))
    apart, where = lpips(of_x, of_y)
    assert wanted > 0.01
    np.testing.assert_allclose(apart, wanted, rtol=1e-5)
    assert where.shape == (40, 33) and np.all(np.asarray(where) >= 0.0)
    chex.assert_trees_all_close((apart, where), lpips(of_y, of_x), rtol=1e-5)
    assert lpips(of_x, of_x)[0] == 0.0


@pytest.mark.parametrize("name", ["distance", "distance_map"])
def test_arrays_in_another_byte_order_and_lists(name):
    loss = functools.partial(getattr(deep_features, name), features=features)
    expected = loss(X, Y, heads=HEADS)
    swapped = [array.astype(">f8") for array in (X, Y, *HEADS)]
    np.testing.assert_array_equal(loss(*swapped[:2], heads=tuple(swapped[2:])), expected)
    np.testing.assert_array_equal(loss(X.tolist(), Y.tolist(), heads=HEADS), expected)
    with pytest.raises(TypeError, match="x must have at most 64 bits, got dtype"):
        loss(X.astype(np.longdouble), Y)
    with pytest.raises(TypeError, match=r"head of layer 0 must be a floating array.* 64 bits"):
        loss(X, Y, heads=(HEADS[0].astype(np.longdouble), HEADS[1]))


def test_under_jit_checkify_catches_what_is_wrong():
    def lpips(x, head):
        return deep_features.distance(x, Y, features=features, heads=(head, HEADS[1]))

    checked = jax.jit(checkify.checkify(lpips))
    assert checked(X, HEADS[0])[0].get() is None
    assert "x must hold no NaN" in checked(WITH_NAN, HEADS[0])[0].get()
    for wrong in (-HEADS[0], np.inf * np.ones(5), np.nan * HEADS[0]):
        message = "the head of layer 0 must be finite and non-negative"
        assert message in checked(X, wrong)[0].get()
