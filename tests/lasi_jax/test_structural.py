import functools
from pathlib import Path

import chex
import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from lasi_jax import structural

GOLDEN = Path(__file__).parents[1] / "golden" / "ms_ssim_reference.npz"
NAMES = ("astronaut_blur", "astronaut_noise", "camera_shift", "coffee_contrast")
METRICS = (structural.ssim, structural.ms_ssim)

two_scales = functools.partial(structural.ms_ssim, weights=(0.4, 0.6))


def pair_of(shape, dtype=np.float64, seed=0):
    """Two images that share half of their variation."""
    generator = np.random.default_rng(seed)
    common, *own = generator.uniform(0.0, 1.0, (3, *shape))
    return tuple(jnp.asarray(0.5 * common + 0.5 * each, dtype) for each in own)


def window_means(plane):
    """By SciPy; a Gaussian cut at 5 is the 11 x 11 window."""
    means = ndimage.gaussian_filter(plane, 1.5, axes=(0, 1), radius=5)
    return means[5:-5, 5:-5]


def by_definition(x, y):
    """Luminance and contrast-structure (H - 10, W - 10, C) of images in [0, 1]."""
    mu_x, mu_y = window_means(x), window_means(y)
    var_x, var_y = window_means(x * x) - mu_x**2, window_means(y * y) - mu_y**2
    covariance = window_means(x * y) - mu_x * mu_y
    luminance = (2 * mu_x * mu_y + 0.01**2) / (mu_x**2 + mu_y**2 + 0.01**2)
    return luminance, (2 * covariance + 0.03**2) / (var_x + var_y + 0.03**2)


def ms_by_definition(x, y, weights):
    product = np.ones(x.shape[-1])
    for i, weight in enumerate(weights):
        luminance, contrast_structure = by_definition(x, y)
        last = i == len(weights) - 1
        mean = (luminance * contrast_structure if last else contrast_structure).mean((0, 1))
        product *= np.maximum(mean, 0.0) ** weight
        x, y = (halved(image) for image in (x, y))
    return product.mean()


def halved(image):
    height, width, channels = image.shape
    out = np.zeros((-(-height // 2), -(-width // 2), channels))
    for i, j in np.ndindex(out.shape[:2]):
        rows, columns = ([2 * k, min(2 * k + 1, n - 1)] for k, n in ((i, height), (j, width)))
        out[i, j] = image[np.ix_(rows, columns)].mean((0, 1))
    return out


@pytest.fixture(scope="module")
def reference():
    with np.load(GOLDEN) as archive:
        assert {key.split("/")[0] for key in archive} == set(NAMES)
        return dict(archive)


@pytest.fixture(scope="module")
def compiled():
    return {metric: jax.jit(metric) for metric in METRICS}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_equals_the_reference(reference, compiled, metric, name, dtype, tolerance):
    x, y = (jnp.asarray(reference[f"{name}/{image}"] / 255, dtype) for image in "xy")
    value = compiled[metric](x, y)
    assert value.dtype == dtype and value.shape == ()
    expected = reference[f"{name}/{metric.__name__}"]
    np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(13, 17, 3), (43, 11, 1)], ids=str)
def test_equals_dm_pix(shape):
    x, y = pair_of(shape)
    with jax.numpy_dtype_promotion("standard"):  # dm_pix mixes integers and floats
        value, full_map = dm_pix.ssim(x, y), dm_pix.ssim(x, y, return_map=True)
    chex.assert_trees_all_close(structural.ssim(x, y), value, atol=1e-12)
    chex.assert_trees_all_close(structural.ssim_map(x, y), full_map, atol=1e-12)


@pytest.mark.parametrize("shape", [(11, 11, 1), (12, 45, 4), (75, 14, 2)], ids=str)
def test_map_by_definition(shape):
    x, y = pair_of(shape)
    luminance, contrast_structure = by_definition(np.asarray(x), np.asarray(y))
    found = structural.ssim_map(x, y)
    np.testing.assert_allclose(found, luminance * contrast_structure, atol=1e-12)
    np.testing.assert_allclose(structural.ssim(x, y), found.mean(), atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "weights"),
    [
        ((43, 46, 2), (0.2, 0.3, 0.7)),  # both sides odd in the first or the second halving
        ((21, 32, 1), (0.5, 0.5)),
        ((12, 13, 2), (1.5,)),
        ((21, 21, 1), (0.0, 1.0)),
    ],
    ids=str,
)
def test_scales_by_definition(shape, weights):
    x, y = pair_of(shape)
    expected = ms_by_definition(np.asarray(x), np.asarray(y), weights)
    np.testing.assert_allclose(structural.ms_ssim(x, y, weights=weights), expected, atol=1e-12)


