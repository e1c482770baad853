"""The numbers of active learning: curves over budgets, and differences to random choices."""

from typing import Any

import numpy as np
import pandas as pd

from experiments.adapters.adapted_encoder import METRICS
from experiments.adapters.choosing import RANDOM, START, WHOLE
from experiments.captions.retrieval import SIDES
from experiments.reports import tables
from experiments.reports.estimates import DIFFERENCE, POSITIVE, SHARE, over_seeds

ALL = "all"
"""Of the shifts, a mean over them."""
_MAIN = METRICS[0]
OF_SIDES = tuple(f"{metric}, {side}" for metric in METRICS for side in SIDES)
"""Metrics of one side as queries."""
NAMES = (*METRICS, *OF_SIDES)
"""All that retrieval is measured by."""


def _unique(cells: list[dict], name: str) -> list[Any]:
    return list(dict.fromkeys(cell[name] for cell in cells))


def _values(cells: list[dict], name: str, *, of: str = "shifted", **what: Any) -> np.ndarray:
    """A number of the cells (seed) with these values, in the order of the seeds."""
    found = [cell for cell in cells if all(cell[key] == value for key, value in what.items())]
    return np.array([cell[of][name] for cell in found])


def curves(cells: list[dict]) -> pd.DataFrame:
    """Retrieval of every shift, strategy and budget, and its difference to random choices."""
    rows = []
    for shift in _unique(cells, "shift"):
        of_shift = [cell for cell in cells if cell["shift"] == shift]
        for strategy, budget in dict.fromkeys((c["strategy"], c["budget"]) for c in of_shift):
            what = {"shift": shift, "strategy": strategy, "budget": budget}
            row: dict[str, Any] = dict(what)
            for name in NAMES:
                row[name] = over_seeds(_values(cells, name, **what).tolist(), bounds=SHARE)
            plain = _values(cells, _MAIN, of="plain", **what)
            row["plain"] = over_seeds(plain.tolist(), bounds=SHARE)
            if strategy not in (START, WHOLE, RANDOM):
                for name in METRICS:
                    other = _values(cells, name, **{**what, "strategy": RANDOM})
                    values = _values(cells, name, **what) - other
                    row[f"difference of {name}"] = over_seeds(values.tolist(), bounds=DIFFERENCE)
            rows.append(row)
    return tables.frame(rows)


def summary(cells: list[dict]) -> pd.DataFrame:
    """Means over budgets of every strategy, and the differences to random; of all shifts too."""
    shifts = _unique(cells, "shift")
    budgets = _unique([cell for cell in cells if cell["strategy"] == RANDOM], "budget")

    def mean(name: str, strategy: str, of: list[str]) -> np.ndarray:
        return np.mean(
            [
                _values(cells, name, shift=shift, strategy=strategy, budget=budget)
                for shift in of
                for budget in budgets
            ],
            axis=0,
        )

    rows = []
    for shift in (ALL, *shifts):
        of = shifts if shift == ALL else [shift]
        for strategy in _unique(cells, "strategy"):
            if strategy in (START, WHOLE):
                continue
            row: dict[str, Any] = {"shift": shift, "strategy": strategy}
            for name in METRICS:
                values, other = (mean(name, each, of) for each in (strategy, RANDOM))
                row[name] = over_seeds(values.tolist(), bounds=SHARE)
                if strategy != RANDOM:
                    apart = (values - other).tolist()
                    row[f"difference of {name}"] = over_seeds(apart, bounds=DIFFERENCE)
            rows.append(row)
    return tables.frame(rows)


def chosen(cells: list[dict]) -> pd.DataFrame:
    """What images every strategy chooses, at every budget."""
    keys = "shift", "strategy", "budget"
    bounds = {"ambiguity": POSITIVE, "numbers": POSITIVE, "shifted": SHARE}
    rows = []
    for case in dict.fromkeys(tuple(cell[key] for key in keys) for cell in cells):
        what = dict(zip(keys, case, strict=True))
        if what["strategy"] == START:  # which chooses none
            continue
        means = {
            name: over_seeds(_values(cells, name, of="chosen", **what).tolist(), bounds=bound)
            for name, bound in bounds.items()
        }
        rows.append({**what, **means})
    return tables.frame(rows)


def numbers(cells: list[dict]) -> dict[str, pd.DataFrame]:
    """All frames of a report, of cells in the order of the seeds."""
    return {"curves": curves(cells), "summary": summary(cells), "chosen": chosen(cells)}
