"""The pictures that need numbers: captions of covered images, and which captions include which."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import probemb
from experiments.captions import evaluation
from experiments.captions.digit_trials import encode
from experiments.captions.methods import METHODS, is_distribution
from experiments.captions.numbers import Outcomes
from experiments.captions.pictures import COLORS
from experiments.captions.retrieval import Outcome, Trial
from experiments.captions.two_towers import Model
from experiments.data import caption_grammar
from experiments.reports import plots

_CHAIN = (
    "four eight two",
    "a four, something, then a two",
    "three digits beginning with four",
    "three digits, one of them a four",
    "an even number of three digits",
    "a number of three digits",
    "a number with a four",
    "an even number",
    "some number",
)
"""Captions from the narrow to the wide, of which some include others."""


def draw(
    folder: Path,
    trial: Trial,
    outcomes: Outcomes,
    models: dict[str, Model],
    parameters: dict[str, list[Any]],
) -> None:
    """Save the pictures of a test split, if there are distributions.

    Args:
      folder: of the report.
      trial: the split.
      outcomes: of it.
      models: by method.
      parameters: of each seed, by method.
    """
    methods = [method for method in models if is_distribution(method)]
    if methods:
        plots.save(folder / "nearest.png", _nearest(trial, outcomes[methods[-1]][0], methods[-1]))
        plots.save(folder / "inclusion.png", _inclusion(models, parameters, methods))


def _covered(trial: Trial) -> np.ndarray:
    """An image of three digits for each number of covers, as far as there are some."""
    assert trial.truth is not None
    covers = np.rint(trial.truth.ambiguity["image"] / np.log(10.0)).astype(int)
    last = trial.images[:, :, -(trial.images.shape[2] // caption_grammar.LONGEST) :]
    long = last.max((1, 2)) > 0
    found = [np.flatnonzero(long & (covers == number)) for number in range(3)]
    return np.array([ids[0] for ids in found if len(ids)])


def _nearest(trial: Trial, outcome: Outcome, method: str) -> Figure:
    """The likeliest captions of images with no, one and two covers."""
    assert trial.truth is not None
    chosen = _covered(trial)
    figure, axes = plots.panels(
        len(chosen), 2, panel=(4.2, 1.7), sharex="col", width_ratios=[1, 2.2]
    )
    variance = outcome.uncertainty["image"][METHODS[method].judged_by]
    certain = np.argsort(np.argsort(variance)) / len(variance)
    for (picture, axis), image in zip(axes, chosen, strict=True):
        picture.imshow(trial.images[image], cmap="gray", vmin=0, vmax=255)
        picture.set_title(f"more uncertain than\n{certain[image]:.0%} of all images", fontsize=8.5)
        picture.axis("off")
        best = np.argsort(-outcome.scores[image], kind="stable")[:6][::-1]
        known = trial.truth.match_probability[image, best]
        places = np.arange(len(best))
        found = outcome.probability[image, best]
        bar, color = {"height": 0.36, "zorder": 2}, COLORS[method]
        axis.barh(places + 0.19, found, color=color, label=f"{method}'s match probability", **bar)
        axis.barh(places - 0.19, known, color=plots.GRAY, label="true probability", **bar)
        axis.set_yticks(places, [trial.captions[caption] for caption in best])
        axis.set_xlim(0.0, 1.02)
        axis.grid(visible=False, axis="y")
    axes[0, 1].set_title("the six captions that fit best", fontsize=8.5)
    axes[-1, 1].set_xlabel("probability that the caption is true of the image")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def _inclusion(
    models: dict[str, Model], parameters: dict[str, list[Any]], methods: list[str]
) -> Figure:
    """Which of a few captions include which: known, and as each method has it."""
    tokens = encode(_CHAIN)
    masks = np.stack([caption_grammar.denotation(caption) for caption in _CHAIN])
    within = (masks[:, None] & ~masks[None]).sum(2) == 0
    down = (len(methods) + 2) // 2
    figure, axes = plots.panels(down, 2, panel=(4.4, 2.9), sharey=True, sharex=True)
    _matrix(axes[0, 0], within.astype(float), within, "known: the row implies the column")
    for axis, method in zip(axes.flat[1:], methods, strict=False):
        texts = evaluation.embed_texts(models[method], parameters[method][0], tokens)
        rows, columns = (
            jax.tree.map(lambda x, k=k: x[k.ravel()], texts)
            for k in np.indices((len(_CHAIN), len(_CHAIN)))
        )
        scores = np.asarray(probemb.inclusion_test(rows, columns).sum(1)).reshape(within.shape)
        scores = scores - scores.mean(1, keepdims=True)
        _matrix(axis, scores, within, f"{method}: log of the integral of p² q")
    for axis in axes.flat[len(methods) + 1 :]:
        axis.set_visible(False)
    figure.suptitle("Which captions include which (dots: known; rows are centred)", fontsize=10)
    return figure


def _matrix(axis: Axes, values: np.ndarray, within: np.ndarray, title: str) -> None:
    places = range(len(values))
    axis.imshow(values, cmap="viridis", aspect="auto")
    axis.plot(
        *np.argwhere(within).T[::-1], "o", color="white", markeredgecolor=plots.INK, markersize=4
    )
    axis.set_yticks(places, [f"{caption}  {k + 1}" for k, caption in enumerate(_CHAIN)])
    axis.set_xticks(places, [str(k + 1) for k in places])
    axis.grid(visible=False)
    axis.set_title(title, fontsize=8.5)
