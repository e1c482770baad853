"""The numbers of adapters on frozen embeddings: retrieval, widths, uncertainty."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd

from experiments.adapters.evaluation import OWN, Evaluation
from experiments.adapters.frozen import Frozen
from experiments.captions import numbers as caption_numbers
from experiments.captions.retrieval import SIDES, Outcome, Side
from experiments.reports import estimates, tables
from experiments.reports.estimates import DIFFERENCE, POSITIVE, SHARE, over_seeds
from experiments.uncertainty import baselines
from experiments.uncertainty.baselines import Evidence
from probemb import calibration

FROZEN = "frozen"
TEST = "test"
METRICS = ("R@1", "R@5", "R-Precision", "annotated R@1")
LEVEL = 0.9
"""Of central intervals."""
_FEW = 20


def _less(statistic: Callable, first: jax.Array, second: jax.Array, *items: jax.Array, weights):
    return statistic(first, *items, weights=weights) - statistic(second, *items, weights=weights)


_DIFFERENCE = {
    "spearman": functools.partial(_less, calibration.spearman),
    "r_auroc_annotated": functools.partial(_less, calibration.r_auroc),
}
"""Of two measures (item) by a score, given what they are held against (item)."""


def comparisons(
    frozen: Frozen,
    before: Outcome,
    evaluation: Evaluation,
    uncertainty: pd.DataFrame,
    *,
    score: str,
    key: jax.Array,
    num_resamples: int,
) -> pd.DataFrame:
    """The own measure of a method beside the best that needs no adapter, on the same resamples.

    For all items of a side, and for those whose vectors are not in training too.
    """
    found, rows = [], tables.records(uncertainty)
    for side in SIDES:
        needless = (FROZEN, caption_numbers.NO_MODEL)
        rival = _best([r for r in rows if r["side"] == side and r["method"] in needless], score)
        if rival is None:
            continue
        if score == "spearman":
            assert frozen.trial.truth is not None
            known = frozen.trial.truth.ambiguity[side]
        else:
            known = before.metrics[side]["annotated R@1"].round()
        own = np.stack([o.uncertainty[side][OWN] for o in evaluation.outcomes], 1)
        other = (
            before.uncertainty[side][rival["measure"]]
            if rival["method"] == FROZEN
            else baselines.measured(Evidence(texts=frozen.trial.captions))[rival["measure"]]
        )
        other = np.broadcast_to(other[:, None], own.shape)
        known = np.broadcast_to(known[:, None], own.shape)
        items = [estimates.ranks(own), estimates.ranks(other), known.astype(np.float32)]
        new = ~frozen.known_before[side]
        row: dict[str, Any] = {"side": side, "score": score, "rival": rival["measure"]}
        row["rival_score"] = rival[score]
        for name, some in (("all", np.ones_like(new)), ("new", new)):
            chosen = [values[some] for values in items]
            row[f"{name}_items"] = int(some.sum())
            groups = frozen.trial.groups(side)[some]
            few = some.sum() < _FEW or len(np.unique(groups)) < 2
            if few or not all(np.ptp(values, 0).all() for values in chosen):
                continue
            options = {"num_resamples": num_resamples, "groups": groups}
            row[f"{name}_difference"] = estimates.over_items(
                key, _DIFFERENCE[score], *chosen, **options
            )
            statistic = calibration.spearman if score == "spearman" else calibration.r_auroc
            row[f"{name}_own"] = estimates.over_items(
                key, statistic, chosen[0], chosen[2], **options
            )
        found.append(row)
    return tables.frame(found)


def retrieval(before: Outcome, evaluations: dict[str, Evaluation]) -> pd.DataFrame:
    """Every metric of every way to rank, and its change against the frozen embeddings."""
    rows = []
    for side in SIDES:
        base = {name: float(before.metrics[side][name].mean()) for name in METRICS}
        rows.append(
            {
                "method": FROZEN,
                "ranking": "cosine",
                "side": side,
                **{name: over_seeds([value], bounds=SHARE) for name, value in base.items()},
            }
        )
        for method, evaluation in evaluations.items():
            for ranking, each in evaluation.rankings.items():
                means = {name: [float(m[side][name].mean()) for m in each] for name in METRICS}
                changes = {
                    f"change of {name}": over_seeds(
                        [value - base[name] for value in values], bounds=DIFFERENCE
                    )
                    for name, values in means.items()
                }
                values = {
                    name: over_seeds(of_seeds, bounds=SHARE) for name, of_seeds in means.items()
                }
                row = {"method": method, "ranking": ranking, "side": side}
                rows.append({**row, **values, **changes})
    return tables.frame(rows)


def fits(
    frozen: Frozen, evaluations: dict[str, Evaluation], *, key: jax.Array, num_resamples: int
) -> pd.DataFrame:
    """Whether distributions are as wide as the partners' embeddings are far, per side."""

    def interval(central: np.ndarray | None, side: Side) -> dict[str, Any] | None:
        if central is None:
            return None
        values = np.moveaxis(central, 0, 1)
        error = calibration.coverage_error
        return estimates.over_items(
            key, error, values, num_resamples=num_resamples, groups=frozen.trial.groups(side)
        )

    def covered(central: np.ndarray | None) -> dict[str, Any] | None:
        if central is None:
            return None
        shares = [calibration.coverage(of_seed, level=LEVEL) for of_seed in central]
        return over_seeds([float(share) for share in shares], bounds=SHARE)

    rows = [
        {
            "method": method,
            "side": side,
            "temperature": over_seeds(fit.temperature.tolist(), bounds=POSITIVE),
            "loss": over_seeds(fit.loss.mean(1).tolist()),
            "loss_tempered": over_seeds(fit.loss_tempered.mean(1).tolist()),
            "coverage": covered(fit.central),
            "coverage_tempered": covered(fit.central_tempered),
            "coverage_error": interval(fit.central, side),
            "coverage_error_tempered": interval(fit.central_tempered, side),
        }
        for method, evaluation in evaluations.items()
        for side, fit in evaluation.fits.items()
    ]
    return tables.frame(rows)


