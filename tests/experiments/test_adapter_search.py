import json

import faiss
import jax
import numpy as np
import pytest
import safetensors.numpy

from experiments import adapter_search
from experiments.adapter_search import Config
from experiments.adapters import saved
from experiments.adapters.saved import SavedAdapter
from experiments.data import embedding_files
from probemb.adapters import Adapter

NUMBER, DIMENSION = 12, 4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An adapter of two seeds away from their start; images, and texts near their images."""
    folder = tmp_path_factory.mktemp("files")
    random = np.random.default_rng(0)
    adapter = Adapter(DIMENSION, hidden=(5,))
    keys = jax.random.split(jax.random.key(0), 2)
    initialize = jax.jit(jax.vmap(adapter.initialize))
    parameters = {
        side: jax.tree.map(
            lambda x: np.asarray(x) + 0.1 * random.normal(size=x.shape).astype(np.float32),
            initialize(keys),
        )
        for side in ("image", "caption")
    }
    temperature = dict.fromkeys(parameters, np.float32([0.5, 0.7]))
    saved.save(
        folder / "adapter.safetensors", SavedAdapter(adapter, parameters, temperature, "some")
    )
    images = random.normal(size=(NUMBER, DIMENSION))
    of = random.permutation(NUMBER)
    texts = images[of] + 0.1 * random.normal(size=(NUMBER, DIMENSION))
    ids = 10 * np.arange(NUMBER)
    embedding_files.write(folder / "images.safetensors", images, ids, model="some")
    words = [f"text {k}" for k in range(NUMBER)]
    embedding_files.write(folder / "texts.safetensors", texts, ids[of], model="some", texts=words)
    return folder


def config(files, tmp_path, **options):
    paths = {
        "adapter": files / "adapter.safetensors",
        "images": files / "images.safetensors",
        "texts": files / "texts.safetensors",
        "output": tmp_path / "found",
    }
    return Config(**{**paths, "k": 3, **options})


@pytest.mark.parametrize("query", ["text", "image"])
def test_the_nearest_are_those_of_the_sampled_distance(files, tmp_path, query):
    """By brute force in float64, from the distributions that were saved."""
    content = adapter_search.run(config(files, tmp_path, query=query))
    folder = tmp_path / "found"
    sides = {
        side: safetensors.numpy.load_file(folder / f"{side}s.safetensors")
        for side in ("image", "caption")
    }
    queries, items = (
        sides[side] for side in (("caption", "image") if query == "text" else ("image", "caption"))
    )
    mean, other = (np.float64(side["mean"]) for side in (queries, items))
    variance, of_item = (
        np.exp(np.float64(side["log_variance"])).sum(1) for side in (queries, items)
    )
    distance = np.square(mean[:, None] - other).sum(2) + variance[:, None] + of_item
    expected = np.argsort(distance, 1)[:, :3]
    found = safetensors.numpy.load_file(folder / "neighbors.safetensors")
    np.testing.assert_array_equal(found["indices"], expected)
    np.testing.assert_array_equal(found["ids"], items["ids"][expected])
    np.testing.assert_allclose(found["query_total_variance"], variance, rtol=1e-5)
    hits = items["ids"][expected] == queries["ids"][:, None]
    assert content["recall_at_1"] == pytest.approx(hits[:, 0].mean())
    assert content["recall_at_1"] > 0.5
    assert content["recall_at_3"] == pytest.approx(hits.any(1).mean())
    assert faiss.read_index(str(folder / "items.faiss")).ntotal == NUMBER
    assert json.loads((folder / "results.json").read_text()) == content
    text = (folder / "results.md").read_text()
    assert f"text {np.argmax(variance)}" in text or query == "image"
    assert "--adapter FILE --images FILE --texts FILE" in text


def test_a_match_probability_orders_what_was_found(files, tmp_path):
    adapter_search.run(config(files, tmp_path, negative_scale=3.0, shift=2.0))
    found = safetensors.numpy.load_file(tmp_path / "found" / "neighbors.safetensors")
    plain = tmp_path / "plain"
    adapter_search.run(config(files, tmp_path, output=plain))
    before = safetensors.numpy.load_file(plain / "neighbors.safetensors")
    np.testing.assert_array_equal(np.sort(found["indices"]), np.sort(before["indices"]))
    assert (np.diff(found["scores"]) <= 0.0).all() and (found["scores"] != before["scores"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 13}, "k must be at most the 12 items, got 13"),
        ({"query": "texts"}, "query must be one of"),
        ({"shift": 1.0}, "negative_scale and shift must be given together"),
        ({"negative_scale": 0.0, "shift": 1.0}, "negative_scale must be positive, got 0.0"),
        ({"negative_scale": 1.0, "shift": np.nan}, "shift must be finite, got nan"),
    ],
)
def test_bad_options(files, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        adapter_search.run(config(files, tmp_path, **options))
    assert not (tmp_path / "found").exists()


def test_embeddings_of_others_are_refused(files, tmp_path):
    random = np.random.default_rng(0)
    for name, dimension, model, message in (
        ("a", 5, "some", "images must have the adapter's dimension, 4, got 5"),
        ("b", 4, "other", "images must be of the adapter's model, some, got other"),
    ):
        paths = {side: tmp_path / f"{name}_{side}.safetensors" for side in ("images", "texts")}
        for path in paths.values():
            vectors = random.normal(size=(NUMBER, dimension))
            embedding_files.write(path, vectors, np.arange(NUMBER), model=model)
        with pytest.raises(ValueError, match=message):
            adapter_search.run(config(files, tmp_path, **paths))
    with pytest.raises(ValueError, match="output must be a new folder"):
        adapter_search.run(config(files, tmp_path, output=tmp_path))
