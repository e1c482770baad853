"""Networks in files: LPIPS is found again by NumPy, and files of something else are named."""

import functools

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments.image_metrics import deep_network, named
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
# Everything is compiled for one call, and what takes long is optimizing.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def pair(side, seed=0):
    """An image and a noisy one, uint8."""
    rng = np.random.default_rng(seed)
    image = rng.integers(40, 210, (side, side, 3))
    return image.astype(np.uint8), (image + rng.integers(-30, 31, image.shape)).astype(np.uint8)


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


@pytest.mark.parametrize("network", ["alexnet", "squeezenet1_1"])
def test_lpips_from_files(files, network):
    title, _, _, side, _ = NETWORKS[network]
    weights, heads = files / f"{network}.safetensors", files / f"{network}_heads.safetensors"
    found = deep_network.load(weights, heads)
    assert found is not None and found.title == f"LPIPS ({title})"
    x, y = pair(side)
    expected = lpips(jit(of_file(weights)), x, y, heads_of(network))
    distance = jit(named.metric("deep", found))(x, y)
    assert float(distance) == pytest.approx(expected, rel=1e-4)
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
    found = deep_network.load(files / f"{network}.safetensors", None)
    assert found is not None and found.heads is None
    assert named.title("deep", found) == f"deep features ({NETWORKS[network][0]})"


def test_heads_that_do_not_fit(files, tmp_path):
    heads = files / "alexnet_heads.safetensors"
    with pytest.raises(ValueError, match=r"heads need the weights .*--weights, got .*alexnet_head"):
        deep_network.load(None, heads)
    with pytest.raises(ValueError, match=r"heads must be left out for SqueezeNet 1\.0"):
        deep_network.load(files / "squeezenet1_0.safetensors", heads)
    with pytest.raises(
        ValueError, match=r"must hold LPIPS heads of squeezenet, got .*alexnet_heads"
    ):
        deep_network.load(files / "squeezenet1_1.safetensors", heads)
    with pytest.raises(OSError, match=r"must be a file, .*none\.npz"):
        deep_network.load(files / "alexnet.safetensors", tmp_path / "none.npz")
    assert deep_network.load(None, None) is None


def test_weights_that_are_none(files, tmp_path):
    with pytest.raises(ValueError, match=r"AlexNet or VGG16.*; path must hold a SqueezeNet, got"):
        deep_network.load(files / "alexnet_heads.safetensors", None)
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    for name, message in {"broken.npz": "intact .npz", "alexnet.pth": "a pickle"}.items():
        with pytest.raises(ValueError, match=message) as caught:
            deep_network.load(tmp_path / name, None)
        assert str(caught.value).count("path must") == 1
