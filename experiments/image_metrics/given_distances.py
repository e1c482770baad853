"""Distances of BAPPS's triplets that others have measured, in a CSV file."""

import csv
import gzip
import zlib
from pathlib import Path

import numpy as np

from experiments.image_metrics.choices import ALL, Judged

COLUMNS = ("subset", "d0", "d1", "human_prefers_p1")
"""What the file has: two distances of each triplet, and the share that prefers the second."""


def name(path: Path) -> str:
    """The name of a file's metric."""
    return path.name.removesuffix(".gz").removesuffix(".csv")


def read(path: Path, limit: int | None) -> dict[str, Judged]:
    """The distances and choices in a CSV file, by subset.

    Raises:
      ValueError: no such file, another format, what is no number, or too few triplets.
    """
    if not path.is_file():
        raise ValueError(f"distances must be CSV files, {path} is no file")
    try:
        found = _rows(path)
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise ValueError(
            f"{path} must be a CSV file with columns {', '.join(COLUMNS)}: {error}"
        ) from None
    counts = {subset: len(values) for subset, values in found.items()}
    if min(counts.values(), default=0) < 2:
        raise ValueError(f"{path} must hold at least two triplets of each subset, it has {counts}")
    judged = {name: np.array(values[:limit]) for name, values in found.items()}
    return {name: Judged(values[:, :2], values[:, 2]) for name, values in judged.items()}


def _rows(path: Path) -> dict[str, list[list[float]]]:
    """d0, d1 and the preference of each row, by subset."""
    opened = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig")
    found: dict[str, list[list[float]]] = {}
    with opened as file:
        rows = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
            raise ValueError(f"columns {', '.join(missing)} are missing")
        if twice := [name for name in COLUMNS if (rows.fieldnames or ()).count(name) > 1]:
            raise ValueError(f"columns {', '.join(twice)} are there twice")
        for row in rows:
            subset, *texts = (row[name] or "" for name in COLUMNS)
            if not subset:
                raise ValueError(f"subset must have a name, line {rows.line_num} has none")
            if subset == ALL:
                raise ValueError(
                    f"subset must not be {ALL!r}, which is the mean of all, as in line "
                    f"{rows.line_num}"
                )
            if (values := _numbers(texts)) is None:
                raise ValueError(
                    "d0 and d1 must be finite numbers and human_prefers_p1 one from 0 to 1, "
                    f"line {rows.line_num} has {texts}"
                )
            found.setdefault(subset, []).append(values)
    return found


def _numbers(texts: list[str]) -> list[float] | None:
    try:
        values = [float(text) for text in texts]
    except ValueError:
        return None
    return values if np.isfinite(values).all() and 0.0 <= values[2] <= 1.0 else None
