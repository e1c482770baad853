"""Float64 and quick compiling before JAX starts, how many processes, and where real data lie."""

import os
import sys
from pathlib import Path

import pytest

# Before JAX starts: float64 is available, and float32 is asked for by name where it is tested.
os.environ["JAX_ENABLE_X64"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A test runs most programs once, on small arrays: optimizing them takes longer than running them.
# Slow tests and known values run as users compile them in `.ci/run`, by XLA_FLAGS=' '.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)


def pytest_xdist_auto_num_workers(config):
    """Two processes, as compiling is one thread's work; a single file starts sooner in this one."""
    return 0 if len(config.args) == 1 and ".py" in config.args[0] else 2


@pytest.fixture(autouse=True)
def few_lowered_programs():
    """Each keeps an MLIR context, and the more of them there are, the longer a new one takes.

    JAX keeps 2048. What is compiled needs them no more. A newer JAX may keep them elsewhere.
    """
    yield
    if (pxla := sys.modules.get("jax._src.interpreters.pxla")) is not None:
        lowered = getattr(pxla, "_cached_lowering_to_hlo", None)
        if lowered is not None:
            lowered.cache_clear()


@pytest.fixture(scope="session")
def data():
    """The folder with the data that CONTRIBUTING names, or the test is skipped."""
    folder = os.environ.get("LASI_PROBEMB_DATA")
    if not folder:
        pytest.skip("LASI_PROBEMB_DATA names no folder of data; CONTRIBUTING says what it holds")
    return Path(folder)
