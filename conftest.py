"""How all tests, and the examples in docstrings, are compiled and spread over processes."""

import os
import sys

import pytest

# Before JAX starts. A test runs most programs once, on small arrays: optimizing them takes longer
# than running them. `.ci/run` runs known values as users compile them.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",
)
# Nor is LASI's kernel compiled, seconds for each size and precision, but by the tests of it.
os.environ.setdefault("LASI_JAX_NATIVE", "0")


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
        getattr(lowered, "cache_clear", lambda: None)()
