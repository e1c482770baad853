import functools

import chex
import jax
import jax.numpy as jnp
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
def numbers(tmp_path_factory):
    return n_digit_mnist.load("sklearn", 2, "number", tmp_path_factory.mktemp("data"))["train"]


def model(kind):
    return Model(kind, dimension=2, height=8, width=16, channels=(2, 3))


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
    of_points = model("point")
    parameters = of_points.initialize(jax.random.key(0))
    z = np.asarray(of_points.embed(parameters, images.reshape(-1, 8, 16)), np.float64)
    z = z.reshape(4, 6, 2)
    a, b = np.exp(float(parameters["log_negative_scale"])), float(parameters["shift"])
    logits = b - a * np.linalg.norm(z[[0, 2, 0, 1]] - z[[1, 3, 2, 3]], axis=-1)
    signs = np.array([1.0, 1.0, -1.0, -1.0])[:, None]
    expected = np.log1p(np.exp(-signs * logits)).mean()
    loss = hedged_model.loss(
        of_points, parameters, jax.random.key(0), images, num_samples=8, bottleneck_weight=1.0
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_narrow_gaussians_are_points(numbers):
    """With the point's mean, no variance and no bottleneck, a Gaussian has the point's loss."""
    images = batches(numbers)[0]
    point, gaussian = model("point"), model("gaussian")
    of_point, of_gaussian = (
        point.initialize(jax.random.key(0)),
        gaussian.initialize(jax.random.key(1)),
    )
    of_gaussian["network"]["tower"] = of_point["network"]["tower"]
    of_gaussian["shift"] = of_point["shift"]
    head = of_gaussian["network"]["head"]
    head["mean"] = of_point["network"]["head"]["linear"]
    head["log_variance"] = {
        "kernel": jnp.zeros_like(head["log_variance"]["kernel"]),
        "bias": jnp.full_like(head["log_variance"]["bias"], -30.0),
    }
    options = {"num_samples": 4, "bottleneck_weight": 0.0}
    losses = [
        hedged_model.loss(m, parameters, jax.random.key(0), images, **options)
        for m, parameters in ((point, of_point), (gaussian, of_gaussian))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, numbers):
    images = batches(numbers)[0][:, :2]
    embedding = model(kind)
    with jax.enable_x64(True):
        parameters = jax.tree.map(
            lambda x: x.astype(jnp.float64), embedding.initialize(jax.random.key(0))
        )

        def loss(parameters):
            return hedged_model.loss(
                embedding,
                parameters,
                jax.random.key(0),
                images,
                num_samples=2,
                bottleneck_weight=1e-3,
            )

        head = parameters["network"].pop("head")

        @jax.jit
        def of_head(head, log_negative_scale, shift):
            network = {**parameters["network"], "head": head}
            return loss(
                {"network": network, "log_negative_scale": log_negative_scale, "shift": shift}
            )

        arguments = (head, parameters["log_negative_scale"], parameters["shift"])
        check_grads(of_head, arguments, order=1, modes=["rev"], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_where_all_images_are_the_same(kind):
    images = np.zeros((4, 3, 8, 16), np.uint8)
    embedding = model(kind)
    gradient = jax.jit(
        jax.grad(
            lambda p: hedged_model.loss(
                embedding, p, jax.random.key(0), images, num_samples=8, bottleneck_weight=1e-4
            )
        )
    )(embedding.initialize(jax.random.key(0)))
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_pure_and_learns(kind, numbers):
    chex.clear_trace_counter()
    embedding, optimizer = model(kind), optax.sgd(0.1)
    state = training.begin(jax.random.key(0), embedding.initialize(jax.random.key(0)), optimizer)

    def step(state, images):
        return hedged_model.train_step(
            embedding, optimizer, state, images, num_samples=4, bottleneck_weight=1e-4
        )

    data = batches(numbers)
    compiled = jax.jit(chex.assert_max_traces(step, n=1))
    first, metrics = compiled(state, data[0])
    eager, _ = step(state, data[0])
    chex.assert_trees_all_close(first.parameters, eager.parameters, atol=1e-5)
    chex.assert_trees_all_equal(compiled(state, data[0])[0], first)
    assert int(first.step) == 1 and set(metrics) == {"loss", "negative_scale", "shift"}
    other = compiled(state._replace(key_data=state.key_data + 1), data[0])[1]
    assert (other["loss"] == metrics["loss"]) == (kind == "point")  # the key is for samples
    losses = []
    for _ in range(300):
        state, metrics = compiled(state, data[0])
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_samples():
    for kind, number in (("point", 1), ("gaussian", 8), ("mixture", 8)):
        embedding = model(kind)
        one = embedding.embed(
            embedding.initialize(jax.random.key(0)), np.zeros((1, 8, 16), np.uint8)
        )
        one = jax.tree.map(lambda x: x[0], one)
        points, log_weights = embedding.samples(jax.random.key(0), one, 8)
        assert points.shape == (number, 2)
        np.testing.assert_allclose(jnp.exp(log_weights).sum(), 1.0, rtol=1e-5)
