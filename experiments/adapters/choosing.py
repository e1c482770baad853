"""Which images of a pool are given captions, and what they are."""

from typing import Literal, get_args

import numpy as np

from experiments.data.captioned_digits import Captioned

Strategy = Literal["random", "most uncertain", "most epistemic", "least uncertain", "least cosine"]
"""Which images of the pool are given captions."""
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
EPISTEMIC = "epistemic, dropout"
"""The measure of uncertainty of the members' disagreement alone."""
START, WHOLE = "start", "whole pool"
"""No image of the pool, and all of them."""
RANDOM: Strategy = "random"
UNCERTAIN: Strategy = "most uncertain"


def order(
    strategy: Strategy,
    total: np.ndarray,
    epistemic: np.ndarray,
    cosine: np.ndarray,
    *,
    seed: int,
) -> np.ndarray:
    """The images of a pool in the order that they are chosen in; equal ones as they stand.

    Args:
      strategy: how they are chosen.
      total: uncertainty (image).
      epistemic: uncertainty (image).
      cosine: the best one (image) with any caption that is known.
      seed: of the random strategy.
    """
    match strategy:
        case "random":
            return np.random.default_rng(seed).permutation(len(total))
        case "most uncertain":
            return np.argsort(-total, kind="stable")
        case "most epistemic":
            return np.argsort(-epistemic, kind="stable")
        case "least uncertain":
            return np.argsort(total, kind="stable")
        case "least cosine":
            return np.argsort(cosine, kind="stable")


def describe(pool: Captioned, of_training: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    """What images of a pool have been chosen.

    Args:
      pool: from which.
      of_training: the images (image, ...) of the pool before they shifted.
      chosen: their places in it.
    """
    shifted = (pool.images[chosen] != of_training[chosen]).any((1, 2))
    return {
        "ambiguity": float(pool.image_ambiguity[chosen].mean()),
        "numbers": len(np.unique(pool.numbers[chosen])) / len(chosen),
        "shifted": float(shifted.mean()),
    }
