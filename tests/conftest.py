"""Float64 before JAX starts, and where the tests find real data: a folder that a variable names."""

import os
from pathlib import Path

import pytest

# Before JAX starts: float64 is available, and float32 is asked for by name where it is tested.
os.environ["JAX_ENABLE_X64"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session")
def data():
    """The folder with the data that CONTRIBUTING names, or the test is skipped."""
    folder = os.environ.get("LASI_PROBEMB_DATA")
    if not folder:
        pytest.skip("LASI_PROBEMB_DATA names no folder of data; CONTRIBUTING says what it holds")
    return Path(folder)
