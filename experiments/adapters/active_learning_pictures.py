"""The picture of active learning: curves over budgets, and their differences to random choices."""

from pathlib import Path

from matplotlib.axes import Axes

from experiments.adapters.adapted_encoder import METRICS
from experiments.adapters.choosing import RANDOM, START, STRATEGIES, WHOLE
from experiments.reports import plots

_MAIN = METRICS[0]
_COLORS = plots.palette(STRATEGIES)
_BESIDE = 1.05
"""So many times as many images lies one strategy beside the next: intervals stay apart."""


def draw(path: Path, content: dict) -> None:
    """Save the picture: a column for each shift, with intervals over seeds."""
    shifts = list(dict.fromkeys(row["shift"] for row in content["curves"]))
    width = min(4.0, 9.6 / len(shifts))
    figure, axes = plots.panels(2, len(shifts), panel=(width, 2.7), sharex=True, sharey="row")
    for shift, (above, below) in zip(shifts, axes.T, strict=True):
        rows = [row for row in content["curves"] if row["shift"] == shift]
        for strategy, style in ((START, ":"), (WHOLE, "--")):
            value = next(row[_MAIN]["mean"] for row in rows if row["strategy"] == strategy)
            above.axhline(value, color=plots.GRAY, linestyle=style, linewidth=1.0, label=strategy)
        below.axhline(0.0, color=_COLORS[RANDOM], linewidth=1.0, label=RANDOM)
        for strategy in STRATEGIES:
            of = [row for row in rows if row["strategy"] == strategy]
            _curve(above, of, _MAIN, strategy)
            if strategy != RANDOM:
                _curve(below, of, f"difference of {_MAIN}", strategy)
        above.set_title(shift)
        above.set_xscale("log")
        budgets = [row["budget"] for row in rows if row["strategy"] == RANDOM]
        above.set_xticks(budgets, list(map(str, budgets)))
        above.minorticks_off()
        below.set_xlabel("images with captions")
    axes[0, 0].set_ylabel(f"{_MAIN} on the shifted test")
    axes[1, 0].set_ylabel(f"{_MAIN} less that of random")
    for axis in axes[:, -1]:
        plots.name_ends(axis)
    plots.save(path, figure)


def _curve(axis: Axes, rows: list[dict], name: str, strategy: str) -> None:
    """A curve over budgets, with intervals; the seeds themselves where they are too few for one."""
    color = _COLORS[strategy]
    place = list(STRATEGIES).index(strategy) - len(STRATEGIES) // 2
    budgets = [row["budget"] * _BESIDE**place for row in rows]
    means = [row[name]["mean"] for row in rows]
    axis.plot(budgets, means, "o-", markersize=3, linewidth=1.2, color=color, label=strategy)
    for budget, row in zip(budgets, rows, strict=True):
        low, high, seeds = (row[name][part] for part in ("low", "high", "seeds"))
        if low is not None:
            axis.vlines(budget, low, high, color=color, linewidth=1.0)
        else:
            axis.plot([budget] * len(seeds), seeds, ".", color=color, markersize=2.5)
