"""A metric's distances of many images, kept in parts: what is there is not computed again."""

from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from tqdm import tqdm

from experiments import cell_files
from experiments.image_metrics import Distance
from lasi_jax.batching import one_at_a_time

_PART = 256
_PIXELS = 2**21  # of the images in memory at once, references and candidates


class Source(Protocol):
    """Items that are a reference image and one or more candidates, all of one size."""

    def __len__(self) -> int: ...

    def images(self, rows: range) -> tuple[np.ndarray, ...]:
        """References, then candidates, each (row, height, width, 3) uint8."""
        ...


class First:
    """The first items of a source, or all.

    Args:
      source: of the images.
      limit: of the items, None for all.
    """

    def __init__(self, source: Source, limit: int | None) -> None:
        self._source = source
        self._count = len(source) if limit is None else min(limit, len(source))

    def __len__(self) -> int:
        return self._count

    def images(self, rows: range) -> tuple[np.ndarray, ...]:
        """As the source's."""
        return self._source.images(rows)


def distances(folder: Path, metric: Distance, source: Source, *, title: str) -> np.ndarray:
    """The distances (item, candidate) of every candidate from its reference.

    Args:
      folder: of the parts; its name tells the metric and the source.
      metric: of the distances.
      source: of the images.
      title: of the progress bar.

    Raises:
      ValueError: the metric gives NaN or infinity, or a part is damaged.
    """
    of_batch = jax.jit(jax.vmap(one_at_a_time(metric)))
    found = []
    with tqdm(total=len(source), desc=title, unit="item", disable=None) as progress:
        for start in range(0, len(source), _PART):
            rows = range(start, min(start + _PART, len(source)))

            def compute(rows: range = rows) -> dict:
                return {"distances": _of_rows(of_batch, source, rows, title, progress).tolist()}

            part = cell_files.cell(folder / f"{start:06d}.json", compute)
            found += part["distances"]
            progress.update(rows.stop - progress.n)
    return np.array(found)


def _of_rows(of_batch, source: Source, rows: range, title: str, progress: tqdm) -> np.ndarray:
    """Distances (row, candidate), in batches of one size: the last is filled up."""
    height, width = source.images(rows[:1])[0].shape[1:3]
    batch = max(1, min(len(rows), _PIXELS // (2 * height * width)))
    found = []
    for first in range(0, len(rows), batch):
        reference, *candidates = source.images(rows[first : first + batch])
        count = len(reference)

        def filled(images: np.ndarray, count: int = count) -> np.ndarray:
            return np.pad(images, ((0, batch - count), (0, 0), (0, 0), (0, 0)), mode="edge")

        reference = filled(reference)
        of_each = [np.asarray(of_batch(reference, filled(images))) for images in candidates]
        found.append(np.stack(of_each, 1)[:count].astype(np.float64))
        progress.update(count)
    values = np.concatenate(found)
    if not np.isfinite(values).all():
        item = rows[int(np.flatnonzero(~np.isfinite(values).all(1))[0])]
        raise ValueError(f"{title}: distances must be finite, that of item {item} is not")
    return values
