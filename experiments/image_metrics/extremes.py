"""The numbers of a maximum differentiation competition: what its four images came to."""

from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from experiments.reports import tables

Side = Literal["first_least", "first_greatest", "second_least", "second_greatest"]
"""One of the four images: which metric moves, and where to. The other one is held."""
SIDES: tuple[Side, ...] = get_args(Side)


def of_walk(held: np.ndarray, moved: np.ndarray, rounded: tuple[float, float]) -> dict[str, Any]:
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


def frame(content: dict[str, Any]) -> pd.DataFrame:
    """A row for each image: what moved, what was held, and how well.

    Of the greatest, `span` is how many times as far as the least it is.

    Args:
      content: what results.json holds: the titles of both metrics, and the four sides.
    """
    rows = []
    for side in SIDES:
        role, direction = side.split("_")
        found, other = content["sides"][side], "second" if role == "first" else "first"
        rows.append(
            {
                "side": side,
                "moved": content["titles"][role],
                "direction": direction,
                "held": content["titles"][other],
                **{name: found[name] for name in ("level", "level_error", "start", "end")},
                "factor": found["end"] / found["start"],
                "span": found["end"] / max(content["sides"][f"{role}_least"]["end"], 1e-12)
                if direction == "greatest"
                else None,
                "rounded_error": found["rounded"]["level_error"],
            }
        )
    return tables.frame(rows)
