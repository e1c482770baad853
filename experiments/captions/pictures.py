"""The pictures of image and caption retrieval: ambiguity, rejection, neighbours, implication."""

from pathlib import Path
from typing import Any

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import probemb
from experiments.captions import evaluation
from experiments.captions.evaluation import Trial
from experiments.captions.methods import METHODS, is_distribution
from experiments.captions.page import Outcomes
from experiments.captions.two_towers import Model
from experiments.data import caption_grammar
from experiments.reports import plots
from probemb import calibration

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


def draw(folder: Path, trial: Trial, outcomes: Outcomes) -> None:
    """Save the pictures that any image-caption pairs allow."""
    _save(folder / "rejection.png", _rejection(trial, outcomes))
    if trial.truth is not None:
        _save(folder / "ambiguity.png", _ambiguity(trial, outcomes))


def draw_digits(
    folder: Path,
    trial: Trial,
    outcomes: Outcomes,
    models: dict[str, Model],
    parameters: dict[str, list[Any]],
    encode: Any,
) -> None:
    """Save the pictures that need numbers: captions of covered images, inclusion of captions.

    Args:
      folder: of the report.
      trial: a test split.
      outcomes: of it.
      models: by method.
      parameters: of each seed, by method.
      encode: texts -> word numbers.
    """
    methods = [method for method in models if is_distribution(method)]
    if methods:
        _save(folder / "nearest.png", _nearest(trial, outcomes, methods[-1]))
        _save(folder / "inclusion.png", _inclusion(models, parameters, methods, encode))


def _save(path: Path, figure: Any) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _ambiguity(trial: Trial, outcomes: Outcomes):
    """Each method's uncertainty, as a rank, over the true ambiguity."""
    assert trial.truth is not None
    figure, axes = plt.subplots(
        2, len(outcomes), figsize=(2.3 * len(outcomes) + 1, 5.6), layout="constrained",
        squeeze=False, sharey=True, sharex="row",
    )  # fmt: skip
    for row, side in zip(axes, ("caption", "image"), strict=True):
        known = trial.truth.ambiguity[side]
        levels, place = np.unique(known.round(6), return_inverse=True)
        for axis, (method, each) in zip(row, outcomes.items(), strict=True):
            values = each[0].uncertainty[side][METHODS[method].judged_by]
            rank = np.argsort(np.argsort(values, kind="stable"), kind="stable") / len(values)
            groups = [rank[place == level] for level in range(len(levels))]
            width = 0.35 * np.diff(levels).min(initial=1.0)
            axis.boxplot(groups, positions=levels, widths=max(width, 0.12), showfliers=False)
            correlation = float(calibration.spearman(values, known))
            axis.set_title(
                f"{method}\n{METHODS[method].judged_by}\nSpearman {correlation:.2f}", fontsize=9
            )
            axis.set_xticks(range(0, 8, 2), [str(tick) for tick in range(0, 8, 2)])
            axis.set_xlim(levels[0] - 0.6, levels[-1] + 0.6)
        row[0].set_ylabel(f"{side}s:\nrank of uncertainty")
        for axis in row:
            axis.set_xlabel("true ambiguity (nats)", fontsize=8)
    figure.suptitle("Uncertainty over what is truly ambiguous (first seed)", fontsize=11)
    return figure


