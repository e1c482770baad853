"""How well do scores of images and captions retrieve on COCO, CxC and ECCV Caption?

    python -m experiments.coco_retrieval --scores scores.npy --folder eccv_caption

Under a minute on two CPU cores. Scores the 5,000 images and 25,000 captions of
COCO's test split in both directions: recall at 1, 5 and 10 of COCO 5K, of COCO 1K
(the mean over five folds) and of CxC, and recall at 1, R-Precision and mAP@R of ECCV
Caption. All in percent, and without luck: scores that are equal in single precision
count as the mean over their orders.

The folder is the one that naver-ai/eccv-caption publishes as `eccv_caption/data`. Two
captions that it lists as positives of an image are not among the 25,000. No score
can find them, so they are left out here; their own code counts them as missed.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from experiments import runs
from experiments.data import eccv_caption as eccv
from experiments.data.eccv_caption import DIRECTIONS, Benchmark
from probemb import retrieval

FOLDS = 5

# Queries whose scores are in memory as floats at once: 25 MB for 25,000 captions.
BLOCK = 256
GREATEST = np.finfo(np.float32).max

Numbers = dict[str, dict[str, float]]
"""Percentages by direction and metric."""

Metric = Callable[[jax.Array, jax.Array, int], jax.Array]
"""Of scores and positives (query, item), and the most positives of a query, to (query,)."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the evaluation."""

    scores: Path
    """A .npy file of scores (image, caption), floating point, the greater, the better."""
    folder: Path
    """The folder with coco_test_ids.npy and the positives, such as eccv_image_to_caption.json."""
    image_ids: Path | None = None
    """A .npy file with the COCO id of each row. Default: the order of their captions."""
    caption_ids: Path | None = None
    """A .npy file with the COCO id of each column. Default: the order of coco_test_ids.npy."""


class Scores(NamedTuple):
    """Scores (image, caption), and the ids of the rows (image,) and the columns (caption,)."""

    values: np.ndarray
    image_ids: np.ndarray
    caption_ids: np.ndarray


def checked(scores: Scores, benchmark: Benchmark) -> Scores:
    """The scores, where they are finite and of the whole test split."""
    values, *ids = scores
    ids = [np.asarray(one) for one in ids]
    eccv.check_ids("image_ids", ids[0], benchmark.image_ids)
    eccv.check_ids("caption_ids", ids[1], benchmark.caption_ids)
    if values.shape != (len(ids[0]), len(ids[1])):
        raise ValueError(
            f"scores must have shape (image, caption), {(len(ids[0]), len(ids[1]))}, "
            f"got {values.shape}"
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"scores must be floating point, got dtype {values.dtype}")
    for start in range(0, len(values), BLOCK):
        bad = np.argwhere(~(np.abs(values[start : start + BLOCK]) <= GREATEST))
        if len(bad):
            row, column = bad[0] + (start, 0)
            raise ValueError(
                f"scores must be finite in single precision, got {values[row, column]} "
                f"for image {ids[0][row]} and caption {ids[1][column]}"
            )
    return Scores(values, *ids)


def _places(ids: np.ndarray) -> dict[int, int]:
    return {int(one): place for place, one in enumerate(ids)}


