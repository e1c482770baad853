"""The numbers of LASI's ablation: how variants order levels, and which of them to compare."""

from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from experiments.image_metrics import opinions
from experiments.reports import tables

VARIED = ("neighborhood_size", "neighborhood", "decay", "ridge", "remedy", "side")
"""The columns that tell a variant."""


def order(
    distances: np.ndarray, photographs: np.ndarray, num_resamples: int, seed: int
) -> dict[str, Any]:
    """Kendall's tau of distances (reference, kind, level), within and across photographs."""
    options = {"num_resamples": num_resamples, "seed": seed}
    (row,) = tables.records(opinions.of_severity({"": distances}, photographs, **options).rows)
    return {name: row[name] for name in ("within", "across")}


def likeness(distances: np.ndarray, of_base: np.ndarray) -> float | None:
    """Spearman's correlation of distances with the base's, or None where all are equal."""
    if min(np.ptp(distances), np.ptp(of_base)) == 0.0:
        return None
    return float(scipy.stats.spearmanr(distances, of_base)[0])  # pyright: ignore


def beside(rows: pd.DataFrame, base: dict[str, Any], but: str, **fixed: Any) -> pd.DataFrame:
    """The variants that are the base but in one column, in its order.

    Args:
      rows: of all variants.
      base: the values of the base in `VARIED`.
      but: the column that varies.
      fixed: other values than the base's, by column.
    """
    same = {name: base[name] for name in VARIED if name != but} | fixed
    return tables.where(rows, **same).sort_values(by=but)
