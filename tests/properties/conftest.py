"""Two devices on the host, programs that are compiled fast, strict promotion."""

import os

import jax
import pytest


@pytest.fixture(scope="session")
def devices():
    """Two of them. Their number is fixed when JAX starts, so these tests run by themselves."""
    if jax.config.jax_num_cpu_devices < 2:
        try:
            jax.config.update("jax_num_cpu_devices", 2)
        except RuntimeError as error:
            pytest.fail(
                f"JAX has started with one device; run `pytest -m slow tests/properties`: {error}"
            )
    # Compiled once, run a few times: not worth optimizing.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 " + os.environ.get(
        "XLA_FLAGS", ""
    )
    return jax.devices()


@pytest.fixture(autouse=True)
def strict_promotion(devices):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
