"""The truth is written with the time component, in NumPy's widest floats."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import probemb
from probemb import hyperbolic
from probemb.numerics import reduction

WIDE = np.longdouble
# Compiled once for all curvatures, and for a shape: most tests have the same.
exponential_map, lorentz_distance, half_aperture, exterior_angle, entailment = (
    jax.jit(function)
    for function in (
        hyperbolic.exponential_map,
        hyperbolic.lorentz_distance,
        hyperbolic.half_aperture,
        hyperbolic.exterior_angle,
        hyperbolic.entailment,
    )
)


def vectors(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def lorentz(x, y, c):
    """The hyperboloid's inner product, of points given by their space components."""
    time_x, time_y = (np.sqrt(1 / c + np.sum(z * z, -1)) for z in (x, y))
    return np.sum(x * y, -1) - time_x * time_y


def true_point(x, c):
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / length * np.sinh(np.sqrt(c) * length) / np.sqrt(c)


def true_distance(x, y, c):
    x, y = (np.asarray(z, WIDE) for z in (x, y))
    return np.arccosh(np.maximum(-c * lorentz(x, y, c), 1)) / np.sqrt(WIDE(c))


def true_angle(x, y, c):
    """The paper's formula."""
    x, y = (np.asarray(z, WIDE) for z in (x, y))
    time_x, time_y = (np.sqrt(1 / c + np.sum(z * z, -1)) for z in (x, y))
    inner = c * lorentz(x, y, c)
    cosine = (time_y + time_x * inner) / np.sqrt(np.sum(x * x, -1) * (inner**2 - 1))
    return np.arccos(np.clip(cosine, -1, 1))


@pytest.mark.parametrize("c", [0.1, 1.0, 7.0])
def test_exponential_map_reaches_a_point_of_the_hyperboloid_at_the_vectors_length(c):
    x = vectors(20, 4) * np.logspace(-8, 0.5, 20)[:, None]
    point = exponential_map(x, curvature=c)
    np.testing.assert_allclose(point, true_point(x, c), rtol=1e-12)
    distance = lorentz_distance(np.zeros((20, 4)), point, curvature=c)[0]
    np.testing.assert_allclose(distance, np.linalg.norm(x, axis=1), rtol=1e-12)


@pytest.mark.parametrize("c", [0.1, 1.0, 7.0])
def test_distances_are_those_of_the_hyperboloid(c):
    x, y = vectors(20, 4), vectors(20, 4, seed=1)
    distance = lorentz_distance(x, y, curvature=c)
    expected = true_distance(x[:, None], y[None], c)
    np.testing.assert_allclose(distance, expected.astype(float), rtol=1e-12)
    itself = np.asarray(lorentz_distance(x, x, curvature=c))
    np.testing.assert_allclose(np.diagonal(itself), 0.0, atol=1e-7)
    assert (itself[:, None, :] <= itself[:, :, None] + itself[None] + 1e-6).all()


def test_without_curvature_distances_are_euclidean_and_angles_too():
    x, y = vectors(20, 4), vectors(20, 4, seed=1)
    points = [exponential_map(z, curvature=1e-8) for z in (x, y)]
    distance = lorentz_distance(*points, curvature=1e-8)
    expected = np.linalg.norm(x[:, None] - y[None], axis=2)
    np.testing.assert_allclose(distance, expected, rtol=1e-6)
    cosine = np.sum(x * (y - x), 1) / np.linalg.norm(x, axis=1) / np.diagonal(expected)
    angle = exterior_angle(*points, curvature=1e-8)
    np.testing.assert_allclose(angle, np.arccos(cosine), rtol=1e-6)


@pytest.mark.parametrize("c", [0.1, 1.0, 7.0])
def test_exterior_angle_completes_that_of_the_triangle(c):
    x, y = vectors(20, 4), vectors(20, 4, seed=1)
    angle = np.asarray(exterior_angle(x, y, curvature=c))
    np.testing.assert_allclose(angle, true_angle(x, y, c).astype(float), rtol=1e-12)
    # The law of cosines: cosh b = cosh a cosh d - sinh a sinh d cos(angle at x).
    root, zero = np.sqrt(WIDE(c)), np.zeros((20, 4))
    a, b, d = (root * true_distance(*two, c) for two in ((zero, x), (zero, y), (x, y)))
    cosine = (np.cosh(a) * np.cosh(d) - np.cosh(b)) / (np.sinh(a) * np.sinh(d))
    np.testing.assert_allclose(angle, (np.pi - np.arccos(cosine)).astype(float), rtol=1e-12)


