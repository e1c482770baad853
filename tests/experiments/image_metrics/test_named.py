"""Metrics by name: their values are those of other code, and what has no metric is named."""

import functools
import re

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import lasi_jax
from experiments.image_metrics import named
from lasi_jax import structural
from lasi_jax.networks import squeezenet, trunks

# Of each network its title, how files of LPIPS call it, the channels of its heads, the smallest
# side that it takes, and where torchvision's `features` has its layers.
NETWORKS = {
    "alexnet": ("AlexNet", "alex", (64, 192, 384, 256, 256), 31, (0, 3, 6, 8, 10)),
    "squeezenet1_1": (
        "SqueezeNet 1.1",
        "squeeze",
        (64, 128, 256, 384, 384, 512, 512),
        17,
        (3, 4, 6, 7, 9, 10, 11, 12),
    ),
    "squeezenet1_0": ("SqueezeNet 1.0", None, (), 21, (3, 4, 5, 7, 8, 9, 10, 12)),
}
RANDOM = named.Network("a network", lambda image: (image,), None)

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


def state_dict(network):
    """Random weights under torchvision's names and in its shapes."""
    places = NETWORKS[network][4]
    if network == "alexnet":
        initialize = functools.partial(trunks.initialize, network=network)
        names = {f"conv{k}": f"features.{place}" for k, place in enumerate(places, 1)}
    else:
        version = network.removeprefix("squeezenet").replace("_", ".")
        initialize = functools.partial(squeezenet.initialize, version=version)
        names = {
            f"fire{k}.{part}": f"features.{place}.{part}"
            for k, place in enumerate(places, 2)
            for part in ("squeeze", "expand1x1", "expand3x3")
        }
        names |= {"conv1": "features.0", "conv10": "classifier.1"}
    shapes = jax.eval_shape(initialize, jax.random.key(0)).convolutions
    rng, arrays = np.random.default_rng(0), {}
    for name, theirs in names.items():
        height, width, before, out = shapes[name].weight.shape
        scale = np.float32(np.sqrt(2 / (before * height * width)))
        weight = rng.standard_normal((out, before, height, width), np.float32)
        arrays |= {f"{theirs}.weight": scale * weight, f"{theirs}.bias": np.zeros(out, np.float32)}
    return arrays


def heads_of(network):
    rng = np.random.default_rng(1)
    return [rng.uniform(size=(1, c, 1, 1)).astype(np.float32) for c in NETWORKS[network][2]]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The weights of every network, and the heads of those that LPIPS has, as files."""
    folder = tmp_path_factory.mktemp("networks")
    for network, (_, head, *_) in NETWORKS.items():
        save_file(state_dict(network), folder / f"{network}.safetensors")
        if head:
            heads = {f"{head}/lin{k}.model.1.weight": h for k, h in enumerate(heads_of(network))}
            save_file(heads, folder / f"{network}_heads.safetensors")
    return folder


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
    channels = [float(dm_pix.ssim(*map(jnp.asarray, both))) for both in zip(*floats, strict=True)]
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


@pytest.mark.parametrize("network", ["alexnet", "squeezenet1_1"])
def test_lpips_from_files(files, network):
    title, _, _, side, _ = NETWORKS[network]
    weights, heads = files / f"{network}.safetensors", files / f"{network}_heads.safetensors"
    found = named.network(weights, heads)
    assert found is not None and found.title == f"LPIPS ({title})"
    x, y = pair(side)
    expected = lpips(jit(of_file(weights)), x, y, heads_of(network))
    assert value("deep", x, y, found) == pytest.approx(expected, rel=1e-4)
    assert named.title("lasi_10+deep", found) == f"LASI, N = 10 with LPIPS ({title})"


def of_file(weights):
    if weights.stem == "alexnet":
        return functools.partial(trunks.features, parameters=trunks.load(weights))
    return functools.partial(squeezenet.features, parameters=squeezenet.load(weights))


def lpips(features, x, y, heads):
    total = 0.0
    for of_x, of_y, head in zip(features(x), features(y), heads, strict=True):
        ours, theirs = (
            np.asarray(planes) / (np.linalg.norm(planes, axis=-1, keepdims=True) + 1e-10)
            for planes in (of_x, of_y)
        )
        total += (np.square(ours - theirs) * head.reshape(-1)).sum(-1).mean()
    return total


@pytest.mark.parametrize("network", NETWORKS)
def test_without_heads_it_is_no_lpips(files, network):
    found = named.network(files / f"{network}.safetensors", None)
    assert found is not None and found.heads is None
    assert named.title("deep", found) == f"deep features ({NETWORKS[network][0]})"


def test_channels_count_alike_without_heads():
    x, y = as_floats(pair(8))
    expected = lpips(RANDOM.features, x, y, [np.ones(3)])
    assert value("deep", x, y, RANDOM) == pytest.approx(expected, rel=1e-9)


def test_heads_that_do_not_fit(files, tmp_path):
    heads = files / "alexnet_heads.safetensors"
    with pytest.raises(ValueError, match=r"heads need the weights .*--weights, got .*alexnet_head"):
        named.network(None, heads)
    with pytest.raises(ValueError, match=r"heads must be left out for SqueezeNet 1\.0"):
        named.network(files / "squeezenet1_0.safetensors", heads)
    with pytest.raises(
        ValueError, match=r"must hold LPIPS heads of squeezenet, got .*alexnet_heads"
    ):
        named.network(files / "squeezenet1_1.safetensors", heads)
    with pytest.raises(OSError, match=r"must be a file, .*none\.npz"):
        named.network(files / "alexnet.safetensors", tmp_path / "none.npz")
    assert named.network(None, None) is None


def test_weights_that_are_none(files, tmp_path):
    with pytest.raises(ValueError, match=r"AlexNet or VGG16.*; path must hold a SqueezeNet, got"):
        named.network(files / "alexnet_heads.safetensors", None)
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    for name, message in {"broken.npz": "intact .npz", "alexnet.pth": "a pickle"}.items():
        with pytest.raises(ValueError, match=message) as caught:
            named.network(tmp_path / name, None)
        assert str(caught.value).count("path must") == 1


BAD_NAMES = ("fid", "", "lasi", "lasi_0", "lasi_04", "lasi_3+", "MSE", "ssim+mse+deep", "mse+vgg")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_unknown_metrics_are_named_beside_the_known(name):
    with pytest.raises(ValueError) as caught:
        named.chosen(named.Options(metrics=("mse", name)), RANDOM)
    assert str(caught.value) == (
        "metrics must be among mse, psnr, ssim, ms_ssim, lasi_N (N at least 1), deep, or two of "
        f"them joined by +; got {name!r}"
    )


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
