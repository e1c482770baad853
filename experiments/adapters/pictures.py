"""The picture of adapters: ambiguity, accuracy by rejection, and coverage, of either side."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from experiments.adapters import training
from experiments.adapters.evaluation import OWN, Evaluation, Frozen
from experiments.captions.evaluation import SIDES, Outcome, Side
from experiments.reports import plots

_BASELINES = ("minus best cosine", "entropy over items", "TTDA")
_COLORS: dict[str, str] = {method: f"C{k}" for k, method in enumerate(training.METHODS)}
"""One for each method, in every panel."""
_LEVELS = np.linspace(0.0, 1.0, 41)


def draw(path: Path, frozen: Frozen, before: Outcome, evaluations: dict[str, Evaluation]) -> None:
    """Save the picture: a row for images and one for captions as queries."""
    truth = frozen.trial.truth is not None
    columns = 2 + truth
    figure, axes = plt.subplots(
        2, columns, figsize=(4.1 * columns, 7.0), layout="constrained", squeeze=False
    )
    for row, side in zip(axes, SIDES, strict=True):
        if truth:
            _ambiguity(row[0], frozen, evaluations, side)
        _rejection(row[-2], before, evaluations, side)
        _coverage(row[-1], evaluations, side)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _ambiguity(axis: Axes, frozen: Frozen, evaluations: dict[str, Evaluation], side: Side) -> None:
    """The total uncertainty of the first method over the true ambiguity."""
    method, evaluation = next(iter(evaluations.items()))
    assert frozen.trial.truth is not None
    known = frozen.trial.truth.ambiguity[side]
    values = np.mean([o.uncertainty[side][OWN] for o in evaluation.outcomes], 0)
    shift = np.random.default_rng(0).uniform(-0.08, 0.08, len(known))
    axis.plot(known + shift, values, ".", markersize=3, alpha=0.4)
    levels, place = np.unique(known.round(6), return_inverse=True)
    medians = [np.median(values[place == level]) for level in range(len(levels))]
    axis.plot(levels, medians, "k-", linewidth=1.5, label="median")
    axis.set(
        title=f"{method}: {side}s",
        xlabel="true ambiguity (nats)",
        ylabel="log of the total variance",
    )
    axis.legend(loc="lower right")


def _rejection(axis: Axes, before: Outcome, evaluations: dict[str, Evaluation], side: Side) -> None:
    """How right frozen retrieval is when the most uncertain queries are left out."""
    wrong = 1.0 - before.metrics[side]["annotated R@1"].round()
    for method, evaluation in evaluations.items():
        if method.endswith("_own"):
            continue
        values = [o.uncertainty[side][OWN] for o in evaluation.outcomes]
        curve = plots.kept_by_rejection(values, [wrong] * len(values))
        axis.plot(*curve, linewidth=1.5, label=method, color=_COLORS[method])
    for name in _BASELINES:
        if name in before.uncertainty[side]:
            curve = plots.kept_by_rejection([before.uncertainty[side][name]], [wrong])
            axis.plot(*curve, "--", linewidth=1.0, label=name)
    axis.set(
        title=f"failures of {side}s, by annotated pairs",
        xlabel="share left out, most uncertain first",
        ylabel="R@1 of the rest",
    )
    axis.legend(fontsize=6, framealpha=0.5)


def _coverage(axis: Axes, evaluations: dict[str, Evaluation], side: Side) -> None:
    """The share of partners' coordinates within central intervals, over their level."""
    axis.plot([0, 1], [0, 1], "k:", linewidth=1.0, label="ideal")
    for method, evaluation in evaluations.items():
        central = evaluation.fits[side].central
        if central is not None:
            found = np.sort(central.ravel())
            shares = np.searchsorted(found, _LEVELS, side="right") / found.size
            style = "--" if method == "probvlm_own" else "-"  # the other one lies on it
            axis.plot(_LEVELS, shares, style, linewidth=1.5, label=method, color=_COLORS[method])
    axis.set(
        title=f"intervals around {side}s, not tempered",
        xlabel="level",
        ylabel="share of the partners' coordinates inside",
    )
    axis.legend(fontsize=6, framealpha=0.5)
