import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import probemb
from probemb import DiagonalGaussian, GeneralizedGaussian, VonMisesFisher


def of(golden, released=False):
    """The release adds 1e-4 to 1 / alpha and to beta; the exact values have that in them."""
    mean, target = (golden(f"probvlm/{name}") for name in ("mean", "target"))
    if released:
        scale, shape = 1.0 / golden("probvlm/one_over_alpha"), golden("probvlm/beta")
    else:
        scale, shape = (golden(f"probvlm/exact_{name}") for name in ("alpha", "beta"))
    return GeneralizedGaussian(mean, scale, shape), target


reconstruction, reconstruction_released, probvlm, bayescap, pfe = map(
    jax.jit,
    (
        probemb.reconstruction,
        probemb.reconstruction_released,
        probemb.probvlm,
        probemb.bayescap,
        probemb.pfe,
    ),
)


def test_exact_loss_is_scipys(golden):
    p, target = of(golden)
    value = reconstruction(p, target)
    np.testing.assert_allclose(value, golden("probvlm/exact_mean_nll"), rtol=1e-9)
    mine = -stats.gennorm.logpdf(target, p.shape, p.location, p.scale).mean()
    np.testing.assert_allclose(value, mine, rtol=1e-9)
    variance = jax.jit(lambda p: p.variance)(p)
    np.testing.assert_allclose(variance, golden("probvlm/exact_variance"), rtol=1e-9)


def test_released_loss(golden):
    p, target = of(golden, released=True)
    value = reconstruction_released(p, target)
    np.testing.assert_allclose(value, golden("probvlm/released_gen_gauss_loss"), rtol=1e-9)


SHARES = (0.5 + np.arange(2000)) / 2000
RESIDUALS = {
    "gaussian": (stats.norm.ppf(SHARES), 2.0, 0.1),
    "laplace": (stats.laplace.ppf(SHARES), 1.0, 0.05),
    "four": (stats.gennorm.ppf(SHARES, 4.0), 4.0, 0.2),
    "uniform": (2.0 * SHARES - 1.0, np.inf, None),
}


@functools.partial(jax.jit, static_argnums=0)
def fitted_shape(loss, residuals):
    """The shape at the minimum over scale and shape, by descent on their logarithms."""
    target = residuals[:, None]
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 400))

    def value(logarithms):
        scale, shape = jnp.exp(logarithms)
        p = GeneralizedGaussian(
            jnp.zeros_like(target), jnp.full_like(target, scale), jnp.full_like(target, shape)
        )
        return loss(p, target)

    def step(state, _):
        logarithms, moments = state
        update, moments = optimizer.update(jax.grad(value)(logarithms), moments)
        return (optax.apply_updates(logarithms, update), moments), None

    start = jnp.log(jnp.asarray([1.0, 1.5]))
    with jax.numpy_dtype_promotion("standard"):
        (logarithms, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=400)
    return jnp.exp(logarithms[1])


@pytest.mark.parametrize("name", RESIDUALS)
def test_the_released_loss_learns_one_shape_for_all_data(name):
    residuals, shape, tolerance = RESIDUALS[name]
    released = float(fitted_shape(probemb.reconstruction_released, residuals))
    exact = float(fitted_shape(probemb.reconstruction, residuals))
    assert released == pytest.approx(0.684, abs=2e-3)
    if tolerance is None:
        assert exact > 8.0
    else:
        assert exact == pytest.approx(shape, abs=tolerance)


FAMILIES = ("generalized_gaussian", "gaussian", "von_mises_fisher")
every_family = pytest.mark.parametrize("family", FAMILIES)


def family_of(family, seed=0, shape=(4, 3), dtype=np.float64):
    """Distributions and points that they could explain."""
    generator = np.random.default_rng(seed)
    location, target = generator.normal(size=(2, *shape))
    if family == "generalized_gaussian":
        p = GeneralizedGaussian(location, *generator.uniform(0.7, 3.0, (2, *shape)))
    elif family == "gaussian":
        p = DiagonalGaussian(location, generator.uniform(-1.0, 1.0, shape))
    else:
        location, target = (
            x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (location, target)
        )
        p = VonMisesFisher(location, generator.uniform(1.0, 9.0, shape[:-1]))
    return jax.tree.map(lambda x: x.astype(dtype), (p, target))


def scipy_loss(p, target):
    """Minus the mean log-likelihood, over the dimension."""
    fields = tuple(p)
    if isinstance(p, GeneralizedGaussian):
        return -stats.gennorm.logpdf(target, fields[2], fields[0], fields[1]).mean()
    if isinstance(p, DiagonalGaussian):
        return -stats.norm.logpdf(target, fields[0], np.exp(0.5 * fields[1])).mean()
    each = [
        stats.vonmises_fisher(direction, kappa).logpdf(x)
        for direction, kappa, x in zip(*fields, target, strict=True)
    ]
    return -np.mean(each) / target.shape[-1]


