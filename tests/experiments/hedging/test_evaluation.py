import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import probemb
from experiments.data import occlusion
from experiments.data.labelled import Labelled
from experiments.hedging import evaluation
from experiments.hedging import model as hedged_model
from experiments.hedging.model import Model
from experiments.runs import training

initialize = jax.jit(Model.initialize, static_argnums=0)
embed = jax.jit(Model.embed, static_argnums=0)


@pytest.fixture(scope="module")
def split():
    random = np.random.default_rng(0)
    numbers = np.repeat([3, 14, 15, 92], [10, 8, 6, 7])
    images = random.integers(1, 256, (len(numbers), 8, 16), np.uint8)
    return Labelled(images, numbers)


def make_trials(split, **options):
    corrupt = functools.partial(occlusion.occlude, num_digits=2)
    options = {"num_queries": 100, "num_pairs": 400, "seed": 0, **options}
    return evaluation.trials(split, corrupt=corrupt, **options)


def test_gallery_and_queries_share_no_image(split):
    clean, corrupt = make_trials(split).values()
    gallery = {image.tobytes() for image in clean.gallery.images}
    queries = {image.tobytes() for image in clean.queries.images}
    assert not gallery & queries and len(gallery) + len(queries) == len(split.labels)
    np.testing.assert_array_equal(clean.gallery.images, corrupt.gallery.images)
    np.testing.assert_array_equal(clean.queries.labels, corrupt.queries.labels)
    changed = (clean.queries.images != corrupt.queries.images).any((1, 2))
    assert changed.mean() > 0.8


def test_pairs_are_half_matches_of_different_images(split):
    trial = make_trials(split, num_pairs=4001)["clean"]
    assert trial.match.sum() == 2000 and len(trial.match) == 4001
    assert (trial.first != trial.second).all()
    labels = trial.queries.labels
    np.testing.assert_array_equal(labels[trial.first] == labels[trial.second], trial.match)
    assert set(trial.first) == set(trial.second) == set(range(len(labels)))


