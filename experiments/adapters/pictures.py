"""The picture of adapters: ambiguity, accuracy by rejection, and coverage, of either side."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from experiments.adapters import frozen as frozen_embeddings
from experiments.adapters import training
from experiments.adapters.evaluation import OWN, Evaluation
from experiments.adapters.frozen import Frozen
from experiments.captions.retrieval import SIDES, Outcome, Side
from experiments.reports import plots
from experiments.uncertainty import baselines

_COLORS = plots.palette([*training.METHODS, *baselines.named(*frozen_embeddings.KINDS)])


def draw(path: Path, frozen: Frozen, before: Outcome, evaluations: dict[str, Evaluation]) -> None:
    """Save the picture: a row for images and one for captions as queries."""
    truth = frozen.trial.truth is not None
    figure, axes = plots.panels(2, 2 + truth, panel=(3.5, 2.9))
    for row, side in zip(axes, SIDES, strict=True):
        if truth:
            _ambiguity(row[0], frozen, evaluations, side)
        _rejection(row[-2], before, evaluations, side)
        _coverage(row[-1], evaluations, side)
    plots.save(path, figure)


def _ambiguity(
    axis: Axes,
    frozen: Frozen,
    evaluations: dict[str, Evaluation],
    side: Side,
) -> None:
    """The total uncertainty of the first method over the true ambiguity."""
    method, evaluation = next(iter(evaluations.items()))
    assert frozen.trial.truth is not None
    values = np.mean([o.uncertainty[side][OWN] for o in evaluation.outcomes], 0)
    known = frozen.trial.truth.ambiguity[side]
    plots.ambiguity(axis, known, values, color=_COLORS[method])
    axis.set(title=f"{method}: {side}s", ylabel="log of the total variance")


def _rejection(
    axis: Axes,
    before: Outcome,
    evaluations: dict[str, Evaluation],
    side: Side,
) -> None:
    """How right frozen retrieval is when the most uncertain queries are left out."""
    wrong = 1.0 - before.metrics[side]["annotated R@1"].round()
    uncertainties = {
        method: [o.uncertainty[side][OWN] for o in evaluation.outcomes]
        for method, evaluation in evaluations.items()
        if not method.endswith("_own")  # as uncertain of everything
    }
    rivals = {name: [values] for name, values in before.uncertainty[side].items()}
    uncertainties |= rivals
    errors = {name: [wrong] * len(each) for name, each in uncertainties.items()}
    plots.rejection(axis, uncertainties, errors, _COLORS, dashed=rivals)
    axis.set(title=f"failures of {side}s", ylabel="R@1 of the rest, annotated pairs")
    plots.name_ends(axis, size=6.5)


def _coverage(axis: Axes, evaluations: dict[str, Evaluation], side: Side) -> None:
    """The share of partners' coordinates within central intervals, over their level."""
    fits = {method: evaluation.fits[side] for method, evaluation in evaluations.items()}
    inside = {method: fit.central for method, fit in fits.items() if fit.central is not None}
    plots.coverage(axis, inside, _COLORS)
    for line in axis.get_lines():
        if line.get_label() == "released_own":  # it lies on the exact one
            line.set_linestyle("--")
    axis.set_title(f"partners of {side}s, not tempered")
    plots.name_ends(axis, size=6.5)
