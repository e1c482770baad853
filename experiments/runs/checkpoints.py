"""Checkpoints of a run: a folder for each step, whole or absent, checked when read.

Every checkpoint carries a SHA-256 of its arrays, since a file system may return
other bytes than were written and the format itself does not notice all of it.
"""

import contextlib
import hashlib
import itertools
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

_KEPT = 3


class DamagedError(ValueError):
    """A checkpoint that is not what was written."""


def _digest(tree: Any) -> str:
    """SHA-256 of the bytes of all leaves, in order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _form(tree: Any) -> list[str]:
    """Name, shape and dtype of every leaf."""
    return [
        f"{jax.tree_util.keystr(path)} {np.shape(leaf)} {leaf.dtype}"
        for path, leaf in jax.tree.leaves_with_path(tree)
    ]


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def save(folder: Path, step: int, tree: Any) -> None:
    """Write a checkpoint of arrays, and delete all but the newest few.

    Args:
      folder: the folder of the run's checkpoints.
      step: the number of steps taken.
      tree: any tree of JAX or NumPy arrays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: Any = {"sha256": _digest(tree), "form": _form(tree)}
    path: Any = (folder / str(step)).resolve()
    ocp.save(path, tree, overwrite=True, custom_metadata=written)
    kept = {str(step) for step in steps(folder)[-_KEPT:]}
    for other in folder.iterdir():
        if other.is_dir() and other.name not in kept:  # old, or half of a save that was killed
            shutil.rmtree(other)


def load(folder: Path, step: int, like: Any) -> Any:
    """The tree of a checkpoint.

    Args:
      folder: the folder of the run's checkpoints.
      step: a step of `steps`.
      like: a tree of arrays of the same names, shapes and dtypes.

    Raises:
      DamagedError: the checkpoint is not what was written.
      ValueError: it is whole, but of other names, shapes or dtypes.
    """
    path: Any = (folder / str(step)).resolve()
    with _damage(path):
        written: Any = ocp.metadata(path).custom_metadata
        form, digest = written["form"], written["sha256"]
    if form != _form(like):
        here, there = next(
            pair for pair in itertools.zip_longest(form, _form(like)) if len(set(pair)) > 1
        )
        raise ValueError(f"checkpoint {path} is of another model: it has {here}, not {there}")
    with _damage(path):
        tree = ocp.load(path, like)
    if _digest(tree) != digest:
        raise DamagedError(f"checkpoint {path} is damaged: its SHA-256 is not the written one")
    return tree


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Orbax, tensorstore and JSON each have errors of their own: here they are one."""
    try:
        yield
    except (MemoryError, PermissionError):
        raise  # the checkpoint may be whole
    except Exception as error:
        reason = re.split(r"\n|\. ", str(error).strip())[0]
        raise DamagedError(f"checkpoint {path} is damaged: {reason}") from error


def load_newest(folder: Path, like: Any) -> tuple[int, Any] | None:
    """The step and tree of the newest checkpoint that is whole, None where there is none.

    What is damaged is reported and moved aside, to `damaged-...` beside the folder.

    Raises:
      ValueError: the checkpoint is whole, but of other names, shapes or dtypes.
    """
    saved = steps(folder)
    for step in reversed(saved):
        try:
            return step, load(folder, step, like)
        except DamagedError as error:
            aside = Path(tempfile.mkdtemp(prefix="damaged-", dir=folder.parent))
            (folder / str(step)).rename(aside / str(step))
            print(f"warning: {error}; moved to {aside}", file=sys.stderr)
    if saved:
        print("warning: no checkpoint is whole, starting from step 0", file=sys.stderr)
    return None
