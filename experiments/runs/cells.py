"""Finished cells of an experiment, each a file: what is there is not computed again."""

import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runs import files


def cell(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The numbers of a cell, read where they are, else computed and written, whole or not at all.

    Args:
      path: of the cell; its folder is made if need be.
      compute: strict JSON (no NaN, no infinity), with nothing but strings for names.

    Raises:
      ValueError: the file is damaged.
    """
    if path.exists():
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): delete it") from None
    content = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace_text(path, json.dumps(content, allow_nan=False) + "\n")
    return content


def arrays(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a cell in their order, read where they are, else computed and written whole.

    Args:
      path: of the cell, .npz; its folder is made if need be.
      compute: arrays by name.

    Raises:
      ValueError: the file is damaged.
    """
    if path.exists():
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it") from None
    content: dict[str, Any] = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = files.partial(path)
    with temporary.open("wb") as file:
        np.savez(file, **content)
    os.replace(temporary, path)
    return content
