"""Two devices on the host, one worker for the programs of a function, strict promotion."""

import jax
import pytest
from xdist.scheduler import LoadScopeScheduling


class ByFunction(LoadScopeScheduling):
    """All tests of one function go to one worker, which compiles its program once."""

    def _split_scope(self, nodeid):
        return nodeid.partition("[")[2].rstrip("]").partition("-")[0] or nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFunction(config, log)


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
    return jax.devices()


@pytest.fixture(autouse=True)
def strict_promotion(devices):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
