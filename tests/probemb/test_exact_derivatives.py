"""Values, gradients and second derivatives of the quadrature beside the integral itself.

The integral is computed in NumPy: SciPy's Bessel function on panels that halve towards 0 and
towards the threshold, and central differences of it of the eighth order. Where a Gaussian is not
isotropic, the integral is that of the moments which its squared distance has.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, gammaln, ive

import probemb
from probemb import DiagonalGaussian

DIMENSION = 8
TOLERANCES = (1e-9, 1e-8, 1e-6)  # of the value, the first and the second derivative
NODE, WEIGHT = np.polynomial.legendre.leggauss(24)
FIRST = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
SECOND = {0: -205 / 72, 1: 8 / 5, 2: -1 / 5, 3: 8 / 315, 4: -1 / 560}

# A quadrature is a large program, here for few numbers: to optimize it takes longer than to run it.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def log_density(r, degrees, squared_noncentrality):
    """Of the noncentral chi distribution."""
    order, k = degrees / 2.0 - 1.0, r * np.sqrt(squared_noncentrality)
    small = k < 1e-6
    large = np.where(small, 1.0, k)
    log_bessel = np.where(
        small,
        -order * np.log(2.0) - gammaln(order + 1.0) + k * k / (4.0 * (order + 1.0)),
        np.log(ive(order, large)) + large - order * np.log(large),
    )
    return (degrees - 1.0) * np.log(r) - 0.5 * (r * r + squared_noncentrality) + log_bessel


def exact(squared_distance, variance, degrees, a, b):
    """E sigmoid(l) and E sigmoid(-l) for l = b - a |z_1 - z_2|."""
    noncentrality, sharpness = squared_distance / variance, a * np.sqrt(variance)
    center, halves = np.sqrt(noncentrality + degrees), 0.5 ** np.arange(50, -1, -1)
    low, high = max(0.0, center - 14.0), center + 14.0
    edges = [np.linspace(low, high, 40), low + (high - low) * halves]
    if low < b / sharpness < high:
        edges += [b / sharpness + (end - b / sharpness) * halves for end in (low, high)]
    edges = np.unique(np.concatenate(edges))
    half = 0.5 * np.diff(edges)[:, None]
    r = (edges[:-1, None] + half * (1.0 + NODE)).ravel()
    density = np.exp(log_density(r, degrees, noncentrality)) * (half * WEIGHT).ravel()
    logits = b - sharpness * r
    return np.array([density @ expit(logits), density @ expit(-logits)])


def exact_of(p, q, a, b):
    """The same of two Gaussians (mean, log-variance), by their moments."""
    apart, spread = (p[0] - q[0]) ** 2, np.exp(p[1]) + np.exp(q[1])
    first = (apart + spread).sum()
    second = 2.0 * (spread**2).sum() + 4.0 * (apart * spread).sum()  # of |z_1 - z_2|^2
    variance = second / (2.0 * (first + apart.sum()))
    return exact(apart.sum(), variance, spread.sum() / variance, a, b)


def differences(function, steps):
    """Value, and first and second derivative in t at 0, of function(t) where t is in steps."""
    values = {k: function(k * steps) for k in range(-4, 5)}
    first = sum(c * (values[k] - values[-k]) for k, c in FIRST.items()) / steps
    second = SECOND[0] * values[0]
    second = second + sum(SECOND[k] * (values[k] + values[-k]) for k in (1, 2, 3, 4))
    return values[0], first, second / steps**2


def cases():
    """Points (p's mean and log-variance, q's, log a, b), and directions as long as they bend.

    In fewer dimensions than 8, the others have next to no variance and equal means.
    """
    generator = np.random.default_rng(0)
    kinds = ((0.3, 2.0, 1.0), (0.0, 15.0, 15.0), (0.7, 60.0, 40.0), (2.0, 3.0, -1.0))
    for live, ratio in ((1, 1.0), *((d, r) for d in (2, 3, 8) for r in (1.0, 10.0, 1000.0))):
        is_live = np.arange(DIMENSION) < live
        log_variance = np.full(DIMENSION, -300.0)
        log_variance[:live] = np.log(np.geomspace(1.0, ratio, live) / ratio)
        for distance, a, b in kinds:
            toward = is_live * generator.normal(size=DIMENSION)
            mean = distance * toward / np.linalg.norm(toward)
            of_mean, of_variance = is_live * min(0.5, 1.0 / a), is_live / (1.0 + abs(b))
            scales = (of_mean, of_variance, of_mean, of_variance, 1.0 / (1.0 + abs(b)), 1.0)
            direction = tuple(s * generator.normal(size=np.shape(s)) for s in scales)
            yield (mean, log_variance, 0.0 * mean, log_variance, np.log(a), b), direction


def exact_along(point, direction):
    def at(t):
        mean, log_variance, other, other_log_variance, log_a, b = (
            x + t * u for x, u in zip(point, direction, strict=True)
        )
        yes, no = exact_of((mean, log_variance), (other, other_log_variance), np.exp(log_a), b)
        return yes - 0.5 * no

    return differences(at, 0.03)


def weighted_probabilities(point):
    mean, log_variance, other, other_log_variance, log_a, b = point
    p, q = DiagonalGaussian(mean, log_variance), DiagonalGaussian(other, other_log_variance)
    yes, no = probemb.log_expected_match_probability(p, q, negative_scale=jnp.exp(log_a), shift=b)
    return jnp.exp(yes) - 0.5 * jnp.exp(no)


def along(tree, direction):
    return sum(jnp.sum(x * u) for x, u in zip(tree, direction, strict=True))


@jit
@jax.vmap
def to_first_order(point, direction):
    value, slope = jax.value_and_grad(weighted_probabilities)(point)
    return value, along(slope, direction)


@jit
@jax.vmap
def to_second_order(point, direction):
    """In forward mode, which takes half as long to compile as the other way round."""

    def slope(point):
        return jax.jvp(weighted_probabilities, (point,), (direction,))

    (value, first), (_, second) = jax.jvp(slope, (point,), (direction,))
    return value, first, second


@pytest.fixture(scope="module")
def truth():
    points, directions = zip(*cases(), strict=True)
    expected = [exact_along(*case) for case in zip(points, directions, strict=True)]
    stacked = tuple(tuple(np.stack(x) for x in zip(*z, strict=True)) for z in (points, directions))
    return *stacked, tuple(np.stack(x) for x in zip(*expected, strict=True))


def compare(found, expected, tolerances):
    names = ("value", "first derivative", "second derivative")
    for name, mine, theirs, tolerance in zip(names, found, expected, tolerances, strict=False):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance, err_msg=name)


def test_the_quadrature_has_the_derivatives_of_the_integral(truth):
    *inputs, expected = truth
    compare(to_second_order(*inputs), expected, TOLERANCES)
    assert np.abs(expected[1]).max() > 0.1 and np.abs(expected[2]).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "tolerances"), [(np.float32, (3e-6, 1e-5)), (np.float64, TOLERANCES[:2])]
)
def test_the_gradient_is_that_of_the_integral_in_float32_too(truth, dtype, tolerances):
    *inputs, expected = truth
    if dtype == np.float32:  # the least log-variance there
        inputs[0] = tuple(np.maximum(x, -35.0) for x in inputs[0])
    found = to_first_order(*jax.tree.map(dtype, tuple(inputs)))
    assert found[0].dtype == dtype
    compare(found, expected, tolerances)


def pair(t):
    """A batch of two images and two texts that moves with t: unequal variances, one pair equal."""
    images = np.array([[0.3, -0.2], [1.0, 0.5]]), np.array([[0.0, -4.6], [-1.0, -1.0]])
    texts = np.array([[0.3, -0.2], [0.2, 0.1]]), np.array([[0.0, -4.6], [-7.0, 0.3]])
    turn = np.array([[0.5, -0.8], [0.3, 0.9]]), np.array([[0.4, -0.3], [0.7, 0.2]])
    images = tuple(x + t * u for x, u in zip(images, turn, strict=True))
    return images, tuple(x - 0.4 * t * u for x, u in zip(texts, turn[::-1], strict=True))


def losses(t):
    """Self-mismatch, HIB's and PCME's losses of that batch."""
    image, text = (DiagonalGaussian(*g) for g in pair(t))
    p, q = (jax.tree.map(lambda x: x[0], g) for g in (image, text))
    a, b = 6.0 * jnp.exp(0.1 * t), 2.0 - 0.3 * t
    options = {"negative_scale": a, "shift": b}
    mixed = jax.tree.map(lambda x, y: jnp.stack([x[0], y[1]]), image, text)
    return jnp.stack(
        [
            probemb.self_mismatch(jax.tree.map(lambda x: x[1], mixed), **options),
            probemb.soft_contrastive_quadrature(p, q, 0.3, bottleneck_weight=0.0, **options),
            probemb.pcme_quadrature(image, text, **options),
        ]
    )


def exact_losses(t):
    image, text = pair(t)
    a, b = 6.0 * np.exp(0.1 * t), 2.0 - 0.3 * t
    of_image, of_text = ([tuple(x[i] for x in g) for i in range(2)] for g in (image, text))
    pairs = [[exact_of(p, q, a, b) for q in of_text] for p in of_image]
    return np.array(
        [
            exact_of(of_text[1], of_text[1], a, b)[1],
            -0.3 * np.log(pairs[0][0][0]) - 0.7 * np.log(pairs[0][0][1]),
            -sum(np.log(pairs[i][j][int(i != j)]) for i in range(2) for j in range(2)),
        ]
    )


def test_the_losses_have_the_slopes_of_their_integrals():
    found = jit(lambda t: jax.jvp(losses, (t,), (jnp.ones_like(t),)))(jnp.zeros(()))
    compare(found, differences(exact_losses, 0.03), TOLERANCES)


def test_one_dimension_by_an_integral_over_the_line():
    """E sigmoid(b - a |z|) for z of N(m, 2), which no moment stands for."""
    m, a, b = 0.3, 2.0, 1.0
    z, weight = np.polynomial.legendre.leggauss(400)
    z = np.concatenate([10.0 * (z + 1.0), -10.0 * (z + 1.0)])
    density = np.tile(10.0 * weight, 2) * np.exp(-0.25 * (z - m) ** 2) / np.sqrt(4.0 * np.pi)
    matches = expit(b - a * np.abs(z))
    # To m, to the log-variance of p, whose half the variance of z is, and to a and b.
    bend = matches * (1.0 - matches)
    expected = (
        density @ (matches * (z - m)) / 2.0,
        density @ (matches * ((z - m) ** 2 / 4.0 - 0.5)) / 2.0,
        -density @ (bend * np.abs(z)),
        density @ bend,
    )
    assert expected[0] == pytest.approx(-0.0344, abs=5e-5)

    unit = np.eye(1, DIMENSION)[0]
    zero, log_variance = 0.0 * unit, np.where(unit == 1.0, 0.0, -300.0)
    point = m * unit, log_variance, zero, log_variance, np.log(a), b
    directions = (
        (unit, zero, zero, zero, 0.0, 0.0),
        (zero, unit, zero, zero, 0.0, 0.0),
        (zero, zero, zero, zero, 1.0 / a, 0.0),
        (zero, zero, zero, zero, 0.0, 1.0),
    )
    # As many as there are cases above: one program serves both.
    inputs = ([np.stack(x) for x in zip(*z * 10, strict=True)] for z in ((point,) * 4, directions))
    value, slopes, _ = to_second_order(*map(tuple, inputs))
    # Of the probability less half of what is missing to 1.
    np.testing.assert_allclose(value, 1.5 * (density @ matches) - 0.5, atol=1e-9)
    np.testing.assert_allclose(slopes[:4], 1.5 * np.array(expected), atol=1e-9)
