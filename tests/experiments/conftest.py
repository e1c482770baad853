"""Photographs that no data set has, and where data sets of digits are prepared."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """A folder for data sets that take seconds to prepare; whoever needs one finds it there."""
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def module_patch():
    """What `monkeypatch` is to a test, for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture
def photo_folder(tmp_path):
    """Five photographs, some smaller than SqueezeNet takes, one of them gray."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, shape in enumerate([(40, 60, 3), (30, 30, 3), (9, 50, 3), (64, 48), (50, 50, 3)]):
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(folder / f"{number}.png")
    return folder
