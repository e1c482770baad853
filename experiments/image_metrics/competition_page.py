"""The page and the picture of a maximum differentiation competition."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.image_metrics import extremes
from experiments.reports import plots, tables

_COLUMNS = {
    "image": "image",
    "at": "held",
    "level_error": "greatest error of the level",
    "start": "moved from",
    "end": "to",
    "factor": "factor",
    "span": "times the least",
    "rounded_error": "error of the level in 8 bits",
}


def markdown(content: dict[str, Any]) -> str:
    """The report as a page."""
    rows = extremes.frame(content)
    rows["image"] = rows["moved"] + " " + rows["direction"]
    rows["at"] = [
        f"{held} at {at:.5f}" for held, at in zip(rows["held"], rows["level"], strict=True)
    ]
    digits = {"start": 5, "end": 5, "factor": 2}
    shown: dict[str, Callable[[Any], str]] = {
        "level_error": "{:.1e}".format,
        "rounded_error": "{:.1e}".format,
        "span": lambda times: "" if times is None else f"{times:.1f}",
    }
    lines = [
        "# Maximum differentiation competition",
        f"`{content['command']}`",
        f"Data: {content['data']}; jax {content['versions']['jax']} on {content['backend']}. "
        "Everything on this page is written by that command.",
        "Two images that one metric, held, calls equally far; the other one, moved, goes as low "
        "and as high as it can. Which of both is right, only eyes can tell: look at the picture. "
        "Errors are relative to the level, the greatest over all "
        f"{content['config']['num_steps']} steps.",
        tables.markdown(rows, _COLUMNS, digits=digits, shown=shown),
    ]
    return "\n\n".join(lines) + "\n"


def draw(path: Path, content: dict[str, Any], images: dict[str, np.ndarray]) -> None:
    """The original, the start and the four images, and both metrics along the way."""
    rows = {row["side"]: row for row in tables.records(extremes.frame(content))}
    figure, axes = plots.panels(2, 4, panel=(2.1, 2.35))
    for axis, name in zip(axes[:, 0], ("reference", "start"), strict=True):
        axis.imshow(images[name])
        axis.set_title("original\n" if name == "reference" else "start, with noise\n", fontsize=8)
    for line, role in zip(axes, ("first", "second"), strict=True):
        for axis, direction in zip(line[1:3], ("least", "greatest"), strict=True):
            row = rows[f"{role}_{direction}"]
            axis.imshow(images[row["side"]])
            axis.set_title(
                f"{row['moved']} {direction}: {row['end']:.4f}\n{row['held']} {row['level']:.4f}",
                fontsize=8,
            )
        _draw_way(line[3], content, role, rows)
    for axis in axes[:, :3].flat:
        axis.axis("off")
    plots.save(path, figure)


def _draw_way(axis: Axes, content: dict[str, Any], role: str, rows: dict[str, Any]) -> None:
    """The metric that moves, down and up, over the steps."""
    colors = plots.palette(["least", "greatest"])
    for direction, color in colors.items():
        row = rows[f"{role}_{direction}"]
        way = content["sides"][row["side"]]["moved"]
        axis.plot(way, color=color)
        axis.text(
            len(way) - 1, way[-1], direction, color=color, ha="right", va="bottom", fontsize=8
        )
        axis.set_title(f"{row['held']}\nheld", fontsize=8)
        axis.set(xlabel="step", ylabel=row["moved"], yscale="log")
