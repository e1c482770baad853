"""The numbers and the picture of metrics held against people's choices between two images."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments.reports.tables import number, table
from lasi_jax import agreement

SUBSETS: tuple[str, ...] = ("traditional", "cnn", "superres", "deblur", "color", "frameinterp")
ALL: str = "all"
PUBLISHED: dict[str, tuple[float, ...]] = {
    "human": (80.8, 84.4, 73.4, 67.1, 68.8, 68.6, 73.9),
    "L2": (59.9, 77.8, 64.7, 58.2, 63.5, 55.0, 63.2),
    "SSIM": (60.3, 79.1, 65.1, 58.6, 58.1, 57.7, 63.1),
    "FSIMc": (61.4, 78.6, 68.1, 59.5, 57.3, 57.7, 63.8),
    "LPIPS (AlexNet)": (73.9, 83.4, 71.5, 61.2, 65.3, 63.2, 69.8),
    "LPIPS (VGG16)": (76.0, 82.8, 70.5, 60.5, 62.5, 63.0, 69.2),
    "LPIPS (SqueezeNet 1.1)": (76.1, 83.5, 71.1, 60.8, 65.3, 63.2, 70.0),
}
"""2AFC scores in percent by subset and over all: Zhang et al., CVPR 2018, table 5."""

_FEWEST = 3  # items of which resamples tell anything


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
    if len(items[0]) < _FEWEST:
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
    by_metric: dict[str, dict[str, Judged]], statistic: Callable, interval: Callable
) -> list[dict[str, Any]]:
    """A statistic of every metric's distances and what people said, on each subset and over all."""
    rows = []
    for name, subsets in by_metric.items():
        items = {subset: (*x.distances.T, x.judgement) for subset, x in subsets.items()}
        rows.append({"metric": name, "subsets": _over_all(items, statistic, interval)})
    return rows


def numbers(
    choices: dict[str, dict[str, Judged]],
    differences: dict[str, dict[str, Judged]],
    *,
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Scores in percent with intervals, by metric and subset.

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
    return {
        "two_afc": _of_metrics(choices, agreement.two_afc, interval),
        "human": _over_all(judgements, agreement.human_ceiling, interval),
        "jnd": _of_metrics(differences, agreement.jnd_average_precision, interval),
    }


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


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    found = {subset for row in rows for subset in row["subsets"]}
    ordered = [name for name in (*SUBSETS, ALL) if name in found]
    return ordered + sorted(found - set(ordered))


def _cells(of_subset: dict[str, Any], columns: list[str]) -> list[str]:
    return [number(of_subset[name], 1) if name in of_subset else "" for name in columns]


def markdown(content: dict[str, Any]) -> str:
    """The report as a page."""
    lines = [
        "# Two alternatives, one choice",
        f"`{content['command']}`",
        f"Data: {content['data']}; jax {content['versions']['jax']} on {content['backend']}. "
        "Everything on this page but the published rows is written by that command. Intervals are "
        f"95 %, by {content['config']['num_resamples']:,} bootstrap resamples of the triplets; of "
        f"less than {_FEWEST} there are none.",
    ]
    if content["two_afc"]:
        lines += _choices(content)
    if content["jnd"]:
        columns = _columns(content["jnd"])
        lines += [
            "Just noticeable differences: the average precision in percent with which pairs that "
            "look the same come before others, by distance.",
            table(["metric", *columns], _rows(content, "jnd", columns)),
        ]
    return "\n\n".join(lines) + "\n"


def _rows(content: dict[str, Any], kind: str, columns: list[str]) -> list[list[str]]:
    titles = content["titles"]
    return [[titles[row["metric"]], *_cells(row["subsets"], columns)] for row in content[kind]]


def _choices(content: dict[str, Any]) -> list[str]:
    columns = _columns(content["two_afc"])
    rows = [["human ceiling", *_cells(content["human"], columns)]]
    rows += _rows(content, "two_afc", columns)
    for name, scores in PUBLISHED.items():
        of = dict(zip((*SUBSETS, ALL), scores, strict=True))
        rows.append([f"{name}, published", *(str(of.get(column, "")) for column in columns)])
    return [
        "2AFC scores in percent: how often a metric is with the people who chose, a share of them "
        "where they were divided. The ceiling is how often a judge is with one who is drawn from "
        "all judges of the triplet, the judge among them. All is the unweighted mean of the "
        "subsets. Published: Zhang et al., CVPR 2018, table 5, whose LPIPS is of version 0.0.",
        table(["metric", *columns], rows),
    ]


def draw(path: Path, content: dict[str, Any]) -> None:
    """A bar for every metric on every subset with its interval, beside what was published."""
    columns = _columns(content["two_afc"])
    rows = content["two_afc"]
    figure, axis = plt.subplots(
        figsize=(max(8.0, 2.0 + 1.9 * len(columns)), 5.0), layout="constrained"
    )
    width = 0.8 / max(1, len(rows))
    center = np.arange(len(columns), dtype=float)
    for place, row in enumerate(rows):
        shown = [k for k, name in enumerate(columns) if name in row["subsets"]]
        values = [row["subsets"][columns[k]] for k in shown]
        means = np.array([value["mean"] for value in values])
        ends = np.array([_drawn_ends(value) for value in values])
        axis.bar(
            center[shown] + (place - (len(rows) - 1) / 2) * width,
            means,
            width,
            yerr=np.abs(ends - means[:, None]).T,
            label=content["titles"][row["metric"]],
            color=f"C{place}",
            error_kw={"lw": 1},
        )
    _levels(axis, [content["human"].get(name) for name in columns])
    marks = zip("sDo^vP", [name for name in PUBLISHED if name != "human"], strict=True)
    for marker, name in marks:
        of = dict(zip((*SUBSETS, ALL), PUBLISHED[name], strict=True))
        shown = [k for k, column in enumerate(columns) if column in of]
        axis.plot(
            center[shown] + 0.46,
            [of[columns[k]] for k in shown],
            marker,
            color="black",
            markersize=4,
            markerfacecolor="none",
            label=f"{name}, published",
        )
    axis.set_xticks(center, columns)
    least = min(_drawn_ends(value)[0] for row in rows for value in row["subsets"].values())
    axis.set(ylabel="2AFC score in percent", ylim=(min(50.0, least), 90.0))
    axis.legend(fontsize="small", ncols=3, loc="upper right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _drawn_ends(value: dict[str, Any]) -> tuple[float, float]:
    """An interval, which is a point where there is none."""
    return (value["mean"],) * 2 if value["low"] is None else (value["low"], value["high"])


def _levels(axis, ceilings: list[dict | None]) -> None:
    """A line over each subset at its human ceiling."""
    for place, ceiling in enumerate(ceilings):
        if ceiling is not None:
            axis.hlines(
                ceiling["mean"],
                place - 0.45,
                place + 0.45,
                color="black",
                lw=1.2,
                label="human ceiling" if place == 0 else None,
            )