def test_what_lies_further_out_on_a_ray_is_in_the_cone():
    x = 2.0 * vectors(20, 4)
    assert entailment(1.5 * x, x, curvature=0.7) < 1e-7
    # The other way round an image is straight behind its text: pi minus the half-aperture.
    points = exponential_map(1.5 * x, curvature=0.7)
    expected = np.pi - np.mean(half_aperture(points, curvature=0.7))
    np.testing.assert_allclose(entailment(x, 1.5 * x, curvature=0.7), expected)


def test_half_aperture_by_hand():
    x = np.array([[0.0, 0.0], [0.19, 0.0], [0.0, -0.2], [0.4, 0.0], [0.0, 20.0]])
    expected = [np.pi / 2, np.pi / 2, np.pi / 2, np.pi / 6, np.arcsin(0.01)]
    for c in (1.0, 4.0):
        angle = half_aperture(x / np.sqrt(c), curvature=c)
        np.testing.assert_allclose(angle, expected, rtol=1e-12)
    np.testing.assert_allclose(half_aperture(x, curvature=1.0, min_radius=0.2)[3], np.pi / 2)


def expected_meru(image, text, scale, c, labels, weight=0.2):
    points = [true_point(z, c) for z in (image, text)]
    logits = -scale * true_distance(points[0][:, None], points[1][None], c).astype(float)
    loss = sum(
        -np.sum(log_softmax(one, axis=1) * y / y.sum(1, keepdims=True)) / len(y) / 2
        for one, y in ((logits, labels), (logits.T, labels.T))
    )
    text_of_image = points[1][np.argmax(labels, axis=1)]
    aperture = np.arcsin(np.minimum(1, 0.2 / np.sqrt(c) / np.linalg.norm(text_of_image, axis=1)))
    outside = true_angle(text_of_image, points[0], c).astype(float) - aperture
    return loss + weight * np.maximum(outside, 0).mean()


def meru(image, text, scale, curvature, labels=None):
    return probemb.meru(image, text, logit_scale=scale, curvature=curvature, labels=labels)


compiled_meru = jax.jit(meru)


@pytest.mark.parametrize("tile", [1, 18, 10**6])
def test_meru_is_two_cross_entropies_and_the_entailment(monkeypatch, tile):
    monkeypatch.setattr(reduction, "TILE", tile)
    monkeypatch.setattr(reduction, "_FEW_ROWS", 1)
    image, text = vectors(6, 4), vectors(6, 4, seed=1)

    @jax.jit
    def values(labels):
        return [meru(image, text, 7.0, 1.3, labels=z) for z in (None, labels)]

    labels = np.random.default_rng(2).uniform(size=(6, 6))
    expected = [expected_meru(image, text, 7.0, 1.3, z) for z in (np.eye(6), labels)]
    np.testing.assert_allclose(values(labels), expected, rtol=1e-12)
    # An item without a label is left out.
    assert values(np.zeros((6, 6)))[1] == 0.0


def test_rotations_and_units_do_not_count():
    image, text = vectors(6, 4), vectors(6, 4, seed=1)
    value = compiled_meru(image, text, 7.0, 1.0)
    turn = np.linalg.qr(vectors(4, 4, seed=2))[0]
    turned = compiled_meru(image @ turn, text @ turn, 7.0, 1.0)
    np.testing.assert_allclose(turned, value, rtol=1e-12)
    halved = compiled_meru(image / 2, text / 2, 14.0, 4.0)
    np.testing.assert_allclose(halved, value, rtol=1e-12)


def test_gradients_to_second_order(check_to_second_order):
    x, y = vectors(3, 2), vectors(3, 2, seed=1)
    assert entailment(x, y, curvature=1.3) > 0.1  # so that all parts are at work
    check_to_second_order(meru, (x, y, 3.0, 1.3))