def _rejection(trial: Trial, outcomes: Outcomes):
    """R@1 of the captions that are left when the least certain are rejected."""
    names = {"annotated R@1": "what was written of the image alone"}
    if trial.truth is not None:
        names = {"R@1": "all that is true", **names}
    figure, axes = plt.subplots(
        1, len(names), figsize=(5.5 * len(names), 5.4), layout="constrained", squeeze=False
    )
    for axis, (name, meaning) in zip(axes[0], names.items(), strict=True):
        for place, (method, each) in enumerate(outcomes.items()):
            curve = plots.kept_by_rejection(
                [o.uncertainty["caption"][METHODS[method].judged_by] for o in each],
                [1.0 - o.metrics["caption"][name].astype(np.float32) for o in each],
            )
            axis.plot(
                *curve,
                "-" if is_distribution(method) else "--",
                color=f"C{place}",
                label=f"{method}: {METHODS[method].judged_by}",
            )
        axis.set_title(f"counted as a match: {meaning}", fontsize=10)
        axis.set_xlabel("share of captions rejected, the least certain first")
    axes[0, 0].set_ylabel("R@1 from caption to image (mean over seeds)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _covered(trial: Trial) -> np.ndarray:
    """An image of three digits for each number of covers, as far as there are some."""
    assert trial.truth is not None
    covers = np.rint(trial.truth.ambiguity["image"] / np.log(10.0)).astype(int)
    last = trial.images[:, :, -(trial.images.shape[2] // caption_grammar.LONGEST) :]
    long = last.max((1, 2)) > 0
    found = [np.flatnonzero(long & (covers == number)) for number in range(3)]
    return np.array([ids[0] for ids in found if len(ids)])


def _nearest(trial: Trial, outcomes: Outcomes, method: str):
    """The likeliest captions of images with no, one and two covers."""
    assert trial.truth is not None
    outcome = outcomes[method][0]
    chosen = _covered(trial)
    figure, axes = plt.subplots(
        len(chosen), 2, figsize=(10, 2.6 * len(chosen)), layout="constrained", squeeze=False,
        width_ratios=[1, 2.2],
    )  # fmt: skip
    variance = outcome.uncertainty["image"][METHODS[method].judged_by]
    certain = np.argsort(np.argsort(variance)) / len(variance)
    for (picture, axis), image in zip(axes, chosen, strict=True):
        picture.imshow(trial.images[image], cmap="gray", vmin=0, vmax=255)
        picture.set_title(f"more uncertain than {certain[image]:.0%} of images", fontsize=9)
        picture.axis("off")
        best = np.argsort(-outcome.scores[image], kind="stable")[:6][::-1]
        known = trial.truth.match_probability[image, best]
        axis.barh(range(len(best)), outcome.probability[image, best], height=0.7, color="C0")
        axis.plot(known, range(len(best)), "k|", markersize=16, markeredgewidth=2)
        axis.set_yticks(range(len(best)), [trial.captions[caption] for caption in best], fontsize=8)
        axis.set_xlim(0, 1.02)
    axes[-1, 1].set_xlabel(
        f"bar: match probability of {method}; stroke: how probably the caption is true"
    )
    return figure


def _inclusion(models, parameters, methods: list[str], encode):
    """Which of a few captions include which: known, and as each method has it."""
    tokens = encode(_CHAIN)
    masks = np.stack([caption_grammar.denotation(caption) for caption in _CHAIN])
    within = (masks[:, None] & ~masks[None]).sum(2) == 0
    figure, axes = plt.subplots(
        1, len(methods) + 1, figsize=(3.4 * (len(methods) + 1) + 2, 5.2), layout="constrained",
        sharey=True,
    )  # fmt: skip
    _matrix(axes[0], within.astype(float), within, "known: the row implies the column")
    for axis, method in zip(axes[1:], methods, strict=True):
        texts = evaluation.embed_texts(models[method], parameters[method][0], tokens)
        rows, columns = (
            jax.tree.map(lambda x, k=k: x[k.ravel()], texts)
            for k in np.indices((len(_CHAIN), len(_CHAIN)))
        )
        scores = np.asarray(probemb.inclusion_test(rows, columns).sum(1)).reshape(within.shape)
        scores = scores - scores.mean(1, keepdims=True)
        _matrix(axis, scores, within, f"{method}: log of the integral of p² q")
    axes[0].set_yticks(range(len(_CHAIN)), _CHAIN, fontsize=8)
    figure.suptitle("Which captions include which (dots: known; rows are centred)", fontsize=11)
    return figure


def _matrix(axis: Axes, values: np.ndarray, within: np.ndarray, title: str) -> None:
    axis.imshow(values, cmap="viridis")
    axis.plot(*np.argwhere(within).T[::-1], "w.", markersize=5)
    axis.set_xticks(range(len(values)), _CHAIN, fontsize=7, rotation=60, ha="right")
    axis.set_title(title, fontsize=9)
