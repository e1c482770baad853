"""Finished cells of an experiment, each a file of JSON: what is there is not computed again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