@every_family
def test_every_family_has_scipys_loss(family):
    p, target = family_of(family)
    expected = scipy_loss(p, target)
    np.testing.assert_allclose(reconstruction(p, target), expected, rtol=1e-8)
    single = reconstruction(*family_of(family, dtype=np.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, expected, rtol=1e-5)


def test_a_generalized_gaussian_of_shape_two_is_a_gaussian():
    p, target = family_of("gaussian")
    scale = np.sqrt(2.0 * np.exp(p.log_variance))
    same = GeneralizedGaussian(p.mean, scale, np.full_like(scale, 2.0))
    expected = reconstruction(p, target)
    np.testing.assert_allclose(reconstruction(same, target), expected, rtol=1e-12)


@every_family
def test_probvlm_is_its_four_terms(family):
    (image, x), (text, y) = family_of(family), family_of(family, 1)
    losses = [(probvlm, reconstruction)]
    if family == "generalized_gaussian":
        losses.append((jax.jit(probemb.probvlm_released), reconstruction_released))
    for loss, term in losses:
        expected = term(image, x) + term(text, y) + 0.3 * (term(image, y) + term(text, x))
        value = loss(image, text, x, y, cross_modal_weight=0.3)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        other_way = loss(text, image, y, x, cross_modal_weight=0.3)
        np.testing.assert_allclose(other_way, value, rtol=1e-12)


# --- of a location that is its own embedding, how far a partner is -----------------------------

DISTANCES = np.random.default_rng(4).normal(size=(2000, 1))


@jax.jit
def at_own_embedding(log_scale, shape, weight):
    """ProbVLM's loss of pairs whose embeddings are apart by normal distances."""
    ones, zeros = np.ones_like(DISTANCES), np.zeros_like(DISTANCES)
    p = GeneralizedGaussian(zeros, jnp.exp(log_scale) * ones, shape * ones)
    q = p._replace(location=DISTANCES)
    return probemb.probvlm(p, q, p.location, q.location, cross_modal_weight=weight)


def least_over_scales(shape, weight):
    """By hand: alpha^beta = beta lambda / (1 + lambda) times the mean of |distance|^beta."""
    mean = np.mean(np.abs(DISTANCES) ** shape)
    log_scale = math.log(weight / (1.0 + weight) * shape * mean) / shape
    scales = log_scale + np.array([-0.01, 0.0, 0.01])
    below, value, above = (float(at_own_embedding(x, shape, weight)) for x in scales)
    assert value < min(below, above)
    return value


def test_a_small_cross_modal_weight_has_no_minimum():
    shapes = [4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05, 0.02]
    values = [least_over_scales(shape, 0.1) for shape in shapes]
    assert np.all(np.diff(values) < 0.0) and values[-1] < -100.0


def test_a_large_cross_modal_weight_has_its_minimum_at_the_distances_own_shape():
    shapes = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05]
    values = [least_over_scales(shape, 100.0) for shape in shapes]
    assert np.argmin(values) == 2 and np.all(np.diff(values[2:]) > 1.0)


@pytest.mark.parametrize("weight", [0.01, 1.0, 100.0])
def test_a_gaussian_of_own_location_has_its_minimum_at_a_share_of_the_squared_distance(weight):
    """(1 + lambda) log variance + lambda d^2 / variance, halved."""
    distance = np.array([[0.5, 2.0]])
    zeros = np.zeros_like(distance)

    @jax.jit
    @jax.value_and_grad
    def loss(log_variance):
        image, text = (DiagonalGaussian(mean, log_variance) for mean in (zeros, distance))
        return probemb.probvlm(image, text, zeros, distance, cross_modal_weight=weight)

    least = np.log(weight / (1.0 + weight) * np.square(distance))
    value, slope = loss(least)
    np.testing.assert_allclose(slope, np.zeros((1, 2)), atol=1e-12)
    assert value < min(loss(least - 0.1)[0], loss(least + 0.1)[0])


# --- BayesCap and PFE --------------------------------------------------------------------------


@every_family
def test_bayescap_is_a_squared_distance_and_a_likelihood(family):
    p, target = family_of(family)
    z = family_of(family, 1)[1]
    identity = np.mean(np.sum((p[0] - z) ** 2, axis=1))
    for weight in (0.0, 0.7):
        value = bayescap(p, z, target, identity_weight=weight)
        np.testing.assert_allclose(value, weight * identity + scipy_loss(p, target), rtol=1e-8)
    stays = bayescap(p, p[0], target, identity_weight=1e9)
    np.testing.assert_allclose(stays, scipy_loss(p, target), rtol=1e-8)


