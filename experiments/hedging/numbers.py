"""The numbers of hedged embeddings: from outcomes to means with their intervals."""

from typing import Any

import jax
import numpy as np
import pandas as pd
import scipy.stats
import sklearn.metrics

from experiments.hedging.evaluation import Outcome, Trial
from experiments.reports import estimates, tables
from experiments.reports.estimates import CORRELATION, DIFFERENCE, SHARE, over_seeds
from probemb import calibration

NUM_BINS = 20
Outcomes = dict[str, list[Outcome]]
"""Embedding -> an outcome for each seed."""
Cell = tuple[str, str]
"""Test split and condition."""


def average_precision(outcome: Outcome, trial: Trial) -> float:
    """Of verification: the pairs of one label, ranked by match probability."""
    return float(sklearn.metrics.average_precision_score(trial.match, outcome.match_of_pairs))


def accuracy(outcome: Outcome, trial: Trial) -> float:
    """Of identification by the vote of the nearest."""
    return float(np.mean(outcome.predicted == trial.queries.labels))


def performance(outcomes: dict[Cell, Outcomes], trials: dict[Cell, Trial]) -> pd.DataFrame:
    """Verification, identification and calibration of every embedding in every cell."""
    rows = [
        {
            "embedding": embedding,
            "split": cell[0],
            "condition": cell[1],
            "average_precision": over_seeds(
                [average_precision(o, trials[cell]) for o in each], bounds=SHARE
            ),
            "accuracy": over_seeds([accuracy(o, trials[cell]) for o in each], bounds=SHARE),
            "calibration_error": over_seeds(
                [
                    float(
                        calibration.expected_calibration_error(
                            np.asarray(o.match_of_pairs, np.float64), trials[cell].match
                        )
                    )
                    for o in each
                ],
                bounds=SHARE,
            ),
        }
        for cell, embeddings in outcomes.items()
        for embedding, each in embeddings.items()
    ]
    return tables.frame(rows)


def binned_tau(uncertainty: np.ndarray, performance_of_bin) -> float:
    """Kendall's tau between uncertainty bins and their performance; -1 is ideal."""
    # Queries are in the order of their labels, which must not decide between ties.
    order = np.random.default_rng(0).permutation(len(uncertainty))
    bins = np.empty(len(uncertainty), int)
    bins[order] = calibration.equal_bins(uncertainty[order], num_bins=NUM_BINS)
    values = [performance_of_bin(bins == place) for place in range(NUM_BINS)]
    found: Any = scipy.stats.kendalltau(np.arange(NUM_BINS), values)
    return float(np.nan_to_num(found.statistic))  # NaN where all bins perform alike


def _tau_of_identification(values: np.ndarray, right: np.ndarray) -> dict[str, Any] | None:
    """Of uncertainties and successes (query, seed); None of fewer queries than bins."""
    if len(values) < NUM_BINS:
        return None
    taus = [
        binned_tau(u, lambda chosen, r=r: r[chosen].mean())
        for u, r in zip(values.T, right.T, strict=True)
    ]
    return over_seeds(taus, bounds=CORRELATION)


def _tau_of_verification(uncertainty: np.ndarray, outcome: Outcome, trial: Trial) -> float:
    """Of pairs, as uncertain as the less certain of the two."""
    of_pair = np.maximum(uncertainty[trial.first], uncertainty[trial.second])

    def precision(chosen: np.ndarray) -> float:
        match, score = trial.match[chosen], outcome.match_of_pairs[chosen]
        return float(sklearn.metrics.average_precision_score(match, score)) if match.any() else 0.0

    return binned_tau(of_pair, precision)


