import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import probemb
from experiments.adapters import evaluation
from experiments.adapters import saved as saved_adapters
from experiments.adapters.saved import SavedAdapter
from experiments.adapters.training import Model
from experiments.captions.retrieval import SIDES

DIMENSION = 4
TEMPERATURE = {"image": np.float32([0.5, 2.0, 1.0]), "caption": np.float32([3.0, 1.0, 0.7])}


tempered = jax.jit(probemb.tempered)


def units(number, seed=0):
    found = np.random.default_rng(seed).normal(size=(number, DIMENSION))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def make(method, embeddings="some model"):
    """Three seeds, away from their start."""
    model = Model(method, DIMENSION, (6, 5), 0.1, 1.0)
    random = np.random.default_rng(0)
    initialize = jax.jit(jax.vmap(model.adapter.initialize))
    parameters = {
        side: jax.tree.map(
            lambda x: np.asarray(x) + 0.3 * random.normal(size=x.shape).astype(np.float32),
            initialize(jax.random.split(jax.random.key(0), 3)),
        )
        for side in SIDES
    }
    return model, SavedAdapter(model.adapter, parameters, TEMPERATURE, embeddings)


@pytest.fixture(scope="module")
def saved():
    return make("probvlm")


@pytest.fixture
def path(saved, tmp_path):
    path = tmp_path / "probvlm.safetensors"
    saved_adapters.save(path, saved[1])
    return path


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    ("method", "embeddings"),
    [("probvlm", "some model"), ("pfe", None), ("von_mises_fisher", 'ViT-B/32 "où"')],
)
def test_what_was_saved_is_what_is_loaded(method, embeddings, tmp_path):
    model, saved = make(method, embeddings)
    path = tmp_path / "adapter.safetensors"
    saved_adapters.save(path, saved)
    assert [file.name for file in tmp_path.iterdir()] == ["adapter.safetensors"]
    loaded = saved_adapters.load(path)
    assert loaded.adapter == model.adapter and loaded.embeddings == embeddings
    same(loaded.parameters, jax.tree.map(np.asarray, saved.parameters))
    same(loaded.temperature, TEMPERATURE)
    vectors = units(5)
    for side in SIDES:
        found = jax.tree.map(np.asarray, loaded.distributions(side, vectors))
        same(found, jax.tree.map(np.asarray, saved.distributions(side, vectors)))
        plain = evaluation.distributions(model, saved.parameters[side], vectors)
        plain = jax.tree.map(np.asarray, plain)
        for seed, temperature in enumerate(TEMPERATURE[side]):
            of_seed, p = (jax.tree.map(lambda x, s=seed: x[s], each) for each in (found, plain))
            assert type(of_seed) is type(p)
            expected = tempered(p, temperature=temperature)
            for one, other in zip(of_seed, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_temperatures_widen(saved):
    """By hand: a scale grows by its temperature, nothing else does."""
    _, saved = saved
    p = saved.distributions("image", units(5))
    ones = {side: np.ones(3, np.float32) for side in SIDES}
    plain = dataclasses.replace(saved, temperature=ones).distributions("image", units(5))
    np.testing.assert_allclose(
        p.scale, plain.scale * TEMPERATURE["image"][:, None, None], rtol=1e-5
    )
    np.testing.assert_array_equal(p.location, plain.location)
    np.testing.assert_array_equal(p.shape, plain.shape)


def test_distributions_of_many(saved):
    _, saved = saved
    many = units(530, seed=1)
    found = saved.distributions("caption", many)
    some = saved.distributions("caption", many[508:520])
    assert found.location.shape == (3, 530, DIMENSION)
    np.testing.assert_allclose(found.scale[:, 508:520], some.scale, rtol=1e-5)


def test_a_file_is_replaced_whole(path, saved, monkeypatch):
    before = path.read_bytes()

    def fail(arrays, path, header):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        saved_adapters.save(path, saved[1])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("side", "vectors", "message"),
    [
        ("text", units(3), "side must be one of ('image', 'caption'), got 'text'"),
        ("image", units(3)[0], "vectors must have shape (item, 4), got (4,)"),
        ("image", units(3)[:, :3], "vectors must have shape (item, 4), got (3, 3)"),
        ("image", units(3)[:0], "vectors must have shape (item, 4), got (0, 4)"),
        ("image", 2.0 * units(3), "vectors must have norm 1, got norms in 2..2"),
        ("caption", 0.0 * units(3), "vectors must have norm 1, got norms in 0..0"),
        ("caption", np.nan * units(3), "vectors must have norm 1, got norms in nan..nan"),
    ],
)
def test_what_has_no_distribution(saved, side, vectors, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        saved[1].distributions(side, vectors)


# --- bad files ----------------------------------------------------------------------------------


def rewrite(path, arrays=None, **header):
    """The file with other arrays and another header; None takes something out."""
    with safetensors.safe_open(path, framework="numpy") as file:
        found = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    tensors |= arrays or {}
    found |= header
    safetensors.numpy.save_file(
        {name: array for name, array in tensors.items() if array is not None},
        path,
        {name: text for name, text in found.items() if text is not None} or None,
    )


def header(path, **options):
    with safetensors.safe_open(path, framework="numpy") as file:
        return json.dumps(json.loads(file.metadata()["adapter"]) | options)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"adapter must be a file, .*none.safetensors is none"):
        saved_adapters.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"adapter must be a file"):
        saved_adapters.load(tmp_path)


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_a_file_that_was_cut(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"adapter must be a whole file of an adapter, .*probvlm"):
        saved_adapters.load(path)


