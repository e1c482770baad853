"""Pictures of metrics held against opinions, and against the order of severity."""

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from experiments.image_metrics import severity
from experiments.image_metrics.opinions_page import Opinions
from lasi_jax import agreement

_ACROSS = 4
_SHOWN = 4000


def severity_order(path: Path, found: dict[str, Any], titles: dict[str, str]) -> None:
    """Kendall's tau by metric and kind, within and across photographs, as two tables of colours."""
    rows, kinds = found["rows"], list(severity.KINDS)
    height = 1.9 + 0.42 * len(rows)
    figure, axes = plt.subplots(1, 2, figsize=(14.5, height), layout="constrained", sharey=True)
    for axis, which in zip(axes, ("within", "across"), strict=True):
        values = np.array([[row["kinds"][kind][which] for kind in kinds] for row in rows])
        least = min(0.0, values.min())
        picture = axis.imshow(values, vmin=least, vmax=1.0, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            color = "black" if value > 0.6 else "white"
            axis.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color
            )
        axis.set_xticks(range(len(kinds)), kinds, rotation=40, ha="right")
        axis.set_yticks(range(len(rows)), [titles[row["metric"]] for row in rows])
        mean = "on each photograph by itself" if which == "within" else "between photographs"
        axis.set_title(f"Kendall's tau with the known level, {mean}", fontsize=10)
    figure.colorbar(picture, ax=axes, fraction=0.02)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def opinions(
    path: Path,
    found: dict[str, Any],
    titles: dict[str, str],
    distances: dict[str, np.ndarray],
    judged: Opinions,
) -> None:
    """Opinion over distance for every metric, with its logistic curve of four parameters."""
    down = math.ceil(len(distances) / _ACROSS)
    figure, axes = plt.subplots(
        down,
        min(_ACROSS, len(distances)),
        figsize=(3.6 * min(_ACROSS, len(distances)), 3.1 * down),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for axis in axes.flat:
        axis.axis("off")
    rows = {row["metric"]: row for row in found["rows"]}
    shown = np.random.default_rng(0).permutation(len(judged.opinion))[:_SHOWN]
    for axis, (name, values) in zip(axes.flat, distances.items(), strict=False):
        axis.axis("on")
        axis.scatter(values[shown], judged.opinion[shown], s=3, alpha=0.25, linewidths=0)
        fit = agreement.fit_logistic(-values, judged.opinion, curve="logistic4")
        along = np.linspace(values.min(), values.max(), 200)
        axis.plot(along, fit(-along), color="black", lw=1.5)
        srcc = rows[name]["srcc"]["mean"]
        axis.set_title(f"{titles[name]}: SRCC {srcc:.3f}", fontsize=9)
        axis.set_xlabel("distance", fontsize=8)
        axis.tick_params(labelsize=7)
    for line in axes:
        line[0].set_ylabel("mean opinion score", fontsize=8)
    figure.suptitle(found["title"])
    figure.savefig(path, dpi=110)
    plt.close(figure)
