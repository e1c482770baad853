"""How well distances follow a known order of severity: Kendall's tau with the level.

Whatever people think of a kind of distortion, more of it is worse: a blur by 4 pixels is further
from the photograph than one by 2. A metric has to put the levels of a kind in that order, on one
photograph, and, where it is a scale and not only an order, across photographs too. This is no
human agreement: it needs no judgements, and says nothing of how kinds compare.
"""

from typing import NamedTuple

import numpy as np


class Order(NamedTuple):
    """How often distances follow the levels, over all pairs of two references' images.

    Attributes:
      agreement: (kind, reference, reference), pairs in the order of their levels less pairs
        against it.
      distances: (kind, reference, reference), pairs whose distances differ.
      levels: (reference, reference), pairs whose levels differ.
    """

    agreement: np.ndarray
    distances: np.ndarray
    levels: np.ndarray


def order(distances: np.ndarray) -> Order:
    """The pairs of distances (reference, kind, level), whatever a reference weighs later."""
    level = np.arange(distances.shape[2])
    expected = np.sign(level[:, None] - level)
    agreement, different = [], []
    for of_kind in np.moveaxis(distances, 1, 0):  # all kinds at once would be much memory
        sign = np.sign(of_kind[:, None, :, None] - of_kind[None, :, None, :])
        agreement.append((sign * expected).sum((2, 3)))
        different.append(np.abs(sign).sum((2, 3)))
    everywhere = np.full(agreement[0].shape, np.abs(expected).sum())
    return Order(np.array(agreement), np.array(different), everywhere)


def within(pairs: Order) -> np.ndarray:
    """Kendall's tau-b (kind, reference) of distance and level on each reference by itself.

    0 where all distances are equal, which is no order.
    """
    agreement, distances = (np.diagonal(x, axis1=1, axis2=2) for x in pairs[:2])
    return _tau(agreement, distances, np.diagonal(pairs.levels))


def across(pairs: Order, photographs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b (..., kind) of distance and level, over pairs of different photographs.

    Without the pairs of one photograph, so that a resample, in which it may stand twice, is no
    easier than the photographs themselves.

    Args:
      pairs: of the distances.
      photographs: (reference), what each was cut from.
      weights: (..., reference), how often a reference counts.
    """
    return _tau(*_between(pairs, photographs, weights))


def attainable(pairs: Order, photographs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The greatest `across` (..., kind) that ties of levels leave to a distance.

    sqrt(l / max(d, l)) of d pairs whose distances differ and l whose levels do. Distances of
    different photographs hardly ever tie, and levels do in one pair of five: sqrt(4 / 5). Where
    fewer distances differ than levels it is 1: their ties are the metric's own fault.

    Args:
      pairs: as in `across`.
      photographs: as in `across`.
      weights: as in `across`.
    """
    _, distances, levels = _between(pairs, photographs, weights)
    return np.sqrt(levels / np.maximum(np.maximum(distances, levels), 1))


def _between(pairs: Order, photographs: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """The counts (..., kind) of an order over pairs of different photographs."""
    different = photographs[:, None] != photographs
    return [
        np.einsum("...i,kij,...j->...k", weights, x * different, weights, optimize=True)
        for x in (*pairs[:2], pairs.levels[None])
    ]


def _tau(agreement: np.ndarray, distances: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return agreement / np.sqrt(np.maximum(distances, 1) * levels)
