"""The picture of active learning: curves over budgets, and their differences to random."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from experiments.adapters.active_learning_page import RANDOM, START, WHOLE
from experiments.adapters.adapted_encoder import METRICS

_MAIN = METRICS[0]


def draw(path: Path, content: dict) -> None:
    """Save the picture: a column for each shift, with intervals over seeds."""
    shifts = list(dict.fromkeys(row["shift"] for row in content["curves"]))
    figure, axes = plt.subplots(
        2,
        len(shifts),
        figsize=(3.6 * len(shifts) + 0.6, 6.4),
        sharey="row",
        layout="constrained",
        squeeze=False,
    )
    for shift, (above, below) in zip(shifts, axes.T, strict=True):
        rows = [row for row in content["curves"] if row["shift"] == shift]
        for strategy, style in ((START, ":"), (WHOLE, "--")):
            value = next(row[_MAIN]["mean"] for row in rows if row["strategy"] == strategy)
            above.axhline(value, color="gray", linestyle=style, linewidth=1.0, label=strategy)
        strategies = [
            strategy
            for strategy in dict.fromkeys(row["strategy"] for row in rows)
            if strategy not in (START, WHOLE)
        ]
        for place, strategy in enumerate(strategies):
            of = [row for row in rows if row["strategy"] == strategy]
            _curve(above, of, _MAIN, place, strategy)
            if strategy != RANDOM:
                _curve(below, of, f"difference of {_MAIN}", place, strategy)
        below.axhline(0.0, color="C0", linewidth=1.0)
        above.set_title(shift)
        below.set_xlabel("images with captions")
        for axis in (above, below):
            budgets = [row["budget"] for row in rows if row["strategy"] == RANDOM]
            axis.set_xscale("log")
            axis.set_xticks(budgets, list(map(str, budgets)))
            axis.minorticks_off()
    axes[0, 0].set_ylabel(f"{_MAIN}, shifted test")
    axes[1, 0].set_ylabel("difference to random")
    axes[0, -1].legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _curve(axis: Axes, rows: list[dict], name: str, place: int, label: str) -> None:
    """A curve over budgets; the intervals of curves stand side by side."""
    budgets = [row["budget"] * 1.05 ** (place - 1) for row in rows]
    means = [row[name]["mean"] for row in rows]
    ends = [
        [abs(row[name][end] - row[name]["mean"]) if row[name][end] is not None else 0.0]
        for end in ("low", "high")
        for row in rows
    ]
    errors = [[e[0] for e in ends[: len(rows)]], [e[0] for e in ends[len(rows) :]]]
    axis.errorbar(
        budgets, means, errors, color=f"C{place}", marker=".", capsize=2, linewidth=1.2, label=label
    )
