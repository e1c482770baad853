"""The pictures of hedged embeddings: the space, the images, the probabilities, the rejection."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from experiments.hedging import evaluation
from experiments.hedging.evaluation import CONDITIONS, Outcome, Trial
from experiments.hedging.model import Kind, Model
from experiments.hedging.numbers import Cell, Outcomes
from experiments.reports import plots

Named = Callable[[int], str]
"""What a label is called."""
_LABELS_SHOWN = 6
_IMAGES_OF_A_LABEL = 5
_COLORS = plots.palette([*get_args(Kind), "ensemble of points"])
_RIGHT, _WRONG = "#228833", "#cc3311"
_HALO = [patheffects.withStroke(linewidth=2.5, foreground="white")]


def draw(
    folder: Path,
    models: dict[str, Model],
    parameters: dict[str, list[Any]],
    trials: dict[Cell, Trial],
    outcomes: dict[Cell, Outcomes],
    named: Named = str,
) -> None:
    """Save every picture that the trained embeddings allow, of the first test split."""
    split = next(iter(trials))[0]
    of_split = {condition: trials[split, condition] for condition in CONDITIONS}
    first = {kind: trained[0] for kind, trained in parameters.items()}
    if next(iter(models.values())).dimension > 1:
        plots.save(folder / "embedding.png", _embedding(models, first, of_split, named))
    for kind in ("gaussian", "mixture"):
        if kind in models:
            of_kind = {c: outcomes[split, c][kind][0] for c in CONDITIONS}
            figure = _images(kind, of_split["corrupt"], of_kind, named)
            plots.save(folder / f"uncertainty_{kind}.png", figure)
    plots.save(folder / "reliability.png", _reliability(split, trials, outcomes))
    plots.save(folder / "rejection.png", _rejection(split, trials, outcomes))


# --- the space --------------------------------------------------------------------------------


class _Parts(NamedTuple):
    """What embeddings are made of, in the first two dimensions; a point is one without a width.

    Attributes:
      centers: (image, component, 2).
      spreads: standard deviations (image, component, 2).
      weights: (image, component).
    """

    centers: np.ndarray
    spreads: np.ndarray
    weights: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        """The ends (end, 2) of all ellipses."""
        ends = [self.centers - self.spreads, self.centers + self.spreads]
        return np.concatenate(ends).reshape(-1, 2)


def _parts(model: Model, embeddings: Any) -> _Parts:
    if model.kind == "point":
        centers = np.asarray(embeddings)[:, None, :2]
        return _Parts(centers, np.zeros_like(centers), np.ones(centers.shape[:2]))
    if model.kind == "gaussian":
        every, weights = jax.tree.map(lambda x: x[:, None], embeddings), np.ones((1, 1))
    else:
        every, weights = embeddings.components, np.asarray(embeddings.weights)
    centers, spreads = (np.asarray(x)[..., :2] for x in (every.mean, every.standard_deviation))
    return _Parts(centers, spreads, np.broadcast_to(weights, centers.shape[:2]))


def _embedding(
    models: dict[str, Model], parameters: dict[str, Any], trials: dict[str, Trial], named: Named
) -> Figure:
    """The first two dimensions: embeddings of a few labels, clean and corrupt."""
    figure, axes = plots.panels(
        len(models), 2, panel=(4.4, 4.0), sharex="row", sharey="row", subplot_kw={"aspect": 1.0}
    )
    labels = np.unique(trials["clean"].queries.labels)
    shown = labels[np.linspace(0, len(labels) - 1, min(_LABELS_SHOWN, len(labels))).astype(int)]
    colors = plots.palette([named(int(label)) for label in shown])
    for row, (kind, model) in zip(axes, models.items(), strict=True):
        gallery = evaluation.embed(model, parameters[kind], trials["clean"].gallery.images)
        mean = np.asarray(gallery if kind == "point" else gallery.mean)[:, :2]
        corners = []
        for axis, condition in zip(row, CONDITIONS, strict=True):
            axis.plot(*mean.T, ".", color=plots.FAINT, markersize=2, zorder=0)
            queries = trials[condition].queries
            every = _parts(model, evaluation.embed(model, parameters[kind], queries.images))
            for label, (name, color) in zip(shown, colors.items(), strict=True):
                ids = np.flatnonzero(queries.labels == label)[:_IMAGES_OF_A_LABEL]
                parts = _Parts(*(x[ids] for x in every))
                _draw_embeddings(axis, parts, color, name)
                corners.append(parts.corners)
            axis.set_title(f"{kind}, {condition} images")
            axis.grid(visible=False)
        # A few that are far off, or far wider than the others, may leave the picture.
        of_all = np.quantile(mean, [0.005, 0.995], axis=0)
        of_shown = np.quantile(np.concatenate(corners), [0.02, 0.98], axis=0)
        low, high = np.minimum(of_all[0], of_shown[0]), np.maximum(of_all[1], of_shown[1])
        margin = 0.06 * (high - low).max()
        row[0].set(
            ylabel="second dimension",
            xlim=(low[0] - margin, high[0] + margin),
            ylim=(low[1] - margin, high[1] + margin),
        )
    for axis in axes[-1]:
        axis.set_xlabel("first dimension")
    dimension = next(iter(models.values())).dimension
    note = "" if dimension == 2 else f", in the first 2 of {dimension} dimensions"
    figure.suptitle(
        f"Ellipses: one standard deviation{note}; lines join the components of a mixture.\n"
        "Gray: clean images of all labels",
        fontsize=9,
    )
    return figure


def _draw_embeddings(axis: Axes, parts: _Parts, color: str, name: str) -> None:
    """The means of some images of a label with their ellipses; its name at the one in the middle.

    A component is the fainter, the less its weight.
    """
    for centers, spreads, weights in zip(*parts, strict=True):
        for center, spread, weight in zip(centers, spreads, weights, strict=True):
            width, height = 2.0 * spread
            where = (float(center[0]), float(center[1]))
            ellipse: Any = {"edgecolor": color, "facecolor": color}
            axis.add_patch(Ellipse(where, width, height, alpha=0.1 * weight, **ellipse))
            axis.add_patch(Ellipse(where, width, height, alpha=0.8 * weight, fill=False, **ellipse))
        # The components of one image belong together.
        axis.plot(*centers.T, "-", color=color, linewidth=0.8, alpha=float(weights.min()))
    means = (parts.weights[..., None] * parts.centers).sum(1)
    axis.plot(*means.T, "o", color=color, markersize=3.5)
    middle = means[np.linalg.norm(means - np.median(means, 0), axis=1).argmin()]
    axis.annotate(
        name,
        (float(middle[0]), float(middle[1])),
        xytext=(0, 5),
        textcoords="offset points",
        color=color,
        ha="center",
        weight="bold",
        path_effects=_HALO,
    )


# --- the images -------------------------------------------------------------------------------


def drawable(image: np.ndarray) -> np.ndarray:
    """An image (height, width, ...) of any channels in colours if it has three, else in grays."""
    return image if image.ndim == 2 or image.shape[2] == 3 else image.mean(2)


def _images(kind: str, trial: Trial, outcomes: dict[str, Outcome], named: Named) -> Figure:
    """Histograms of eta, and corrupt images from the most certain to the least."""
    across, down = 8, 4
    figure = plt.figure(figsize=(8.4, 6.4))
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.0, 2.4])
    top, bottom = parts
    axis = top.subplots()
    etas = {condition: outcome.uncertainty["eta"] for condition, outcome in outcomes.items()}
    both = np.concatenate(list(etas.values()))
    bins = np.linspace(both.min(), both.max(), 50).tolist()
    colors = plots.palette(etas)
    for condition, values in etas.items():
        axis.hist(
            values, bins, histtype="stepfilled", alpha=0.45, color=colors[condition],
            label=condition,
        )  # fmt: skip
    axis.set(xlabel=f"eta of the {kind}", ylabel="images", yscale="log")
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    eta, predicted = etas["corrupt"], outcomes["corrupt"].predicted
    order = np.argsort(eta)
    chosen = order[np.linspace(0, len(order) - 1, across * down).astype(int)]
    for panel, query in zip(bottom.subplots(down, across).flat, chosen, strict=True):
        panel.imshow(drawable(trial.queries.images[query]), cmap="gray", vmin=0, vmax=255)
        panel.set_axis_off()
        label, guess = int(trial.queries.labels[query]), int(predicted[query])
        panel.set_title(
            f"{eta[query]:.3f}\n{named(label)} as {named(guess)}",
            fontsize=8,
            loc="center",
            color=_RIGHT if label == guess else _WRONG,
        )
    bottom.suptitle("corrupt images by eta: label as identified, green if right", fontsize=9)
    return figure


# --- probabilities and rejection ----------------------------------------------------------------


def _reliability(split: str, trials: dict[Cell, Trial], outcomes: dict[Cell, Outcomes]) -> Figure:
    """Predicted match probability against the observed share of matches."""
    figure, axes = plots.panels(1, 2, sharey=True)
    for axis, condition in zip(axes[0], CONDITIONS, strict=True):
        match, of = trials[split, condition].match, outcomes[split, condition]
        plots.reliability(
            axis,
            {name: np.concatenate([o.match_of_pairs for o in each]) for name, each in of.items()},
            {name: np.tile(match, len(each)) for name, each in of.items()},
            _COLORS,
        )
        axis.set(title=f"{split}, {condition}", xlabel="predicted match probability")
    axes[0, 0].set_ylabel("observed share of matches")
    axes[0, 1].set_ylabel("")
    plots.name_ends(axes[0, 1])
    return figure


def _rejection(split: str, trials: dict[Cell, Trial], outcomes: dict[Cell, Outcomes]) -> Figure:
    """Accuracy of what is left when the least certain queries are rejected."""
    figure, axes = plots.panels(1, 2, panel=(4.8, 3.6))
    for axis, condition in zip(axes[0], CONDITIONS, strict=True):
        labels = trials[split, condition].queries.labels
        uncertainties, errors, colors = {}, {}, {}
        for embedding, each in outcomes[split, condition].items():
            for measure in each[0].uncertainty:
                name = f"{embedding}: {measure}"
                uncertainties[name] = [o.uncertainty[measure] for o in each]
                errors[name] = [o.predicted != labels for o in each]
                colors[name] = _COLORS[embedding]
        rivals = [name for name in uncertainties if not name.endswith(": eta")]
        plots.rejection(axis, uncertainties, errors, colors, dashed=rivals)
        axis.set_title(f"{split}, {condition}")
        plots.name_ends(axis, size=7)
    axes[0, 0].set_ylabel("accuracy of the rest, a mean over seeds")
    return figure
