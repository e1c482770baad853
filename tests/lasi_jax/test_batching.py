"""LASI over the devices of a mesh: as on one device, of every kind of axis."""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import pytest

from lasi_jax import batching

# Value, gradients and coefficients of a batch, and an extreme of two metrics, whose loops carry
# images and metrics: on one device first, then over two.
TWO_DEVICES = """
import functools, json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import lasi_jax
from lasi_jax import competition

options = {"neighborhood_size": 2}
distance = functools.partial(lasi_jax.distance, **options)

def of_pair(x, y):
    mask = jnp.ones_like(x[..., :1]).at[0, 0].set(0.5)
    masked = functools.partial(distance, mask=mask)
    value, gradients = jax.value_and_grad(masked, (0, 1))(x, y)
    return value, gradients, lasi_jax.coefficients(y, **options)

def squares(x, y):
    return jnp.sum(jnp.square(x - y))

def extreme(x, y):
    search = {"direction": "greatest", "num_steps": 2}
    return competition.differentiate(x, y, held=squares, moved=distance, **search)

def with_one(function):
    return lambda x, y: jax.vmap(function, (None, 0))(x[0], y)

calls = {"pairs": jax.vmap(of_pair), "one and many": with_one(distance)}
inside = calls  # where, whatever the mesh was, its axis is manual
if sys.argv[1] == "Auto":
    inside = calls | {"extreme, one and many": with_one(extreme)}
x, y = jax.random.uniform(jax.random.key(0), (2, 4, 5, 6, 2))
expected = {name: jax.jit(call)(x, y) for name, call in inside.items()}
expected["predictions"] = jax.vmap(functools.partial(lasi_jax.prediction, **options))(x)

def farthest(found, name):
    pairs = zip(*map(jax.tree.leaves, (found, expected[name])), strict=True)
    return float(max(np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs))

kind = getattr(AxisType, sys.argv[1])
mesh = jax.make_mesh((2,), ("batch",), axis_types=(kind,))
x_over, y_over = (jax.device_put(a, NamedSharding(mesh, P("batch"))) for a in (x, y))
error = {}
for name, call in inside.items():
    one = name.endswith("one and many")
    specs = P() if one else P("batch"), P("batch")
    mapped = jax.shard_map(call, mesh=mesh, in_specs=specs, out_specs=P("batch"))
    error["shard_map, " + name] = farthest(jax.jit(mapped)(x[:1] if one else x_over, y_over), name)
with jax.set_mesh(mesh):
    for name, call in calls.items():
        of_x = x[:1] if name.startswith("one") else x_over
        error["jit, " + name] = farthest(jax.jit(call)(of_x, y_over), name)
        if sys.argv[1] == "Explicit":
            error["eager, " + name] = farthest(call(of_x, y_over), name)
    if sys.argv[1] == "Auto":
        gradients = jax.jit(jax.vmap(jax.value_and_grad(distance)))
        program = gradients.lower(x_over, y_over).compile().as_text()
        assert not [kind for kind in ("all-gather", "all-to-all") if kind in program]
    rows = jax.device_put(x[0, :4], NamedSharding(mesh, P("batch")))
    error["rows"] = abs(float(distance(rows, y[0, :4]) - distance(x[0, :4], y[0, :4])))
    predict = jax.vmap(functools.partial(lasi_jax.prediction, **options))
    error["predictions"] = farthest(predict(x_over), "predictions")
print(json.dumps(error))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_two_devices_compute_what_one_does(kind):
    flags = "--xla_force_host_platform_device_count=2 " + os.environ["XLA_FLAGS"]
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, kind],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": flags},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    error = json.loads(done.stdout)
    assert len(error) == {"Auto": 7, "Explicit": 8}[kind]
    assert max(error.values()) < 1e-9, error


def test_the_zero_lets_no_nan_in():
    assert batching.zero(jnp.full((2, 3), jnp.nan), jnp.float64(jnp.inf)) == 0.0
