"""The kernel, compiled for this machine at first use and kept in the user's cache folder.

Its file is named after a hash of everything that it is made of: source, flags, compiler,
processor and jax. It is written aside and renamed whole, so that processes may race.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax

SOURCE = Path(__file__).with_name("kernel.cc")
SWITCH = "LASI_JAX_NATIVE"
MORE_FLAGS = "LASI_JAX_CXXFLAGS"
# No -ffast-math: NaN and infinity stay what they are. Only errno and traps, which nobody reads, go.
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"),
    *("-shared", "-fPIC", "-pthread", "-w"),
)
_COMPILERS = ("c++", "g++", "clang++")
_OFF = ("0", "false", "no", "off")
_TYPES = {"float32": ("float", "F32"), "float64": ("double", "F64")}
_SECONDS = 600
# Grey and colour have loops of their own; other numbers of channels share one library.
_COMPILED_CHANNELS = (1, 3)

_log = logging.getLogger("lasi_jax")


class Unavailable(Exception):
    """Why there is no kernel."""


def switched_off() -> str | None:
    """The reason, if the user or the platform rules the kernel out."""
    if os.environ.get(SWITCH, "").lower() in _OFF:
        return f"{SWITCH}={os.environ[SWITCH]} is set"
    if not hasattr(jax, "ffi"):
        return f"jax {jax.__version__} has no jax.ffi"
    if sys.platform not in ("linux", "darwin"):
        return f"the kernel is not compiled on {sys.platform}"
    return None


def compiler() -> tuple[str, ...]:
    """The command of the C++ compiler: $CXX, or if that is not set the first of those known."""
    try:
        asked = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise Unavailable(f"CXX={os.environ['CXX']!r} is no command: {error}") from error
    for program, *options in [asked] if asked else ([name] for name in _COMPILERS):
        found = shutil.which(program)
        if found:
            return found, *options
    raise Unavailable(
        f"CXX={os.environ['CXX']!r} was not found"
        if asked
        else "no C++ compiler was found (CXX, c++, g++, clang++)"
    )


def _run(command: Sequence[str]) -> subprocess.CompletedProcess:
    options = {"capture_output": True, "text": True, "errors": "replace"}
    return subprocess.run(command, **options, timeout=_SECONDS)


@functools.cache
def _identity(command: tuple[str, ...]) -> str:
    """A compiler's own words on what it is, and for which processor -march=native compiles."""
    done = _run([*command, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    if done.returncode:
        raise Unavailable(f"{command[0]} -march=native failed: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line] or text.splitlines()
    return lines[0].strip() if lines else "it printed nothing"


def folder() -> Path:
    """Where kernels are kept: nobody but the user may write there."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = base if base.is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise Unavailable(str(error)) from error
    path = base / "lasi_jax"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{error}; XDG_CACHE_HOME names another folder") from error
    path = path.resolve()  # what is checked is what is loaded from
    found = path.stat()
    if found.st_uid != os.getuid():
        raise Unavailable(f"{path} belongs to another user, so that nothing is loaded from it")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unavailable(f"others can write to {path}, so that nothing is loaded from it")
    return path


class Program(NamedTuple):
    """What one library is compiled for."""

    handler: str
    neighborhood_size: int
    dtype: str
    channels: int
    weighted: bool

    def flags(self) -> list[str]:
        """The definitions that the source reads."""
        real, name = _TYPES[self.dtype]
        channels = self.channels if self.channels in _COMPILED_CHANNELS else 0
        return [
            *FLAGS,
            f"-DLASI_{self.handler.upper()}",
            f"-DLASI_N={self.neighborhood_size}",
            f"-DLASI_REAL={real}",
            f"-DLASI_TYPE=ffi::{name}",
            f"-DLASI_CHANNELS={channels}",
            f"-DLASI_WEIGHTED={int(self.weighted)}",
        ]


def library(program: Program) -> Path:
    """The program's library, compiled if it is not there."""
    command, flags = compiler(), program.flags() + os.environ.get(MORE_FLAGS, "").split()
    versions = [platform.machine(), jax.__version__, metadata.version("jaxlib")]
    made_of = [SOURCE.read_text(), *flags, _identity(command), *versions]
    name = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:24]
    kept = folder() / f"lasi-{program.handler}-{name}.so"
    if kept.exists():
        return kept
    handle, aside = tempfile.mkstemp(prefix=f"{kept.stem}-", suffix=".part", dir=kept.parent)
    os.close(handle)
    try:
        done = _run([*command, *flags, "-I", jax.ffi.include_dir(), str(SOURCE), "-o", aside])
        if done.returncode:
            reason = _last_line(done.stderr)
            raise Unavailable(f"{command[0]} could not compile the kernel: {reason}")
        os.chmod(aside, 0o700)
        os.replace(aside, kept)
    finally:
        Path(aside).unlink(missing_ok=True)
    return kept


@functools.cache
def _registered(program: Program) -> str | None:
    try:
        kept = library(program)
        try:
            function = ctypes.CDLL(str(kept)).lasi
        except (OSError, AttributeError):  # damaged: once more
            kept.unlink()
            function = ctypes.CDLL(str(library(program))).lasi
    except (Unavailable, OSError, AttributeError, subprocess.SubprocessError) as error:
        _warn(str(error))
        return None
    jax.ffi.register_ffi_target(kept.stem, jax.ffi.pycapsule(function), platform="cpu")
    return kept.stem


_failures: list[str] = []


def _warn(reason: str) -> None:
    """Once for every reason, not for every program."""
    if reason not in _failures:
        _failures.append(reason)
        _log.warning("LASI runs without its native kernel: %s", reason)


def failure() -> str | None:
    """Why a program of this process runs without the kernel: the last reason."""
    return _failures[-1] if _failures else None


def target(program: Program) -> str | None:
    """The name under which XLA knows the program, or None where it does not run."""
    known = program.dtype in _TYPES
    return _registered(program) if known and switched_off() is None else None


def forget() -> None:
    """Find out anew, at the next call, what can be compiled."""
    for known in (_identity, _registered):
        known.cache_clear()
    _failures.clear()
