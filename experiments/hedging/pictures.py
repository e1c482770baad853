"""The pictures of hedged digits: the space, the images, the probabilities, the rejection."""

from pathlib import Path
from typing import Any

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from experiments.hedging import evaluation
from experiments.hedging.evaluation import CONDITIONS, Trial
from experiments.hedging.model import Model
from experiments.hedging.page import Cell, Outcomes
from experiments.reports import plots
from probemb import calibration

_NUMBERS_SHOWN = 6
_IMAGES_OF_A_NUMBER = 5
_SAMPLES_SHOWN = 24


def draw(
    folder: Path,
    models: dict[str, Model],
    parameters: dict[str, list[Any]],
    trials: dict[Cell, Trial],
    outcomes: dict[Cell, Outcomes],
) -> None:
    """Save every picture that the trained embeddings allow, of the first test split."""
    split = next(iter(trials))[0]
    of_split = {condition: trials[split, condition] for condition in CONDITIONS}
    first = {kind: trained[0] for kind, trained in parameters.items()}
    if next(iter(models.values())).dimension > 1:
        _save(folder / "embedding.png", _embedding(models, first, of_split))
    for kind in ("gaussian", "mixture"):
        if kind in models:
            etas = [outcomes[split, c][kind][0].uncertainty["eta"] for c in CONDITIONS]
            figure = _images(kind, of_split["corrupt"], outcomes[split, "corrupt"][kind][0], *etas)
            _save(folder / f"uncertainty_{kind}.png", figure)
    _save(folder / "reliability.png", _reliability(split, trials, outcomes))
    _save(folder / "rejection.png", _rejection(split, trials, outcomes))


def _save(path: Path, figure: Any) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _embedding(models: dict[str, Model], parameters: dict[str, Any], trials: dict[str, Trial]):
    """The first two dimensions: embeddings of a few numbers, clean and occluded."""
    figure, axes = plt.subplots(
        len(models), 2, figsize=(10, 4.6 * len(models)), layout="constrained", squeeze=False
    )
    numbers = np.unique(trials["clean"].queries.numbers)
    shown = numbers[np.linspace(0, len(numbers) - 1, min(_NUMBERS_SHOWN, len(numbers))).astype(int)]
    for row, (kind, model) in zip(axes, models.items(), strict=True):
        gallery = evaluation.embed(model, parameters[kind], trials["clean"].gallery.images)
        center = np.asarray(gallery if kind == "point" else gallery.mean)[:, :2]
        low, high = np.quantile(center, [0.005, 0.995], axis=0)
        margin = 0.12 * (high - low)
        for axis, condition in zip(row, CONDITIONS, strict=True):
            axis.plot(*center.T, ".", color="0.88", markersize=2, zorder=0)
            queries = trials[condition].queries
            every = evaluation.embed(model, parameters[kind], queries.images)
            for place, number in enumerate(shown):
                ids = np.flatnonzero(queries.numbers == number)[:_IMAGES_OF_A_NUMBER]
                each = jax.tree.map(lambda x, ids=ids: x[ids], every)
                _draw_embeddings(axis, model, each, f"C{place}", _spelled(number, queries.images))
            axis.set_xlim(low[0] - margin[0], high[0] + margin[0])
            axis.set_ylim(low[1] - margin[1], high[1] + margin[1])
            axis.set_title(f"{kind}, {'occluded' if condition == 'corrupt' else condition} digits")
            axis.set_xticks([])
            axis.set_yticks([])
    dimension = next(iter(models.values())).dimension
    note = "" if dimension == 2 else f"; the first 2 of {dimension} dimensions"
    figure.suptitle(
        "Ellipses: one standard deviation; lines join the components of a mixture"
        f"{note}. Grey: clean images of all numbers",
        fontsize=10,
    )
    return figure


