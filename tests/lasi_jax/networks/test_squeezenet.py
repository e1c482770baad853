"""SqueezeNet against plain NumPy, which reads arrays and prototxt as their authors left them."""

import functools
import pickle
import re
import sys
import zipfile
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from safetensors.numpy import save_file

from lasi_jax.networks import squeezenet
from lasi_jax.networks.convolution import pool_3x3_over_the_edge

FIRES = dict(
    zip(
        [f"fire{i}" for i in range(2, 10)],
        [(16, 64)] * 2 + [(32, 128)] * 2 + [(48, 192)] * 2 + [(64, 256)] * 2,
        strict=True,
    )
)
PARTS = ("squeeze", "expand1x1", "expand3x3")
# The order of each source, pools included, from its prototxt or from torchvision's list of modules.
SOURCES = {
    "caffe": "conv1 pool fire2 fire3 fire4 pool fire5 fire6 fire7 fire8 pool fire9",
    "squeezenet1_0": "0 pool 3 4 5 pool 7 8 9 10 pool 12",
    "squeezenet1_1": "0 pool 3 4 pool 6 7 pool 9 10 11 12",
}
IMAGE = np.random.default_rng(0).uniform(size=(40, 33, 3)).astype(np.float32)


def names_of(source):
    """The convolutions as the file calls them, with the shapes of their weights."""
    stem = (64, 3, 3, 3) if source == "squeezenet1_1" else (96, 3, 7, 7)
    before, places = stem[0], [place for place in SOURCES[source].split() if place != "pool"]
    yield "conv1" if source == "caffe" else "features.0", stem
    for place, (squeeze, expand) in zip(places[1:], FIRES.values(), strict=True):
        shapes = [(squeeze, before, 1, 1), (expand, squeeze, 1, 1), (expand, squeeze, 3, 3)]
        yield from zip(fire_names(source, place), shapes, strict=True)
        before = 2 * expand
    yield "conv_final" if source == "caffe" else "classifier.1", (1000, before, 1, 1)


def fire_names(source, place):
    if source == "caffe":
        return [f"{place}/{part}" for part in ("conv1x1_1", "conv1x1_2", "conv3x3_2")]
    return [f"features.{place}.{part}" for part in PARTS]


def suffixes(source):
    return ("/w", "/b") if source == "caffe" else (".weight", ".bias")


@functools.cache
def arrays_of(source):
    rng = np.random.default_rng(1)
    arrays = {}
    for name, shape in names_of(source):
        weight, bias = suffixes(source)
        scale = np.sqrt(2 / np.prod(shape[1:])) / (60 if name == "conv1" else 1)
        arrays[name + weight] = (scale * rng.normal(size=shape)).astype(np.float32)
        arrays[name + bias] = rng.uniform(-0.1, 0.3, size=shape[0]).astype(np.float32)
    return arrays


def convolve(x, weight, bias, stride=1, pad=0):
    """relu(x * w + b) of x (H, W, C) and w (out, in, height, width), one offset at a time."""
    x = np.pad(x, [(pad, pad), (pad, pad), (0, 0)])
    kernel = weight.shape[2]
    high, wide = ((length - kernel) // stride + 1 for length in x.shape[:2])
    total = np.broadcast_to(bias.astype(np.float64), (high, wide, len(bias)))
    for i in range(kernel):
        for j in range(kernel):
            seen = x[i : i + stride * high : stride, j : j + stride * wide : stride]
            total = total + seen[:high, :wide] @ weight[:, :, i, j].T.astype(np.float64)
    return np.maximum(total, 0.0)


def pool(x):
    """3x3 at stride 2, rounded up: windows that reach over the edge see less."""
    high, wide = (int(np.ceil((length - 3) / 2)) + 1 for length in x.shape[:2])
    pooled = np.empty((high, wide, x.shape[2]))
    for i in range(high):
        for j in range(wide):
            pooled[i, j] = x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1))
    return pooled