def numbers(
    frozen: Frozen,
    before: Outcome,
    evaluations: dict[str, Evaluation],
    *,
    key: jax.Array,
    num_resamples: int,
) -> dict[str, pd.DataFrame]:
    """All frames of a report.

    Args:
      frozen: the test.
      before: retrieval by the frozen embeddings.
      evaluations: of every method; `comparisons` are of the first.
      key: of bootstraps.
      num_resamples: of a bootstrap.
    """
    options = {"key": key, "num_resamples": num_resamples}
    outcomes = {FROZEN: [before], **{m: e.outcomes for m, e in evaluations.items()}}
    unsure = caption_numbers.uncertainty({TEST: outcomes}, {TEST: frozen.trial}, **options)
    unsure["own"] = [measure == OWN for measure in unsure["measure"]]
    first = next(iter(evaluations.values()))
    score = score_of(frozen.trial.truth is not None)
    return {
        "retrieval": retrieval(before, evaluations),
        "fits": fits(frozen, evaluations, **options),
        "uncertainty": unsure,
        "comparisons": comparisons(frozen, before, first, unsure, score=score, **options),
    }


def failures(before: Outcome) -> dict[Side, int]:
    """How many queries of each side frozen retrieval fails, by annotated pairs."""
    return {
        side: int((before.metrics[side]["annotated R@1"].round() == 0.0).sum()) for side in SIDES
    }


def score_of(has_truth: bool) -> str:
    """What a measure of uncertainty is scored by: true ambiguity, or failures without it."""
    return "spearman" if has_truth else "r_auroc_annotated"


def _best(rows: list[dict], name: str) -> dict | None:
    defined = [row for row in rows if row.get(name)]
    return max(defined, key=lambda row: row[name]["mean"]) if defined else None
