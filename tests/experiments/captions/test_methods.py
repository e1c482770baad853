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
from tests.experiments.made_up_parameters import parameters_of

BATCH, DIMENSION = 6, 5
OPTIONS = {"num_samples": 2, "weight": 0.1}


PICTURES, WORDS = Pictures(8, 24, (2, 3)), Words(9, 4, 8)
FEATURES = Features(6, 8), Features(7, 8)  # of small towers, where these are not the point


def model_of(method, *, image=PICTURES, text=WORDS):
    return Model(method, DIMENSION, image, text)


def batch_of_features():
    random = np.random.default_rng(5)
    sides = (random.normal(size=(BATCH, 3, n)).astype(np.float32) for n in (6, 7))
    return Batch(*sides, np.eye(BATCH, dtype=np.float32))


def begin(model, optimizer):
    @jax.jit
    def start(key):
        return training.begin(key, model.initialize(jax.random.key(0)), optimizer)

    return start(jax.random.key(1))


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH, 8, 24)).astype(np.uint8)
    texts = random.integers(1, 9, (BATCH, 4)).astype(np.int32)
    texts[:, 3] = 0
    return Batch(images, texts, np.eye(BATCH, dtype=np.float32))


@pytest.mark.parametrize(
    ("method", "towers"),
    [
        ("pcme", "pictures"),
        ("prolip", "features"),
        ("meru", "features"),
        pytest.param("prolip", "pictures", marks=pytest.mark.slow),
        pytest.param("meru", "pictures", marks=pytest.mark.slow),
    ],
)
def test_a_step_changes_every_parameter_and_all_stay_finite(method, towers, batch):
    model = model_of(method)
    if towers == "features":
        model, batch = model_of(method, image=FEATURES[0], text=FEATURES[1]), batch_of_features()
    optimizer = optax.adam(1e-3)
    state = begin(model, optimizer)
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


class Given:
    """A model whose embeddings are known."""

    def __init__(self, method, sides):
        self.method, self.sides = method, sides

    def embed_images(self, *_):
        return self.sides[0]

    def embed_texts(self, *_):
        return self.sides[1]


def points_of(random):
    """Gaussians of unit variance, of both sides."""
    means = random.normal(size=(2, BATCH, DIMENSION)).astype(np.float32)
    return [DiagonalGaussian(mean, np.zeros_like(mean)) for mean in means]


def test_losses_are_those_of_probemb_for_an_image_and_its_text(batch):
    points = points_of(np.random.default_rng(1))
    bare = [p.mean for p in points]

    @jax.jit
    def losses(bare, points):
        parameters = {"log_scale": jnp.log(2.0), "shift": jnp.float32(0.5)}
        sides = {"info_nce": bare, "siglip": bare, "triplet": bare, "pcmepp": points}
        found = {
            method: two_towers.loss(
                Given(method, of), parameters, jax.random.key(0), batch, **OPTIONS
            )
            for method, of in sides.items()
        }
        bottleneck = 0.1 * 0.5 * sum((m**2).sum() for m in bare) / BATCH  # of unit variances
        pcmepp = probemb.pcmepp(*points, negative_scale=2.0, shift=0.5, kl_weight=0)
        expected = {
            "info_nce": probemb.info_nce(*points, logit_scale=2.0),
            "siglip": probemb.siglip(*points, logit_scale=2.0, logit_bias=0.5),
            "triplet": probemb.triplet(*points, margin=0.1) / BATCH,
            "pcmepp": BATCH * pcmepp + bottleneck,
        }
        return found, expected

    found, expected = losses(bare, points)
    for method, value in found.items():
        rtol = 1e-5 if method == "pcmepp" else 1e-6
        np.testing.assert_allclose(value, expected[method], rtol=rtol, err_msg=method)


def test_labels_count(batch):
    """All pairs as matches give another loss than the diagonal alone."""
    points = points_of(np.random.default_rng(2))
    parameters = {"log_scale": np.float32(0.0), "shift": np.float32(0.5)}

    @jax.jit
    @jax.vmap
    def loss(labels):
        model, of_labels = Given("pcmepp", points), batch._replace(labels=labels)
        return two_towers.loss(model, parameters, jax.random.key(0), of_labels, **OPTIONS)

    diagonal, every = loss(np.stack([batch.labels, np.ones_like(batch.labels)]))
    assert abs(diagonal - every) > 0.1


