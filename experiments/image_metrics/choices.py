"""The numbers of metrics held against people's choices between two images."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from experiments.reports import tables
from lasi_jax import agreement

SUBSETS: tuple[str, ...] = ("traditional", "cnn", "superres", "deblur", "color", "frameinterp")
ALL: str = "all"
FEWEST = 3
"""Items of which resamples tell anything."""


class Judged(NamedTuple):
    """Distances (item, candidate) of a metric, and what people said (item).

    Of triplets the share that prefers the second candidate, of pairs the share that sees no
    difference.
    """

    distances: np.ndarray
    judgement: np.ndarray


def _percent(value: float, ends: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = (100.0 * float(x) for x in ends) if ends else (None, None)
    return {"mean": 100.0 * float(value), "low": low, "high": high}


def mean_of_subsets(
    by_subset: dict[str, tuple[np.ndarray, ...]], statistic: Callable, interval: Callable
) -> dict[str, float | None]:
    """The unweighted mean over subsets of a statistic, in percent, with its interval.

    Resamples are of all items, so that a subset may have a few more or less in one; where it has
    none the resample is left out.

    Args:
      by_subset: what the statistic is of, arrays (item) for each subset.
      statistic: of these.
      interval: `agreement.bootstrap_interval` with all but the statistic and the items.
    """
    subset = np.repeat(np.arange(len(by_subset)), [len(x[0]) for x in by_subset.values()])
    joined = [np.concatenate(x) for x in zip(*by_subset.values(), strict=True)]

    def mean(subset: np.ndarray, *items: np.ndarray) -> float:
        chosen = [subset == place for place in range(len(by_subset))]
        if not all(c.any() for c in chosen):
            return float("nan")
        return float(np.mean([statistic(*(x[c] for x in items)) for c in chosen]))

    ends = _ends(mean, (subset, *joined), interval)
    return _percent(mean(subset, *joined), ends)


def _ends(
    statistic: Callable, items: tuple[np.ndarray, ...], interval: Callable
) -> tuple[float, float] | None:
    """The interval of a statistic, None of too few items."""
    if len(items[0]) < FEWEST:
        return None
    return interval(statistic, *items)


def _score(
    items: tuple[np.ndarray, ...], statistic: Callable, interval: Callable
) -> dict[str, float | None] | None:
    """A statistic in percent with its interval, None where the items do not define it."""
    try:
        return _percent(statistic(*items), _ends(statistic, items, interval))
    except agreement.UndefinedError:
        return None


def _over_all(
    by_subset: dict[str, tuple[np.ndarray, ...]], statistic: Callable, interval: Callable
) -> dict[str, Any]:
    """A statistic on each subset, and its mean over all of them where none is missing."""
    found: dict[str, Any] = {
        name: _score(items, statistic, interval) for name, items in by_subset.items()
    }
    if set(by_subset) >= set(SUBSETS):
        every = {name: by_subset[name] for name in SUBSETS}
        found[ALL] = mean_of_subsets(every, statistic, interval)
    return found


def _of_metrics(
    measure: str,
    by_metric: dict[str, dict[str, Judged]],
    statistic: Callable,
    interval: Callable,
) -> list[dict[str, Any]]:
    """A statistic of every metric's distances and what people said, on each subset and over all."""
    rows = []
    for name, subsets in by_metric.items():
        items = {subset: (*x.distances.T, x.judgement) for subset, x in subsets.items()}
        found = _over_all(items, statistic, interval)
        rows += [
            {"measure": measure, "metric": name, "subset": subset, "score": score}
            for subset, score in found.items()
        ]
    return rows


def numbers(
    choices: dict[str, dict[str, Judged]],
    differences: dict[str, dict[str, Judged]],
    *,
    num_resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Scores in percent with intervals: a row for each measure, metric and subset.

    The measures are two_afc, jnd and human, people's own two_afc score; a score that the items do
    not define is None.

    Args:
      choices: of triplets, by metric and subset.
      differences: of pairs, by metric and subset.
      num_resamples: of the triplets or pairs.
      seed: of the resamples.
    """
    interval = functools.partial(
        agreement.bootstrap_interval, jax.random.key(seed), num_resamples=num_resamples
    )
    judgements = {
        subset: (judged.judgement,)
        for subsets in choices.values()
        for subset, judged in subsets.items()
    }
    ceiling = _over_all(judgements, agreement.human_ceiling, interval)
    rows = [
        *_of_metrics("two_afc", choices, agreement.two_afc, interval),
        *(
            {"measure": "human", "metric": "human", "subset": subset, "score": score}
            for subset, score in ceiling.items()
        ),
        *_of_metrics("jnd", differences, agreement.jnd_average_precision, interval),
    ]
    return tables.frame(rows)


def content(scores: pd.DataFrame) -> dict[str, Any]:
    """The scores as results.json holds them: by measure and metric, a dictionary of subsets."""
    found: dict[str, Any] = {}
    for measure in ("two_afc", "human", "jnd"):
        rows = tables.where(scores, measure=measure)
        found[measure] = [
            {"metric": metric, "subsets": dict(zip(of["subset"], of["score"], strict=True))}
            for metric, of in rows.groupby("metric", sort=False)
        ]
    found["human"] = found["human"][0]["subsets"] if found["human"] else {}
    return found


def columns(scores: pd.DataFrame) -> list[str]:
    """The subsets in the order of BAPPS, those of others behind them."""
    every = set(scores["subset"])
    ordered = [name for name in (*SUBSETS, ALL) if name in every]
    return ordered + sorted(every - set(ordered))


def described(
    choices: dict[str, dict[str, Judged]], differences: dict[str, dict[str, Judged]]
) -> str:
    """How many triplets and pairs of what subsets."""
    parts = []
    for what, by_metric in (("triplets", choices), ("pairs", differences)):
        counts = {
            subset: len(judged.judgement)
            for subsets in by_metric.values()
            for subset, judged in subsets.items()
        }
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        parts += [f"{what}: {listed}"] if counts else []
    return f"BAPPS, validation {'; '.join(parts)}"
