"""Metrics by name: their values are those of other code, and what has no metric is named."""

import functools
import re

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lasi_jax
from experiments.image_metrics import deep_network, named
from lasi_jax import structural

RANDOM = deep_network.Network("a network", lambda image: (image,), None)

# Everything is compiled for one call, and what takes long is optimizing.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def pair(side, seed=0):
    """An image and a noisy one, uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 210, (-(-side // 4),) * 2 + (3,))
    image = coarse.repeat(4, 0).repeat(4, 1)[:side, :side]
    return image.astype(np.uint8), (image + rng.integers(-30, 31, image.shape)).astype(np.uint8)


def as_floats(images):
    return tuple(image.astype(np.float64) / 255 for image in images)


def value(name, x, y, network=None):
    named.check(name, network)
    found = jit(named.metric(name, network))(x, y)
    assert found.shape == ()
    return float(found)


def test_mse_and_psnr():
    x, y = pair(16)
    error = np.square(np.subtract(*as_floats((x, y)))).mean()
    for images in ((x, y), as_floats((x, y))):
        assert value("mse", *images) == pytest.approx(error, rel=1e-5)
        assert value("psnr", *images) == pytest.approx(10 * np.log10(error), rel=1e-5)
    for image in (x, as_floats((x,))[0]):
        assert jax.jit(named.metric("mse", None))(image, image) == 0.0
    assert value("psnr", x, x) == pytest.approx(-100.0)
    assert value("mse", x, as_floats((y,))[0]) == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("sides", "count"),
    [
        ((11, 99), 1),
        ((20, 20), 1),
        ((21, 21), 2),
        ((64, 64), 3),
        ((80, 900), 3),
        ((81, 81), 4),
        ((160, 161), 4),
        ((161, 161), 5),
        ((2000, 2000), 5),
    ],
)
def test_as_many_scales_as_fit(sides, count):
    assert named.scales((*sides, 3)) == count
    image = jax.ShapeDtypeStruct((*sides, 3), jnp.uint8)
    jax.eval_shape(named.metric("ms_ssim", None), image, image)  # which raises where not


def test_ssim_is_that_of_dm_pix_and_one_scale_of_ms_ssim_a_power_of_it():
    x, y = pair(20)
    floats = [np.moveaxis(image, -1, 0)[..., None] for image in as_floats((x, y))]
    channels = np.asarray(jit(jax.vmap(dm_pix.ssim))(*floats))
    assert value("ssim", x, y) == pytest.approx(1 - np.mean(channels), abs=2e-6)
    of_channels = np.power(channels, structural.WEIGHTS[0])
    assert value("ms_ssim", x, y) == pytest.approx(1 - of_channels.mean(), abs=2e-6)
    assert value("ssim", x, x) == 0.0


def test_small_images_are_refused_by_what_needs_a_window():
    x, y = map(jnp.asarray, pair(10))
    for name in ("ssim", "ms_ssim"):
        with pytest.raises(ValueError, match="x and y must have at least 11 pixels a side"):
            named.metric(name, None)(x, y)


def test_lasi_and_both_together():
    x, y = pair(12)
    lasi = float(jit(functools.partial(lasi_jax.distance, neighborhood_size=3))(x, y))
    assert value("lasi_3", x, y) == pytest.approx(lasi, rel=1e-5)
    error = np.square(np.subtract(*as_floats((x, y)))).mean()
    for name in ("lasi_3+mse", "mse+lasi_3"):
        assert value(name, x, y) == pytest.approx(np.sqrt(lasi * error), rel=1e-5)
    assert value("mse+lasi_3", x, x) == 0.0


def test_channels_count_alike_without_heads():
    x, y = as_floats(pair(8))
    directions = [
        image / (np.linalg.norm(image, axis=-1, keepdims=True) + 1e-10) for image in (x, y)
    ]
    expected = np.square(np.subtract(*directions)).sum(-1).mean()
    assert value("deep", x, y, RANDOM) == pytest.approx(expected, rel=1e-9)


BAD_NAMES = ("fid", "", "lasi", "lasi_0", "lasi_04", "lasi_3+", "MSE", "ssim+mse+deep", "mse+vgg")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_unknown_metrics_are_named_beside_the_known(name):
    with pytest.raises(ValueError) as caught:
        named.chosen(named.Options(metrics=("mse", name)), RANDOM)
    message = str(caught.value)  # what new metrics add comes between the two
    known = "mse, psnr, ssim, ms_ssim, lasi_N (N at least 1), deep, "
    assert message.startswith(f"metrics must be among {known}")
    assert message.endswith(f"or two of them joined by +; got {name!r}")


def test_metrics_that_cannot_be_judged():
    for name in ("deep", "lasi_10+deep", "deep+ssim"):
        with pytest.raises(ValueError, match=f"'{re.escape(name)}' needs a network: .*--weights"):
            named.check(name, None)
        named.check(name, RANDOM)
    for name in ("psnr+ssim", "deep+psnr"):
        with pytest.raises(ValueError, match=r"psnr has no zero .* take mse; got '\w+\+\w+'"):
            named.check(name, RANDOM)
    with pytest.raises(ValueError, match=r"metrics must be all different, got \('mse', 'mse'\)"):
        named.chosen(named.Options(metrics=("mse", "mse")), None)


def test_default_metrics_and_their_titles():
    options = named.Options()
    simple = ("psnr", "ssim", "ms_ssim", "lasi_4", "lasi_10", "lasi_16")
    assert named.chosen(options, None) == simple
    every = named.chosen(options, RANDOM)
    assert every == (*simple, "deep", "lasi_10+deep")
    titles = ["PSNR", "SSIM", "MS-SSIM", "LASI, N = 4", "LASI, N = 10", "LASI, N = 16"]
    titles += ["a network", "LASI, N = 10 with a network"]
    assert [named.title(name, RANDOM) for name in every] == titles


def test_digests_tell_files_apart(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"one")
    (tmp_path / "b.npz").write_bytes(b"two")
    found = named.digests(named.Options(weights=tmp_path / "a.npz", heads=tmp_path / "b.npz"))
    assert found["weights"] != found["heads"] and {len(each or "") for each in found.values()} == {
        16
    }
    assert named.digests(named.Options()) == {"weights": None, "heads": None}
    (tmp_path / "moved.npz").write_bytes(b"one")
    assert named.digest(tmp_path / "moved.npz") == found["weights"]
