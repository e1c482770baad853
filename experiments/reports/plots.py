"""One vocabulary of pictures: a style, a palette, and the curves that questions share.

    figure, axes = plots.panels(1, 2)
    plots.rejection(axes[0, 0], uncertainties, errors, plots.palette(names))
    plots.save(folder / "rejection.png", figure)

A panel is as wide as a page's text allows, a line is named at its end, and a name has one colour
in every picture of a question. The curves are of one query side, one split: a panel each.
"""

import collections
import functools
import itertools
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager, ft2font
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probemb import calibration

INK, GRAY, FAINT = "#222222", "#777777", "#dddddd"
# Tol's "bright" and "muted" schemes, told apart with any colour vision; dark ones first.
_COLORS = (
    "#4477aa", "#cc6677", "#228833", "#aa3377", "#ddaa33", "#332288", "#44aa99",
    "#882255", "#66ccee", "#999933", "#ee8866", GRAY, INK,
)  # fmt: skip
STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRAY,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "xtick.color": GRAY,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.color": GRAY,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
    "image.cmap": "viridis",
}
"""The style sheet of every picture; importing this module sets it for the whole process."""
plt.rcParams.update(STYLE)
# Of fewer items than this share of all, a curve of the rest tells nothing.
_LEAST_KEPT = 0.02


