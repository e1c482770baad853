"""Eight host devices need a process of their own: their number is fixed when JAX starts."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import probemb
from probemb import DiagonalGaussian
from tests.properties.compilations import compilations

# Reads a loss, a way to compute it, a number of devices and the types of axes, as JSON; prints
# the greatest difference of value and gradient from one device, and, of what is called twice, how
# many programs the second call compiles.
PROGRAM = """
import functools, json, sys, traceback
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import probemb
from probemb import DiagonalGaussian, sharded
from probemb.numerics import bessel

bessel.RAISED = bessel._TERMS = 1  # less exact and sooner compiled; the ring is the same
B, D = 24, 5
key, *keys = jax.random.split(jax.random.key(0), 6)
mean, noise, *log_variances = (jax.random.normal(k, (B, D)) for k in keys[:4])
image = DiagonalGaussian(0.5 * mean, 0.3 * log_variances[0] - 2.0)
text = DiagonalGaussian(0.5 * mean + 0.3 * noise, 0.3 * log_variances[1] - 2.0)
soft = probemb.soft_labels(jax.random.permutation(keys[4], B), 0.7).astype(float)
losses = {
    "pcme": lambda of, p, q, s, y: of(probemb.pcme)(
        key, p, q, negative_scale=s, shift=s, num_samples=3, labels=y),
    "pcme_of_samples": lambda of, p, q, s, y: of(probemb.pcme_of_samples)(
        *(jnp.stack([x.mean, x.log_variance], 1) for x in (p, q)),
        negative_scale=s, shift=s, labels=y),
    "pcme_released": lambda of, p, q, s, y: of(probemb.pcme_released)(
        *(jnp.stack([x.mean, x.log_variance], 1) for x in (p, q)), negative_scale=s, shift=s),
    "pcme_quadrature": lambda of, p, q, s, y: of(probemb.pcme_quadrature)(
        p, q, negative_scale=s, shift=s, labels=y),
    "pcmepp": lambda of, p, q, s, y: of(probemb.pcmepp)(
        p, q, negative_scale=s, shift=s, kl_weight=0.1, labels=y),
    "prolip": lambda of, p, q, s, y: of(probemb.prolip)(
        p, q, logit_scale=s, logit_bias=-s, labels=y),
    "siglip": lambda of, p, q, s, y: of(probemb.siglip)(
        p, q, logit_scale=s, logit_bias=-s, labels=y),
    "info_nce": lambda of, p, q, s, y: of(probemb.info_nce)(p, q, logit_scale=s, labels=y),
    "triplet": lambda of, p, q, s, y: of(probemb.triplet)(p, q, margin=0.1 * s, labels=y),
    "meru": lambda of, p, q, s, y: of(probemb.meru)(
        p.mean, q.mean, logit_scale=s, curvature=s, labels=y),
    "entailment": lambda of, p, q, s, y: of(probemb.hyperbolic.entailment)(
        p.mean, q.mean, curvature=s),
    "uniformity": lambda of, p, q, s, y: of(probemb.uniformity)(
        p.mean * jnp.exp(q.mean), t=s),
}
rows, whole = PartitionSpec("batch"), PartitionSpec()
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event))


def with_gradient(loss, of, labels=None):
    return jax.value_and_grad(lambda p, q, s: losses[loss](of, p, q, s, labels), (0, 1, 2))


@functools.cache
def on_one_device(loss):
    return jax.jit(lambda labels: with_gradient(loss, lambda one: one, labels)(image, text, 2.0))


@functools.cache
def alone(loss, labelled):
    return on_one_device(loss)(soft if labelled else jnp.eye(B))


def eagerly(loss, mesh, labels):
    found = with_gradient(loss, lambda one: sharded(one, mesh), labels)(image, text, 2.0)
    jax.tree.map(jnp.add, found[1], (image, text, 2.0))  # of use beside arrays of one device
    compiled.clear()
    with_gradient(loss, lambda one: sharded(one, mesh), labels)(image, text, 2.5)
    return found


def of_sharded_arrays(loss, mesh, labels):
    batch = jax.device_put((image, text), NamedSharding(mesh, rows))
    return with_gradient(loss, lambda one: sharded(one, mesh), labels)(*batch, 2.0)


def jitted(loss, mesh, labels):
    return jax.jit(with_gradient(loss, lambda one: sharded(one, mesh), labels))(image, text, 2.0)


def jitted_in_context(loss, mesh, labels):
    with jax.set_mesh(mesh):
        return jitted(loss, mesh, labels)


