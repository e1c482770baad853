import functools

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from experiments.adapters import training
from experiments.adapters.training import METHODS, OWN_WEIGHT, Batch, Model
from experiments.captions.retrieval import SIDES
from experiments.data.embedding_files import Embeddings, PairedEmbeddings, Part
from tests.experiments.made_up_parameters import parameters_of

DIMENSION = 4
# Text k belongs to image IMAGE_OF[k]; image 2 has none, image 5 has most.
IMAGE_OF = np.array([5, 0, 1, 5, 3, 4, 5, 5, 0, 5])
PART = Part(np.array([0, 3, 4, 5]), np.array([0, 1, 3, 4, 5, 6, 7, 8]))


def side(vectors):
    norms = np.linalg.norm(vectors, axis=1)
    ids = np.arange(len(vectors))
    return Embeddings(vectors, ids, True, None, False, (norms.min(), norms.max()), None, None)


@pytest.fixture(scope="module")
def paired():
    random = np.random.default_rng(0)
    images = random.normal(size=(6, DIMENSION)).astype(np.float32)
    texts = images[IMAGE_OF] + 0.3 * random.normal(size=(10, DIMENSION))
    return PairedEmbeddings(side(3.0 * images), side(2.0 * texts.astype(np.float32)), IMAGE_OF)


def model(method="probvlm", **options):
    options = {"hidden": (6,), "dropout": 0.1, "cross_modal_weight": 5.0} | options
    return Model(method, DIMENSION, **options)


# --- batches ------------------------------------------------------------------------------------


def drawn(paired, num_steps, seeds, batch_size=16):
    """The rows (step, seed, pair) of images and of texts in batches."""
    batches = training.batches(paired, PART, num_steps, seeds=seeds, batch_size=batch_size)
    found = []
    for vectors, side in zip(paired[:2], SIDES, strict=True):
        unit = vectors.vectors / np.linalg.norm(vectors.vectors, axis=1, keepdims=True)
        given = np.stack([getattr(batches[step], side) for step in range(num_steps)])
        assert given.shape == (num_steps, len(seeds), batch_size, DIMENSION)
        assert given.dtype == np.float32
        nearest = (given @ unit.T).argmax(-1)
        np.testing.assert_allclose(given, unit[nearest], rtol=1e-6)
        found.append(nearest)
    return found


def test_batches_hold_true_pairs_of_the_part(paired):
    images, texts = drawn(paired, 60, (0, 1))
    np.testing.assert_array_equal(IMAGE_OF[texts], images)
    assert set(texts.ravel().tolist()) == set(PART.texts.tolist())
    # An image is as frequent as any other, however many texts it has; so is a text of an image.
    counts = np.unique(images, return_counts=True)[1]
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    of_last = np.unique(texts[images == 5], return_counts=True)[1]
    assert len(of_last) == 4 and scipy.stats.chisquare(of_last).pvalue > 1e-3


def test_a_batch_is_a_function_of_seed_and_step(paired):
    both = drawn(paired, 4, (5, 9))
    for place, seed in enumerate((5, 9)):
        alone = drawn(paired, 6, (seed,))
        for found, expected in zip(alone, both, strict=True):
            np.testing.assert_array_equal(found[:4, 0], expected[:, place])
    texts = both[1].reshape(8, -1)
    assert len(np.unique(texts, axis=0)) == 8
    batches = training.batches(paired, PART, 4, seeds=(5, 9), batch_size=16)
    late = batches[3]
    np.testing.assert_array_equal(batches[0].image, batches[0].image)
    np.testing.assert_array_equal(batches[3].caption, late.caption)


# --- losses -------------------------------------------------------------------------------------


