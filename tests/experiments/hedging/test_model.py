import functools

import chex
import jax
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from experiments.data import n_digit_mnist, occlusion
from experiments.hedging import model as hedged_model
from experiments.hedging.model import Model
from experiments.runs import training

KINDS = ("point", "gaussian", "mixture")


@pytest.fixture(scope="module")
def numbers(datasets):
    return n_digit_mnist.load("sklearn", 2, "number", datasets)["train"]


def model(kind):
    return Model(kind, dimension=2, height=8, width=16, channels=(2, 3))


embed = jax.jit(Model.embed, static_argnums=0)


def loss(embedding, parameters, images, *, num_samples, bottleneck_weight):
    options = {"num_samples": num_samples, "bottleneck_weight": bottleneck_weight}
    return hedged_model.loss(embedding, parameters, jax.random.key(0), images, **options)


@functools.cache
def stepping(kind):
    """The first state, and a step on (4, 6, 8, 16) images, as it is and compiled."""
    chex.clear_trace_counter()  # it counts by name
    embedding, optimizer = model(kind), optax.sgd(0.1)

    def start():
        parameters = embedding.initialize(jax.random.key(0))
        return training.begin(jax.random.key(0), parameters, optimizer)

    def step(state, images):
        return hedged_model.train_step(
            embedding, optimizer, state, images, num_samples=4, bottleneck_weight=1e-4
        )

    return jax.jit(start)(), step, jax.jit(chex.assert_max_traces(step, n=1))


def batches(numbers, seed=0, probability=0.2):
    return hedged_model.batches(
        numbers,
        50,
        seed=seed,
        quadruples=6,
        corrupt=functools.partial(occlusion.occlude, num_digits=2),
        probability=probability,
    )


def test_batches_pair_two_images_of_a_number_with_two_of_another(numbers):
    number_of = {image.tobytes(): n for image, n in zip(*numbers, strict=True)}
    data = batches(numbers, probability=0.0)
    for step in range(50):
        images = data[step]
        assert images.shape == (4, 6, 8, 16) and images.dtype == np.uint8
        shown = np.array([[number_of[image.tobytes()] for image in row] for row in images])
        assert (shown[0] == shown[1]).all() and (shown[2] == shown[3]).all()
        assert (shown[0] != shown[2]).all()
        assert (images[0] != images[1]).any((1, 2)).all()  # two different images


def test_batches_are_a_function_of_seed_and_step(numbers):
    first, again, other = (batches(numbers, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[7], again[7])
    assert (first[7] != first[8]).any() and (first[7] != other[7]).any()


def test_every_number_is_drawn(numbers):
    number_of = {image.tobytes(): n for image, n in zip(*numbers, strict=True)}
    data = batches(numbers, probability=0.0)
    seen = {number_of[image.tobytes()] for step in range(50) for image in data[step][0]}
    assert len(seen) > 0.9 * 70


def test_the_loss_of_points_is_written_out(numbers):
    images = batches(numbers)[0]
    state, _, step = stepping("point")
    parameters = state.parameters
    z = np.asarray(embed(model("point"), parameters, images.reshape(-1, 8, 16)), np.float64)
    z = z.reshape(4, 6, 2)
    a, b = np.exp(float(parameters["log_negative_scale"])), float(parameters["shift"])
    logits = b - a * np.linalg.norm(z[[0, 2, 0, 1]] - z[[1, 3, 2, 3]], axis=-1)
    signs = np.array([1.0, 1.0, -1.0, -1.0])[:, None]
    expected = np.log1p(np.exp(-signs * logits)).mean()
    np.testing.assert_allclose(step(state, images)[1]["loss"], expected, rtol=1e-5)


def test_narrow_gaussians_are_points(numbers):
    """With the point's mean, no variance and no bottleneck, a Gaussian has the point's loss."""
    images = batches(numbers)[0]
    of_point, _, step = stepping("point")
    parameters = of_point.parameters
    of_gaussian = jax.tree.map(np.asarray, stepping("gaussian")[0].parameters)
    of_gaussian["network"]["tower"] = parameters["network"]["tower"]
    of_gaussian["shift"] = parameters["shift"]
    head = of_gaussian["network"]["head"]
    head["mean"] = parameters["network"]["head"]["linear"]
    head["log_variance"] = {
        "kernel": np.zeros_like(head["log_variance"]["kernel"]),
        "bias": np.full_like(head["log_variance"]["bias"], -30.0),
    }
    narrow = functools.partial(loss, model("gaussian"), num_samples=4, bottleneck_weight=0.0)
    expected = step(of_point, images)[1]["loss"]
    np.testing.assert_allclose(jax.jit(narrow)(of_gaussian, images), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, numbers):
    images = batches(numbers)[0][:, :2]
    embedding = model(kind)
    with jax.enable_x64(True):
        parameters = stepping(kind)[0].parameters
        parameters = jax.tree.map(lambda x: np.asarray(x, np.float64), parameters)
        head = parameters["network"].pop("head")

        @jax.jit
        def of_head(head, log_negative_scale, shift):
            network = {**parameters["network"], "head": head}
            of = {"network": network, "log_negative_scale": log_negative_scale, "shift": shift}
            return loss(embedding, of, images, num_samples=2, bottleneck_weight=1e-3)

        arguments = (head, parameters["log_negative_scale"], parameters["shift"])
        check_grads(of_head, arguments, order=1, modes=["rev"], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_where_all_images_are_the_same(kind):
    state, _, step = stepping(kind)
    after, _ = step(state, np.zeros((4, 6, 8, 16), np.uint8))
    chex.assert_tree_all_finite(after.parameters)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_pure_and_learns(kind, numbers):
    state, _, step = stepping(kind)
    images = batches(numbers)[0]
    first, metrics = step(state, images)
    chex.assert_trees_all_equal(step(state, images)[0], first)
    assert int(first.step) == 1 and set(metrics) == {"loss", "negative_scale", "shift"}
    other = step(state._replace(key_data=state.key_data + 1), images)[1]
    assert (other["loss"] == metrics["loss"]) == (kind == "point")  # the key is for samples
    losses = []
    for _ in range(300):
        state, metrics = step(state, images)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_same_operation_by_operation(kind, numbers):
    state, step, compiled = stepping(kind)
    images = batches(numbers)[0]
    found = [of(state, images)[0].parameters for of in (compiled, step)]
    chex.assert_trees_all_close(*found, atol=1e-5)


@pytest.mark.parametrize(("kind", "number"), [("point", 1), ("gaussian", 8), ("mixture", 8)])
def test_samples(kind, number):
    embedding = model(kind)

    @jax.jit
    def samples():
        parameters = embedding.initialize(jax.random.key(0))
        one = embedding.embed(parameters, np.zeros((1, 8, 16), np.uint8))
        one = jax.tree.map(lambda x: x[0], one)
        return embedding.samples(jax.random.key(0), one, 8)

    points, log_weights = samples()
    assert points.shape == (number, 2)
    np.testing.assert_allclose(np.exp(log_weights).sum(), 1.0, rtol=1e-5)
