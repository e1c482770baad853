"""The picture of model selection: recall over uncertainty, and the regret of every criterion."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.adapters.adapted_encoder import METRICS
from experiments.adapters.evaluation import OWN
from experiments.adapters.picking import ALL, OTHERS, PER_SPREAD, PLAIN, RANDOM
from experiments.data.shifted_digits import SHIFTS
from experiments.reports import plots

_MAIN = METRICS[0]
_COLORS = plots.palette(SHIFTS)
_MARKERS: dict[str, str] = dict(zip(SHIFTS, "osD^v", strict=True))
_CANDIDATES = {ALL: "from all sources", OTHERS: "without the target's own"}


def draw(path: Path, content: dict) -> None:
    """Save the picture, with intervals over seeds."""
    criteria = [row for row in content["selection"] if row["candidates"] == ALL]
    height = 0.8 + 0.2 * len(criteria)
    figure = plt.figure(figsize=(8.4, 3.6 + height))
    parts: Any = figure.subfigures(2, 1, height_ratios=[3.6, height])
    above = parts[0].subplots(1, 2, sharey=True)
    for axis, form in zip(above, (PLAIN, PER_SPREAD), strict=True):
        _scatter(axis, content, form)
    above[0].set_ylabel(f"{_MAIN} on the target")
    _legend(parts[0], content["config"]["domains"])
    _regret(parts[1].subplots(), content, criteria)
    plots.save(path, figure)


def _legend(figure: Any, domains: list[str]) -> None:
    colors = [Line2D([], [], color=_COLORS[name], linewidth=4) for name in domains]
    markers = [
        Line2D([], [], color=plots.GRAY, marker=_MARKERS[name], linestyle="") for name in domains
    ]
    names = [f"target {name}" for name in domains] + [f"source {name}" for name in domains]
    figure.legend(colors + markers, names, loc="outside upper center", ncols=len(domains))


def _scatter(axis: Axes, content: dict, form: str) -> None:
    """Retrieval over the mean total uncertainty, a point for each seed, source and target."""
    for row in content["levels"]:
        axis.plot(
            row[OWN if form == PLAIN else f"{OWN}, {form}"]["seeds"],
            row[_MAIN]["seeds"],
            color=_COLORS[row["target"]],
            marker=_MARKERS[row["source"]],
            markersize=5,
            linestyle="",
            alpha=0.75,
        )
    axis.set(title=f"total uncertainty, {form}", xlabel="mean logarithm of the total variance")


def _regret(axis: Axes, content: dict, criteria: list[dict]) -> None:
    """A row for each criterion: what is lost by picking by it, with intervals over seeds."""
    place = {
        (row["criterion"], row["form"]): height
        for row, height in zip(criteria, -np.arange(len(criteria)), strict=True)
    }
    colors = plots.palette(_CANDIDATES)
    for row in content["selection"]:
        regret, candidates = row[f"regret of {_MAIN}"], row["candidates"]
        color = colors[candidates]
        height = place[row["criterion"], row["form"]] + (0.14 if candidates == ALL else -0.14)
        axis.plot(regret["mean"], height, "o", markersize=5, color=color, clip_on=False)
        if regret["low"] is not None:
            axis.hlines(height, regret["low"], regret["high"], color=color, linewidth=1.4)
        if row["criterion"] == RANDOM:
            axis.axvline(regret["mean"], color=color, linestyle=":", linewidth=1.0, zorder=0)
            axis.annotate(
                _CANDIDATES[candidates],
                (regret["mean"], 0.6),
                color=color,
                fontsize=8,
                ha="center",
                va="bottom",
            )
    names = [
        criterion if criterion == RANDOM else f"{criterion}, {form}" for criterion, form in place
    ]
    axis.set_yticks(list(place.values()), names)
    axis.set_ylim(0.5 - len(criteria), 0.6)
    axis.set_xlim(left=0.0)
    axis.set_title("what is lost by picking by a criterion; dotted: at random", pad=18)
    axis.set_xlabel(f"{_MAIN} of the best source less that of the picked one")
