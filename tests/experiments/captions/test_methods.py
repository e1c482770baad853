import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import probemb
from experiments.captions import methods
from experiments.captions.methods import Batch, Features, Model, Pictures, Words
from experiments.runs import training
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
    step = jax.jit(functools.partial(methods.train_step, model, optimizer, **OPTIONS))
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
        return methods.loss(Given(method, sides), parameters, jax.random.key(0), batch, **OPTIONS)

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
        return methods.loss(
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
        return np.asarray(methods.scores(model_of(method), parameters, *sides))

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


@pytest.mark.parametrize(
    "inputs",
    [
        np.full((400, 8, 24), 9, np.uint8),
        np.full((400, 12), 3, np.int32),
        np.full((400, 9, 2), 0.5, np.float32),
    ],
    ids=["pictures", "words", "features"],
)
def test_three_quarters_are_masked_whatever_the_inputs(inputs):
    found = np.asarray(methods.masked(jax.random.key(0), jnp.asarray(inputs)))
    assert found.shape == inputs.shape and found.dtype == inputs.dtype
    assert set(np.unique(found)) == {0, inputs.flat[0]}
    assert abs((found == 0).mean() - 0.75) < 0.03
    if inputs.dtype == np.uint8:  # in cells
        cells = found.reshape(400, 2, 4, 6, 4).swapaxes(2, 3).reshape(400, 12, 16)
        assert (cells.min(2) == cells.max(2)).all()


class TestBatches:
    images = np.arange(10)[:, None].astype(np.uint8)
    texts = np.arange(30)[:, None].astype(np.int32)
    annotations = np.stack([np.repeat(np.arange(2, 10), 3), np.arange(24)], 1)

    def batches(self, **options):
        arguments = {"seed": 0, "batch_size": 5, **options}
        return methods.batches(self.images, self.texts, self.annotations, 40, **arguments)

    def test_images_differ_and_captions_are_theirs(self):
        seen = set()
        for batch in self.batches():
            image, text = batch.images[:, 0], batch.texts[:, 0]
            assert len(set(image.tolist())) == 5
            assert (text // 3 + 2 == image).all()
            np.testing.assert_array_equal(batch.labels, np.eye(5))
            seen |= set(text.tolist())
        assert seen == set(range(24))

    def test_a_batch_is_a_function_of_seed_and_place(self):
        chex.assert_trees_all_equal(self.batches()[7], self.batches()[7])
        same = [(self.batches()[k].texts == self.batches(seed=1)[k].texts).all() for k in range(5)]
        assert not all(same)

    def test_labels_are_what_is_true_where_that_is_given(self):
        positives = np.random.default_rng(0).random((10, 30)) < 0.5
        for batch in self.batches(positives=positives):
            np.testing.assert_array_equal(
                batch.labels, positives[batch.images[:, 0]][:, batch.texts[:, 0]]
            )

    @pytest.mark.parametrize("batch_size", [1, 9])
    def test_bad_batch_size(self, batch_size):
        with pytest.raises(ValueError, match=rf"batch_size must lie in 2..8.*got {batch_size}"):
            self.batches(batch_size=batch_size)
