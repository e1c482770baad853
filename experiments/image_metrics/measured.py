"""A metric's distances of many images, kept in parts: what is there is not computed again."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from tqdm import tqdm

from experiments.image_metrics import named
from experiments.image_metrics.deep_network import Network
from experiments.image_metrics.named import Distance
from experiments.runs import cells

_PART = 256
_PIXELS = 2**21  # of the images in memory at once, references and candidates


class Source(Protocol):
    """Items that are a reference image and one or more candidates, all of one size."""

    def __len__(self) -> int: ...

    def images(self, rows: range) -> tuple[np.ndarray, ...]:
        """References, then candidates, each (row, height, width, 3) uint8."""
        ...


def size_of(source: Source) -> tuple[int, int]:
    """The height and width of a source's images."""
    _, height, width, _ = source.images(range(1))[0].shape
    return height, width


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


def of_metrics(
    folder: Path, names: Sequence[str], network: Network | None, source: Source, *, title: str
) -> dict[str, np.ndarray]:
    """The distances (item, candidate) of several metrics by name.

    What is made of two metrics is made of their distances, which are measured once.

    Args:
      folder: with a folder of parts for each metric.
      names: of the metrics, which `named.check` has let pass.
      network: of the metric `deep`.
      source: of the images.
      title: of the source.
    """
    size = size_of(source)
    single = {}
    for part in dict.fromkeys(part for name in names for part in name.split("+")):
        metric = named.metric(part, network)
        of_part = f"{title}, {named.title(part, network, size)}"
        single[part] = distances(folder / part, metric, source, title=of_part)
    together = {name: [single[part] for part in name.split("+")] for name in names}
    return {name: x[0] if len(x) == 1 else np.sqrt(x[0] * x[1]) for name, x in together.items()}


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
    height, width = size_of(source)
    batch = max(1, min(_PART, _PIXELS // (2 * height * width)))
    of_batch, found = _batched(metric, batch), []
    with tqdm(total=len(source), desc=title, unit="item", disable=None) as progress:
        for start in range(0, len(source), _PART):
            rows = range(start, min(start + _PART, len(source)))

            def compute(rows: range = rows) -> dict:
                of_rows = _of_rows(of_batch, batch, source, rows, progress)
                _check_finite(of_rows, rows, title)
                return {"distances": of_rows.tolist()}

            path = folder / f"{start:06d}.json"
            part = cells.cell(path, compute).get("distances", ())
            if len(part) != len(rows):
                raise ValueError(f"{path} is damaged, it has {len(part)} of {len(rows)}: delete it")
            found += part
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
    of_batch: Callable, batch: int, source: Source, rows: range, progress: tqdm
) -> np.ndarray:
    """Distances (row, candidate), in batches of one size."""
    found = []
    for first in range(0, len(rows), batch):
        reference, *candidates = source.images(rows[first : first + batch])
        found.append(np.stack([of_batch(reference, images) for images in candidates], 1))
        progress.update(len(reference))
    return np.concatenate(found).astype(np.float64)


def _check_finite(values: np.ndarray, rows: range, title: str) -> None:
    if not np.isfinite(values).all():
        item = rows[int(np.flatnonzero(~np.isfinite(values).all(1))[0])]
        raise ValueError(f"{title}: distances must be finite, that of item {item} is not")
