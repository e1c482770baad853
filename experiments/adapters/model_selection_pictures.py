"""The picture of model selection: recall over uncertainty, and the regret of every criterion."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.adapters.adapted_encoder import METRICS
from experiments.adapters.evaluation import OWN
from experiments.adapters.model_selection_page import ALL, OTHERS, PER_SPREAD, PLAIN, RANDOM
from experiments.reports.tables import find

_MAIN = METRICS[0]
_MARKERS = "osD^vP"


def draw(path: Path, content: dict) -> None:
    """Save the picture, with intervals over seeds."""
    figure, axes = plt.subplots(1, 3, figsize=(14.0, 5.2), layout="constrained")
    _scatter(axes[0], content, PLAIN)
    _scatter(axes[1], content, PER_SPREAD)
    handles, names = _legend(content)
    figure.legend(handles, names, fontsize="small", loc="outside lower left", ncols=len(names) // 2)
    _regret(axes[2], content)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _legend(content: dict) -> tuple[list, list[str]]:
    domains = content["config"]["domains"]
    handles = [Line2D([], [], color=f"C{k}", marker="", lw=3) for k in range(len(domains))]
    markers = [
        Line2D([], [], color="gray", marker=_MARKERS[k], linestyle="") for k in range(len(domains))
    ]
    names = [f"target {name}" for name in domains] + [f"source {name}" for name in domains]
    return handles + markers, names


def _scatter(axis: Axes, content: dict, form: str) -> None:
    """Retrieval over the mean total uncertainty, a point for each seed, source and target."""
    domains = content["config"]["domains"]
    for row in content["levels"]:
        axis.plot(
            row[OWN if form == PLAIN else f"{OWN}, {form}"]["seeds"],
            row[_MAIN]["seeds"],
            color=f"C{domains.index(row['target'])}",
            marker=_MARKERS[domains.index(row["source"])],
            markersize=5,
            linestyle="",
            alpha=0.7,
        )
    axis.set(
        title=f"total uncertainty, {form}",
        xlabel="mean logarithm of the total variance",
        ylabel=f"{_MAIN} on the target",
    )


def _regret(axis: Axes, content: dict) -> None:
    rows = [row for row in content["selection"] if row["candidates"] == ALL]
    place = -np.arange(len(rows))
    for shift, candidates in ((0.18, ALL), (-0.18, OTHERS)):
        found = [
            find(
                content["selection"],
                criterion=row["criterion"],
                form=row["form"],
                candidates=candidates,
            )
            for row in rows
        ]
        values = [row[f"regret of {_MAIN}"] for row in found if row is not None]
        errors = [
            [abs((v[end] if v[end] is not None else v["mean"]) - v["mean"]) for v in values]
            for end in ("low", "high")
        ]
        axis.barh(
            place + shift,
            [v["mean"] for v in values],
            0.34,
            xerr=errors,
            error_kw={"linewidth": 0.8},
            label=f"from {candidates}",
        )
    names = [
        row["criterion"] + (f", {row['form']}" if row["criterion"] != RANDOM else "")
        for row in rows
    ]
    axis.set_yticks(place, names, fontsize="small")
    axis.set(title="regret", xlabel=f"{_MAIN} of the best less that of the picked")
    axis.legend(fontsize="small", loc="lower right")
