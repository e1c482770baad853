"""AlexNet and VGG16 against SciPy's correlations, and what their files may hold."""

import functools
import pickle
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.signal import correlate2d

from lasi_jax.networks import convolution, squeezenet, trunks, weight_files

# As torchvision prints `model.features`, without the ReLU after every convolution:
# "place:channels kernel stride padding", or a pooling.
PRINTED = {
    "alexnet": "0:64 11 4 2, pool, 3:192 5 1 2, pool, 6:384 3 1 1, 8:256 3 1 1, 10:256 3 1 1",
    "vgg16": (
        "0:64 3 1 1, 2:64 3 1 1, pool, 5:128 3 1 1, 7:128 3 1 1, pool, "
        "10:256 3 1 1, 12:256 3 1 1, 14:256 3 1 1, pool, 17:512 3 1 1, 19:512 3 1 1, "
        "21:512 3 1 1, pool, 24:512 3 1 1, 26:512 3 1 1, 28:512 3 1 1"
    ),
}
NAMES = {
    "alexnet": [f"conv{i}" for i in range(1, 6)],
    "vgg16": [f"conv{i}_{j}" for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)],
}
TITLES = {"alexnet": "AlexNet", "vgg16": "VGG16"}
SMALLEST = {"alexnet": 31, "vgg16": 16}
WINDOW = {"alexnet": 3, "vgg16": 2}


def steps(network):
    """None where it pools, else (place, channels, kernel, stride, padding)."""
    for step in PRINTED[network].split(", "):
        yield None if step == "pool" else tuple(map(int, re.findall(r"\d+", step)))


@functools.cache
def state_dict(network, channels: int | None = None):
    """Random weights under torchvision's names, in its shapes or with fewer channels."""
    rng, before, arrays = np.random.default_rng(1), 3, {}
    for place, out, kernel, *_ in filter(None, steps(network)):
        out, shape = channels or out, (channels or out, before, kernel, kernel)
        weight = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        arrays[f"features.{place}.weight"] = weight.astype(np.float32)
        arrays[f"features.{place}.bias"] = rng.uniform(0.0, 0.3, out).astype(np.float32)
        before = out
    return arrays


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)
    return path


def correlate(x, weight, bias, stride, padding):
    """Every pair of channels on its own."""
    x = np.pad(x, [(padding, padding), (padding, padding), (0, 0)])
    sums = [
        sum(correlate2d(x[..., i], w, "valid")[::stride, ::stride] for i, w in enumerate(of_all))
        for of_all in weight.astype(np.float64)
    ]
    return np.maximum(np.stack(sums, -1) + bias, 0.0)