def vmapped(loss, mesh, labels):
    run = with_gradient(loss, lambda one: sharded(one, mesh), labels)
    return jax.vmap(run)(*jax.tree.map(lambda x: jnp.stack([x, x]), (image, text, 2.0)))


def within(loss, mesh, labels):
    of = lambda one: functools.partial(one, axis_name="batch")
    local = lambda p, q, s, y: with_gradient(loss, of, y)(p, q, s)
    with jax.set_mesh(mesh):
        batch = jax.device_put((image, text), NamedSharding(mesh, rows))
        labels = None if labels is None else jax.device_put(labels, NamedSharding(mesh, rows))
        specs = rows, rows, whole, rows
        shared = jax.shard_map(local, in_specs=specs, out_specs=(whole, specs[:3]))
        return jax.jit(shared)(*batch, 2.0, labels)


def around(loss, mesh, labels):
    # The gradient of a compiled function, whose options are plain numbers.
    of = lambda one: functools.partial(one, axis_name="batch")
    local = lambda p, q: losses[loss](of, p, q, 2.0, None)
    with jax.set_mesh(mesh):
        batch = jax.device_put((image, text), NamedSharding(mesh, rows))
        shared = jax.jit(jax.shard_map(local, in_specs=(rows, rows), out_specs=whole))
        value, slopes = jax.value_and_grad(shared, (0, 1))(*batch)
    return value, (*slopes, alone(loss, False)[1][2])


for line in sys.stdin:
    try:
        loss, way, number, kind, labelled = json.loads(line)
        mesh = jax.make_mesh((number,), ("batch",), axis_types=(getattr(AxisType, kind),),
                             devices=jax.devices()[:number])
        expected = alone(loss, labelled)
        found = globals()[way](loss, mesh, soft if labelled else None)
        programs = compiled.count("/jax/core/compile/backend_compile_duration")
        apart = jax.tree.map(
            lambda x, y: np.max(np.abs(np.asarray(x) - np.asarray(y))), found, expected)
        print(json.dumps([float(max(jax.tree.leaves(apart))), programs]), flush=True)
    except Exception:
        print(json.dumps(traceback.format_exc()), flush=True)
"""


@pytest.fixture(scope="module")
def measured():
    """measured(loss, way, number, kind, labelled) asks the process with eight devices."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 " + os.environ["XLA_FLAGS"],
    }
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None and answers is not None

        def ask(*request):
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            answer = json.loads(answers.readline())
            assert not isinstance(answer, str), answer
            return answer

        yield ask
        process.kill()


LABELLED = ("pcme", "pcmepp", "prolip", "siglip", "info_nce", "triplet")