def uncertainty(
    outcomes: dict[Cell, Outcomes], trials: dict[Cell, Trial], *, key: jax.Array, num_resamples: int
) -> pd.DataFrame:
    """How well every measure of uncertainty predicts failure, in every cell."""
    rows = []

    def interval(statistic, groups, *items: np.ndarray) -> dict[str, float] | None:
        """Images of one label are drawn together."""
        return estimates.over_items(
            key, statistic, *items, num_resamples=num_resamples, groups=groups
        )

    for cell, embeddings in outcomes.items():
        trial = trials[cell]
        labels = trial.queries.labels
        for embedding, each in embeddings.items():
            right = np.stack([o.predicted == labels for o in each], 1)
            # Without an error, or without a success, nothing can be told apart.
            both = 0 < right.sum(0).min() <= right.sum(0).max() < len(right)
            for measure in each[0].uncertainty:
                values = np.stack([o.uncertainty[measure] for o in each], 1)
                items = estimates.ranks(values), right.astype(np.float32)
                rows.append(
                    {
                        "embedding": embedding,
                        "measure": measure,
                        "split": cell[0],
                        "condition": cell[1],
                        "r_auroc": interval(calibration.r_auroc, labels, *items) if both else None,
                        "aurc": interval(calibration.aurc, labels, items[0], 1.0 - items[1]),
                        "tau_identification": _tau_of_identification(values, right),
                        "tau_verification": over_seeds(
                            [_tau_of_verification(o.uncertainty[measure], o, trial) for o in each],
                            bounds=CORRELATION,
                        ),
                    }
                )
    return tables.frame(rows)


def separation(outcomes: dict[Cell, Outcomes]) -> pd.DataFrame:
    """The AUROC of every measure in telling corrupt images from clean ones."""
    rows = []
    for split in dict.fromkeys(cell[0] for cell in outcomes):
        clean, corrupt = outcomes[split, "clean"], outcomes[split, "corrupt"]
        for embedding in clean:
            for measure in clean[embedding][0].uncertainty:
                values = []
                for before, after in zip(clean[embedding], corrupt[embedding], strict=True):
                    both = [o.uncertainty[measure] for o in (before, after)]
                    label = np.repeat([0.0, 1.0], [len(one) for one in both])
                    # The corrupt ones are to be the more uncertain: "errors".
                    values.append(
                        float(
                            calibration.r_auroc(
                                np.concatenate(both).astype(np.float64), 1.0 - label
                            )
                        )
                    )
                rows.append(
                    {
                        "embedding": embedding,
                        "measure": measure,
                        "split": split,
                        "auroc": over_seeds(values, bounds=SHARE),
                    }
                )
    return tables.frame(rows)


def expectations(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What is expected of every test split, what is reached, and whether that meets it.

    Args:
      found: "performance", "uncertainty" and "separation".
    """
    rows = []
    of = {name: tables.records(frame) for name, frame in found.items()}

    def expect(split: str, what: str, reached: dict | None, least: float) -> None:
        """`reached` is None where it is not defined."""
        mean = -np.inf if reached is None else reached["mean"]
        met = bool(mean > least if least == 0.0 else mean >= least)
        rows.append({"split": split, "what": what, "least": least, "reached": reached, "met": met})

    for split in dict.fromkeys(row["split"] for row in of["performance"]):
        corrupt = {"split": split, "condition": "corrupt"}
        gaussian, point = (
            tables.find(of["performance"], embedding=kind, **corrupt)
            for kind in ("gaussian", "point")
        )
        for task, name in (
            ("average_precision", "verification (AP)"),
            ("accuracy", "identification (accuracy)"),
        ):
            if gaussian and point:
                pairs = zip(gaussian[task]["seeds"], point[task]["seeds"], strict=True)
                gain = over_seeds([one - other for one, other in pairs], bounds=DIFFERENCE)
                expect(split, f"gaussian minus point, corrupt {name}", gain, 0.0)
        of_eta = {"embedding": "gaussian", "measure": "eta"}
        apart = tables.find(of["separation"], split=split, **of_eta)
        trusted = tables.find(of["uncertainty"], **of_eta, **corrupt)
        if apart and trusted:
            expect(split, "AUROC of eta, corrupt against clean", apart["auroc"], 0.8)
            expect(split, "R-AUROC of eta on corrupt images", trusted["r_auroc"], 0.7)
    return tables.frame(rows)


def numbers(
    outcomes: dict[Cell, Outcomes], trials: dict[Cell, Trial], *, key: jax.Array, num_resamples: int
) -> dict[str, pd.DataFrame]:
    """All frames of a report.

    Args:
      outcomes: of every embedding in every cell.
      trials: of the cells.
      key: of bootstraps.
      num_resamples: of a bootstrap.
    """
    found = {
        "performance": performance(outcomes, trials),
        "uncertainty": uncertainty(outcomes, trials, key=key, num_resamples=num_resamples),
        "separation": separation(outcomes),
    }
    return {**found, "expectations": expectations(found)}
