"""Picking a source by a criterion that needs no label: what is picked, and what that costs."""

from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from experiments.adapters.adapted_encoder import METRICS
from experiments.adapters.evaluation import OWN
from experiments.reports import tables
from experiments.reports.estimates import CORRELATION, DIFFERENCE, POSITIVE, SHARE, over_seeds
from experiments.uncertainty import baselines

BOTH = "total, dropout, images and captions"
RANDOM = "random"
ALL, OTHERS = "all", "others"
"""The sources to pick from: all, or all but the one of the target's own domain."""
PLAIN, RELATIVE, PER_SPREAD = "as it is", "relative", "per spread"
"""A criterion; less what it is on the source's own test; of a variance, in units of that of the
source's embeddings of captions."""
_VARIANCES = {"aleatoric": 1, "epistemic, dropout": 1, OWN: 1, BOTH: 2}
"""Criteria that are logarithms of variances, or sums of so many."""
RIVALS = baselines.named("cosines", "logits")
"""Criteria that need no adapter."""
_MAIN = METRICS[0]
SCORES = ("hit", f"regret of {_MAIN}", f"regret of {METRICS[1]}", "kendall", "spearman")
"""Of a criterion, in the order of reports."""
_BOUNDS = {"kendall": CORRELATION, "spearman": CORRELATION}
"""Of these; the others are shares."""


def _names(cells: list[dict], name: str) -> list[Any]:
    return list(dict.fromkeys(cell[name] for cell in cells))


def matrices(cells: list[dict], group: str, name: str) -> np.ndarray:
    """A number of all cells (seed, source, target).

    Args:
      cells: of every seed and source.
      group: "retrieval" or "criteria".
      name: of the number.
    """
    domains = _names(cells, "source")
    value = {
        (cell["seed"], cell["source"], target): found[group][name]
        for cell in cells
        for target, found in cell["targets"].items()
    }
    return np.array(
        [
            [[value[seed, source, target] for target in domains] for source in domains]
            for seed in _names(cells, "seed")
        ]
    )


def relative(criterion: np.ndarray) -> np.ndarray:
    """A criterion (..., source, target) less what it is on the source's own target."""
    return criterion - np.diagonal(criterion, axis1=-2, axis2=-1)[..., None]


def forms(cells: list[dict], name: str) -> dict[str, np.ndarray]:
    """A criterion (seed, source, target) in all its forms."""
    values = matrices(cells, "criteria", name)
    found = {PLAIN: values, RELATIVE: relative(values)}
    if name in _VARIANCES:
        spread = np.array([cell["log_spread"] for cell in cells]).reshape(*values.shape[:2], 1)
        found[PER_SPREAD] = values - _VARIANCES[name] * spread
    return found


def _ranked(criterion: np.ndarray, recall: np.ndarray, kind: Any) -> float:
    """The rank correlation of minus a criterion with recall (source); 0 where nothing varies."""
    if np.ptp(criterion) == 0.0 or np.ptp(recall) == 0.0:
        return 0.0
    return float(kind(-criterion, recall).statistic)


def picks(
    criterion: np.ndarray | None, recalls: dict[str, np.ndarray], candidates: str
) -> dict[str, list[float]]:
    """How good the sources of the lowest criterion are: a mean over targets, of every seed.

    Args:
      criterion: (seed, source, target); None to pick at random, in expectation.
      recalls: metric -> (seed, source, target).
      candidates: `ALL` or `OTHERS`.
    """
    seeds, domains, _ = recalls[_MAIN].shape
    found: dict[str, list[list[float]]] = {name: [[] for _ in range(seeds)] for name in SCORES}
    for seed, target in np.ndindex(seeds, domains):
        sources = [each for each in range(domains) if candidates == ALL or each != target]
        recall = {name: values[seed, sources, target] for name, values in recalls.items()}
        share = np.full(len(sources), 1.0 / len(sources))
        if criterion is not None:
            of = criterion[seed, sources, target]
            share = np.eye(len(sources))[np.argmin(of)]
            found["kendall"][seed].append(_ranked(of, recall[_MAIN], scipy.stats.kendalltau))
            found["spearman"][seed].append(_ranked(of, recall[_MAIN], scipy.stats.spearmanr))
        found["hit"][seed].append(float(share[np.argmax(recall[_MAIN])]))
        for name, values in recall.items():
            found[f"regret of {name}"][seed].append(float(values.max() - share @ values))
    return {
        name: [float(np.mean(of_seed)) if of_seed else 0.0 for of_seed in values]
        for name, values in found.items()
    }