def _spelled(number: int, images: np.ndarray) -> str:
    """A number with the leading zeros that its image shows."""
    return str(number).zfill(images.shape[2] // images.shape[1])


def _draw_embeddings(axis: Axes, model: Model, embeddings: Any, color: str, name: str) -> None:
    """Points, or the ellipses and some samples of distributions, with the number at each mean."""
    mean = np.asarray(embeddings if model.kind == "point" else embeddings.mean)[:, :2]
    if model.kind == "point":
        axis.plot(*mean.T, "o", color=color, markersize=5, alpha=0.8)
    elif model.kind == "gaussian":
        fields = embeddings.mean, embeddings.standard_deviation
        for center, spread in zip(*(np.asarray(x)[:, :2] for x in fields), strict=True):
            _draw_component(axis, center, spread, 1.0, color)
    else:
        parts = embeddings.components
        fields = (
            np.asarray(parts.mean)[..., :2],
            np.asarray(parts.standard_deviation)[..., :2],
            np.asarray(embeddings.weights),
        )
        for centers, spreads, weights in zip(*fields, strict=True):
            for part in zip(centers, spreads, weights, strict=True):
                _draw_component(axis, *part, color)
            # The components of one image belong together.
            axis.plot(*centers.T, "-", color=color, linewidth=1.0, alpha=2.0 * weights.min())
    for place in mean:
        axis.annotate(
            name, place, color=color, fontsize=8, ha="center", va="center", weight="bold",
            annotation_clip=True, clip_on=True,
        )  # fmt: skip


def _draw_component(
    axis: Axes, center: np.ndarray, spread: np.ndarray, weight: float, color: str
) -> None:
    """The ellipse of one standard deviation, and samples in proportion to the weight."""
    axis.add_patch(
        Ellipse(
            (center[0], center[1]),
            *(2.0 * spread),
            facecolor=color,
            edgecolor=color,
            alpha=0.35 * weight,
        )
    )
    noise = np.random.default_rng(0).normal(size=(round(_SAMPLES_SHOWN * weight), 2))
    axis.plot(*(center + spread * noise).T, ".", color=color, markersize=2, alpha=0.6)


def _images(kind, trial: Trial, outcome, clean_eta: np.ndarray, corrupt_eta: np.ndarray):
    """Histograms of eta, and corrupt images from the most certain to the least."""
    across, down = 8, 4
    figure = plt.figure(figsize=(10, 6.4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.0, 2.4])
    top, bottom = parts
    axis = top.subplots()
    both = np.concatenate([clean_eta, corrupt_eta])
    bins = np.linspace(both.min(), both.max(), 60).tolist()
    for values, name in ((clean_eta, "clean"), (corrupt_eta, "corrupt")):
        axis.hist(values, bins, alpha=0.6, label=name)
    axis.set_xlabel(f"eta of the {kind}")
    axis.set_ylabel("images")
    axis.set_yscale("log")
    axis.legend()
    order = np.argsort(corrupt_eta)
    chosen = order[np.linspace(0, len(order) - 1, across * down).astype(int)]
    for panel, query in zip(bottom.subplots(down, across).flat, chosen, strict=True):
        panel.imshow(trial.queries.images[query], cmap="gray", vmin=0, vmax=255)
        panel.set_xticks([])
        panel.set_yticks([])
        number, guess = (
            _spelled(int(numbers[query]), trial.queries.images)
            for numbers in (trial.queries.numbers, outcome.predicted)
        )
        panel.set_title(
            f"{corrupt_eta[query]:.3f}\n{number} as {guess}",
            fontsize=8,
            color="tab:green" if number == guess else "tab:red",
        )
    bottom.suptitle("corrupt images by eta: number as identified, green if right", fontsize=10)
    return figure


def _reliability(split: str, trials: dict[Cell, Trial], outcomes: dict[Cell, Outcomes]):
    """Predicted match probability against the observed share of matches."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.6), layout="constrained", sharey=True)
    for axis, condition in zip(axes, CONDITIONS, strict=True):
        match = trials[split, condition].match
        axis.plot([0, 1], [0, 1], ":", color="0.5")
        for embedding, each in outcomes[split, condition].items():
            probability = np.concatenate([outcome.match_of_pairs for outcome in each])
            bins = calibration.reliability(probability, np.tile(match, len(each)), num_bins=12)
            predicted, observed, weight = (np.asarray(values) for values in bins)
            filled = weight > 0.002
            axis.plot(predicted[filled], observed[filled], "o-", markersize=4, label=embedding)
        axis.set_title(f"{split}, {condition}")
        axis.set_xlabel("predicted match probability")
    axes[0].set_ylabel("observed share of matches")
    axes[0].legend()
    return figure


def _rejection(split: str, trials: dict[Cell, Trial], outcomes: dict[Cell, Outcomes]):
    """Accuracy of what is left when the least certain queries are rejected."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 6), layout="constrained")
    for axis, condition in zip(axes, CONDITIONS, strict=True):
        numbers = trials[split, condition].queries.numbers
        for embedding, each in outcomes[split, condition].items():
            for measure in each[0].uncertainty:
                curve = plots.kept_by_rejection(
                    [o.uncertainty[measure] for o in each],
                    [o.predicted != numbers for o in each],
                )
                axis.plot(
                    *curve,
                    "-" if measure == "eta" else "--",
                    label=f"{embedding}: {measure}",
                )
        axis.set_title(f"{split}, {condition}")
        axis.set_xlabel("share of queries rejected, the least certain first")
    axes[0].set_ylabel("accuracy of identification of the rest (mean over seeds)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
