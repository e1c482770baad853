"""Where the tests find MNIST and the published tables: a folder that a variable names."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data():
    """The folder with `mnist` and `n_digit_mnist`, or the test is skipped."""
    folder = os.environ.get("LASI_PROBEMB_DATA")
    if not folder:
        pytest.skip("LASI_PROBEMB_DATA names no folder with mnist and n_digit_mnist")
    return Path(folder)
