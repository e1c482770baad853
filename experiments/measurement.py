"""A metric's distances of many images, kept in parts: what is there is not computed again."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from tqdm import tqdm

from experiments import cell_files
from experiments.image_metrics import Distance

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
    found = []
    with tqdm(total=len(source), desc=title, unit="item", disable=None) as progress:
        for start in range(0, len(source), _PART):
            rows = range(start, min(start + _PART, len(source)))

            def compute(rows: range = rows) -> dict:
                return {"distances": _of_rows(metric, source, rows, title, progress).tolist()}

            part = cell_files.cell(folder / f"{start:06d}.json", compute)
            found += part["distances"]
            progress.update(rows.stop - progress.n)
    return np.array(found)


def _batched(metric: Distance, batch: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The metric of at most `batch` pairs; on a CPU pair after pair, which is as fast there."""
    if jax.default_backend() == "cpu":
        of_pair = jax.jit(metric)
        return lambda x, y: np.array([float(of_pair(*pair)) for pair in zip(x, y, strict=True)])
    at_once = jax.jit(jax.vmap(metric))

    def filled(images: np.ndarray) -> np.ndarray:
        return np.pad(images, ((0, batch - len(images)), (0, 0), (0, 0), (0, 0)), mode="edge")

    return lambda x, y: np.asarray(at_once(filled(x), filled(y)))[: len(x)]


def _of_rows(
    metric: Distance, source: Source, rows: range, title: str, progress: tqdm
) -> np.ndarray:
    """Distances (row, candidate), in batches of one size."""
    height, width = source.images(rows[:1])[0].shape[1:3]
    batch = max(1, min(_PART, _PIXELS // (2 * height * width)))
    of_batch = _batched(metric, batch)
    found = []
    for first in range(0, len(rows), batch):
        reference, *candidates = source.images(rows[first : first + batch])
        of_each = [of_batch(reference, images) for images in candidates]
        found.append(np.stack(of_each, 1).astype(np.float64))
        progress.update(len(reference))
    values = np.concatenate(found)
    if not np.isfinite(values).all():
        item = rows[int(np.flatnonzero(~np.isfinite(values).all(1))[0])]
        raise ValueError(f"{title}: distances must be finite, that of item {item} is not")
    return values