def test_exponential_map_is_smooth_at_the_origin_and_where_its_series_ends(check_to_second_order):
    map_ = functools.partial(exponential_map, curvature=1.0)
    np.testing.assert_allclose(jax.jit(jax.jacrev(map_))(np.zeros(2)), np.eye(2))
    sizes = np.array([0.0, 1e-3, 0.1 - 1e-4, 0.1 + 1e-4])
    check_to_second_order(map_, (np.outer(sizes, [0.6, -0.8]),))


def test_distance_is_smooth_at_the_origin(check_to_second_order):
    y = np.array([[1.0, 2.0, -1.0]])
    check_to_second_order(lambda x: lorentz_distance(x, y, curvature=1.3), (np.zeros((1, 3)),))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_finite_where_points_coincide_or_are_at_an_end(dtype):
    value = np.array([0.0, 1e-30, 0.05, 0.1, 1.0, 30.0, 1e6, 1e25])
    x = np.tile(value, 4).astype(dtype)
    y = x * np.repeat(np.array([0.0, 1.0, -1.0, 2.0], dtype), len(value))

    def loss(x, y, scale, curvature):
        return meru(jnp.full((2, 3), x), jnp.full((2, 3), y), scale, curvature)

    def slopes(x, y):
        return jax.value_and_grad(loss, (0, 1, 2, 3))(x, y, dtype(3.0), dtype(1.0))

    chex.assert_tree_all_finite(jax.jit(jax.vmap(slopes))(x, y))


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def values_and_slopes(x, y, scale, curvature):
    """Of the loss and all it is made of, in all arguments; sums over points, weighted."""

    def points(x, y, curvature):
        return (hyperbolic.exponential_map(z, curvature=curvature) for z in (x, y))

    def of_points(function):
        def weighed(x, y, scale, curvature):
            value = function(*points(x, y, curvature), curvature=curvature)
            weights = np.sin(1.0 + np.arange(value.size)).reshape(value.shape)
            return jnp.sum(value * jnp.asarray(weights, value.dtype))

        return weighed

    functions = {
        "meru": meru,
        "entailment": lambda x, y, scale, c: hyperbolic.entailment(x, y, curvature=c),
        "distance": of_points(hyperbolic.lorentz_distance),
        "angle": of_points(hyperbolic.exterior_angle),
        "aperture": of_points(lambda x, y, curvature: hyperbolic.half_aperture(
            x, curvature=curvature)),
    }  # fmt: skip
    return {
        name: jax.value_and_grad(function, (0, 1, 2, 3))(x, y, scale, curvature)
        for name, function in functions.items()
    }


@pytest.mark.parametrize("radius", [1.0, 11.0, 20.0, 30.0, 39.0])
def test_float32_has_the_gradients_of_float64_at_every_radius(radius):
    directions = (vectors(6, 8, seed=seed) for seed in (0, 1))
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in directions)
    arguments = [np.float32(z) for z in (radius * x, 0.9 * radius * y, 10.0, 1.0)]
    narrow, wide = (values_and_slopes(*map(dtype, arguments)) for dtype in (np.float32, np.float64))
    for name, (value, slopes) in narrow.items():
        expected, expected_slopes = wide[name]
        np.testing.assert_allclose(value, expected, rtol=1e-4, err_msg=name)
        for place, (slope, exact) in enumerate(zip(slopes, expected_slopes, strict=True)):
            apart = np.linalg.norm(np.asarray(slope, float) - np.asarray(exact))
            assert apart <= 1e-4 * np.linalg.norm(exact), (name, place)


@pytest.mark.parametrize("curvature", [0.1, 10.0])
def test_long_vectors_end_at_one_radius(curvature):
    x = np.array([[0.0, 0.0], [1e3, 0.0], [1e25, 0.0], [0.0, -1e25]], np.float32)
    points = np.asarray(exponential_map(x, curvature=curvature))
    chex.assert_tree_all_finite(points)
    np.testing.assert_array_equal(points[1], points[2])
    distance = np.asarray(lorentz_distance(points, points, curvature=curvature))
    np.testing.assert_allclose(distance[0, 1:], 40.0 / np.sqrt(curvature), rtol=1e-6)
    across = (80.0 - np.log(2)) / np.sqrt(curvature)
    np.testing.assert_allclose(distance[2, 3], across, rtol=1e-6)