def _blocks(
    values: np.ndarray, queries: list[int], indices: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Scores and positives of some queries, always of one shape, and how many of them count."""
    size = min(BLOCK, len(queries))
    dtype = np.float64 if values.dtype.itemsize > 4 else np.float32  # of this byte order
    for start in range(0, len(queries), size):
        some = np.minimum(np.arange(start, start + size), len(queries) - 1)
        rows = np.asarray(queries)[some]
        yield np.asarray(values[rows], dtype), indices[some], min(size, len(queries) - start)


def _recall(k: int) -> Metric:
    return lambda scores, positives, _: retrieval.recall_at_k(scores, positives, k=k)


def _r_precision(scores: jax.Array, positives: jax.Array, most: int) -> jax.Array:
    return retrieval.r_precision(scores, positives, max_positives=most)


def _map_at_r(scores: jax.Array, positives: jax.Array, most: int) -> jax.Array:
    return retrieval.map_at_r(scores, positives, max_positives=most)


RECALLS = {f"R@{k}": _recall(k) for k in (1, 5, 10)}
RANKINGS = {"R@1": RECALLS["R@1"], "R-Precision": _r_precision, "mAP@R": _map_at_r}


@functools.partial(jax.jit, static_argnums=0)
def _of_queries(
    metrics: tuple[Metric, ...], scores: jax.Array, indices: jax.Array
) -> list[jax.Array]:
    positives = retrieval.positives_of(indices, num_items=scores.shape[1])
    return [metric(scores, positives, indices.shape[1]) for metric in metrics]


def mean_of(
    scores: Scores,
    positives: dict[int, list[int]],
    direction: str,
    metrics: dict[str, Metric],
) -> dict[str, float]:
    """The mean of metrics over queries, in percent.

    Args:
      scores: of the items, and of more queries than have positives if need be.
      positives: from the id of a query to those of its positives. Queries whose id is not among
        the scores, and positives that are not, are left out.
      direction: of `DIRECTIONS`.
      metrics: by name.
    """
    values, rows, columns = scores.values, _places(scores.image_ids), _places(scores.caption_ids)
    if direction == "caption to image":
        values, rows, columns = values.T, columns, rows
    lists = {
        rows[query]: found
        for query, items in positives.items()
        if query in rows and (found := [columns[item] for item in items if item in columns])
    }
    if not lists:
        raise ValueError(f"positives must be of queries that have scores, got none, {direction}")
    width = max(map(len, lists.values()))
    indices = np.array([found + [-1] * (width - len(found)) for found in lists.values()])

    total = np.zeros(len(metrics))
    progress = tqdm(total=len(lists), desc=direction, unit="query", leave=False, disable=None)
    for block, matches, number in _blocks(values, list(lists), indices):
        of_queries = _of_queries(tuple(metrics.values()), block, matches)
        total += [np.sum(one[:number], dtype=float) for one in np.asarray(of_queries)]
        progress.update(number)
    progress.close()
    means = 100.0 * total / len(lists)
    return dict(zip(metrics, means.tolist(), strict=True))


def _both_directions(
    scores: Scores, benchmark: Benchmark, collection: str, metrics: dict[str, Metric]
) -> Numbers:
    positives = benchmark.positives[collection]
    return {way: mean_of(scores, positives[way], way, metrics) for way in DIRECTIONS}


def coco_5k(scores: Scores, benchmark: Benchmark) -> Numbers:
    """Recall of COCO's own pairs among all images and captions."""
    return _both_directions(scores, benchmark, "original", RECALLS)


def coco_1k(scores: Scores, benchmark: Benchmark) -> Numbers:
    """The mean recall over five folds of consecutive images, each with its captions."""
    rows, columns = _places(scores.image_ids), _places(scores.caption_ids)
    folds = []
    for images in np.array_split(benchmark.image_ids, FOLDS):
        captions = benchmark.caption_ids[np.isin(benchmark.image_of_caption, images)]
        chosen = np.ix_([rows[one] for one in images], [columns[one] for one in captions])
        fold = Scores(np.asarray(scores.values[chosen]), images, captions)
        folds.append(coco_5k(fold, benchmark))
    return {
        direction: {
            name: float(np.mean([fold[direction][name] for fold in folds]))
            for name in folds[0][direction]
        }
        for direction in DIRECTIONS
    }


def cxc(scores: Scores, benchmark: Benchmark) -> Numbers:
    """Recall with the positives of Crisscrossed Captions."""
    return _both_directions(scores, benchmark, "cxc", RECALLS)


def eccv_caption(scores: Scores, benchmark: Benchmark) -> Numbers:
    """Recall at 1, R-Precision and mAP@R with the positives of ECCV Caption."""
    return _both_directions(scores, benchmark, "eccv", RANKINGS)


PROTOCOLS: dict[str, Callable[[Scores, Benchmark], Numbers]] = {
    "COCO 5K": coco_5k,
    "COCO 1K": coco_1k,
    "CxC": cxc,
    "ECCV Caption": eccv_caption,
}


def evaluate(scores: Scores, benchmark: Benchmark) -> dict[str, Numbers]:
    """All protocols, by name."""
    scores = checked(scores, benchmark)
    progress = tqdm(PROTOCOLS.items(), desc="protocols", disable=None)
    return {name: protocol(scores, benchmark) for name, protocol in progress}


def table(numbers: dict[str, Numbers]) -> str:
    """A line for each protocol and metric, a column for each direction."""
    lines = [f"{'':<26}" + "".join(f"{direction:>18}" for direction in DIRECTIONS)]
    for protocol, of_directions in numbers.items():
        for metric in of_directions[DIRECTIONS[0]]:
            values = (f"{of_directions[direction][metric]:>18.2f}" for direction in DIRECTIONS)
            lines.append(f"{protocol:<14}{metric:<12}" + "".join(values))
    return "\n".join(lines)


def run(config: Config) -> dict[str, Numbers]:
    """Evaluate, print a table, and return its numbers by protocol, direction and metric."""
    for name in ("scores", "image_ids", "caption_ids"):
        path = getattr(config, name)
        if path is not None and not path.is_file():
            raise ValueError(f"{name} must be a file, {path} is none")
    benchmark = eccv.read(config.folder)
    image_ids, caption_ids = (
        default if path is None else eccv.read_array(path)
        for path, default in (
            (config.image_ids, benchmark.image_ids),
            (config.caption_ids, benchmark.caption_ids),
        )
    )
    numbers = evaluate(Scores(eccv.read_array(config.scores), image_ids, caption_ids), benchmark)
    print(f"\n{table(numbers)}")
    return numbers


if __name__ == "__main__":
    runs.main("experiments.coco_retrieval", __doc__, Config, run, interrupted="interrupted")