def test_weights_are_the_published_ones_and_taken_as_they_are():
    assert structural.WEIGHTS == (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    x, y = pair_of((12, 12))
    chex.assert_trees_all_close(
        structural.ms_ssim(x, y, weights=np.array([2.0])), structural.ssim(x, y) ** 2, atol=1e-12
    )
    assert 0.0 < structural.ms_ssim(*pair_of((64, 64)), weights=structural.WEIGHTS[:3]) < 1.0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_flat_images_by_hand(dtype):
    x, y = (jnp.full((24, 24, 2), value, dtype) for value in (0.3, 0.9))
    luminance = (2 * 0.3 * 0.9 + 1e-4) / (0.3**2 + 0.9**2 + 1e-4)
    tolerance = 1e-12 if dtype == np.float64 else 1e-6
    np.testing.assert_allclose(structural.ssim(x, y), luminance, atol=tolerance)
    np.testing.assert_allclose(two_scales(x, y), luminance**0.6, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("content", ["random", "grey", "black", "white"])
def test_identical_images(dtype, content):
    flat = {"grey": 0.3, "black": 0.0, "white": 1.0}
    random, _ = pair_of((23, 26, 3), dtype)
    x = random if content == "random" else jnp.full_like(random, flat[content])
    for metric in (structural.ssim, two_scales):
        value, gradient = jax.value_and_grad(metric)(x, x)
        assert value == 1.0 and not gradient.any()


def test_identical_images_of_any_size_are_exactly_alike():
    for side in range(44, 60):  # where the float32 mean of so many ones is not always 1
        x = jnp.full((side, side + 3, 3), 0.4, jnp.float32)
        assert structural.ssim(x, x) == 1.0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_flat_and_other_degenerate_images_have_finite_gradients(dtype):
    textured, _ = pair_of((23, 22), dtype)
    black, white = jnp.zeros_like(textured), jnp.ones_like(textured)
    for x, y in ((black, white), (black, textured), (white, textured), (textured, 1 - textured)):
        for metric in (structural.ssim, two_scales):
            chex.assert_tree_all_finite(jax.value_and_grad(metric, (0, 1))(x, y))


def test_float32_resolves_the_smallest_differences():
    x, _ = pair_of((32, 32))
    y = x + 1e-3 * jnp.sin(jnp.arange(32.0))
    loss = 1.0 - structural.ssim(x, y, value_range=(-1.0, 2.0))
    single = 1.0 - structural.ssim(*(v.astype(jnp.float32) for v in (x, y)), value_range=(-1, 2))
    assert 0.0 < loss < 1e-5
    assert abs(single - loss.astype(jnp.float32)) < 2e-7


def test_means_below_0_count_as_0_by_channel():
    x, y = pair_of((24, 24))
    opposite = jnp.stack([x, x], -1), jnp.stack([1.0 - x, y], -1)
    value, gradient = jax.value_and_grad(two_scales, 1)(*opposite)
    assert structural.ssim(x, 1.0 - x) < 0.0 == two_scales(x, 1.0 - x)
    chex.assert_trees_all_close(value, two_scales(x, y) / 2.0, atol=1e-12)
    assert not gradient[..., 0].any() and gradient[..., 1].any()


def test_nan_is_not_hidden_by_the_cut():
    x, y = pair_of((24, 24))
    assert jnp.isnan(jax.jit(two_scales)(x.at[3, 4].set(jnp.nan), y))


@pytest.mark.parametrize("metric", [structural.ssim, two_scales])
def test_invariances(metric):
    x, y = pair_of((23, 24, 2))
    value = metric(x, y)
    for u, v in (
        (y, x),
        (x.swapaxes(0, 1), y.swapaxes(0, 1)),
        (x[..., ::-1], y[..., ::-1]),
    ):
        chex.assert_trees_all_close(metric(u, v), value, atol=1e-12)
    by_channel = [metric(x[..., channel], y[..., channel]) for channel in (0, 1)]
    chex.assert_trees_all_close(sum(by_channel) / 2.0, value, atol=1e-12)


@pytest.mark.parametrize("metric", [structural.ssim, two_scales])
def test_ranges_and_dtypes(metric):
    generator = np.random.default_rng(3)
    x, y = generator.integers(0, 256, (2, 22, 22), np.uint8)
    u, v = (jnp.asarray(image / 255) for image in (x, y))
    value = metric(u, v)
    chex.assert_trees_all_close(metric(x, y), value, atol=1e-12)
    chex.assert_trees_all_close(metric(x, v), value, atol=1e-12)
    shifted = metric(2 * u - 1, 2 * v - 1, value_range=(-1.0, 1.0))
    chex.assert_trees_all_close(shifted, value, atol=1e-12)
    chex.assert_trees_all_close(metric(255 * u, 255 * v, value_range=(0, 255)), value, atol=1e-12)
    half = metric(u.astype(jnp.bfloat16), v.astype(jnp.bfloat16))
    assert abs(half - value) < 1e-2


def test_a_map_has_the_axes_of_its_images():
    x, y = pair_of((14, 17))
    found = structural.ssim_map(x, y)
    assert found.shape == (4, 7)
    chex.assert_trees_all_close(structural.ssim_map(x[..., None], y[..., None])[..., 0], found)


@pytest.mark.parametrize("metric", [structural.ssim, structural.ssim_map, two_scales])
def test_jit_and_vmap_equal_eager(metric):
    x, y = (jnp.stack(images) for images in zip(*(pair_of((22, 21, 2), seed=i) for i in (0, 1))))
    eager = jnp.stack([metric(*images) for images in zip(x, y, strict=True)])
    chex.assert_trees_all_close(jax.jit(metric)(x[1], y[1]), eager[1], atol=1e-12)
    chex.assert_trees_all_close(jax.vmap(metric)(x, y), eager, atol=1e-12)


@pytest.mark.parametrize(
    ("metric", "shape"), [(structural.ssim, (12, 13, 2)), (two_scales, (21, 23))]
)
def test_gradients_equal_finite_differences(check_gradients, metric, shape):
    check_gradients(functools.partial(metric, value_range=(-1.0, 2.0)), pair_of(shape))


@pytest.mark.parametrize("scales", range(1, 6))
def test_the_smallest_image_of_each_number_of_scales(scales):
    least = 10 * 2 ** (scales - 1) + 1
    metric = functools.partial(structural.ms_ssim, weights=structural.WEIGHTS[:scales])
    fits, small = (jax.ShapeDtypeStruct((side, 200), np.float32) for side in (least, least - 1))
    assert jax.eval_shape(metric, fits, fits).shape == ()
    with pytest.raises(ValueError, match=rf"at least {least} pixels a side .* {scales} scale"):
        jax.eval_shape(metric, small, small)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (64, 64, 3),
            r"at least 161 .* 5 scales .*\(64, 64, 3\), which allows 3 \(weights\[:3\]\)",
        ),
        ((300, 160), r"\(300, 160\), which allows 4 \(weights\[:4\]\)"),
        ((11, 300), r"which allows 1 \(weights\[:1\]\)"),
        ((10, 10), r"\(10, 10\), which allows 0$"),
    ],
)
def test_too_small_an_image_is_told_what_fits(shape, message):
    with pytest.raises(ValueError, match=message):
        structural.ms_ssim(jnp.zeros(shape), jnp.zeros(shape))