def test_float32_beside_float64():
    image, text = (vectors(6, 4, seed=seed, dtype=np.float32) / 4 for seed in (0, 1))
    value = compiled_meru(image, text, 5.0, 1.3)
    assert value.dtype == jnp.float32
    exact = compiled_meru(*map(np.float64, (image, text)), 5.0, 1.3)
    np.testing.assert_allclose(value, exact, rtol=1e-5)


def test_small_distances_and_angles_keep_their_digits_in_float32():
    x = np.float32(1e-4 * vectors(4, 2))
    distance = lorentz_distance(x[:2], x[2:], curvature=1.0)
    np.testing.assert_allclose(distance, np.linalg.norm(x[:2, None] - x[2:], axis=2), rtol=1e-5)
    x, y = np.array([[1.0, 0.0], [0.0, -1.0]]), np.array([[2.0, 1e-3], [1e-3, -2.0]])
    angle = exterior_angle(np.float32(x), np.float32(y), curvature=1.0)
    np.testing.assert_allclose(angle, true_angle(x, np.float32(y), 1.0).astype(float), rtol=1e-5)


def test_a_way_back_from_far_out_turns_round_in_float32():
    x = np.array([[1e20, 0.0], [1.0, 0.0]], np.float32)
    assert exterior_angle(x, x[::-1], curvature=1.0).tolist() == [pytest.approx(np.pi), 0.0]


@pytest.mark.slow
def test_jit_eager_and_vmap_agree():
    x, y = vectors(2, 3, 4), vectors(2, 3, 4, seed=1)
    for function in (
        lambda x, y: (lorentz_distance(x, y, curvature=1.3), exterior_angle(x, y, curvature=1.3)),
        lambda x, y: meru(x, y, 3.0, 1.3),
    ):
        compiled = jax.jit(function)
        each = jax.tree.map(lambda *one: jnp.stack(one), *map(compiled, x, y))
        chex.assert_trees_all_close(jax.jit(jax.vmap(function))(x, y), each, rtol=1e-12)
        chex.assert_trees_all_close(function(x[0], y[0]), compiled(x[0], y[0]), rtol=1e-12)


X = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hyperbolic.exponential_map(X, curvature=0.0), ValueError,
         "curvature must be positive, got 0"),
        (lambda: hyperbolic.exponential_map(np.float64(1.0), curvature=1.0), ValueError,
         r"x must have shape \(\.\.\. dimension\), got shape \(\)"),
        (lambda: hyperbolic.half_aperture(X, curvature=1.0, min_radius=-0.1), ValueError,
         "min_radius must be positive, got -0.1"),
        (lambda: hyperbolic.lorentz_distance(X, X[:, :2], curvature=1.0), ValueError,
         r"x and y must have one dimension, got shapes \(2, 3\) and \(2, 2\)"),
        (lambda: hyperbolic.lorentz_distance(X, X[0], curvature=1.0), ValueError,
         r"y must have shape \(columns dimension\)"),
        (lambda: hyperbolic.exterior_angle(X, X[:1], curvature=1.0), ValueError,
         "x and y must have one shape"),
        (lambda: hyperbolic.exterior_angle(X, np.full((2, 3), np.nan), curvature=1.0),
         ValueError, "y must be finite"),
        (lambda: hyperbolic.entailment(X, X[:1], curvature=1.0), ValueError,
         "image and text must have shapes"),
        (lambda: probemb.meru(X, np.ones((2, 3), int), logit_scale=1.0, curvature=1.0), TypeError,
         "text must be floating point"),
        (lambda: probemb.meru(X, X, logit_scale=0.0, curvature=1.0), ValueError,
         "logit_scale must be positive, got 0"),
        (lambda: probemb.meru(X, X, logit_scale=1.0, curvature=-1.0), ValueError,
         "curvature must be positive, got -1"),
        (lambda: probemb.meru(X, X, logit_scale=1.0, curvature=1.0, entailment_weight=-1),
         ValueError, "entailment_weight must not be negative, got -1"),
        (lambda: probemb.meru(X, X, logit_scale=1.0, curvature=1.0, labels=np.eye(3)), ValueError,
         "labels must have shape"),
        (lambda: probemb.meru(X, X, logit_scale=1.0, curvature=1.0, axis_name="rows"), ValueError,
         "axis_name must name an axis"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
