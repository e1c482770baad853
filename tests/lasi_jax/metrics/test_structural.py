import functools
from pathlib import Path

import chex
import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from scipy import ndimage

from lasi_jax import structural

GOLDEN = Path(__file__).parents[2] / "golden" / "ms_ssim_reference.npz"
NAMES = ("astronaut_blur", "astronaut_noise", "camera_shift", "coffee_contrast")
SHAPE = (23, 24, 2)  # of most tests, so that little is compiled

two_scales = functools.partial(structural.ms_ssim, weights=(0.4, 0.6))
METRICS = {"ssim": structural.ssim, "two_scales": two_scales}


@functools.cache
def compiled(metric, **options):
    """Not optimized, which takes longer than it saves here."""
    return jax.jit(
        functools.partial(metric, **options),
        compiler_options={"xla_backend_optimization_level": 0},
    )


@functools.cache
def slopes(metric):
    return compiled(jax.value_and_grad(metric, (0, 1)))


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


@pytest.fixture(params=METRICS.values(), ids=list(METRICS))
def metric(request):
    return request.param


def published(x, y):
    return {"ssim": structural.ssim(x, y), "ms_ssim": structural.ms_ssim(x, y)}


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        *((name, np.float64, 1e-12) for name in NAMES),
        *((name, np.float32, 1e-6) for name in NAMES if name.startswith("astronaut")),
    ],
)
def test_equals_the_reference(reference, name, dtype, tolerance):
    x, y = (jnp.asarray(reference[f"{name}/{image}"] / 255, dtype) for image in "xy")
    for metric, value in compiled(published)(x, y).items():
        assert value.dtype == dtype and value.shape == ()
        np.testing.assert_allclose(value, reference[f"{name}/{metric}"], rtol=0, atol=tolerance)


def test_equals_dm_pix():
    x, y = pair_of(SHAPE)
    with jax.numpy_dtype_promotion("standard"):  # dm_pix mixes integers and floats
        expected = compiled(dm_pix.ssim)(x, y)
    chex.assert_trees_all_close(compiled(structural.ssim)(x, y), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(11, 11, 1), (12, 45, 4), (75, 14, 2)], ids=str)