def test_trials_repeat_with_their_seed(split):
    first, again, other = (make_trials(split, seed=seed)["corrupt"] for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert (first.first != other.first).any()


def test_too_few_queries(split):
    with pytest.raises(ValueError, match="num_queries must leave two labels"):
        make_trials(split, num_queries=1)


def test_too_small_a_gallery():
    few = Labelled(np.zeros((8, 8, 16), np.uint8), np.arange(8) % 4)
    with pytest.raises(ValueError, match=r"the test split must leave 5 images .*, got 4 of 8"):
        make_trials(few)


def test_vote():
    votes = np.array([[1, 2, 2, 1, 3], [5, 6, 7, 8, 9], [4, 4, 4, 2, 2]])
    weights = np.array([[0.9, 0.1, 0.2, 0.3, 1.0], [0.1, 0.2, 0.5, 0.2, 0.1], [0, 0, 0, 1, 1]])
    assert evaluation.vote(votes, weights).tolist() == [1, 7, 4]


@pytest.mark.parametrize(
    "kind", ["point", pytest.param("gaussian", marks=pytest.mark.slow), "mixture"]
)
def test_outcome(kind, split):
    model = Model(kind, dimension=2, height=8, width=16, channels=(2, 3))
    parameters = initialize(model, jax.random.key(0))
    trial = make_trials(split, num_queries=9, num_pairs=60)["corrupt"]
    outcome = evaluation.evaluate(model, parameters, trial, num_samples=400, key=jax.random.key(0))
    both = np.concatenate([trial.gallery.images, trial.queries.images])
    both = jax.tree.map(np.asarray, embed(model, parameters, both))
    queries = jax.tree.map(lambda x: x[len(trial.gallery.images) :], both)
    options = {"negative_scale": 1.0, "shift": parameters["shift"]}

    def expected(p, q):
        """Independent of samples: the distance of points, or the quadrature."""
        if kind == "point":
            return jax.nn.sigmoid(options["shift"] - jnp.linalg.norm(p - q))
        return probemb.expected_match_probability(p, q, **options)

    every = jax.jit(jax.vmap(jax.vmap(expected, (None, 0)), (0, None)))
    to_gallery, to_queries = np.split(every(queries, both), [len(trial.gallery.images)], axis=1)
    tolerance = 1e-5 if kind == "point" else 0.06  # unequal variances, and 400 samples
    np.testing.assert_allclose(outcome.match_to_gallery, to_gallery, atol=tolerance)
    pairs = to_queries[trial.first, trial.second]
    np.testing.assert_allclose(outcome.match_of_pairs, pairs, atol=5 * tolerance)
    nearest = np.argsort(-outcome.match_to_gallery, 1)[:, :5]
    np.testing.assert_array_equal(np.sort(trial.gallery.labels[nearest]), np.sort(outcome.votes))
    for number, votes in zip(outcome.predicted, outcome.votes, strict=True):
        counts = np.bincount(votes)
        assert counts[number] == counts.max()
    if kind == "point":
        norm = np.linalg.norm(queries, axis=1)
        np.testing.assert_allclose(outcome.uncertainty["minus norm"], -norm, rtol=1e-5)
    else:
        eta = 1.0 - np.diag(to_queries)
        np.testing.assert_allclose(outcome.uncertainty["eta"], eta, atol=0.06)
        total = np.asarray(queries.variance.sum(-1))
        np.testing.assert_allclose(outcome.uncertainty["total variance"], total, rtol=1e-5)


def test_embed_any_number_of_images(split):
    model = Model("gaussian", dimension=2, height=8, width=16, channels=(2, 3))
    parameters = initialize(model, jax.random.key(0))
    images = np.resize(split.images, (703, 8, 16))
    together = evaluation.embed(model, parameters, images)
    chex.assert_trees_all_close(together, embed(model, parameters, images), atol=1e-5)


def test_an_ensemble_is_certain_where_its_members_agree():
    gallery = Labelled(np.zeros((6, 8, 16), np.uint8), np.array([1, 1, 1, 1, 1, 2]))
    trial = evaluation.Trial(gallery, gallery, *(np.zeros(0, int) for _ in range(3)))

    def outcome(matrix):
        votes, predicted = evaluation.nearest(matrix, gallery.labels)
        return evaluation.Outcome(matrix, predicted, np.array([0.2]), {}, votes)

    agreed = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.1], [0.9, 0.8, 0.7, 0.6, 0.1, 0.95]])
    both = evaluation.ensemble([outcome(agreed), outcome(agreed[:, ::-1])], trial)
    np.testing.assert_allclose(both.match_to_gallery, (agreed + agreed[:, ::-1]) / 2)
    every = np.concatenate([outcome(agreed).votes, outcome(agreed[:, ::-1]).votes], 1)
    for votes, entropy in zip(every, both.uncertainty["entropy of votes"], strict=True):
        share = np.unique(votes, return_counts=True)[1] / 10
        np.testing.assert_allclose(entropy, -(share * np.log(share)).sum(), atol=1e-12)
    assert (both.predicted == 1).all()


def test_colored_images_of_any_labels_are_learned():
    """Another data set: images of three channels that differ in nothing but their color.

    They are as bright as each other, so that a tower that mixes channels up tells none apart.
    """
    random = np.random.default_rng(0)
    labels = np.repeat([7, -1, 30], 12)
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    images[np.arange(len(labels)), ..., np.unique(labels, return_inverse=True)[1]] = (
        random.integers(100, 256, (len(labels), 8, 8))
    )
    split, corrupt = Labelled(images, labels), functools.partial(occlusion.occlude, num_digits=1)
    model = Model("gaussian", 2, 8, 8, (2, 3), split.image_channels)
    batches = hedged_model.batches(
        split, 60, seed=0, quadruples=6, corrupt=corrupt, probability=0.2
    )
    optimizer = optax.adam(0.02)
    options = {"num_samples": 4, "bottleneck_weight": 1e-4}
    step = jax.jit(functools.partial(hedged_model.train_step, model, optimizer, **options))
    parameters = initialize(model, jax.random.key(0))
    state = jax.jit(lambda: training.begin(jax.random.key(0), parameters, optimizer))()
    for place in range(60):
        state, _ = step(state, batches[place])
    trial = evaluation.trials(split, corrupt=corrupt, num_queries=18, num_pairs=50, seed=0)["clean"]
    found = evaluation.evaluate(
        model, state.parameters, trial, num_samples=4, key=jax.random.key(0)
    )
    assert found.match_to_gallery.shape == (18, 18) and found.uncertainty["eta"].shape == (18,)
    assert (found.predicted == trial.queries.labels).mean() > 0.9