def test_pfe_is_the_density_of_a_difference_at_zero():
    (image, _), (text, _) = family_of("gaussian"), family_of("gaussian", 1)
    deviation = np.sqrt(np.exp(image.log_variance) + np.exp(text.log_variance))
    expected = -stats.norm.logpdf(0.0, image.mean - text.mean, deviation).mean()
    np.testing.assert_allclose(pfe(image, text), expected, rtol=1e-12)
    np.testing.assert_allclose(pfe(text, image), expected, rtol=1e-12)


def test_pfe_fits_the_sum_of_variances_to_the_squared_distance():
    (image, _), (text, _) = family_of("gaussian"), family_of("gaussian", 1)
    squared = np.square(image.mean - text.mean)
    of_image, of_text = (
        p._replace(log_variance=np.log(share * squared)) for p, share in ((image, 0.3), (text, 0.7))
    )
    slopes = jax.jit(jax.grad(probemb.pfe, (0, 1)))(of_image, of_text)
    for slope in slopes:
        np.testing.assert_allclose(slope.log_variance, np.zeros((4, 3)), atol=1e-12)
    least = pfe(of_image, of_text)
    for shift in (-0.1, 0.1):
        moved = of_text._replace(log_variance=of_text.log_variance + shift)
        assert pfe(of_image, moved) > least


def of_adapters(p, q, r, x, y):
    """Every loss, of a generalized Gaussian and of two Gaussians."""
    return (
        probemb.reconstruction(q, x),
        probemb.probvlm(p, p, x, y, cross_modal_weight=0.3),
        probemb.bayescap(p, x, y, identity_weight=0.7),
        probemb.pfe(q, r),
    )


