"""Eight host devices need a process of their own: their number is fixed when JAX starts."""

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

# Prints, as JSON, the greatest difference of value and gradient from one device, by loss,
# labels and number of devices.
PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh
import probemb
from probemb import DiagonalGaussian, bessel, sharded

bessel.RAISED = 3  # less exact and sooner compiled; the ring is the same
B, D = 24, 5
key, *keys = jax.random.split(jax.random.key(0), 6)
mean, noise, *log_variances = (jax.random.normal(k, (B, D)) for k in keys[:4])
image = DiagonalGaussian(0.5 * mean, 0.3 * log_variances[0] - 2.0)
text = DiagonalGaussian(0.5 * mean + 0.3 * noise, 0.3 * log_variances[1] - 2.0)
soft = probemb.soft_labels(jax.random.permutation(keys[4], B), 0.7).astype(float)
pcme = {"num_samples": 3}
losses = {
    "pcme": lambda of, p, q, s, y: of(probemb.pcme)(
        key, p, q, negative_scale=s, shift=s, num_samples=3, labels=y),
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
    "uniformity": lambda of, p, q, s, y: of(probemb.uniformity)(p.mean, t=s),
}
differences = {}
for name, loss in losses.items():
    for kind, labels in (("diagonal", None), ("soft", soft)):
        if kind == "soft" and name in ("uniformity", "pcme_quadrature"):
            continue

        def measure(of):
            return jax.jit(jax.value_and_grad(
                lambda *arguments: loss(of, *arguments, labels), (0, 1, 2)))(image, text, 2.0)

        alone = measure(lambda loss: loss)
        numbers = (1, 2, 3, 4, 8) if kind == "diagonal" else (2, 4)
        for number in (2,) if name == "meru" else numbers:
            types = (AxisType.Explicit if number == 4 else AxisType.Auto,)
            mesh = Mesh(np.array(jax.devices()[:number]), ("batch",), axis_types=types)
            many = measure(lambda loss: sharded(loss, mesh))
            apart = jax.tree.map(
                lambda x, y: float(np.max(np.abs(np.asarray(x) - np.asarray(y)))), alone, many)
            differences[f"{name} {kind} {number}"] = max(jax.tree.leaves(apart))
print(json.dumps(differences))
"""
LOSSES = (
    *("pcme", "pcme_quadrature", "pcmepp", "prolip", "siglip", "info_nce", "triplet"),
    "uniformity",
)


@pytest.fixture(scope="module")
def differences():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # What is compiled here runs once: optimizing it takes longer than running it.
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_equal_those_of_one_device(differences, name, number):
    assert differences[f"{name} diagonal {number}"] < 1e-11


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("name", ["pcme", "pcmepp", "prolip", "siglip", "info_nce", "triplet"])
def test_soft_labels_are_sharded_too(differences, name, number):
    assert differences[f"{name} soft {number}"] < 1e-11


@pytest.mark.parametrize("kind", ["diagonal", "soft"])
def test_hyperbolic_losses_are_sharded_too(differences, kind):
    assert differences[f"meru {kind} 2"] < 1e-11


P = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
LOGITS = {"logit_scale": 1.0, "logit_bias": 0.0}
MESH = Mesh(np.array(jax.devices()[:1]), ("batch",))


def test_within_a_shard_map_of_ones_own():
    rows = jax.sharding.PartitionSpec("batch")

    def loss(p, q):
        return probemb.prolip(p, q, logit_scale=3.0, logit_bias=-1.0, axis_name="batch")

    of_mesh = jax.shard_map(
        loss, mesh=MESH, in_specs=(rows, rows), out_specs=jax.sharding.PartitionSpec()
    )
    expected = probemb.prolip(P, P, logit_scale=3.0, logit_bias=-1.0)
    np.testing.assert_allclose(of_mesh(P, P), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: probemb.prolip(P, P, **LOGITS, axis_name="rows"), ValueError,
         "axis_name must name an axis of a surrounding shard_map, got 'rows'"),
        (lambda: probemb.uniformity(P.mean, axis_name="rows"), ValueError, "axis_name must name"),
        (lambda: probemb.sharded(probemb.prolip, MESH)(
            P, P, logit_scale=jnp.array(-1.0), logit_bias=0.0), ValueError,
         "logit_scale must be positive, got -1"),
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