def selection(cells: list[dict]) -> pd.DataFrame:
    """Every criterion in all its forms, from all sources and from the others."""
    recalls = {name: matrices(cells, "retrieval", name) for name in METRICS}
    criteria = list(next(iter(cells[0]["targets"].values()))["criteria"])
    rows = []
    for candidates in (ALL, OTHERS):
        of_random = picks(None, recalls, candidates)
        every: list[tuple[str, str, np.ndarray | None]] = [(RANDOM, PLAIN, None)]
        for name in criteria:
            every += [(name, form, values) for form, values in forms(cells, name).items()]
        for name, form, values in every:
            of = picks(values, recalls, candidates)
            row: dict[str, Any] = {"criterion": name, "form": form, "candidates": candidates}
            row |= {each: over_seeds(of[each], bounds=_BOUNDS.get(each, SHARE)) for each in SCORES}
            if name != RANDOM:
                regret = f"regret of {_MAIN}"
                saved = np.subtract(of_random[regret], of[regret])
                row["saved"] = over_seeds(saved.tolist(), bounds=DIFFERENCE)
            else:
                row |= {"kendall": None, "spearman": None}
            rows.append(row)
    return tables.frame(rows)


def levels(cells: list[dict]) -> pd.DataFrame:
    """What every source makes of every target: retrieval, total uncertainty, and the rivals."""
    domains = _names(cells, "source")
    wanted = {
        "retrieval": METRICS,
        "criteria": (OWN, *RIVALS),
    }
    found = {
        name: matrices(cells, group, name) for group, names in wanted.items() for name in names
    }
    found[f"{OWN}, {PER_SPREAD}"] = forms(cells, OWN)[PER_SPREAD]
    rows = [
        {
            "source": source,
            "target": target,
            **{
                name: over_seeds(values[:, i, k].tolist(), bounds=SHARE)
                if name in METRICS
                else over_seeds(values[:, i, k].tolist())
                for name, values in found.items()
            },
        }
        for k, target in enumerate(domains)
        for i, source in enumerate(domains)
    ]
    return tables.frame(rows)


def scales(cells: list[dict]) -> pd.DataFrame:
    """Whether a criterion has one scale in all sources, each on its own test.

    Between seeds: the standard deviation over seeds of one source, a mean over sources; it is
    the scale of the embeddings alone. Between sources: that over sources of one seed, a mean
    over seeds. Rise: how much a criterion is higher on the tests of other domains, a mean.
    """
    rows = []
    for name in next(iter(cells[0]["targets"].values()))["criteria"]:
        for form, values in forms(cells, name).items():
            if form == RELATIVE:  # nothing is left to compare
                continue
            own = np.diagonal(values, axis1=1, axis2=2)  # seed, source
            others = ~np.eye(own.shape[1], dtype=bool)
            several = len(own) > 1
            rows.append(
                {
                    "criterion": name,
                    "form": form,
                    "between seeds": float(own.std(0, ddof=1).mean()) if several else None,
                    "between sources": over_seeds(own.std(1, ddof=1).tolist(), bounds=POSITIVE),
                    "rise": over_seeds(relative(values)[:, others].mean(1).tolist()),
                }
            )
    return tables.frame(rows)


def numbers(cells: list[dict]) -> dict[str, pd.DataFrame]:
    """All frames of a report, of cells in the order of seeds and sources."""
    return {"selection": selection(cells), "levels": levels(cells), "scales": scales(cells)}
