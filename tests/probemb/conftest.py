"""Strict promotion, and the reference values."""

from pathlib import Path

import jax
import numpy as np
import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "probemb_reference.npz"


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session", params=["separable", "overlapping"])
def golden(request):
    """golden("pcme/shift") is the reference value of that name in one of the two sets."""
    with np.load(GOLDEN) as archive:
        values = dict(archive)
    return lambda name: values[f"{request.param}/{name}"]


@pytest.fixture(scope="module", autouse=True)
def no_more_compiled_programs_than_a_module_needs():
    yield
    jax.clear_caches()
