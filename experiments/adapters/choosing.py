"""Which images of a pool are given captions, and what they are."""

from typing import NamedTuple

import numpy as np

from experiments.adapters.evaluation import OWN
from experiments.data.captioned_digits import Captioned

EPISTEMIC = "epistemic, dropout"
"""The measure of uncertainty of the members' disagreement alone."""
START, WHOLE = "start", "whole pool"
"""No image of the pool, and all of them."""
RANDOM, UNCERTAIN = "random", "most uncertain"


class Strategy(NamedTuple):
    """Which images of the pool are given captions.

    Attributes:
      measure: of uncertainty, of the adapter's or a baseline.
      greatest: whether the most uncertain come first, or the least.
    """

    measure: str
    greatest: bool = True


STRATEGIES: dict[str, Strategy | None] = {
    RANDOM: None,
    UNCERTAIN: Strategy(OWN),
    "most epistemic": Strategy(EPISTEMIC),
    "least uncertain": Strategy(OWN, greatest=False),
    "least cosine": Strategy("minus best cosine"),
}
"""Every strategy by its name, in the order of reports; None asks nothing of the images."""


def order(name: str, measures: dict[str, np.ndarray], *, seed: int) -> np.ndarray:
    """The images of a pool in the order that they are chosen in; equal ones as they stand.

    Args:
      name: of the strategy.
      measures: of uncertainty (image), by name.
      seed: of the random strategy.
    """
    strategy = STRATEGIES[name]
    if strategy is None:
        return np.random.default_rng(seed).permutation(len(next(iter(measures.values()))))
    values = measures[strategy.measure]
    return np.argsort(-values if strategy.greatest else values, kind="stable")


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