@pytest.mark.parametrize("weights", [(), (-0.1, 1.1), (np.nan, 1), (np.inf,), (0, 0), 1.0, "ab"])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match=r"weights must be one finite number >= 0"):
        structural.ms_ssim(*pair_of((24, 24)), weights=weights)


@pytest.mark.parametrize("metric", [structural.ssim, structural.ssim_map, two_scales])
def test_bad_images(metric):
    x = jnp.full((24, 24), 0.5)
    for bad, error, message in (
        (x[:, :22], ValueError, r"one shape, got \(24, 24\) and \(24, 22\)"),
        (x.at[2, 3].set(jnp.nan), ValueError, "y must lie in value_range .* hold no NaN"),
        (x + 1.0, ValueError, "y must lie in value_range"),
        (x.astype(int), TypeError, "y must be floating point or uint8"),
        ("y", TypeError, "y must be an array"),
    ):
        with pytest.raises(error, match=message):
            metric(x, bad)
    for shape in ((24,), (2, 24, 24, 3)):
        with pytest.raises(ValueError, match=r"must have .*axes|shape \(height, width\).*vmap"):
            metric(jnp.zeros(shape), jnp.zeros(shape))
    with pytest.raises(ValueError, match="at least .* pixels a side"):
        metric(x[:10], x[:10])
    with pytest.raises(ValueError, match="value_range must be"):
        metric(x, x, value_range=(1.0, 0.0))
