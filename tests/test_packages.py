"""The two packages as a user installs and completes them."""

import importlib.metadata
import runpy
import sys

import pytest

import lasi_jax
import probemb


@pytest.mark.parametrize("package", [lasi_jax, probemb])
def test_a_package_tells_its_version_and_shows_what_is_public(package):
    assert package.__version__ == importlib.metadata.version("lasi-probemb")
    assert set(package.__all__) <= set(dir(package))
    assert not [name for name in dir(package) if name.startswith("_") and name != "__version__"]
    for name in dir(package):
        getattr(package, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("module", ["heads", "adapters"])
def test_without_flax_the_extra_is_named(module, monkeypatch):
    path = importlib.import_module(f"probemb.{module}").__file__
    monkeypatch.setitem(sys.modules, "flax", None)
    with pytest.raises(ModuleNotFoundError, match=rf"probemb.{module} needs flax.*extra heads"):
        runpy.run_path(path)
