"""Weights for LPIPS: state dicts of the published shapes become files that are loaded again."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import convert_weights
from experiments.image_metrics import deep_network
from lasi_jax.networks import lpips_heads, squeezenet, trunks

# Weights (out, in, height, width) by place, and LPIPS's channels, as they are published.
ALEXNET = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3)}
ALEXNET |= {10: (256, 256, 3, 3)}
VGG16 = dict(
    zip(
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        [
            (out, before, 3, 3)
            for before, out in (
                *((3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)),
                *((256, 512), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512)),
            )
        ],
        strict=True,
    )
)
FIRES = {3: (16, 64), 4: (16, 64), 6: (32, 128), 7: (32, 128), 9: (48, 192), 10: (48, 192)}
FIRES |= {11: (64, 256), 12: (64, 256)}
CLASSIFIERS = {
    "alexnet": {1: (4096, 9216), 4: (4096, 4096), 6: (1000, 4096)},
    "vgg16": {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)},
    "squeezenet1_1": {1: (1000, 512, 1, 1)},
}
CHANNELS = {
    "alexnet": (64, 192, 384, 256, 256),
    "vgg16": (64, 128, 256, 512, 512),
    "squeezenet1_1": (64, 128, 256, 384, 384, 512, 512),
}


def squeezenet_shapes():
    shapes, before = {"features.0": (64, 3, 3, 3)}, 64
    for place, (squeeze, expand) in FIRES.items():
        shapes[f"features.{place}.squeeze"] = (squeeze, before, 1, 1)
        shapes[f"features.{place}.expand1x1"] = (expand, squeeze, 1, 1)
        shapes[f"features.{place}.expand3x3"] = (expand, squeeze, 3, 3)
        before = 2 * expand
    return shapes


def state_dict(network):
    """All of torchvision's names and shapes; values that fill no memory before they are written."""
    if network == "squeezenet1_1":
        shapes = squeezenet_shapes()
    else:
        of_places = ALEXNET if network == "alexnet" else VGG16
        shapes = {f"features.{place}": shape for place, shape in of_places.items()}
    shapes |= {f"classifier.{place}": shape for place, shape in CLASSIFIERS[network].items()}
    state = {}
    for number, (name, shape) in enumerate(shapes.items()):
        value = np.float32(1e-3 * (number + 1))
        state[f"{name}.weight"] = np.broadcast_to(value, shape)
        state[f"{name}.bias"] = np.broadcast_to(-value, shape[:1])
    return state


def lpips_state(network):
    return {
        f"lin{layer}.model.1.weight": np.full((1, count, 1, 1), layer + 0.5, np.float32)
        for layer, count in enumerate(CHANNELS[network])
    }


def tensors(state):
    """Arrays as torch hands them out."""

    def tensor(array):
        return SimpleNamespace(detach=lambda: SimpleNamespace(cpu=lambda: numpy(array)))

    def numpy(array):
        return SimpleNamespace(numpy=lambda: array)

    return {name: tensor(array) for name, array in state.items()}


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """What is used of torch, torchvision and lpips."""

    def load(path, *, map_location, weights_only):
        assert (path.parent, map_location, weights_only) == (folder, "cpu", True)
        names = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
        return tensors(lpips_state(names[path.stem]))

    def model(network):
        def made(*, weights):
            assert weights == "DEFAULT"
            return SimpleNamespace(state_dict=lambda: tensors(state_dict(network)))

        return made

    folder = tmp_path / "lpips" / "weights" / "v0.1"
    models = SimpleNamespace(**{name: model(name) for name in convert_weights.NETWORKS})
    modules = {
        "torch": SimpleNamespace(load=load),
        "torchvision": SimpleNamespace(models=models),
        "lpips": SimpleNamespace(__file__=str(tmp_path / "lpips" / "__init__.py")),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def run(tmp_path, **options):
    return convert_weights.run(convert_weights.Config(output=tmp_path / "weights", **options))


def test_every_network_is_read_again_as_lpips(packages, tmp_path, capsys):
    written = run(tmp_path, networks=convert_weights.NETWORKS)
    printed = capsys.readouterr().out
    titles = ("LPIPS (AlexNet)", "LPIPS (VGG16)", "LPIPS (SqueezeNet 1.1)")
    for title, weights, heads in zip(titles, written[::2], written[1::2], strict=True):
        found = deep_network.load(weights, heads)
        assert found is not None and found.title == title
        assert f"{title}: --weights {weights} --heads {heads}" in printed
    assert written[0].stat().st_size < 11e6  # without 59 million weights of the classifier


def test_values_are_those_of_the_state_dicts(packages, tmp_path):
    weights, heads = run(tmp_path)
    conv2 = trunks.load(weights).convolutions["conv2"]
    np.testing.assert_array_equal(conv2.weight, np.full((5, 5, 64, 192), np.float32(2e-3)))
    np.testing.assert_array_equal(conv2.bias, np.full(192, np.float32(-2e-3)))
    for layer, head in enumerate(lpips_heads.load(heads, network="alexnet")):
        np.testing.assert_array_equal(head, np.full(CHANNELS["alexnet"][layer], layer + 0.5))


def test_squeezenet_keeps_its_last_convolution(tmp_path):
    kept = convert_weights.trunk(state_dict("squeezenet1_1"), "squeezenet1_1")
    convert_weights.files.save_tensors(tmp_path / "a.safetensors", kept)
    assert squeezenet.load(tmp_path / "a.safetensors").version == "1.1"


def test_heads_are_found_in_the_whole_of_lpips():
    """Its state dict has each head twice, and the network."""
    state = lpips_state("alexnet")
    whole = state | {name.replace("lin", "lins.", 1): array for name, array in state.items()}
    whole |= {"net.slice1.0.weight": np.zeros((64, 3, 11, 11)), "scaling_layer.shift": np.zeros(3)}
    assert convert_weights.heads(whole).keys() == state.keys()


@pytest.mark.parametrize("missing", ["torch", "torchvision", "lpips"])
def test_a_missing_package_is_named_with_what_installs_it(packages, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    message = rf"needs the package {missing} \(.*\): pip install torch torchvision lpips"
    with pytest.raises(ValueError, match=message):
        run(tmp_path)
    assert not (tmp_path / "weights").exists()


def test_other_arrays_than_were_published_are_refused(packages, tmp_path, monkeypatch):
    monkeypatch.setitem(CHANNELS, "alexnet", (64, 192, 384, 256, 255))
    with pytest.raises(ValueError, match=r"must hold LPIPS heads of alexnet, got .*lin4"):
        run(tmp_path)
    assert not (tmp_path / "weights").exists()
    with pytest.raises(ValueError, match="networks must be at least one and all different"):
        run(tmp_path, networks=())
    known = "alexnet, vgg16, squeezenet1_1"
    with pytest.raises(ValueError, match=f"networks must be among {known}, got 'resnet50'"):
        run(tmp_path, networks=("resnet50",))
