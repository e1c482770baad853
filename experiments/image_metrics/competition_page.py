"""The numbers and the picture of a maximum differentiation competition."""

from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from experiments.reports.tables import table

Side = Literal["first_least", "first_greatest", "second_least", "second_greatest"]
"""One of the four images: which metric moves, and where to. The other one is held."""
SIDES: tuple[Side, ...] = get_args(Side)


def numbers(held: np.ndarray, moved: np.ndarray, rounded: tuple[float, float]) -> dict[str, Any]:
    """What one image came to.

    Args:
      held: the held metric (step + 1) along the way, its level first.
      moved: the other metric (step + 1).
      rounded: held and moved of the image in whole steps of 0..255.
    """
    level = float(held[0])
    return {
        "level": level,
        "start": float(moved[0]),
        "end": float(moved[-1]),
        "level_error": float(np.abs(held / level - 1.0).max()),
        "rounded": {
            "level_error": abs(rounded[0] / level - 1.0),
            "end": float(rounded[1]),
        },
        "held": held.tolist(),
        "moved": moved.tolist(),
    }


def _roles(content: dict[str, Any], side: str) -> tuple[str, str, str]:
    """The titles of the metric that moves and of the one that is held, and the direction."""
    role, direction = side.split("_")
    other = "second" if role == "first" else "first"
    return content["titles"][role], content["titles"][other], direction


def markdown(content: dict[str, Any]) -> str:
    """The report as a page."""
    rows = []
    for side in SIDES:
        found, (moved, held, direction) = content["sides"][side], _roles(content, side)
        rows.append(
            [
                f"{moved} {direction}",
                f"{held} at {found['level']:.5f}",
                f"{found['level_error']:.1e}",
                f"{found['start']:.5f}",
                f"{found['end']:.5f}",
                f"{found['end'] / found['start']:.2f}",
                f"{found['rounded']['level_error']:.1e}",
            ]
        )
    header = ["image", "held", "greatest error of the level", "moved from", "to", "factor"]
    header.append("error of the level in 8 bits")
    spans = {
        role: content["sides"][f"{role}_greatest"]["end"]
        / max(content["sides"][f"{role}_least"]["end"], 1e-12)
        for role in ("first", "second")
    }
    titles = content["titles"]
    lines = [
        "# Maximum differentiation competition",
        f"`{content['command']}`",
        f"Data: {content['data']}; jax {content['versions']['jax']} on {content['backend']}. "
        "Everything on this page is written by that command.",
        f"Of images that {titles['second']} calls equally far, {titles['first']} calls one "
        f"{spans['first']:.1f} times as far as another; of images that {titles['first']} calls "
        f"equally far, {titles['second']} calls one {spans['second']:.1f} times as far. Which of "
        "both is right, only eyes can tell: look at the picture. Errors are relative to the level, "
        f"the greatest over all {content['config']['num_steps']} steps.",
        table(header, rows),
    ]
    return "\n\n".join(lines) + "\n"


def draw(path: Path, content: dict[str, Any], images: dict[str, np.ndarray]) -> None:
    """The original, the start and the four images, and both metrics along the way."""
    figure, axes = plt.subplots(2, 4, figsize=(15.5, 7.6), layout="constrained")
    for axis, name in zip(axes[:, 0], ("reference", "start"), strict=True):
        axis.imshow(images[name])
        axis.set_title("original" if name == "reference" else "start", fontsize=10)
    for row, role in enumerate(("first", "second")):
        for axis, direction in zip(axes[row, 1:3], ("least", "greatest"), strict=True):
            found = content["sides"][f"{role}_{direction}"]
            moved, held, _ = _roles(content, f"{role}_{direction}")
            axis.imshow(images[f"{role}_{direction}"])
            axis.set_title(
                f"{moved} {direction}: {found['end']:.4f}\n{held} {found['level']:.4f}", fontsize=10
            )
        curves = axes[row, 3]
        for direction, color in (("least", "C0"), ("greatest", "C3")):
            found = content["sides"][f"{role}_{direction}"]
            curves.plot(found["moved"], color=color, label=f"{moved}, {direction}")
        curves.set(title=f"{held} held", xlabel="step", ylabel=moved, yscale="log")
        curves.legend(fontsize="small")
        curves.grid(alpha=0.3)
    for axis in axes[:, :3].flat:
        axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)
