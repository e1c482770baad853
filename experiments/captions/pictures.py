"""The pictures that any images and captions allow: ambiguity, rejection, reliability."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.captions.methods import METHODS, is_distribution
from experiments.captions.numbers import Outcomes
from experiments.captions.retrieval import Side, Trial
from experiments.reports import plots
from probemb import calibration

COLORS = plots.palette(METHODS)
"""One for each method, in every picture of captions."""
_ACROSS = 4


def draw(folder: Path, trial: Trial, outcomes: Outcomes) -> None:
    """Save the pictures of a test split.

    Args:
      folder: of the report.
      trial: the split.
      outcomes: of it.
    """
    plots.save(folder / "rejection.png", _rejection(trial, outcomes))
    if any(METHODS[method].is_probability for method in outcomes):
        plots.save(folder / "reliability.png", _reliability(trial, outcomes))
    if trial.truth is not None:
        plots.save(folder / "ambiguity.png", _ambiguity(trial, outcomes, "caption"))
        plots.save(folder / "image_ambiguity.png", _ambiguity(trial, outcomes, "image"))


def _ambiguity(trial: Trial, outcomes: Outcomes, side: Side) -> Figure:
    """Each method's uncertainty, as a rank, over the true ambiguity: a panel each."""
    assert trial.truth is not None
    known = trial.truth.ambiguity[side]
    across = min(_ACROSS, len(outcomes))
    figure, axes = plots.panels(
        math.ceil(len(outcomes) / across), across, panel=(2.3, 2.4), sharex=True, sharey=True
    )
    for axis, (method, each) in zip(axes.flat, outcomes.items(), strict=False):
        measure = METHODS[method].judged_by
        values = each[0].uncertainty[side][measure]
        rank = np.argsort(np.argsort(values, kind="stable"), kind="stable") / len(values)
        plots.ambiguity(axis, known, rank, color=COLORS[method])
        correlation = float(calibration.spearman(values, known))
        axis.set_title(f"{method}, Spearman {correlation:.2f}\n{measure}", fontsize=8.5)
        axis.set_xticks(range(0, 8, 2))
        axis.label_outer()
    for axis in axes.flat[len(outcomes) :]:
        axis.set_visible(False)
    for column in range(across):  # the lowest that is shown has no panel below to name its axis
        last = (len(outcomes) - 1 - column) // across
        axes[last, column].tick_params(labelbottom=True)
        axes[last, column].set_xlabel("true ambiguity (nats)")
    for axis in axes[:, 0]:
        axis.set_ylabel("rank of uncertainty")
    figure.suptitle(f"Are ambiguous {side}s the uncertain ones? (first seed)", fontsize=10)
    return figure


def _rejection(trial: Trial, outcomes: Outcomes) -> Figure:
    """R@1 of the captions that are left when the least certain are rejected."""
    names = {"annotated R@1": "counted: what was written of the image"}
    if trial.truth is not None:
        names = {"R@1": "counted: all that is true", **names}
    uncertainties = {
        method: [o.uncertainty["caption"][METHODS[method].judged_by] for o in each]
        for method, each in outcomes.items()
    }
    figure, axes = plots.panels(1, len(names))
    for axis, (name, title) in zip(axes[0], names.items(), strict=True):
        errors = {
            method: [1.0 - o.metrics["caption"][name].astype(np.float32) for o in each]
            for method, each in outcomes.items()
        }
        rivals = [method for method in outcomes if not is_distribution(method)]
        plots.rejection(axis, uncertainties, errors, COLORS, dashed=rivals)
        axis.set(title=title, ylabel="R@1 of the captions that are left")
    figure.draw_without_rendering()  # names keep their distance in the panel as it will be
    for axis in axes[0]:
        plots.name_ends(axis)
    return figure


def _reliability(trial: Trial, outcomes: Outcomes) -> Figure:
    """How often pairs match that are said to match with some probability, of all seeds."""
    methods = [method for method in outcomes if METHODS[method].is_probability]
    pairs = {
        method: np.concatenate([o.probability.ravel() for o in outcomes[method]])
        for method in methods
    }
    match = trial.positives.ravel().astype(np.float32)
    matches = {method: np.tile(match, len(outcomes[method])) for method in methods}
    figure, axes = plots.panels(1, 1, panel=(4.8, 3.8))
    plots.reliability(axes[0, 0], pairs, matches, COLORS)
    points = [value for line in axes[0, 0].get_lines()[1:] for value in np.ravel(line.get_data())]
    limits = 0.0, min(1.0, 1.1 * max(points, default=1.0))  # the rare match has no great ones
    axes[0, 0].set(
        title="Pairs of images and captions",
        xlabel="predicted match probability",
        ylabel="share that match",
        xlim=limits,
        ylim=limits,
    )
    axes[0, 0].legend()
    return figure