def slow(*values):
    """Long to compile, and the same ring as in the cases that are not slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


LOSSES = (
    *(*LABELLED, "uniformity", "pcme_of_samples", "pcme_released"),
    *(slow("pcme_quadrature"), "meru", "entailment"),
)


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
@pytest.mark.parametrize("loss", LOSSES)
def test_eagerly_it_equals_one_device_and_compiles_once(measured, loss, kind):
    difference, programs = measured(loss, "eagerly", 2, kind, False)
    assert difference < 1e-11
    assert programs == 0


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
@pytest.mark.parametrize("loss", [slow("pcmepp"), "prolip"])
def test_the_gradient_of_a_compiled_shard_map(measured, loss, kind):
    assert measured(loss, "around", 2, kind, False)[0] < 1e-11


@pytest.mark.parametrize(
    ("loss", "way", "number", "kind"),
    [
        *((loss, "jitted_in_context", 8, "Explicit") for loss in (*LABELLED, "uniformity")),
        *((loss, "jitted", 3, "Auto") for loss in ("prolip", "uniformity")),
        *(slow(loss, "jitted", 3, "Auto") for loss in LABELLED if loss != "prolip"),
    ],
)
def test_under_jit_it_equals_one_device(measured, loss, way, number, kind):
    assert measured(loss, way, number, kind, False)[0] < 1e-11


@pytest.mark.parametrize(
    "loss", ["pcme", "prolip", "info_nce", *map(slow, ("pcmepp", "siglip", "triplet"))]
)
def test_soft_labels_are_sharded_too(measured, loss):
    assert measured(loss, "of_sharded_arrays", 2, "Explicit", True)[0] < 1e-11


@pytest.mark.parametrize(
    ("loss", "number", "kind", "labelled"),
    [
        *((loss, 4, "Explicit", True) for loss in LABELLED),
        ("prolip", 3, "Auto", True),
        ("uniformity", 4, "Explicit", False),
        ("pcme_quadrature", 4, "Explicit", False),
        ("meru", 2, "Explicit", True),
        ("entailment", 2, "Explicit", False),
    ],
)
def test_within_a_shard_map_of_ones_own(measured, loss, number, kind, labelled):
    assert measured(loss, "within", number, kind, labelled)[0] < 1e-11


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
def test_vmap_equals_one_device(measured, kind):
    assert measured("prolip", "vmapped", 2, kind, True)[0] < 1e-11


P = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
LOGITS = {"logit_scale": 1.0, "logit_bias": 0.0}
MESH = Mesh(np.array(jax.devices()[:1]), ("batch",))


def test_labels_of_a_batch_of_one():
    p = DiagonalGaussian(jnp.ones((1, 2)), jnp.zeros((1, 2)))
    options = {"logit_scale": 10.0, "logit_bias": -10.0, "labels": jnp.ones((1, 1))}
    found = probemb.sharded(probemb.prolip, MESH)(p, p, **options)
    np.testing.assert_allclose(found, probemb.prolip(p, p, **options), rtol=1e-12)


def test_the_gradient_of_a_known_batch():
    p = DiagonalGaussian(jnp.eye(4), jnp.full((4, 4), -6.0))
    q = DiagonalGaussian(jnp.eye(4) + 0.05, jnp.full((4, 4), -5.0))
    loss = probemb.sharded(probemb.prolip, jax.make_mesh((1,), ("batch",)))
    slope = jax.grad(lambda p: loss(p, q, logit_scale=10.0, logit_bias=-10.0))(p)
    np.testing.assert_allclose(slope.mean.sum(), -5.05855, rtol=1e-6)


def test_made_anew_with_other_numbers_it_compiles_nothing():
    def run(number):
        by_scale = functools.partial(probemb.prolip, logit_bias=number)
        return (
            probemb.sharded(by_scale, MESH)(P, P, logit_scale=np.float32(number)),
            probemb.sharded(probemb.prolip, MESH)(P, P, logit_scale=number, logit_bias=int(number)),
        )

    expected = [probemb.prolip(P, P, logit_scale=x, logit_bias=x) for x in (1.0, 2.0)]
    np.testing.assert_allclose(run(1.0), expected[0], rtol=1e-12)
    with compilations() as again:
        second = run(2.0)
    assert not again
    np.testing.assert_allclose(second, expected[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: probemb.prolip(P, P, **LOGITS, axis_name="rows"), ValueError,
         "axis_name must name an axis of a surrounding shard_map, got 'rows'"),
        (lambda: probemb.uniformity(P.mean, axis_name="rows"), ValueError, "axis_name must name"),
        (lambda: probemb.sharded(probemb.prolip, MESH)(
            P, P, logit_scale=jnp.array(-1.0), logit_bias=0.0), ValueError,
         "logit_scale must be positive, got -1"),
        (lambda: [probemb.sharded(probemb.prolip, MESH)(P, P, logit_scale=x, logit_bias=0.0)
                  for x in (1, -1)], ValueError, "logit_scale must be positive, got -1"),
        (lambda: [probemb.sharded(probemb.pcme, MESH)(
            jax.random.key(0), P, P, negative_scale=1.0, shift=0.0, num_samples=x)
            for x in (1, True)], TypeError, "num_samples must be an integer, got True"),
        (lambda: probemb.sharded(probemb.prolip, MESH)(P, P, logit_scale={}, logit_bias=0.0),
         TypeError, "logit_scale must be an array, got dict"),
        (lambda: probemb.sharded(probemb.prolip, MESH)(P, "text", **LOGITS),
         TypeError, "the batch must be an array, got str"),
        (lambda: probemb.sharded(probemb.prolip, MESH)(P, P, **LOGITS, labels=5.0 * np.eye(2)),
         ValueError, "labels must lie in 0..1"),
        (lambda: probemb.sharded(probemb.uniformity, MESH)(jnp.full((2, 3), jnp.nan)), ValueError,
         "the batch must be finite"),
        (lambda: probemb.sharded(probemb.reconstruction, MESH), TypeError, "takes axis_name"),
        (lambda: probemb.sharded(probemb.prolip, None), TypeError, "mesh must be a"),
        (lambda: probemb.sharded(probemb.prolip, MESH, axis_name="rows"), ValueError,
         "axis_name must be one of"),
        (lambda: probemb.sharded(probemb.prolip, MESH)(P, P.mean, **LOGITS),
         TypeError, "text must be a DiagonalGaussian"),
        (lambda: probemb.sharded(probemb.uniformity, MESH)(jnp.zeros((0, 3))), ValueError,
         "the batch must not be empty"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
