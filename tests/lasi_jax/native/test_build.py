"""Where the kernel is kept, and what happens where it cannot be compiled."""

import logging
import os
import re
import stat
import subprocess
import sys

import numpy as np
import pytest

import lasi_jax
from lasi_jax import native
from lasi_jax.native import build

try:
    build.compiler()
except build.Unavailable:
    pytest.skip("no C++ compiler", allow_module_level=True)


def test_without_a_compiler_it_says_so_once_and_goes_on(in_form, monkeypatch, caplog, forgotten):
    x, y = np.random.default_rng(0).uniform(size=(2, 6, 7, 3))
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    forgotten()
    with caplog.at_level(logging.WARNING, "lasi_jax"):
        for n in (2, 3):
            in_form("native", lambda x, y, n=n: lasi_jax.distance(x, y, neighborhood_size=n))(x, y)
    (record,) = caplog.records
    assert "no C++ compiler was found (CXX, c++, g++, clang++)" in record.getMessage()
    assert native.status() == "XLA: no C++ compiler was found (CXX, c++, g++, clang++)"


@pytest.mark.parametrize(
    "fault", ["writable by others", "no folder", "cannot compile", "no such compiler"]
)
def test_what_cannot_be_trusted_or_compiled_is_named(
    fault, tmp_path, monkeypatch, caplog, forgotten
):
    monkeypatch.setenv(build.SWITCH, "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if fault == "writable by others":
        (tmp_path / "lasi_jax").mkdir()
        (tmp_path / "lasi_jax").chmod(0o777)
    elif fault == "no folder":
        (tmp_path / "lasi_jax").write_text("a file")
    elif fault == "no such compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    else:
        monkeypatch.setenv(build.MORE_FLAGS, "-no-such-flag")
    forgotten()
    program = build.Program("map", 2, "float32", 3, False)
    with caplog.at_level(logging.WARNING, "lasi_jax"):
        assert build.target(program) is None
    (record,) = caplog.records
    expected = {
        "writable by others": "others can write to",
        "no folder": "File exists.*XDG_CACHE_HOME",
        "no such compiler": "CXX='no-such-compiler' was not found",
    }
    assert re.search(expected.get(fault, "could not compile the kernel"), record.getMessage())
    assert native.status() == f"XLA: {build.failure()}"
    assert not list(tmp_path.rglob("*.so")) and not list(tmp_path.rglob("*.part"))


def test_it_can_be_turned_off(monkeypatch):
    monkeypatch.setenv(build.SWITCH, "0")
    assert native.status() == "XLA: LASI_JAX_NATIVE=0 is set"
    assert build.target(build.Program("map", 2, "float32", 3, False)) is None
    monkeypatch.setenv(build.SWITCH, "1")
    assert native.status().startswith("native: compiled by ")


@pytest.mark.slow
def test_two_processes_compile_one_library_at_once(tmp_path):
    code = """
import jax, lasi_jax
x = jax.random.uniform(jax.random.key(0), (2, 8, 9, 3))
print(float(lasi_jax.distance(*x, neighborhood_size=2)))
"""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), build.SWITCH: "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    values = [float(process.communicate()[0]) for process in started]
    assert values[0] == values[1] and not any(process.returncode for process in started)
    (library,) = (tmp_path / "lasi_jax").iterdir()
    assert stat.S_IMODE(library.stat().st_mode) == 0o700
