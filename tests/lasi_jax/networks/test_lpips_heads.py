"""The heads of LPIPS from files as the release and the data folder have them."""

import re
import sys

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from lasi_jax.networks import lpips_heads

CHANNELS = {
    "alexnet": (64, 192, 384, 256, 256),
    "vgg16": (64, 128, 256, 512, 512),
    "squeezenet": (64, 128, 256, 384, 384, 512, 512),
}
IN_FILES = {"alexnet": "alex", "vgg16": "vgg", "squeezenet": "squeeze"}


def arrays_of(network, prefix=""):
    rng = np.random.default_rng(len(network))
    return {
        f"{prefix}lin{layer}.model.1.weight": rng.uniform(size=(1, c, 1, 1)).astype(np.float32)
        for layer, c in enumerate(CHANNELS[network])
    }


def write(path, arrays):
    np.savez(path, **arrays) if path.suffix == ".npz" else save_file(arrays, path)
    return path


@pytest.mark.parametrize("network", CHANNELS)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("together", [True, False])
def test_heads_of_every_network_in_either_layout(network, suffix, together, tmp_path):
    stored = arrays_of(network)
    arrays = stored
    if together:
        arrays = {k: v for n in CHANNELS for k, v in arrays_of(n, f"{IN_FILES[n]}/").items()}
    heads = lpips_heads.load(write(tmp_path / f"heads{suffix}", arrays), network=network)
    assert isinstance(heads, tuple) and all(head.dtype == jnp.float32 for head in heads)
    chex.assert_trees_all_equal(heads, tuple(array[0, :, 0, 0] for array in stored.values()))


def test_order_is_that_of_the_layers_and_not_of_the_file(tmp_path):
    arrays = arrays_of("squeezenet")
    backwards = write(tmp_path / "heads.npz", dict(reversed(arrays.items())))
    heads = lpips_heads.load(str(backwards), network="squeezenet")
    chex.assert_trees_all_equal(heads, tuple(array.reshape(-1) for array in arrays.values()))


@pytest.mark.parametrize("network", CHANNELS)
def test_released_heads(network, data):
    path = data / "lpips_heads" / "lpips_v0.1_heads.npz"
    heads = lpips_heads.load(path, network=network)
    assert tuple(head.shape for head in heads) == tuple((c,) for c in CHANNELS[network])
    assert all(float(head.min()) >= 0.0 for head in heads)
    with np.load(path) as archive:
        chex.assert_trees_all_equal(heads[-1], archive[last_of(network)][0, :, 0, 0])


def last_of(network):
    return f"{IN_FILES[network]}/lin{len(CHANNELS[network]) - 1}.model.1.weight"


@pytest.mark.parametrize("network", ["resnet", None, "alex", ["alexnet"]])
def test_other_networks_are_refused(network, tmp_path):
    message = f"network must be one of alexnet, vgg16, squeezenet, got {network!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        lpips_heads.load(tmp_path / "missing.npz", network=network)


def test_heads_of_another_network_are_refused(tmp_path):
    path = write(tmp_path / "vgg.npz", arrays_of("vgg16"))
    with pytest.raises(ValueError, match=r"LPIPS heads of alexnet.*lin1.*\(1, 128, 1, 1\)"):
        lpips_heads.load(path, network="alexnet")
    path = write(tmp_path / "one.npz", arrays_of("vgg16", "vgg/"))
    with pytest.raises(ValueError, match=r"heads of alexnet.*alex/lin0.model.1.weight is missing"):
        lpips_heads.load(path, network="alexnet")
    path = write(tmp_path / "squeeze.npz", arrays_of("squeezenet"))
    with pytest.raises(ValueError, match=r"heads of vgg16.*lin5.model.1.weight belongs to another"):
        lpips_heads.load(path, network="vgg16")


def changed(value, dtype: type = np.float32):
    arrays = arrays_of("alexnet")
    arrays["lin3.model.1.weight"] = arrays["lin3.model.1.weight"].astype(dtype)
    arrays["lin3.model.1.weight"][0, 7] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (changed(-0.25), "non-negative heads, got .*heads.npz.*lin3.model.1.weight.* -0.25"),
        (changed(np.nan), "lin3.model.1.weight holds NaN"),
        (changed(np.inf), "lin3.model.1.weight holds NaN or infinity"),
        (changed(1, np.int32), "lin3.model.1.weight has dtype int32"),
        (changed(None, object), "intact .npz file of plain arrays"),
        (arrays_of("alexnet") | {"bias": np.ones(1)}, "bias"),
        (dict(list(arrays_of("alexnet").items())[:4]), "lin4.model.1.weight is missing"),
    ],
)
def test_bad_arrays_are_named(arrays, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        lpips_heads.load(write(tmp_path / "heads.npz", arrays), network="alexnet")


def test_zero_is_no_negative_number(tmp_path):
    heads = lpips_heads.load(write(tmp_path / "heads.npz", changed(-0.0)), network="alexnet")
    assert float(heads[3][7]) == 0.0


def test_bad_files_are_named(tmp_path, monkeypatch):
    (tmp_path / "heads.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"intact .npz file of plain arrays"):
        lpips_heads.load(tmp_path / "heads.npz", network="alexnet")
    with pytest.raises(ValueError, match=r"must end in .npz or .safetensors, got 'alex.pth'"):
        lpips_heads.load("alex.pth", network="alexnet")
    with pytest.raises(FileNotFoundError, match="path must be a file"):
        lpips_heads.load(tmp_path / "none.npz", network="alexnet")
    path = write(tmp_path / "heads.safetensors", arrays_of("alexnet"))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        lpips_heads.load(path, network="alexnet")


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble])
def test_every_precision_and_byte_order(dtype, tmp_path):
    stored = arrays_of("alexnet")
    written = {name: array.astype(dtype) for name, array in stored.items()}
    heads = lpips_heads.load(write(tmp_path / "heads.npz", written), network="alexnet")
    assert all(head.dtype == jnp.float32 for head in heads)
    chex.assert_trees_all_equal(heads, tuple(array[0, :, 0, 0] for array in stored.values()))