def test_scores_are_the_logits_of_each_method():
    random = np.random.default_rng(3)
    image, text = (
        DiagonalGaussian(
            random.normal(size=(n, DIMENSION)).astype(np.float32),
            (random.normal(size=(n, DIMENSION)) - 2.0).astype(np.float32),
        )
        for n in (4, 3)
    )
    parameters = {"log_scale": np.log(3.0), "shift": 0.25, "log_curvature": np.log(0.5)}
    parameters = {name: np.float32(value) for name, value in parameters.items()}

    @functools.partial(jax.jit, static_argnums=0)
    def scores(method, *sides):
        return METHODS[method].scores(*sides, parameters)

    apart = ((image.mean[:, None] - text.mean) ** 2).sum(2)
    variances = [np.exp(p.log_variance) for p in (image, text)]
    traces = variances[0].sum(1)[:, None] + variances[1].sum(1)
    np.testing.assert_allclose(
        scores("pcmepp", image, text), 0.25 - 3 * (apart + traces), rtol=1e-4
    )
    inner = image.mean @ text.mean.T
    np.testing.assert_allclose(
        scores("prolip", image, text), 3 * (inner - 0.5 * traces) + 0.25, rtol=1e-4, atol=1e-4
    )
    x, y = (
        random.normal(p.mean, np.sqrt(variance), (20_000, *p.mean.shape))
        for p, variance in zip((image, text), variances, strict=True)
    )
    distance = np.linalg.norm(x[:, :, None] - y[:, None], axis=3)
    match = (1.0 / (1.0 + np.exp(3 * distance - 0.25))).mean(0)
    found = 1.0 / (1.0 + np.exp(-np.asarray(scores("pcme", image, text))))
    np.testing.assert_allclose(found, match, rtol=0.1, atol=0.01)
    cosine = inner / np.outer(*(np.linalg.norm(p.mean, axis=1) for p in (image, text)))
    np.testing.assert_allclose(
        scores("siglip", image.mean, text.mean), 3 * cosine + 0.25, rtol=1e-4
    )
    # On the hyperboloid of curvature -1/2 with its time component.
    lifted = []
    for p in (image, text):
        v = p.mean.astype(np.float64)
        length = np.sqrt(0.5) * np.linalg.norm(v, axis=1, keepdims=True)
        space = np.sinh(length) / length * v
        lifted.append((space, np.sqrt(2.0 + (space**2).sum(1))))
    inner = lifted[0][0] @ lifted[1][0].T - np.outer(lifted[0][1], lifted[1][1])
    np.testing.assert_allclose(
        scores("meru", image.mean, text.mean), -3 * np.arccosh(-0.5 * inner) * np.sqrt(2), rtol=1e-4
    )


def test_features_take_the_place_of_pictures_and_words():
    model = model_of("pcmepp", image=FEATURES[0], text=FEATURES[1])
    features = np.random.default_rng(4).normal(size=(2, 3, 6)).astype(np.float32)

    @jax.jit
    def embedded(parameters):
        image, scaled = (model.embed_images(parameters, k * features) for k in (1.0, 1e4))
        return image, scaled, model.embed_texts(parameters, np.ones((5, 1, 7), np.float32))

    image, scaled, text = embedded(parameters_of(model))
    chex.assert_trees_all_close(image, scaled, rtol=1e-2, atol=1e-3)
    assert image.mean.shape == (2, DIMENSION) and text.log_variance.shape == (5, DIMENSION)


def test_a_method_is_one_record(monkeypatch):
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
    model, optimizer = model_of("toy", image=FEATURES[0], text=FEATURES[1]), optax.sgd(1e-3)
    batch = batch_of_features()
    state = begin(model, optimizer)
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

        def unsure(method=method):
            parameters = {"log_scale": 0.0, "shift": 0.0, **method.learned(DIMENSION)}
            points = jnp.ones((2, DIMENSION))
            embedding = DiagonalGaussian(points, -points) if method.is_distribution else points
            return method.unsure(embedding, parameters)

        assert method.judged_by in of_scores | set(jax.eval_shape(unsure)), name