@pytest.mark.slow
def test_jit_eager_and_vmap_agree():
    p, x = family_of("generalized_gaussian", 0, (3, 2, 3))
    q, y = family_of("gaussian", 1, (3, 2, 3))
    batch = p, q, family_of("gaussian", 2, (3, 2, 3))[0], x, y
    compiled = jax.jit(of_adapters)
    each = [compiled(*jax.tree.map(lambda leaf, k=k: leaf[k], batch)) for k in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    chex.assert_trees_all_close(jax.jit(jax.vmap(of_adapters))(*batch), stacked, rtol=1e-12)
    first = of_adapters(*jax.tree.map(lambda leaf: leaf[0], batch))
    chex.assert_trees_all_close(each[0], first, rtol=1e-12)


def test_gradients_of_every_loss(check_to_second_order):
    p, x = family_of("generalized_gaussian", 0, (2, 3))
    q, y = family_of("gaussian", 1, (2, 3))
    check_to_second_order(of_adapters, (p, q, family_of("gaussian", 2, (2, 3))[0], x, y))


bayescap_and_slopes = jax.jit(
    jax.value_and_grad(
        lambda p, z, target: probemb.bayescap(p, z, target, identity_weight=1.0), (0, 1, 2)
    )
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [0.5, 0.9])
def test_bayescap_is_finite_at_its_own_embedding(dtype, shape):
    z = np.array([[0.3, -0.2]], dtype)
    p = GeneralizedGaussian(z, np.ones_like(z), np.full_like(z, shape))
    value, (of_p, *_) = bayescap_and_slopes(p, z, z)
    np.testing.assert_allclose(value, -stats.gennorm.logpdf(0.0, shape), rtol=1e-5)
    chex.assert_tree_all_finite(of_p)
    np.testing.assert_array_equal(of_p.location, np.zeros((1, 2)))
    np.testing.assert_allclose(of_p.scale, np.full((1, 2), 0.5))  # d log alpha, a mean of two


def test_gradients(golden, check_to_second_order):
    p, target = jax.tree.map(lambda x: x[:2, :3], of(golden))
    check_to_second_order(probemb.reconstruction, (p, target))


@jax.jit
def with_gradients(p, target):
    return [
        jax.value_and_grad(loss, (0, 1))(p, target)
        for loss in (probemb.reconstruction, probemb.reconstruction_released)
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [0.1, 0.5, 10.0])
@pytest.mark.parametrize("residual", [0.0, 1e-30, 1.0, 1e6])
def test_finite_at_the_edges(dtype, shape, residual):
    ones = np.ones(2, dtype)
    p = GeneralizedGaussian(0.0 * ones, ones, dtype(shape) * ones)
    chex.assert_tree_all_finite(with_gradients(p, dtype(residual) * ones))


def test_bad_input():
    ones = np.ones((2, 3))
    p = GeneralizedGaussian(ones, ones, ones)
    with pytest.raises(ValueError, match=r"p.scale must be positive, got -1"):
        probemb.reconstruction(p._replace(scale=-ones), ones)
    with pytest.raises(ValueError, match="target must have the shape of the distribution's mean"):
        probemb.reconstruction(p, ones[0])
    with pytest.raises(
        TypeError, match="text must be one of GeneralizedGaussian, DiagonalGaussian"
    ):
        probemb.probvlm(p, ones, ones, ones, cross_modal_weight=1.0)
    with pytest.raises(ValueError, match="cross_modal_weight must not be negative"):
        probemb.probvlm(p, p, ones, ones, cross_modal_weight=-1.0)


ONES = np.ones((2, 3))
LAPLACE, GAUSSIAN = GeneralizedGaussian(ONES, ONES, ONES), DiagonalGaussian(ONES, ONES)
DIRECTIONS = VonMisesFisher(np.eye(3)[:2], np.ones(2))
BAD = {
    "kind": (
        lambda: probemb.reconstruction(ONES, ONES),
        TypeError,
        "p must be one of GeneralizedGaussian, DiagonalGaussian, VonMisesFisher, got ndarray",
    ),
    "nan_variance": (
        lambda: probemb.reconstruction(GAUSSIAN._replace(log_variance=np.nan * ONES), ONES),
        ValueError,
        r"p.log_variance must be finite, got nan at index \(0, 0\)",
    ),
    "concentration": (
        lambda: probemb.reconstruction(DIRECTIONS._replace(concentration=-np.ones(2)), ONES),
        ValueError,
        "p.concentration must not be negative, got -1",
    ),
    "direction": (
        lambda: probemb.reconstruction(DIRECTIONS._replace(mean_direction=ONES), ONES),
        ValueError,
        "p.mean_direction must hold unit vectors, got one of length 1.73205",
    ),
    "target_off_the_sphere": (
        lambda: probemb.reconstruction(DIRECTIONS, ONES),
        ValueError,
        "target must hold unit vectors, got one of length 1.73205",
    ),
    "released_kind": (
        lambda: probemb.reconstruction_released(GAUSSIAN, ONES),
        TypeError,
        "p must be a GeneralizedGaussian, got DiagonalGaussian",
    ),
    "probvlm_of_two_shapes": (
        lambda: probemb.probvlm(
            GAUSSIAN, DiagonalGaussian(ONES[:1], ONES[:1]), ONES, ONES, cross_modal_weight=1.0
        ),
        ValueError,
        r"image and text must have one shape .*, got \(2, 3\) and \(1, 3\)",
    ),
    "image_embedding": (
        lambda: probemb.probvlm(LAPLACE, LAPLACE, ONES[0], ONES, cross_modal_weight=1.0),
        ValueError,
        r"image_embedding must have the shape .* \(2, 3\), got \(3,\)",
    ),
    "text_embedding": (
        lambda: probemb.probvlm(LAPLACE, LAPLACE, ONES, np.inf * ONES, cross_modal_weight=1.0),
        ValueError,
        "text_embedding must be finite, got inf",
    ),
    "bayescap_kind": (
        lambda: probemb.bayescap(ONES, ONES, ONES, identity_weight=1.0),
        TypeError,
        "p must be one of .*, got ndarray",
    ),
    "bayescap_embedding": (
        lambda: probemb.bayescap(LAPLACE, ONES[:, :2], ONES, identity_weight=1.0),
        ValueError,
        r"embedding must have the shape .* \(2, 3\), got \(2, 2\)",
    ),
    "bayescap_target": (
        lambda: probemb.bayescap(LAPLACE, ONES, np.ones((2, 3), int), identity_weight=1.0),
        TypeError,
        "target must be floating point, got dtype int64",
    ),
    "identity_weight": (
        lambda: probemb.bayescap(LAPLACE, ONES, ONES, identity_weight=-0.5),
        ValueError,
        "identity_weight must not be negative, got -0.5",
    ),
    "identity_weights": (
        lambda: probemb.bayescap(LAPLACE, ONES, ONES, identity_weight=np.ones(2)),
        ValueError,
        r"identity_weight must be a scalar, got shape \(2,\)",
    ),
    "pfe_image": (
        lambda: probemb.pfe(LAPLACE, GAUSSIAN),
        TypeError,
        "image must be a DiagonalGaussian, got GeneralizedGaussian",
    ),
    "pfe_text": (
        lambda: probemb.pfe(GAUSSIAN, GAUSSIAN._replace(mean=np.nan * ONES)),
        ValueError,
        r"text.mean must be finite, got nan at index \(0, 0\)",
    ),
    "pfe_shapes": (
        lambda: probemb.pfe(GAUSSIAN, DiagonalGaussian(ONES[0], ONES[0])),
        ValueError,
        r"image and text must have one shape .*, got \(2, 3\) and \(3,\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_of_every_loss(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()
