"""Checkpoints of a run: a folder for each step, whole or absent, checked when read.

Every checkpoint carries a SHA-256 of its arrays, since a file system may return
other bytes than were written and the format itself does not notice all of it.
"""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

_KEPT = 3


def _digest(tree: Any) -> str:
    """SHA-256 of names, dtypes, shapes and values of all leaves."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _form(tree: Any) -> list[tuple[str, tuple[int, ...], str]]:
    return [
        (jax.tree_util.keystr(path), np.shape(leaf), str(leaf.dtype))
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
    ocp.save(
        (folder / str(step)).resolve(),
        tree,
        overwrite=True,
        custom_metadata={"sha256": _digest(tree)},
    )
    for old in steps(folder)[:-_KEPT]:
        shutil.rmtree(folder / str(old))


def load(folder: Path, step: int, like: Any) -> Any:
    """The tree of a checkpoint.

    Args:
      folder: the folder of the run's checkpoints.
      step: a step of `steps`.
      like: a tree of arrays of the same names, shapes and dtypes.

    Raises:
      ValueError: the checkpoint is damaged, or of other shapes.
    """
    path = (folder / str(step)).resolve()
    try:
        tree = ocp.load(path, like)
        digest = ocp.metadata(path).custom_metadata["sha256"]
    except Exception as error:  # orbax, tensorstore and JSON each have errors of their own
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"checkpoint {path} is damaged: {reason}") from error
    if _digest(tree) != digest:
        raise ValueError(
            f"checkpoint {path} is damaged: its SHA-256 is not the one it was saved with"
        )
    if _form(tree) != _form(like):
        raise ValueError(f"checkpoint {path} is of another model: its arrays have other shapes")
    return tree


def load_newest(folder: Path, like: Any) -> tuple[int, Any] | None:
    """The step and tree of the newest checkpoint that is whole, None where there is none.

    What is damaged is reported and moved aside, to `damaged-...` beside the folder.
    """
    for step in reversed(steps(folder)):
        try:
            return step, load(folder, step, like)
        except ValueError as error:
            aside = Path(tempfile.mkdtemp(prefix="damaged-", dir=folder.parent))
            (folder / str(step)).rename(aside / str(step))
            print(
                f"warning: {error}; moved to {aside}, going on from the one before", file=sys.stderr
            )
    return None
