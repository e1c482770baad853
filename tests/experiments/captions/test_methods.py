import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import probemb
from experiments.captions import methods, two_towers
from experiments.captions.batches import Batch
from experiments.captions.methods import METHODS
from experiments.captions.two_towers import Features, Model, Pictures, Words
from experiments.runs import training
from experiments.uncertainty import baselines
from probemb.distributions.gaussians import DiagonalGaussian

BATCH, DIMENSION = 6, 5
OPTIONS = {"num_samples": 2, "weight": 0.1}


PICTURES, WORDS = Pictures(8, 24, (2, 3)), Words(9, 4, 8)


def model_of(method, *, image=PICTURES, text=WORDS):
    return Model(method, DIMENSION, image, text)


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH, 8, 24)).astype(np.uint8)
    texts = random.integers(1, 9, (BATCH, 4)).astype(np.int32)
    texts[:, 3] = 0
    return Batch(images, texts, np.eye(BATCH, dtype=np.float32))


@pytest.mark.parametrize("method", ["pcme", "prolip", "meru"])
def test_a_step_changes_every_parameter_and_all_stay_finite(method, batch):
    model = model_of(method)
    optimizer = optax.adam(1e-3)
    state = training.begin(jax.random.key(1), model.initialize(jax.random.key(0)), optimizer)
    step = jax.jit(functools.partial(two_towers.train_step, model, optimizer, **OPTIONS))
    after, metrics = step(state, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    chex.assert_tree_all_finite((after.parameters, metrics))
    again, _ = step(state, batch)
    chex.assert_trees_all_equal(after, again)
    still = {
        jax.tree_util.keystr(path)
        for path, (old, new) in jax.tree_util.tree_leaves_with_path(
            jax.tree.map(lambda x, y: (x, y), state.parameters, after.parameters),
            is_leaf=lambda x: isinstance(x, tuple),
        )
        if (np.asarray(old) == np.asarray(new)).all()
    }
    # MERU's softmax has no shift; a key's bias shifts all logits of an attention alike.
    unused = {"['shift']"} if method == "meru" else set()
    assert {name for name in still - unused if "['key']['bias']" not in name} == set()


def test_losses_are_those_of_probemb_for_an_image_and_its_text(batch):
    random = np.random.default_rng(1)
    mean = [random.normal(size=(BATCH, DIMENSION)).astype(np.float32) for _ in range(2)]
    points = [DiagonalGaussian(jnp.asarray(m), jnp.zeros((BATCH, DIMENSION))) for m in mean]

    class Given:  # a model whose embeddings are known
        def __init__(self, method, sides):
            self.method, self.sides = method, sides

        def embed_images(self, *_):
            return self.sides[0]

        def embed_texts(self, *_):
            return self.sides[1]

    parameters = {"log_scale": jnp.log(2.0), "shift": jnp.float32(0.5)}

    def loss(method, sides):
        return two_towers.loss(
            Given(method, sides), parameters, jax.random.key(0), batch, **OPTIONS
        )

    image, text = points
    bare = [m for m in map(jnp.asarray, mean)]
    np.testing.assert_allclose(
        loss("info_nce", bare), probemb.info_nce(image, text, logit_scale=2.0), rtol=1e-6
    )
    np.testing.assert_allclose(
        loss("siglip", bare),
        probemb.siglip(image, text, logit_scale=2.0, logit_bias=0.5),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        loss("triplet", bare), probemb.triplet(image, text, margin=0.1) / BATCH, rtol=1e-6
    )
    bottleneck = 0.1 * 0.5 * sum((m**2).sum() for m in mean) / BATCH  # of unit variances
    pcmepp = probemb.pcmepp(image, text, negative_scale=2.0, shift=0.5, kl_weight=0)
    np.testing.assert_allclose(loss("pcmepp", points), BATCH * pcmepp + bottleneck, rtol=1e-5)


def test_labels_count(batch):
    """All pairs as matches give another loss than the diagonal alone."""
    model = model_of("pcmepp")
    parameters = model.initialize(jax.random.key(0))

    @jax.jit
    def loss(labels):
        return two_towers.loss(
            model, parameters, jax.random.key(0), batch._replace(labels=labels), **OPTIONS
        )

    assert abs(float(loss(batch.labels)) - float(loss(jnp.ones_like(batch.labels)))) > 0.1


def test_scores_are_the_logits_of_each_method():
    random = np.random.default_rng(3)
    image, text = (
        DiagonalGaussian(
            jnp.asarray(random.normal(size=(n, DIMENSION)), jnp.float32),
            jnp.asarray(random.normal(size=(n, DIMENSION)) - 2.0, jnp.float32),
        )
        for n in (4, 3)
    )
    parameters = {"log_scale": jnp.log(3.0), "shift": 0.25, "log_curvature": jnp.log(0.5)}

    def scores(method, *sides):
        return np.asarray(METHODS[method].scores(*sides, parameters))

    apart = ((np.asarray(image.mean)[:, None] - np.asarray(text.mean)) ** 2).sum(2)
    traces = np.asarray(image.variance.sum(1))[:, None] + np.asarray(text.variance.sum(1))
    np.testing.assert_allclose(
        scores("pcmepp", image, text), 0.25 - 3 * (apart + traces), rtol=1e-4
    )
    inner = np.asarray(image.mean) @ np.asarray(text.mean).T
    np.testing.assert_allclose(
        scores("prolip", image, text), 3 * (inner - 0.5 * traces) + 0.25, rtol=1e-4, atol=1e-4
    )
    keys = jax.random.split(jax.random.key(0))
    x, y = (p.sample(k, (20_000,)) for p, k in zip((image, text), keys, strict=True))
    distance = np.linalg.norm(np.asarray(x)[:, :, None] - np.asarray(y)[:, None], axis=3)
    match = (1.0 / (1.0 + np.exp(3 * distance - 0.25))).mean(0)
    found = 1.0 / (1.0 + np.exp(-scores("pcme", image, text)))
    np.testing.assert_allclose(found, match, rtol=0.1, atol=0.01)
    cosine = inner / np.outer(*(np.linalg.norm(p.mean, axis=1) for p in (image, text)))
    np.testing.assert_allclose(
        scores("siglip", image.mean, text.mean), 3 * cosine + 0.25, rtol=1e-4
    )
    # On the hyperboloid of curvature -1/2 with its time component.
    lifted = []
    for p in (image, text):
        v = np.asarray(p.mean, np.float64)
        length = np.sqrt(0.5) * np.linalg.norm(v, axis=1, keepdims=True)
        space = np.sinh(length) / length * v
        lifted.append((space, np.sqrt(2.0 + (space**2).sum(1))))
    inner = lifted[0][0] @ lifted[1][0].T - np.outer(lifted[0][1], lifted[1][1])
    np.testing.assert_allclose(
        scores("meru", image.mean, text.mean), -3 * np.arccosh(-0.5 * inner) * np.sqrt(2), rtol=1e-4
    )


def test_features_take_the_place_of_pictures_and_words():
    model = model_of("pcmepp", image=Features(6, 8), text=Features(7, 8))
    parameters = model.initialize(jax.random.key(0))
    features = jax.random.normal(jax.random.key(1), (2, 3, 6))
    image, scaled = (model.embed_images(parameters, k * features) for k in (1.0, 1e4))
    chex.assert_trees_all_close(image, scaled, rtol=1e-2, atol=1e-3)
    text = model.embed_texts(parameters, jnp.ones((5, 1, 7)))
    assert image.mean.shape == (2, DIMENSION) and text.variance.shape == (5, DIMENSION)


def test_a_method_is_one_record(batch, monkeypatch):
    """A toy: points that should be equal, judged by their first coordinate."""

    def apart(images, texts):
        return jnp.square(images[:, None] - texts).sum(2)

    toy = METHODS["info_nce"]._replace(
        loss=lambda embedded: jnp.trace(apart(embedded.images, embedded.texts)),
        scores=lambda images, texts, _: -apart(images, texts),
        unsure=lambda embedding, _: {"first coordinate": embedding[:, 0]},
        judged_by="first coordinate",
    )
    monkeypatch.setitem(methods.METHODS, "toy", toy)
    model, optimizer = model_of("toy"), optax.sgd(1e-3)
    state = training.begin(jax.random.key(1), model.initialize(jax.random.key(0)), optimizer)
    step = jax.jit(functools.partial(two_towers.train_step, model, optimizer, **OPTIONS))
    losses = []
    for _ in range(2):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[1] < losses[0]


def test_a_record_that_lacks_a_part_is_an_error():
    parts = METHODS["siglip"]._asdict()
    del parts["implies"]
    with pytest.raises(TypeError, match="implies"):
        methods.Method(**parts)


def test_every_method_is_judged_by_a_measure_that_it_has():
    of_scores = set(baselines.named("scores"))
    for name, method in METHODS.items():
        parameters = model_of(name).initialize(jax.random.key(0))
        points = jnp.ones((2, DIMENSION))
        embedding = DiagonalGaussian(points, -points) if method.is_distribution else points
        assert method.judged_by in of_scores | set(method.unsure(embedding, parameters)), name