loss = jax.jit(training.loss, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def apply(adapter, parameters, batch):
    """The distributions of both sides."""
    both = zip(SIDES, batch, strict=True)
    return tuple(adapter.apply(parameters[side], embedding) for side, embedding in both)


def units(random, number):
    found = random.normal(size=(number, DIMENSION))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def explained(p, target):
    """The negative log-likelihood in nats per dimension, by SciPy."""
    if hasattr(p, "concentration"):
        pairs = zip(p.mean_direction, p.concentration, target, strict=True)
        values = [
            scipy.stats.vonmises_fisher(np.asarray(m, np.float64), float(k)).logpdf(z)
            for m, k, z in pairs
        ]
        return -np.mean(values) / DIMENSION
    if hasattr(p, "shape"):
        p = [np.asarray(x, np.float64) for x in p]
        return -scipy.stats.gennorm.logpdf(target, p[2], p[0], p[1]).mean()
    return -scipy.stats.norm.logpdf(target, p.mean, np.exp(0.5 * p.log_variance)).mean()


def released(p, target):
    """The same as the release computes it: a linear residual, and no log 2."""
    location, scale, shape = (np.asarray(x, np.float64) for x in p)
    inverse, shape = 1.0 / scale + 1e-4, shape + 1e-4
    residual = np.clip(np.abs(target - location) * inverse * shape, 1e-4, 1e3)
    gamma = scipy.special.gammaln(1.0 / shape)
    return np.mean(residual - np.log(inverse) + gamma - np.log(shape))


def expected_loss(method, image, text, batch):
    """What the table says of each method, with lambda = 5."""
    if method == "pfe":
        variance = np.exp(image.log_variance) + np.exp(text.log_variance)
        difference = np.square(np.asarray(image.mean) - text.mean)
        return 0.5 * np.mean(difference / variance + np.log(2.0 * np.pi * variance))
    if method == "bayescap":
        apart = [
            np.square(p[0] - z).sum(1).mean() for p, z in ((image, batch[0]), (text, batch[1]))
        ]
        return 10.0 * sum(apart) + explained(image, batch[1]) + explained(text, batch[0])
    weight = 1e-4 if method.endswith("_own") else 5.0
    of = released if method.startswith("released") else explained
    within = of(image, batch[0]) + of(text, batch[1])
    return within + weight * (of(image, batch[1]) + of(text, batch[0]))


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_is_what_its_method_says(method):
    random = np.random.default_rng(1)
    batch = Batch(units(random, 7), units(random, 7))
    some = model(method, dropout=0.0)
    parameters = parameters_of(some)
    image, text = apply(some.adapter, parameters, batch)
    found = loss(some, parameters, jax.random.key(1), batch)
    assert found.shape == ()
    np.testing.assert_allclose(found, expected_loss(method, image, text, batch), rtol=1e-4)
    assert ("mean" in image._fields and np.array_equal(image[0], batch.image)) == (method == "pfe")


def test_the_weight_is_in_the_programs_that_have_one():
    assert OWN_WEIGHT == 1e-4
    random = np.random.default_rng(1)
    batch = Batch(units(random, 7), units(random, 7))
    for method in METHODS:
        parameters = parameters_of(model(method))
        programs = []
        for weight in (0.0, 100.0):
            some = model(method, dropout=0.0, cross_modal_weight=weight)
            of = functools.partial(training.loss, some)
            programs.append(str(jax.make_jaxpr(of)(parameters, jax.random.key(1), batch)))
        has_weight = method in ("probvlm", "released", "gaussian", "von_mises_fisher")
        assert (programs[0] != programs[1]) == has_weight, method


def test_dropout_is_of_the_key_and_of_each_side():
    some = model(dropout=0.5)
    parameters = parameters_of(some)
    batch = Batch(*[units(np.random.default_rng(1), 7)] * 2)
    first, again, other = (
        float(loss(some, parameters, jax.random.key(seed), batch)) for seed in (0, 0, 1)
    )
    assert first == again != other


# --- training -----------------------------------------------------------------------------------


STEPS = 12


def train(paired, folder, seeds, **options):
    return training.train(
        model(**options),
        paired,
        PART,
        folder,
        seeds=seeds,
        num_steps=STEPS,
        batch_size=8,
        learning_rate=0.02,
        checkpoint_every=100,
        log_every=100,
    )


@pytest.fixture(scope="module")
def together(paired, tmp_path_factory):
    return train(paired, tmp_path_factory.mktemp("together"), (3, 2**32 - 1))


def test_seeds_trained_at_once_are_seeds_trained_alone(paired, together, tmp_path):
    """With dropout: each has its own start, batches and keys."""
    assert set(together) == set(SIDES)
    alone = train(paired, tmp_path, (2**32 - 1,))
    jax.tree.map(
        lambda one, both: np.testing.assert_allclose(one[0], both[1], rtol=1e-4, atol=1e-5),
        alone,
        together,
    )
    for leaf in jax.tree.leaves(together):
        assert not np.allclose(leaf[0], leaf[1], atol=1e-3)
    kernels = (together[side]["hidden"][0]["kernel"] for side in SIDES)
    assert not np.allclose(*kernels, atol=1e-3)


def test_training_explains_the_partner(paired, together):
    some = model()
    batch = training.batches(paired, PART, 1, seeds=(0,), batch_size=64)[0]
    image, text = pair = batch.image[0], batch.caption[0]
    start = jax.jit(some.initialize)(jax.random.key(3))
    end = jax.tree.map(lambda leaf: np.asarray(leaf)[0], together)
    losses = []
    for parameters in (start, end):
        of_image, of_text = apply(some.adapter, parameters, pair)
        losses.append(explained(of_image, text) + explained(of_text, image))
    assert losses[1] < losses[0] - 0.1