BIAS = "parameters/image/log_shape/bias"


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({}, {"adapter": None}, "adapter"),
        ({}, {"embeddings": None}, "embeddings"),
        ({}, {"adapter": None, "embeddings": None}, "adapter"),
        ({}, {"adapter": "{"}, "Expecting property name"),
        ({}, {"adapter": "[]"}, ""),
        ({}, {"adapter": '{"hidden": [6]}'}, "dimension"),
        ({}, {"adapter": {"colour": "red"}}, "colour"),
        ({}, {"adapter": {"output": "gaussian"}}, "log_shape"),
        ({}, {"adapter": {"output": "cauchy"}}, "output must be one of"),
        ({}, {"adapter": {"hidden": [6, 6]}}, "does not fit the adapter of its header"),
        ({}, {"adapter": {"dimension": 5}}, "does not fit the adapter of its header"),
        ({BIAS: None}, {}, f"{BIAS} (3, 4) does not fit the adapter of its header"),
        ({BIAS: np.zeros((2, 4), np.float32)}, {}, f"{BIAS} ("),
        ({"more": np.zeros(1)}, {}, "more (1,) does not fit the adapter of its header"),
        ({"temperature/image": None}, {}, "temperature/image"),
        ({"temperature/image": np.ones((), np.float32)}, {}, ""),
        ({"temperature/caption": np.ones(2, np.float32)}, {}, "temperature/caption"),
    ],
)
def test_a_file_that_holds_something_else(path, arrays, options, message):
    if isinstance(options.get("adapter"), dict):
        options = {"adapter": header(path, **options["adapter"])}
    rewrite(path, arrays, **options)
    with pytest.raises(ValueError, match="adapter must be a whole file of an adapter") as error:
        saved_adapters.load(path)
    assert message in str(error.value) and path.name in str(error.value)
    assert "\n" not in str(error.value)


def test_other_things_in_safetensors(tmp_path):
    path = tmp_path / "embeddings.safetensors"
    safetensors.numpy.save_file({"embeddings": units(3)}, path)
    with pytest.raises(ValueError, match="adapter must be a whole file of an adapter"):
        saved_adapters.load(path)


def test_every_second_seed_is_saved_as_it_is(saved, tmp_path):
    """A view of an array is not the bytes that lie in memory."""
    some = jax.tree.map(lambda x: np.asarray(x)[::2], saved[1].parameters)
    temperature = {side: values[::2] for side, values in TEMPERATURE.items()}
    path = tmp_path / "some.safetensors"
    saved_adapters.save(path, SavedAdapter(saved[1].adapter, some, temperature, None))
    loaded = saved_adapters.load(path)
    same(loaded.parameters, some)
    same(loaded.temperature, temperature)


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "must be finite float32"), (-1.0, "must be positive, got -1")]
)
def test_bad_temperatures_are_refused(saved, tmp_path, value, message):
    temperature = {**TEMPERATURE, "image": np.float32([1.0, value, 1.0])}
    path = tmp_path / "bad.safetensors"
    saved_adapters.save(path, dataclasses.replace(saved[1], temperature=temperature))
    with pytest.raises(ValueError, match=f"temperature/image {message}"):
        saved_adapters.load(path)


def test_gaussians_have_the_moments_of_all_seeds(saved):
    vectors = units(5)
    p = saved[1].distributions("image", vectors)
    mean, variance = (np.asarray(x, np.float64) for x in (p.mean, p.variance))
    found = saved[1].gaussians("image", vectors)
    np.testing.assert_allclose(found.mean, mean.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.variance, variance.mean(0) + mean.var(0), rtol=1e-4)