def palette(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, by its place: hand in a whole table, so that a name keeps its own."""
    return {name: _COLORS[place % len(_COLORS)] for place, name in enumerate(names)}


def panels(
    down: int, across: int, *, panel: tuple[float, float] = (4.0, 3.2), **options
) -> tuple[Figure, np.ndarray]:
    """A figure of panels in the style of all, and its axes (down, across).

    Args:
      down: rows of panels.
      across: panels in a row.
      panel: width and height of one, in inches.
      options: of `plt.subplots`.
    """
    width, height = panel
    size = width * across, height * down
    return plt.subplots(down, across, figsize=size, squeeze=False, **options)


def save(path: Path, figure: Figure) -> None:
    """Save a figure and close it."""
    figure.savefig(path, dpi=STYLE["figure.dpi"])
    plt.close(figure)


def drawable(text: str) -> dict[str, Any]:
    """A text from outside as a keyword of matplotlib's texts, with fonts that can draw it.

    Characters that the default font lacks come from an installed one that has them all; where
    there is none, a question mark stands for each of them.

    Args:
      text: such as the name of a file; a dollar is a dollar.
    """
    family = matplotlib.rcParams["font.family"]
    properties = font_manager.FontProperties(family=family)
    missing = {ord(sign) for sign in text} - _glyphs(font_manager.findfont(properties))
    if missing:
        for font in font_manager.fontManager.ttflist:
            if missing <= _glyphs(font.fname):
                family = [*family, font.name]
                break
        else:
            text = "".join("?" if ord(sign) in missing else sign for sign in text)
    return {"text": text, "family": family, "parse_math": False}


@functools.cache
def _glyphs(path: str) -> frozenset[int]:
    """The characters that the font in a file has."""
    try:
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def name_ends(axis: Axes, *, size: float = 8) -> None:
    """Name each line with a label at its right end, in its colour; names keep their distance.

    Call it last: it reads the limits of the axis.
    """
    lines = [line for line in axis.get_lines() if not str(line.get_label()).startswith("_")]
    if not lines:
        return
    step = 1.25 * size * axis.figure.dpi / 72.0 / axis.get_window_extent().height
    to_share = axis.transData + axis.transAxes.inverted()  # of the panel's height, on any scale
    ends = [np.asarray(line.get_xydata())[-1] for line in lines]
    shares = to_share.transform(ends)[:, 1]
    order = np.argsort(shares, kind="stable")
    places = shares[order]
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] + step)
    places += min(0.0, 1.0 - step / 2.0 - places[-1])
    for k in range(len(places) - 2, -1, -1):
        places[k] = min(places[k], places[k + 1] - step)
    for k, y in zip(order, places, strict=True):
        axis.annotate(
            str(lines[k].get_label()),
            (1.0, y),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=size,
            color=lines[k].get_color(),
            annotation_clip=False,
        )


def kept_by_rejection(
    uncertainties: list[np.ndarray], errors: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The share of items rejected, the most uncertain first, and how right the rest is.

    A mean over seeds; where a handful of items is left, which tells nothing, the curve ends.

    Args:
      uncertainties: (item) of each seed.
      errors: (item) of each seed, from 0 to 1.
    """
    curves = []
    for uncertainty, error in zip(uncertainties, errors, strict=True):
        risk = np.asarray(calibration.selective_risk(uncertainty, error))
        curves.append(1.0 - risk[np.argsort(uncertainty, kind="stable")])
    kept = np.arange(1, len(curves[0]) + 1) / len(curves[0])
    shown = kept > _LEAST_KEPT
    return 1.0 - kept[shown], np.mean(curves, 0)[shown]


def rejection(
    axis: Axes,
    uncertainties: Mapping[str, list[np.ndarray]],
    errors: Mapping[str, list[np.ndarray]],
    colors: Mapping[str, str],
    *,
    dashed: Collection[str] = (),
) -> None:
    """How right the rest is when the most uncertain items are rejected: a line for each name.

    Args:
      axis: to draw on; its y label and title are the caller's.
      uncertainties: by name, (item) of each seed.
      errors: by name, (item) of each seed, from 0 to 1.
      colors: by name; those that are missing are gray.
      dashed: names of rivals; those of one colour are dashed each in its way.
    """
    dashes = collections.defaultdict(lambda: itertools.cycle(("--", ":", "-.")))
    for name, values in uncertainties.items():
        share, right = kept_by_rejection(values, errors[name])
        color = colors.get(name, GRAY)
        axis.plot(
            share[::-1],
            right[::-1],
            linestyle=next(dashes[color]) if name in dashed else "-",
            color=color,
            label=name,
        )
    axis.set(xlabel="share rejected, the most uncertain first", xlim=(0.0, 1.0))


def ambiguity(axis: Axes, known: np.ndarray, values: np.ndarray, *, color: str = GRAY) -> None:
    """Uncertainty over what is truly ambiguous: a box for each level of it, medians joined.

    Args:
      axis: to draw on; its y label and title are the caller's.
      known: (item), the true ambiguity in nats.
      values: (item), the uncertainty, on any scale.
      color: of the method.
    """
    levels, place = np.unique(np.asarray(known).round(6), return_inverse=True)
    groups = [np.asarray(values)[place == level] for level in range(len(levels))]
    width = max(0.12, 0.35 * np.diff(levels).min(initial=1.0))
    axis.boxplot(
        groups,
        positions=levels,
        widths=width,
        showfliers=False,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": color, "alpha": 0.35, "edgecolor": color},
        medianprops={"color": INK},
        whiskerprops={"color": color},
        capprops={"color": color},
    )
    axis.set(xlabel="true ambiguity (nats)", xlim=(levels[0] - 0.6, levels[-1] + 0.6))


def coverage(axis: Axes, inside: Mapping[str, np.ndarray], colors: Mapping[str, str]) -> None:
    """The share of values within central intervals, over the intervals' level.

    Args:
      axis: to draw on; its title is the caller's.
      inside: by name, for each value the level of the smallest central interval that holds it.
      colors: by name; those that are missing are gray.
    """
    levels = np.linspace(0.0, 1.0, 41)
    _diagonal(axis)
    for name, central in inside.items():
        found = np.sort(np.ravel(central))
        share = np.searchsorted(found, levels, side="right") / found.size
        axis.plot(levels, share, color=colors.get(name, GRAY), label=name)
    axis.set(xlabel="level of the interval", ylabel="share of values inside")


def reliability(
    axis: Axes,
    probabilities: Mapping[str, np.ndarray],
    outcomes: Mapping[str, np.ndarray],
    colors: Mapping[str, str],
    *,
    num_bins: int = 12,
) -> None:
    """How often what is predicted with a probability is so: on the diagonal it is calibrated.

    Args:
      axis: to draw on; its title is the caller's.
      probabilities: by name, (pair).
      outcomes: by name, (pair), 0 or 1.
      colors: by name; those that are missing are gray.
      num_bins: of equal width; bins with next to nothing in them are left out.
    """
    _diagonal(axis)
    for name, probability in probabilities.items():
        bins = calibration.reliability(probability, outcomes[name], num_bins=num_bins)
        predicted, observed, weight = (np.asarray(values) for values in bins)
        filled = weight > 0.002
        axis.plot(
            predicted[filled],
            observed[filled],
            "o-",
            markersize=4,
            color=colors.get(name, GRAY),
            label=name,
        )
    axis.set(xlabel="predicted probability", ylabel="observed share")


def heat(axis: Axes, values: np.ndarray, rows: list[str], columns: list[str]) -> None:
    """A table of colours with its numbers, such as correlations: at most 1.

    Args:
      axis: to draw on; its title is the caller's.
      values: (row, column).
      rows: their names.
      columns: their names.
    """
    least = min(0.0, float(np.min(values)))
    axis.imshow(values, vmin=least, vmax=1.0, cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        color = INK if value > least + 0.6 * (1.0 - least) else "white"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
    axis.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axis.set_yticks(range(len(rows)), rows)
    axis.grid(False)
    axis.tick_params(length=0)


def _diagonal(axis: Axes) -> None:
    axis.plot([0.0, 1.0], [0.0, 1.0], ":", color=GRAY, linewidth=1.0)
    axis.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0))
