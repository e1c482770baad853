"""The page and the picture of metrics held against people's choices between two images."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from experiments.image_metrics import choices
from experiments.image_metrics.choices import ALL, FEWEST, SUBSETS
from experiments.reports import plots, tables

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

_CHOICES = """2AFC scores in percent: how often a metric is with the people who chose, a share of
them where they were divided. The ceiling is how often a judge is with one who is drawn from all
judges of the triplet, the judge among them. All is the unweighted mean of the subsets. Published:
Zhang et al., CVPR 2018, table 5, whose LPIPS is of version 0.0."""
_DIFFERENCES = """Just noticeable differences: the average precision in percent with which pairs
that look the same come before others, by distance."""
_CEILING = "human ceiling"


def markdown(content: dict[str, Any], scores: pd.DataFrame) -> str:
    """The report as a page.

    Args:
      content: what results.json holds.
      scores: as `choices.numbers` gives them.
    """
    lines = [
        "# Two alternatives, one choice",
        f"`{content['command']}`",
        f"Data: {content['data']}; jax {content['versions']['jax']} on {content['backend']}. "
        "Everything on this page but the published rows is written by that command. Intervals are "
        f"95 %, by {content['config']['num_resamples']:,} bootstrap resamples of the triplets; of "
        f"less than {FEWEST} there are none.",
    ]
    named = scores.assign(metric=scores["metric"].map(content["titles"]))
    of_choices = tables.where(named, measure="two_afc")
    if len(of_choices):
        ceiling = tables.where(named, measure="human").assign(metric=_CEILING)
        lines += [_CHOICES, _table(_joined(ceiling, of_choices, published(of_choices)))]
    if len(of_differences := tables.where(named, measure="jnd")):
        lines += [_DIFFERENCES, _table(of_differences)]
    return "\n\n".join(lines) + "\n"


def published(scores: pd.DataFrame) -> pd.DataFrame:
    """What was published of the subsets that have scores, as rows of scores."""
    rows = [
        {"metric": f"{name}, published", "subset": subset, "score": score}
        for name, of_subsets in PUBLISHED.items()
        for subset, score in zip((*SUBSETS, ALL), of_subsets, strict=True)
        if subset in set(scores["subset"])
    ]
    return tables.frame(rows)


def _joined(*scores: pd.DataFrame) -> pd.DataFrame:
    return tables.frame([row for each in scores for row in tables.records(each)])


def _table(scores: pd.DataFrame) -> str:
    """A row for each metric, a column for each subset; empty where a metric has no score."""
    wide = scores.set_index(["metric", "subset"])["score"].to_dict()
    names = choices.columns(scores)
    rows = [
        [metric, *(_cell(wide[metric, name]) if (metric, name) in wide else "" for name in names)]
        for metric in scores["metric"].unique()
    ]
    return tables.table(["metric", *names], rows)


def _cell(score: Any) -> str:
    return tables.number(score, 1)


def draw(path: Path, content: dict[str, Any], scores: pd.DataFrame) -> None:
    """A panel for each subset: the score of every metric with its interval, and the published."""
    titles = content["titles"]
    measured = tables.where(scores, measure="two_afc")
    ceilings = tables.where(scores, measure="human").set_index("subset")["score"]
    rows = tables.records(_joined(measured, published(measured)))
    rows = [row for row in rows if row["metric"] != "human, published"]
    names = list(dict.fromkeys(row["metric"] for row in rows))
    subsets = choices.columns(measured)
    panel = 7.0 / len(subsets), 1.0 + 0.21 * len(names)
    figure, axes = plots.panels(1, len(subsets), panel=panel, sharey=True)
    color = plots.palette(["measured"])["measured"]
    for axis, subset in zip(axes[0], subsets, strict=True):
        for row in rows:
            if row["subset"] == subset and row["score"] is not None:
                is_measured = row["metric"] in titles
                _mark(axis, names.index(row["metric"]), row["score"], color, filled=is_measured)
        if subset in ceilings.index and ceilings[subset] is not None:
            axis.axvline(ceilings[subset]["mean"], color=plots.GRAY, linestyle="--", linewidth=1.0)
        axis.set_title(subset, fontsize=8)
        axis.xaxis.set_major_locator(ticker.MaxNLocator(2, integer=True))
        axis.set_ylim(len(names) - 0.5, -0.5)
    axes[0, 0].set_yticks(range(len(names)), [titles.get(name, name) for name in names])
    figure.supxlabel("2AFC score in percent; dashed: the human ceiling", fontsize=9)
    plots.save(path, figure)


def _mark(axis: Axes, place: int, score: Any, color: str, *, filled: bool) -> None:
    """A score with its interval on the line of its metric; hollow where it was published."""
    if not filled:
        axis.plot(score, place, "o", color=plots.GRAY, markerfacecolor="none", markersize=4)
        return
    if score["low"] is not None:
        axis.plot((score["low"], score["high"]), (place, place), color=color)
    axis.plot(score["mean"], place, "o", color=color, markersize=4)
