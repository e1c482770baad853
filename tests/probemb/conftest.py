"""Strict promotion, the reference values, and derivatives beside differences."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

GOLDEN = Path(__file__).parents[1] / "golden" / "probemb_reference.npz"


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module", params=["separable", "overlapping"])
def golden(request):
    """golden("pcme/shift") is the reference value of that name in one of the two sets."""
    with np.load(GOLDEN) as archive:
        values = dict(archive)
    return lambda name: values[f"{request.param}/{name}"]


@pytest.fixture(scope="module", autouse=True)
def no_more_compiled_programs_than_a_module_needs():
    yield
    jax.clear_caches()


def _to_second_order(function, arguments):
    point, unravel = ravel_pytree(jax.tree.map(jnp.asarray, arguments))
    direction = np.random.default_rng(0).normal(size=point.shape)

    def weighted(point):
        outputs, _ = ravel_pytree(function(*unravel(point)))
        return outputs @ jnp.asarray(np.random.default_rng(1).normal(size=outputs.shape))

    # What runs three times is not worth optimizing.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def derivatives(point):
        (value, slope), pull_back = jax.vjp(jax.value_and_grad(weighted), point)
        return value, slope, pull_back((jnp.zeros_like(value), jnp.asarray(direction)))[0]

    _, slope, curvature = derivatives(point)
    step = 1e-5
    (after, slope_after, _), (before, slope_before, _) = (
        derivatives(point + sign * step * direction) for sign in (1.0, -1.0)
    )
    for name, found, differences in (
        ("first", slope @ direction, after - before),
        ("second", curvature, slope_after - slope_before),
    ):
        expected = differences / (2.0 * step)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.fixture(scope="session")
def check_to_second_order():
    """check(function, arguments): both derivatives in reverse mode equal central differences.

    Along one direction, of a weighted sum of all outputs, and with one compilation.
    """
    return _to_second_order