def pool(x, size):
    """Windows that lie inside, at every second element."""
    high, wide = ((length - size) // 2 + 1 for length in x.shape[:2])
    pooled = np.empty((high, wide, x.shape[2]))
    for i in range(high):
        for j in range(wide):
            pooled[i, j] = x[2 * i : 2 * i + size, 2 * j : 2 * j + size].max((0, 1))
    return pooled


def reference(network, arrays, image):
    """All maps, from RGB in 0..1."""
    x = (image.astype(np.float64) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    maps = []
    for step in steps(network):
        if step is None:
            x = pool(x, WINDOW[network])
            continue
        place, _, _, stride, padding = step
        weight, bias = (arrays[f"features.{place}.{part}"] for part in ("weight", "bias"))
        x = correlate(x, weight, bias, stride, padding)
        maps.append(x)
    return maps


@functools.cache
def narrow(network, dtype=jnp.float64):
    """A network of four channels per layer: structure without width."""
    arrays = state_dict(network, channels=4)
    convolutions = {}
    for name, (place, *_) in zip(NAMES[network], filter(None, steps(network)), strict=True):
        weight, bias = (arrays[f"features.{place}.{part}"] for part in ("weight", "bias"))
        convolutions[name] = trunks.Convolution(
            jnp.asarray(np.einsum("oihw->hwio", weight), dtype), jnp.asarray(bias, dtype)
        )
    mean = jnp.array([0.485, 0.456, 0.406], dtype)
    deviation = jnp.array([0.229, 0.224, 0.225], dtype)
    return trunks.Parameters(convolutions, mean, deviation, network)


def picture(network, seed=0):
    """Four rows more than the smallest, so that AlexNet's poolings leave rows over."""
    side = SMALLEST[network]
    return np.random.default_rng(seed).uniform(size=(side + 4, side, 3))


def everything(image, parameters):
    return trunks.features(image, parameters=parameters, layers=trunks.LAYERS[parameters.network])


@pytest.fixture(scope="module")
def compiled(jit):
    return jit(everything)


@pytest.fixture(scope="module", params=["alexnet", "vgg16"])
def network(request):
    return request.param


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory):
    """The whole state dict: the classifier's entries are there, cut down."""
    path = tmp_path_factory.mktemp("trunks") / "alexnet.safetensors"
    return write(path, state_dict("alexnet") | {"classifier.1.weight": np.zeros((9, 9))})


def test_maps_are_those_of_scipy(network, compiled):
    image = picture(network)
    expected = reference(network, state_dict(network, channels=4), image)
    got = compiled(image, narrow(network))
    for name, ours, theirs in zip(NAMES[network], got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10, err_msg=name)
        assert theirs.any(), name
    single = compiled(image, narrow(network, jnp.float32))
    for ours, theirs in zip(single, expected, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.max())


def test_alexnet_from_its_file_is_that_of_scipy(alexnet_file):
    """In full width, where an input channel in the wrong place would show."""
    image = picture("alexnet").astype(np.float32)
    parameters = trunks.load(alexnet_file)
    assert parameters.network == "alexnet"
    arrays = state_dict("alexnet")
    chex.assert_trees_all_equal(
        list(parameters.convolutions.values()),
        [
            trunks.Convolution(
                np.einsum("oihw->hwio", arrays[f"features.{place}.weight"]),
                arrays[f"features.{place}.bias"],
            )
            for place in (0, 3, 6, 8, 10)
        ],
    )
    first, second = trunks.features(image, parameters=parameters, layers=("conv1", "conv2"))
    x = (image.astype(np.float64) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = correlate(x, arrays["features.0.weight"], arrays["features.0.bias"], 4, 2)
    np.testing.assert_allclose(first, x, rtol=1e-4, atol=1e-5)
    # Eight of the 192 channels tell.
    weight, bias = (arrays[f"features.3.{part}"][:8] for part in ("weight", "bias"))
    y = correlate(pool(x, 3), weight, bias, 1, 2)
    np.testing.assert_allclose(second[..., :8], y, rtol=1e-4, atol=1e-5)


def test_vgg16_is_told_by_its_names(monkeypatch, tmp_path):
    """In a width that spares the 59 MB."""
    layers = trunks._NETWORKS["vgg16"].layers
    arrays = state_dict("vgg16", channels=4)
    thin = {
        name: layer._replace(shape=arrays[f"features.{layer.place}.weight"].shape)
        for name, layer in layers.items()
    }
    monkeypatch.setitem(trunks._NETWORKS, "vgg16", trunks._NETWORKS["vgg16"]._replace(layers=thin))
    path = write(tmp_path / "vgg16.npz", arrays | {"classifier.6.bias": np.zeros(9)})
    got = trunks.load(path)
    chex.assert_trees_all_equal(got, narrow("vgg16", jnp.float32))


def test_names_and_shapes_are_those_of_torchvision(network):
    shapes = {}
    before = 3
    for place, out, kernel, *_ in filter(None, steps(network)):
        shapes[f"features.{place}.weight"] = (out, before, kernel, kernel)
        shapes[f"features.{place}.bias"] = (out,)
        before = out
    assert trunks._NETWORKS[network].arrays() == shapes
    assert list(trunks.LAYERS[network]) == NAMES[network]


def test_the_smallest_image_has_one_element_left(network, monkeypatch):
    side = SMALLEST[network]
    features = functools.partial(trunks.features, parameters=narrow(network))
    image = jnp.full((side, side + 1, 3), 0.5)
    assert jax.eval_shape(features, image)[-1].shape == (1, 1, 4)
    for smaller in (image[1:], image[:, 2:]):
        with pytest.raises(ValueError, match=f"width at least {side} for {TITLES[network]},"):
            features(smaller)
    layers = trunks._NETWORKS[network]
    monkeypatch.setitem(trunks._NETWORKS, network, layers._replace(smallest=1))
    assert jax.eval_shape(features, image[1:])[-1].shape[0] == 0


def test_shapes_at_the_size_of_training(network):
    def features(key):
        parameters = trunks.initialize(key, network=network)
        return trunks.features(jnp.zeros((224, 224, 3)), parameters=parameters)

    sides, channels = {
        "alexnet": ((55, 27, 13, 13, 13), (64, 192, 384, 256, 256)),
        "vgg16": ((224, 112, 56, 28, 14), (64, 128, 256, 512, 512)),
    }[network]
    shapes = [(side, side, channel) for side, channel in zip(sides, channels, strict=True)]
    assert [m.shape for m in jax.eval_shape(features, jax.random.key(0))] == shapes


def test_lpips_has_a_weight_for_every_channel(data):
    file = data / "lpips_heads" / "lpips_v0.1_heads.npz"
    if not file.is_file():
        pytest.skip(f"LASI_PROBEMB_DATA holds no {file.parent.name}")
    image = jnp.zeros((64, 64, 3))
    maps = {
        head: jax.eval_shape(
            lambda key, name=name: trunks.features(
                image, parameters=trunks.initialize(key, network=name)
            ),
            jax.random.key(0),
        )
        for head, name in (("alex", "alexnet"), ("vgg", "vgg16"))
    }
    maps["squeeze"] = jax.eval_shape(
        lambda key: squeezenet.features(
            image, parameters=squeezenet.initialize(key, version="1.1")
        ),
        jax.random.key(0),
    )
    expected = {
        f"{head}/lin{i}.model.1.weight": (1, plane.shape[-1], 1, 1)
        for head, planes in maps.items()
        for i, plane in enumerate(planes)
    }
    assert {name: array.shape for name, array in weight_files.read(file).items()} == expected


def test_layers_come_in_the_order_asked_for_and_no_others_are_computed():
    parameters, image = narrow("alexnet"), jnp.asarray(picture("alexnet"))
    by_name = dict(zip(NAMES["alexnet"], everything(image, parameters), strict=True))
    maps = trunks.features(image, parameters=parameters, layers=["conv4", "conv1", "conv4"])
    chex.assert_trees_all_equal(maps, tuple(by_name[n] for n in ("conv4", "conv1", "conv4")))
    only = functools.partial(trunks.features, parameters=parameters, layers=("conv2",))
    assert str(jax.make_jaxpr(only)(image)).count("conv_general_dilated[") == 2
    compared = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
    assert trunks.LPIPS_LAYERS == {"alexnet": tuple(NAMES["alexnet"]), "vgg16": compared}


def test_uint8_floats_and_other_ranges_are_one_image(compiled):
    parameters = narrow("alexnet", jnp.float32)
    whole = (255 * picture("alexnet")).astype(np.uint8)
    features = functools.partial(trunks.features, parameters=parameters, layers=("conv1",))
    expected, unit = features(whole), whole / 255
    for got in (features(unit), features(2 * unit - 1, value_range=(-1, 1))):
        chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_shift_by_the_stride_of_all_layers_shifts_the_maps(jit):
    """By 16 in VGG16: up to conv2_2 the strides are 1 and 2."""
    image = np.random.default_rng(4).uniform(size=(48, 48, 3))
    layers = ("conv1_2", "conv2_2")
    features = functools.partial(trunks.features, parameters=narrow("vgg16"), layers=layers)
    whole, part = jit(features)(image), jit(features)(image[16:, 16:])
    for large, small, step in zip(whole, part, (16, 8), strict=True):
        inner = small[4:-4, 4:-4]
        assert inner.size > 0
        np.testing.assert_allclose(large[step + 4 : -4, step + 4 : -4], inner, atol=1e-12)


@pytest.mark.slow
def test_jit_eager_and_vmap_agree(compiled, jit):
    parameters = narrow("alexnet")
    images = np.stack([picture("alexnet", seed) for seed in (5, 6)])
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-10, atol=1e-10)
    alone = [compiled(image, parameters) for image in images]
    close(everything(images[0], parameters), alone[0])
    batch = jit(jax.vmap(everything, (0, None)))(images, parameters)
    for i in range(2):
        close(jax.tree.map(lambda maps, i=i: maps[i], batch), alone[i])


@pytest.fixture(scope="module")
def value_and_gradient(jit, network):
    def value(image):
        maps = trunks.features(image, parameters=narrow(network))
        return sum(jnp.mean(jnp.square(m)) for m in maps)

    return jit(jax.value_and_grad(value))


def test_the_gradient_is_that_of_finite_differences(network, value_and_gradient):
    rng = np.random.default_rng(7)
    image = 0.1 + 0.8 * picture(network, 8)
    _, slope = value_and_gradient(image)
    for _ in range(4):
        way = rng.normal(size=image.shape)
        ahead, behind = (value_and_gradient(image + e * way)[0] for e in (1e-6, -1e-6))
        np.testing.assert_allclose((ahead - behind) / 2e-6, np.vdot(slope, way), rtol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_the_gradient_is_finite_on_a_constant_image(network, value_and_gradient, level):
    _, slope = value_and_gradient(np.full_like(picture(network), level))
    chex.assert_tree_all_finite(slope)
    assert jnp.abs(slope).max() > 0


@pytest.mark.parametrize("shape", [(3, 4, 1), (8, 7, 2)])
@pytest.mark.parametrize("size", [2, 3])
def test_pooling_rounds_down_and_equals_share_the_gradient(shape, size, jit):
    ours = {2: convolution.pool_2x2, 3: convolution.pool_3x3}[size]
    x = np.random.default_rng(3).normal(size=shape)
    expected = pool(x, size)
    np.testing.assert_array_equal(jit(ours)(x), expected)
    slope = jit(jax.grad(lambda x: ours(x).sum()))
    wins = [(expected == value).sum() for value in x.ravel()]
    np.testing.assert_array_equal(slope(x).ravel(), wins)
    # Where all are equal nothing is lost, and height and width are alike.
    shared = slope(np.ones(shape))
    assert float(shared.sum()) == expected.size
    corner = shared[:2, :2, 0] if size == 2 else shared[:3, :3, 0]
    np.testing.assert_allclose(corner, np.asarray(corner).T)


def test_a_convolution_without_its_relu_keeps_what_is_negative():
    rng = np.random.default_rng(9)
    x, weight, bias = rng.normal(size=(5, 6, 1)), rng.normal(size=(3, 3, 1, 1)), rng.normal(size=1)
    pair = trunks.Convolution(jnp.asarray(weight), jnp.asarray(bias))
    linear = convolution.convolve(jnp.asarray(x), pair, padding=1)
    by_hand = correlate2d(x[..., 0], weight[..., 0, 0], "same") + bias
    assert by_hand.min() < 0 < by_hand.max()
    np.testing.assert_allclose(linear[..., 0], by_hand, rtol=1e-12)
    rectified = convolution.convolve_relu(jnp.asarray(x), pair, padding=1)
    np.testing.assert_array_equal(rectified, np.maximum(linear, 0))


def test_an_untrained_network_has_the_variance_of_its_fan_in():
    parameters = trunks.initialize(jax.random.key(0), network="alexnet")
    for name, (weight, bias) in parameters.convolutions.items():
        assert 0.95 < float(np.asarray(weight).var()) * np.prod(weight.shape[:3]) / 2 < 1.05, name
        assert not np.asarray(bias).any()
    other = trunks.initialize(jax.random.key(1), network="alexnet")
    assert (other.convolutions["conv5"].weight != parameters.convolutions["conv5"].weight).any()
    with pytest.raises(ValueError, match=r"network must be one of alexnet, vgg16, got 'vgg19'"):
        trunks.initialize(jax.random.key(0), network="vgg19")


X = jnp.full((32, 32, 3), 0.5)


def one(image: Any = X, **options):
    return trunks.features(image, **{"parameters": narrow("alexnet"), **options})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: one("cat.png"), TypeError, "image must be an array, got str"),
        (lambda: one(X.astype(int)), TypeError, "image must be floating point or uint8.*int64"),
        (lambda: one(X[..., 0]), ValueError, r"image must have shape \(height, width, 3\).*32, 32"),
        (lambda: one(X[None]), ValueError, r"image must have shape.*got shape \(1, 32, 32, 3\)"),
        (lambda: one(jnp.ones((3, 32, 32))), ValueError, r"image must have shape.*\(3, 32, 32\)"),
        (lambda: one(X[:30]), ValueError, r"at least 31 for AlexNet, .*\(30, 32, 3\)"),
        (lambda: one(X.at[1, 1, 1].set(jnp.nan)), ValueError, "image must.*no NaN, got.*nan"),
        (lambda: one(255 * X), ValueError, r"image must lie in value_range \(0, 1\)"),
        (lambda: one(value_range=(1, 0)), ValueError, r"value_range must be.*\(1, 0\)"),
        (lambda: one(layers="conv1"), ValueError, "layers must be names out of conv1, .*'conv1'"),
        (lambda: one(layers=("conv1_1",)), ValueError, r"layers must be.*got \('conv1_1',\)"),
        (lambda: one(layers=()), ValueError, r"layers must be.*got \(\)"),
        (lambda: one(parameters={}), TypeError, "parameters must be trunks.Parameters.*got dict"),
        (
            lambda: trunks.initialize(jax.random.key(0), network=["alexnet"]),  # type: ignore[arg-type]
            ValueError,
            r"network must be one of alexnet, vgg16, got \['alexnet'\]",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("wanted", ["scale", b"scale", 3, [3]])
def test_what_is_no_collection_of_names_is_refused(wanted, tmp_path):
    path = write(tmp_path / "some.npz", {"scale": np.ones(2)})
    assert list(weight_files.read(path, wanted={"scale", "shift"})) == ["scale"]
    with pytest.raises(
        TypeError, match=f"wanted must be a coll.*names, got {re.escape(repr(wanted))}"
    ):
        weight_files.read(path, wanted=wanted)


def test_a_path_is_no_number():
    with pytest.raises(TypeError, match="path must name a file, got None"):
        weight_files.read(None)


def changed(**changes):
    """An AlexNet with arrays replaced, added, or, as None, left out."""
    arrays = state_dict("alexnet") | changes
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize("extension", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features.3.weight": None}, "features.3.weight is missing$"),
        (
            {"features.0.bias": np.zeros(96, np.float32)},
            r"features.0.bias has shape \(96,\) instead of \(64,\)$",
        ),
        ({"features.0.bias": np.full(64, np.inf)}, "features.0.bias holds NaN or infinity$"),
        ({"features.0.bias": np.full(64, 1e300)}, "features.0.bias holds NaN or infinity$"),
        (
            {"features.0.bias": np.zeros(64, int)},
            "features.0.bias has dtype int64 instead of a floating one$",
        ),
        (
            {"features.1.running_mean": np.zeros(64)},
            "features.1.running_mean belongs to another network$",
        ),
    ],
    ids=["missing", "shape", "infinite", "overflow", "dtype", "superfluous"],
)
def test_a_file_with_faults_is_told_which(changes, message, extension, tmp_path):
    path = tmp_path / f"weights{extension}"
    write(path, changed(**changes))
    message = f"which is no torchvision's alexnet: {message}"
    with pytest.raises(ValueError, match=message) as error:
        trunks.load(path)
    assert str(error.value).startswith(f"path must hold AlexNet or VGG16, got {str(path)!r}")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_all_floats_are_read_as_float32(dtype, tmp_path):
    values = np.array([[0.5, -3.0, 1024.0]])
    path = write(tmp_path / "a.safetensors", {"a": values.astype(dtype), "b": np.arange(3)})
    arrays = weight_files.read(path)
    assert arrays["a"].dtype == np.float32 and arrays["b"].dtype == np.int64
    np.testing.assert_array_equal(arrays["a"], values)


@pytest.mark.parametrize("extension", [".npz", ".safetensors"])
def test_only_what_is_asked_for_is_read(extension, tmp_path):
    path = tmp_path / f"a{extension}"
    arrays = {name: np.full(2, i, np.float32) for i, name in enumerate(("a", "b", "c"))}
    write(path, arrays)
    assert set(weight_files.names(path)) == {"a", "b", "c"}
    chex.assert_trees_all_equal(weight_files.read(path), arrays)
    part = weight_files.read(path, wanted=("b", "nowhere"))
    chex.assert_trees_all_equal(part, {"b": arrays["b"]})


def test_what_is_not_asked_for_may_be_pickled(tmp_path):
    """It is not even looked at, which is how a classifier stays out of memory."""
    arrays = state_dict("alexnet") | {"classifier.1.weight": np.array([None, {}], object)}
    path = write(tmp_path / "alexnet.npz", arrays)
    assert trunks.load(path).network == "alexnet"
    with pytest.raises(ValueError, match=r"path must name an intact .npz file of plain arrays"):
        weight_files.read(path)


def test_a_pickle_is_told_how_to_convert(tmp_path):
    path = tmp_path / "alexnet.pth"
    path.write_bytes(pickle.dumps({}))
    line = re.escape("safetensors.torch.save_file(model.state_dict(), 'alexnet.safetensors')")
    for reads in (trunks.load, squeezenet.load, weight_files.names, weight_files.read):
        with pytest.raises(ValueError, match=f"path must end in .*a pickle: convert it by {line}$"):
            reads(path)


def test_faults_are_told_without_a_file():
    shapes = {"a": (2,), "b": (1, 3), "c": ()}
    arrays = {"a": np.zeros(2, np.float32), "b": np.zeros((3, 1)), "other": np.zeros(1)}
    expected = ["b has shape (3, 1) instead of (1, 3)", "c is missing"]
    assert weight_files.faults(arrays, shapes) == expected