def enter(source, image):
    """What the source is fed, from RGB in 0..1."""
    if source == "caffe":
        return 255.0 * image.astype(np.float64)[:, :, ::-1] - [104.0, 117.0, 123.0]
    return (image.astype(np.float64) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


@functools.cache
def reference(source):
    """All nine maps, and the logits."""
    arrays, maps = arrays_of(source), []

    def layer(x, name, **options):
        return convolve(x, *(arrays[name + suffix] for suffix in suffixes(source)), **options)

    x = enter(source, IMAGE)
    for place in SOURCES[source].split():
        if place == "pool":
            x = pool(x)
            continue
        if not maps:
            x = layer(x, "conv1" if source == "caffe" else "features.0", stride=2)
        else:
            squeeze, narrow, wide = fire_names(source, place)
            squeezed = layer(x, squeeze)
            x = np.concatenate([layer(squeezed, narrow), layer(squeezed, wide, pad=1)], -1)
        maps.append(x)
    final, pad = ("conv_final", 1) if source == "caffe" else ("classifier.1", 0)
    return maps, layer(x, final, pad=pad).mean((0, 1))


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The parameters of every source, from a file."""
    folder = tmp_path_factory.mktemp("squeezenet")
    return {
        source: squeezenet.load(write(folder / f"{source}.npz", arrays_of(source)))
        for source in SOURCES
    }


@pytest.fixture(scope="module")
def v1_1(loaded):
    return loaded["squeezenet1_1"]


def narrow(version, border=0, dtype=jnp.float64):
    """A network of two or three channels per layer: structure without width."""
    rng = np.random.default_rng(2)
    kernel = {"1.0": 7, "1.1": 3}[version]

    def convolution(size, before, after):
        weight = rng.normal(size=(size, size, before, after)) / np.sqrt(size * size * before / 2)
        bias = rng.uniform(0.0, 0.2, size=after)
        return squeezenet.Convolution(jnp.asarray(weight, dtype), jnp.asarray(bias, dtype))

    convolutions = {"conv1": convolution(kernel, 3, 4), "conv10": convolution(1, 4, 5)}
    for fire in FIRES:
        convolutions[f"{fire}.squeeze"] = convolution(1, 4, 3)
        convolutions[f"{fire}.expand1x1"] = convolution(1, 3, 2)
        convolutions[f"{fire}.expand3x3"] = convolution(3, 3, 2)
    mean, deviation = jnp.full(3, 0.45, dtype), jnp.full(3, 0.25, dtype)
    return squeezenet.Parameters(convolutions, mean, deviation, version, border)


def everything(image, parameters):
    """All nine maps, and the logits."""
    maps = squeezenet.features(image, parameters=parameters, layers=squeezenet.LAYERS)
    return maps, squeezenet.logits(image, parameters=parameters)


everything_compiled = jax.jit(everything)


@pytest.mark.parametrize("source", SOURCES)
def test_maps_and_logits_are_those_of_plain_numpy(loaded, source):
    maps, logits = reference(source)
    got, scores = everything_compiled(IMAGE, loaded[source])
    for ours, theirs in zip(got, maps, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
    np.testing.assert_allclose(scores, logits, rtol=1e-4, atol=1e-5 * np.abs(logits).max())


@pytest.mark.parametrize("extension", [".npz", ".safetensors"])
@pytest.mark.parametrize("source", SOURCES)
def test_every_weight_comes_back_from_a_file(loaded, source, extension, tmp_path):
    parameters = squeezenet.load(write(tmp_path / f"weights{extension}", arrays_of(source)))
    chex.assert_trees_all_equal(parameters, loaded[source])
    assert parameters.version == ("1.1" if source == "squeezenet1_1" else "1.0")
    arrays = arrays_of(source)
    ours = ["conv1", *(f"{fire}.{part}" for fire in FIRES for part in PARTS), "conv10"]
    for name, (theirs, _) in zip(ours, names_of(source), strict=True):
        weight, bias = (arrays[theirs + suffix] for suffix in suffixes(source))
        if source == "caffe" and name == "conv1":
            weight = weight[:, [2, 1, 0]]
        got = parameters.convolutions[name]
        np.testing.assert_array_equal(got.weight, np.einsum("oihw->hwio", weight))
        np.testing.assert_array_equal(got.bias, bias)
    assert len(parameters.convolutions) == 26


def test_half_precision_is_read_as_float32(v1_1, tmp_path):
    halves = {k: v.astype(np.float16) for k, v in arrays_of("squeezenet1_1").items()}
    parameters = squeezenet.load(write(tmp_path / "half.safetensors", halves))
    chex.assert_trees_all_equal_dtypes(parameters, v1_1)
    chex.assert_trees_all_close(parameters, v1_1, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 3, 1), (4, 7, 2), (9, 8, 1)])
def test_pooling_rounds_up(shape):
    x = np.random.default_rng(3).normal(size=shape)
    np.testing.assert_array_equal(pool_3x3_over_the_edge(jnp.asarray(x)), pool(x))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_smallest_image_has_one_element_left(version):
    side = {"1.0": 21, "1.1": 17}[version]
    image = jnp.full((side, side + 1, 3), 0.5)
    features = functools.partial(squeezenet.features, parameters=narrow(version))
    assert jax.eval_shape(features, image)[-1].shape == (1, 1, 4)
    with pytest.raises(ValueError, match=f"at least {side} for SqueezeNet {version}"):
        features(image[1:])


def test_shapes_at_the_size_of_training():
    shapes = {
        version: jax.eval_shape(
            lambda key, version=version: squeezenet.features(
                jnp.zeros((227, 227, 3)), parameters=squeezenet.initialize(key, version=version)
            ),
            jax.random.key(0),
        )
        for version in ("1.0", "1.1")
    }
    channels = [128, 256, 384, 384, 512, 512]
    sides = {"1.0": [111, 55, 27, 27, 27, 27, 13], "1.1": [113, 56, 28, 14, 14, 14, 14]}
    for version, first in (("1.0", 96), ("1.1", 64)):
        assert [m.shape for m in shapes[version]] == [
            (side, side, channel)
            for side, channel in zip(sides[version], [first, *channels], strict=True)
        ]


def test_layers_come_in_the_order_asked_for_and_no_others_are_computed(v1_1):
    image = jnp.asarray(IMAGE)
    some = (("fire4", "conv1"), ["fire2", "fire2"], squeezenet.LPIPS_LAYERS)

    @jax.jit
    def features(image, parameters):
        by_layers = [squeezenet.features(image, parameters=parameters, layers=of) for of in some]
        by_default = squeezenet.features(image, parameters=parameters)
        return everything(image, parameters)[0], by_layers, by_default

    every, maps, by_default = features(image, v1_1)
    by_name = dict(zip(squeezenet.LAYERS, every, strict=True))
    for layers, found in zip(some, maps, strict=True):
        chex.assert_trees_all_equal(found, tuple(by_name[name] for name in layers))
    chex.assert_trees_all_equal(by_default, maps[-1])
    only = functools.partial(squeezenet.features, parameters=v1_1, layers=("conv1",))
    assert str(jax.make_jaxpr(only)(image)).count("conv_general_dilated[") == 1


def test_uint8_floats_and_other_ranges_are_one_image(v1_1):
    whole = (255 * IMAGE).astype(np.uint8)
    scores = functools.partial(squeezenet.logits, parameters=v1_1)
    expected = scores(whole)
    unit = whole.astype(np.float64) / 255
    close = functools.partial(np.testing.assert_allclose, desired=expected, rtol=1e-4, atol=1e-5)
    close(scores(unit))
    close(scores(unit.astype(np.float32)))
    close(scores(2 * unit - 1, value_range=(-1.0, 1.0)))
    assert scores(unit).dtype == jnp.float32


def test_a_shift_by_the_stride_of_all_layers_shifts_the_maps():
    features = jax.jit(functools.partial(squeezenet.features, parameters=narrow("1.0")))
    image = np.random.default_rng(4).uniform(size=(120, 120, 3))
    # Per map: the shift in its elements, and how far the zeros beyond the upper left edge are felt.
    steps, felt = (8, 4, 2, 2, 2, 2, 1), (0, 2, 3, 4, 5, 6, 5)
    pairs = zip(features(image), features(image[16:, 16:]), steps, felt, strict=True)
    for whole, part, step, edge in pairs:
        inner = part[edge:, edge:]
        assert inner.size > 0
        np.testing.assert_allclose(whole[step + edge :, step + edge :], inner, atol=1e-12)


@pytest.mark.slow
def test_jit_eager_and_vmap_agree(v1_1):
    images = jnp.stack([jnp.asarray(IMAGE), jnp.asarray(IMAGE[::-1])])
    eager = [everything(image, v1_1) for image in images]
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-4, atol=1e-4)
    close(everything_compiled(images[0], v1_1), eager[0])
    batch = jax.jit(jax.vmap(everything, (0, None)))(images, v1_1)
    close(batch, jax.tree.map(lambda *x: jnp.stack(x), *eager))


@jax.jit
@jax.value_and_grad
def value_and_gradient(image):
    maps, scores = everything(image, narrow("1.0", border=1))
    return sum(jnp.mean(jnp.square(m)) for m in maps) + jnp.sum(jnp.square(scores))


def test_the_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(5)
    image = rng.uniform(0.1, 0.9, size=(23, 26, 3))
    _, slope = value_and_gradient(image)
    for _ in range(4):
        way = rng.normal(size=image.shape)
        ahead, behind = (value_and_gradient(image + e * way)[0] for e in (1e-6, -1e-6))
        np.testing.assert_allclose((ahead - behind) / 2e-6, np.vdot(slope, way), rtol=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_the_gradient_is_finite_on_a_constant_image(level):
    _, slope = value_and_gradient(np.full((23, 26, 3), level))
    chex.assert_tree_all_finite(slope)
    assert jnp.abs(slope).max() > 0


def test_a_pooling_has_a_second_derivative_and_ties_share_the_first():
    x = np.random.default_rng(6).normal(size=(4, 5, 1))
    greatest = pool(x)
    wins = [(greatest[..., 0] == value).sum() for value in x.ravel()]
    hessian = jax.jit(jax.hessian(lambda x: jnp.square(pool_3x3_over_the_edge(x)).sum()))(
        jnp.asarray(x)
    )
    np.testing.assert_array_equal(hessian.reshape(20, 20), np.diag(2.0 * np.array(wins)))
    slope = jax.jit(jax.grad(lambda x: pool_3x3_over_the_edge(x).sum()))(jnp.ones((6, 6, 1)))
    assert float(slope.sum()) == 9.0
    np.testing.assert_array_equal(slope[..., 0], slope[..., 0].T)


def test_an_untrained_network_has_the_variance_of_its_fan_in():
    parameters = squeezenet.initialize(jax.random.key(0), version="1.0")
    for name, (weight, bias) in parameters.convolutions.items():
        assert 0.9 < float(np.asarray(weight).var()) * np.prod(weight.shape[:3]) / 2 < 1.1, name
        assert not np.asarray(bias).any()
    assert parameters.version == "1.0"
    chex.assert_tree_all_finite(everything_compiled(IMAGE, parameters))
    with pytest.raises(ValueError, match=r"version must be one of 1.0, 1.1, got '2'"):
        squeezenet.initialize(jax.random.key(0), version="2")


X = jnp.full((32, 32, 3), 0.5)


def one(image: Any = X, **options):
    return squeezenet.features(image, **{"parameters": narrow("1.1"), **options})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: one("cat.png"), TypeError, "image must be an array, got str"),
        (lambda: one(X.astype(int)), TypeError, "image must be floating point or uint8.*int64"),
        (lambda: one(X[..., 0]), ValueError, r"image must have shape \(height, width, 3\).*32, 32"),
        (lambda: one(X[None]), ValueError, r"image must have shape.*got shape \(1, 32, 32, 3\)"),
        (lambda: one(X[..., :1]), ValueError, r"image must have shape.*\(32, 32, 1\)"),
        (lambda: one(jnp.ones((3, 32, 32))), ValueError, r"image must have shape.*\(3, 32, 32\)"),
        (lambda: one(X[:16]), ValueError, r"at least 17 for SqueezeNet 1.1, .*\(16, 32, 3\)"),
        (lambda: one(X[:0]), ValueError, r"none of them empty.*\(0, 32, 3\)"),
        (lambda: one(X.at[1, 1, 1].set(jnp.nan)), ValueError, "image must.*no NaN, got.*nan"),
        (lambda: one(255 * X), ValueError, r"image must lie in value_range \(0, 1\)"),
        (lambda: one(value_range=(1, 0)), ValueError, r"value_range must be.*\(1, 0\)"),
        (lambda: one(layers="fire9"), ValueError, "layers must be names out of conv1, .*'fire9'"),
        (lambda: one(layers=("fire1",)), ValueError, r"layers must be.*got \('fire1',\)"),
        (lambda: one(layers=()), ValueError, r"layers must be.*got \(\)"),
        (lambda: one(parameters={}), TypeError, "parameters must be squeezenet.Param.*got dict"),
        (
            lambda: squeezenet.initialize(jax.random.key(0), version=["1.1"]),  # type: ignore[arg-type]
            ValueError,
            r"version must be one of 1.0, 1.1, got \['1.1'\]",
        ),
        (
            lambda: squeezenet.logits(X[0], parameters=narrow("1.1")),
            ValueError,
            r"image must have shape",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_shapes_are_checked_under_jit_and_vmap():
    with pytest.raises(ValueError, match=r"image must have shape.*\(2, 32, 32, 3\)"):
        jax.jit(one)(jnp.stack([X, X]))
    with pytest.raises(ValueError, match="image must have shape"):
        jax.vmap(one)(X)


def changed(**changes):
    """A version 1.1 with arrays replaced, added, or, as None, left out."""
    arrays = arrays_of("squeezenet1_1") | changes
    return {name: array for name, array in arrays.items() if array is not None}


NAN = arrays_of("squeezenet1_1")["features.0.bias"].copy()
NAN[3] = np.nan


@pytest.mark.parametrize("extension", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            changed(**{"features.3.squeeze.weight": None}),
            "no torchvision's squeezenet1_1: features.3.squeeze.weight is missing$",
        ),
        (
            changed(**{"classifier.1.weight": np.zeros((10, 512, 1, 1))}),
            r"classifier.1.weight has shape \(10, 512, 1, 1\) instead of \(1000, 512, 1, 1\)$",
        ),
        (changed(**{"features.0.bias": NAN}), "features.0.bias holds NaN or infinity$"),
        (
            changed(**{"features.0.bias": np.zeros(64, np.int32)}),
            "features.0.bias has dtype int32 instead of a floating one$",
        ),
        (changed(**{"bypass.weight": NAN}), "bypass.weight belongs to another network$"),
        (
            {name: a for name, a in arrays_of("squeezenet1_1").items() if "classifier" not in name},
            "classifier.1.weight is missing, classifier.1.bias is missing$",
        ),
        ({"fc.weight": np.zeros(3)}, "conv1/w is missing, .* and 50 more$"),
    ],
    ids=["missing", "shape", "nan", "dtype", "superfluous", "trunk", "another"],
)
def test_a_file_with_faults_is_told_which(arrays, message, extension, tmp_path):
    path = write(tmp_path / f"weights{extension}", arrays)
    with pytest.raises(ValueError, match=message) as error:
        squeezenet.load(path)
    assert str(error.value).startswith(f"path must hold a SqueezeNet, got {str(path)!r}")


def pickled_archive(path):
    arrays = changed(**{"features.0.bias": np.array([None, {}], object)})
    np.savez(path, **arrays)


def flipped_archive(path):
    """One bit of the stored numbers has flipped: the checksum tells."""
    write(path, arrays_of("squeezenet1_1"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def half_of_a_file(path):
    content = write(path, arrays_of("squeezenet1_1")).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def foreign_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("conv1/w.npy", b"\x93NUMPY but no array")


def lone_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("a.npz", lambda path: path.write_bytes(b"")),
        ("b.npz", lambda path: path.write_bytes(b"no archive at all")),
        ("c.npz", lambda path: path.write_bytes(pickle.dumps({"conv1/w": 1}))),
        ("d.npz", lone_array),
        ("e.npz", pickled_archive),
        ("f.npz", flipped_archive),
        ("g.npz", half_of_a_file),
        ("h.npz", foreign_archive),
        ("i.safetensors", half_of_a_file),
        ("j.safetensors", lambda path: path.write_bytes(b"")),
        ("k.safetensors", lambda path: path.write_bytes(b"no tensors at all")),
    ],
)
def test_a_broken_or_pickled_file_is_refused(name, spoil, tmp_path):
    path = tmp_path / name
    spoil(path)
    message = rf"path must name an intact \{path.suffix} file of plain arrays, got '.*{name}': "
    with pytest.raises(ValueError, match=message):
        squeezenet.load(path)


def test_other_extensions_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in .npz or .safetensors, got 'net.pth'"):
        squeezenet.load("net.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        squeezenet.load(tmp_path / "nowhere.npz")


def test_without_the_package_only_its_files_are_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    squeezenet.load(write(tmp_path / "weights.npz", arrays_of("caffe")))
    with pytest.raises(ImportError, match="pip install safetensors"):
        squeezenet.load(write(tmp_path / "weights.safetensors", arrays_of("caffe")))


@pytest.fixture(scope="module")
def trained(data):
    """The folder with the weights of Caffe and their prototxt."""
    folder = data / "squeezenet"
    if not folder.is_dir():
        pytest.skip(f"LASI_PROBEMB_DATA holds no {folder.name}")
    return folder


def run_prototxt(text, arrays, blob):
    """The layers of a prototxt, one after the other, as Caffe runs them."""
    blobs = {"data": blob}
    text = re.sub(r"weight_filler \{.*?\}", "", text, flags=re.S)
    for body in re.split(r"\nlayer \{", text)[1:]:
        fields = dict(re.findall(r'(\w+): "?([\w./]+)"?', body))
        below = [blobs[bottom] for bottom in re.findall(r'bottom: "(.*?)"', body)]
        kind, name = fields["type"], re.findall(r'name: "(.*?)"', body)[0]
        if kind == "Convolution":
            weight, bias = arrays[f"{name}/w"], arrays[f"{name}/b"]
            assert weight.shape[0] == int(fields["num_output"])
            assert weight.shape[2] == int(fields["kernel_size"])
            stride, pad = int(fields.get("stride", 1)), int(fields.get("pad", 0))
            # A ReLU in place follows every convolution.
            above = convolve(below[0], weight, bias, stride, pad)
        elif kind == "Pooling" and fields["pool"] == "MAX":
            assert (fields["kernel_size"], fields["stride"]) == ("3", "2")
            above = pool(below[0])
        elif kind == "Pooling":
            assert (fields["pool"], fields["global_pooling"]) == ("AVE", "true")
            above = below[0].mean((0, 1))
        elif kind == "Concat":
            above = np.concatenate(below, -1)
        else:
            assert kind in ("ReLU", "Dropout") and fields["top"] == fields["bottom"]
            above = below[0]
        blobs[fields["top"]] = above
    return blobs


def test_the_trained_network_is_the_one_of_its_prototxt(trained):
    (prototxt,) = trained.glob("*.prototxt")
    (path,) = trained.glob("*.npz")
    image = skimage.data.astronaut()[40:104, 180:241] / 255
    with np.load(path) as arrays:
        blobs = run_prototxt(prototxt.read_text(), arrays, enter("caffe", image))
    parameters = squeezenet.load(path)
    maps, scores = everything_compiled(image, parameters)
    for name, ours in zip(squeezenet.LAYERS, maps, strict=True):
        theirs = blobs[name if name == "conv1" else f"{name}/concat"]
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.max(), err_msg=name)
    np.testing.assert_allclose(scores, blobs["pool_final"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("photograph", "classes", "least"),
    [("chelsea", {281, 282, 285}, 0.7), ("coffee", {967}, 0.95)],
)
def test_the_trained_network_knows_a_cat_and_a_coffee(trained, photograph, classes, least):
    image = getattr(skimage.data, photograph)() / np.float32(255)
    square = jnp.clip(jax.image.resize(jnp.asarray(image), (227, 227, 3), "linear"), 0, 1)
    parameters = squeezenet.load(trained / "squeezenet_v1.0_imagenet.npz")
    _, scores = everything_compiled(square, parameters)
    probability = jax.nn.softmax(scores)
    best = [(int(k), round(float(probability[k]), 4)) for k in jnp.argsort(-probability)[:5]]
    assert best[0][0] in classes and best[0][1] > least, f"classes and probabilities: {best}"