def test_map_by_definition(shape):
    x, y = pair_of(shape)
    luminance, contrast_structure = by_definition(np.asarray(x), np.asarray(y))
    expected = luminance * contrast_structure
    np.testing.assert_allclose(compiled(structural.ssim_map)(x, y), expected, atol=1e-12)
    np.testing.assert_allclose(compiled(structural.ssim)(x, y), expected.mean(), atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "weights"),
    [
        ((43, 46, 2), (0.2, 0.3, 0.7)),  # one side odd in the first halving, both in the second
        ((21, 32, 1), (0.5, 0.5)),
        ((12, 13, 2), (1.5,)),
        ((22, 21, 1), (0.0, 1.0)),
    ],
    ids=str,
)
def test_scales_by_definition(shape, weights):
    x, y = pair_of(shape)
    expected = ms_by_definition(np.asarray(x), np.asarray(y), weights)
    found = compiled(structural.ms_ssim, weights=weights)(x, y)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_weight_of_0_leaves_its_scale_out_whatever_its_sign():
    row, column, _ = np.indices((22, 22, 1))
    shade, stripes = 0.3 + row * column / 1000, 0.2 * (-1.0) ** row
    x, y = shade + stripes, shade - stripes  # halving removes the stripes
    _, contrast_structure = by_definition(x, y)
    assert contrast_structure.mean() < 0.0
    expected = ms_by_definition(x, y, (0.0, 1.0))
    assert expected > 0.0
    found = compiled(structural.ms_ssim, weights=(0.0, 1.0))(x, y)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_weights_are_the_published_ones():
    assert structural.WEIGHTS == (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    x, y = pair_of((64, 64, 1))
    three = structural.WEIGHTS[:3]
    expected = ms_by_definition(np.asarray(x), np.asarray(y), three)
    found = compiled(structural.ms_ssim, weights=three)(x, y)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_flat_images_by_hand(dtype, tolerance):
    x, y = (jnp.full(SHAPE, value, dtype) for value in (0.3, 0.9))
    luminance = (2 * 0.3 * 0.9 + 1e-4) / (0.3**2 + 0.9**2 + 1e-4)
    np.testing.assert_allclose(compiled(structural.ssim)(x, y), luminance, atol=tolerance)
    np.testing.assert_allclose(compiled(two_scales)(x, y), luminance**0.6, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_identical_images(metric, dtype):
    textured, _ = pair_of(SHAPE, dtype)
    for x in (textured, *(jnp.full_like(textured, value) for value in (0.0, 0.3, 1.0))):
        value, gradients = slopes(metric)(x, x)
        assert value == 1.0 and value.dtype == dtype
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gradients_of_flat_and_opposite_images_are_finite(metric, dtype):
    textured, _ = pair_of(SHAPE, dtype)
    black, white = jnp.zeros_like(textured), jnp.ones_like(textured)
    for x, y in ((black, white), (black, textured), (white, textured), (textured, 1 - textured)):
        chex.assert_tree_all_finite(slopes(metric)(x, y))


def test_a_similarity_next_to_0_lies_in_the_range_of_its_map():
    """Black against white: 54 x 54 windows, each c1 / (1 + c1) alike."""
    x, y = jnp.zeros((64, 64), jnp.float32), jnp.ones((64, 64), jnp.float32)
    planes = np.asarray(compiled(structural.ssim_map)(x, y))
    found = float(compiled(structural.ssim)(x, y))
    assert planes.min() <= found <= planes.max()
    np.testing.assert_allclose(found, 1e-4 / (1.0 + 1e-4), rtol=0, atol=1e-7)
    # As at 1024 x 1024 with five scales, the last of which has 54 x 54 windows.
    last = compiled(structural.ms_ssim, weights=(0.1333,))(x, y)
    np.testing.assert_allclose(last, (1e-4 / (1.0 + 1e-4)) ** 0.1333, rtol=1e-4)


def test_float32_resolves_small_differences():
    x, noise = pair_of(SHAPE)
    y = x + 1e-3 * noise
    loss = 1.0 - compiled(structural.ssim)(x, y)
    single = 1.0 - compiled(structural.ssim)(x.astype(jnp.float32), y.astype(jnp.float32))
    assert 1e-6 < loss < 1e-4
    np.testing.assert_allclose(single, loss, rtol=0, atol=1.2e-7)


def test_means_below_0_count_as_0_in_their_channel():
    x, y = pair_of(SHAPE)
    y = y.at[..., 0].set(1.0 - x[..., 0])
    assert compiled(structural.ssim)(x[..., :1], y[..., :1]) < 0.0
    value, (_, gradient) = slopes(two_scales)(x, y)
    other = ms_by_definition(np.asarray(x[..., 1:]), np.asarray(y[..., 1:]), (0.4, 0.6))
    np.testing.assert_allclose(value, other / 2.0, atol=1e-12)
    assert not gradient[..., 0].any() and gradient[..., 1].any()


def test_nan_is_not_hidden_by_the_cut(metric):
    x, y = pair_of(SHAPE)
    assert jnp.isnan(compiled(metric)(x.at[3, 4].set(jnp.nan), y))


def test_invariances(metric):
    x, y = pair_of(SHAPE)
    value = compiled(metric)(x, y)
    turned = x.swapaxes(0, 1), y.swapaxes(0, 1)
    for u, v in ((y, x), turned, (x[..., ::-1], y[..., ::-1])):
        chex.assert_trees_all_close(compiled(metric)(u, v), value, atol=1e-12)
    by_channel = [compiled(metric)(x[..., channel], y[..., channel]) for channel in (0, 1)]
    chex.assert_trees_all_close(sum(by_channel) / 2.0, value, atol=1e-12)


def test_ranges(metric):
    x, y = pair_of(SHAPE)
    value = compiled(metric)(x, y)
    for low, high in ((0, 255), (-1, 1)):
        u, v = (low + (high - low) * image for image in (x, y))
        found = compiled(metric, value_range=(low, high))(u, v)
        chex.assert_trees_all_close(found, value, atol=1e-12)


def test_dtypes():
    x, y = np.random.default_rng(3).integers(0, 256, (2, *SHAPE), np.uint8)
    u, v = (jnp.asarray(image / 255) for image in (x, y))
    ssim = compiled(structural.ssim)
    chex.assert_trees_all_close(ssim(x, y), ssim(u, v), atol=1e-12)
    chex.assert_trees_all_close(ssim(x, v), ssim(u, v), atol=1e-12)
    mixed = jax.eval_shape(structural.ssim, u.astype(jnp.float32), v)
    assert mixed.dtype == jnp.float64
    assert abs(ssim(u.astype(jnp.bfloat16), v.astype(jnp.bfloat16)) - ssim(u, v)) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("metric", [*METRICS.values(), structural.ssim_map])
def test_jit_and_vmap_equal_eager(metric):
    pairs = [pair_of(SHAPE, seed=seed) for seed in (0, 1)]
    x, y = (jnp.stack(images) for images in zip(*pairs, strict=True))
    eager = jnp.stack([metric(*pair) for pair in pairs])
    chex.assert_trees_all_close(compiled(metric)(*pairs[0]), eager[0], atol=1e-12)
    chex.assert_trees_all_close(compiled(jax.vmap(metric))(x, y), eager, atol=1e-12)


def test_a_map_has_the_axes_of_its_images():
    x, y = pair_of(SHAPE)
    found = compiled(structural.ssim_map)(x[..., 1], y[..., 1])
    assert found.shape == (13, 14)
    chex.assert_trees_all_close(found, compiled(structural.ssim_map)(x, y)[..., 1], atol=1e-12)


def test_gradients_equal_finite_differences(metric, check_gradients):
    check_gradients(functools.partial(metric, value_range=(-1.0, 2.0)), pair_of(SHAPE))


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
        structural.ms_ssim(jnp.zeros((24, 24)), jnp.zeros((24, 24)), weights=weights)


@pytest.mark.parametrize("metric", [*METRICS.values(), structural.ssim_map])
def test_checkify_catches_what_jit_does_not_see(metric):
    x = jnp.full((24, 24), 0.5)
    checked = jax.jit(checkify.checkify(metric))
    for bad in (255.0 * x, x.at[2, 3].set(jnp.nan)):
        assert "y must lie in value_range (0, 1)" in checked(x, bad)[0].get()
    assert checked(x, x)[0].get() is None


@pytest.mark.parametrize("metric", [*METRICS.values(), structural.ssim_map])
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
    for shape in ((24,), (2, 24, 24, 3), (1, 1, 2, 24, 24)):
        with pytest.raises(ValueError, match=r"must have .*axes|shape \(height, width\).*vmap"):
            metric(jnp.zeros(shape), jnp.zeros(shape))
    with pytest.raises(ValueError, match=r"at least .* pixels a side"):
        metric(x[:10], x[:10])
    with pytest.raises(ValueError, match="value_range must be"):
        metric(x, x, value_range=(1.0, 0.0))
