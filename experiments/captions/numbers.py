"""The numbers of image and caption retrieval, each a frame: means with their intervals."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments.captions import retrieval
from experiments.captions.methods import METHODS, is_distribution
from experiments.captions.retrieval import METRICS, SIDES, Outcome, Side, Trial
from experiments.reports import estimates
from experiments.reports.estimates import CORRELATION, SHARE, over_seeds
from experiments.reports.tables import frame, records
from experiments.uncertainty.baselines import Evidence, measured
from probemb import calibration

Outcomes = dict[str, list[Outcome]]
"""Method -> an outcome for each seed."""
LEAST_SPEARMAN = 0.7
NO_MODEL = "no model"
CEILING = "known probability"


def performance(outcomes: dict[str, Outcomes], trials: dict[str, Trial]) -> pd.DataFrame:
    """Every metric of retrieval of every method, split and side, and the ceiling."""
    rows = []
    for split, methods in outcomes.items():
        found = {method: [o.metrics for o in each] for method, each in methods.items()}
        ceiling = retrieval.ceiling(trials[split])
        if ceiling is not None:
            found[CEILING] = [ceiling]
        rows += [
            {
                "method": method,
                "split": split,
                "side": side,
                **{
                    name: over_seeds([float(m[side][name].mean()) for m in each], bounds=SHARE)
                    for name in METRICS
                },
            }
            for side in SIDES
            for method, each in found.items()
        ]
    return frame(rows)


def _measures(
    outcomes: Outcomes, trial: Trial, side: Side
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Every measure of uncertainty of a side: method, name and values (query, seed)."""
    for method, each in outcomes.items():
        for name in each[0].uncertainty[side]:
            yield method, name, np.stack([o.uncertainty[side][name] for o in each], 1)
    if side == "caption":
        for name, values in measured(Evidence(texts=trial.captions)).items():
            yield NO_MODEL, name, values[:, None]


def uncertainty(
    outcomes: dict[str, Outcomes], trials: dict[str, Trial], *, key: jax.Array, num_resamples: int
) -> pd.DataFrame:
    """How every measure of uncertainty agrees with what is known, and with failure."""
    wanted: list[tuple[str, Side, str, str, np.ndarray]] = [
        (split, side, method, measure, values)
        for split, methods in outcomes.items()
        for side in SIDES
        for method, measure, values in _measures(methods, trials[split], side)
    ]
    rows = []
    for split, side, method, measure, values in tqdm(
        wanted, desc="judging uncertainty", unit="measure", mininterval=10
    ):
        methods = outcomes[split]
        # What no model says is held against the mean model of all methods.
        of = methods.get(method) or [o for each in methods.values() for o in each]
        row = {
            "method": method,
            "measure": measure,
            "own": method in METHODS and measure == METHODS[method].judged_by,
            "split": split,
            "side": side,
        }
        scores = _scores(trials[split], side, values, of, key=key, num_resamples=num_resamples)
        rows.append({**row, **scores})
    return frame(rows)


def _scores(
    trial: Trial,
    side: Side,
    values: np.ndarray,
    outcomes: list[Outcome],
    *,
    key: jax.Array,
    num_resamples: int,
) -> dict[str, Any]:
    """All scores of a measure of uncertainty (query, seed); None where nothing varies."""

    def interval(statistic, some: np.ndarray, *items: np.ndarray) -> dict[str, float] | None:
        """Of ranked uncertainties; undefined without an error, and of one uncertainty."""
        unsure, known = (values[some] for values in items)
        if not (_varied(unsure) and _varied(known)):
            return None
        items = estimates.ranks(unsure), known.astype(np.float32)
        groups = trial.groups(side)[some]
        return estimates.over_items(
            key, statistic, *items, num_resamples=num_resamples, groups=groups
        )

    right, annotated = (
        np.stack([o.metrics[side][name] for o in outcomes], 1).round()
        for name in ("R@1", "annotated R@1")
    )
    values = np.broadcast_to(values, right.shape)
    every = np.ones(len(values), bool)
    found: dict[str, Any] = {
        "r_auroc": interval(calibration.r_auroc, every, values, right),
        "r_auroc_annotated": interval(calibration.r_auroc, every, values, annotated),
        "aurc_annotated": interval(calibration.aurc, every, values, 1.0 - annotated),
        "level_score": _binned(calibration.level_score, values, annotated),
        "bin_correlation": _binned(calibration.bin_correlation, values, annotated),
    }
    if trial.truth is not None:
        known = np.broadcast_to(trial.truth.ambiguity[side][:, None], values.shape)
        found["spearman"] = interval(calibration.spearman, every, values, known)
        found["kendall"] = interval(calibration.kendall_tau, every, values, known)
        if side == "caption":
            some = trial.truth.of_one_length
            found["spearman_of_one_length"] = interval(calibration.spearman, some, values, known)
    return found


def _varied(values: np.ndarray) -> bool:
    """Whether the values (query, seed) of no seed are all the same."""
    return bool((values.min(0) < values.max(0)).all())


def _binned(score, values: np.ndarray, right: np.ndarray) -> dict[str, Any] | None:
    """A score of bins over the seeds."""
    if not (_varied(values) and _varied(right)) or len(values) < 10:
        return None
    scores = [
        float(score(v.astype(np.float32), r.astype(np.float32)))
        for v, r in zip(values.T, right.T, strict=True)
    ]
    return over_seeds(scores, bounds=CORRELATION) if np.isfinite(scores).all() else None


def probabilities(outcomes: dict[str, Outcomes], trials: dict[str, Trial]) -> pd.DataFrame:
    """Whether match probabilities are frequencies, where the scores are their logits.

    The Brier skill is 1 - sum (p - match)^2 / sum (mean match - match)^2: 1 for an oracle, 0 for
    the share of matches as the probability of all pairs.
    """
    rows = []
    for split, methods in outcomes.items():
        trial = trials[split]
        match = trial.positives.astype(np.float64)
        spread = np.square(match - match.mean()).sum()

        def row(method, each, match=match, spread=spread, split=split):
            errors = [
                float(calibration.expected_calibration_error(p.ravel(), match.ravel()))
                for p in each
            ]
            skills = [float(1.0 - np.square(p - match).sum() / spread) for p in each]
            return {
                "method": method,
                "split": split,
                "calibration_error": over_seeds(errors, bounds=SHARE),
                "skill": over_seeds(skills, bounds=(-np.inf, 1.0)),
                "mean": over_seeds([float(p.mean()) for p in each], bounds=SHARE),
                "share": float(match.mean()),
            }

        rows += [
            row(method, [o.probability.astype(np.float64) for o in each])
            for method, each in methods.items()
            if METHODS[method].is_probability
        ]
        if trial.truth is not None:
            rows.append(row(CEILING, [trial.truth.match_probability]))
    return frame(rows)


def implication(outcomes: dict[str, Outcomes], trials: dict[str, Trial]) -> pd.DataFrame:
    """Whether nested captions are told from others, and the wider of two nested ones."""
    rows = []
    for split, methods in outcomes.items():
        truth = trials[split].truth
        if truth is None:
            continue
        narrow, wide = (ids[truth.implied] for ids in (truth.narrow, truth.wide))
        for method, each in methods.items():
            own = [o.uncertainty["caption"][METHODS[method].judged_by] for o in each]
            rows.append(
                {
                    "method": method,
                    "split": split,
                    # Pairs that look least like implication are to be the ones that are none.
                    "detected": over_seeds(
                        [
                            float(calibration.r_auroc(-o.implication, truth.implied))
                            for o in each
                            if o.implication is not None
                        ],
                        bounds=SHARE,
                    ),
                    "directed": over_seeds(
                        [float(np.mean(u[wide] > u[narrow])) for u in own], bounds=SHARE
                    ),
                }
            )
    return frame(rows)


def expectations(found: pd.DataFrame) -> pd.DataFrame:
    """What is expected of caption uncertainty, and what is reached.

    Args:
      found: of `uncertainty`.
    """
    rows = []
    every = [row for row in records(found) if row["side"] == "caption" and row.get("spearman")]
    for split in dict.fromkeys(row["split"] for row in every):
        ranked = [row for row in every if row["split"] == split]
        ranked.sort(key=lambda row: -row["spearman"]["mean"])
        own = [row for row in ranked if is_distribution(row["method"]) and row["own"]]
        # What is to be had without a distribution, by every measure.
        rival = next((row for row in ranked if not is_distribution(row["method"])), None)
        rows += [
            {
                "split": split,
                "method": row["method"],
                "reached": row["spearman"],
                "of_one_length": row["spearman_of_one_length"],
                "met": row["spearman"]["mean"] >= LEAST_SPEARMAN,
                "rival": rival and f"the {rival['measure']} of {rival['method']}",
                "rival_reached": rival and rival["spearman"],
                "ahead": rival is None or rival["spearman"]["mean"] < row["spearman"]["low"],
            }
            for row in own
        ]
    return frame(rows)


def content(
    outcomes: dict[str, Outcomes],
    trials: dict[str, Trial],
    *,
    key: jax.Array,
    num_resamples: int,
    **head: Any,
) -> dict[str, Any]:
    """All numbers of a report, behind its head (command, config, data, versions, backend)."""
    options = {"key": key, "num_resamples": num_resamples}
    frames = {
        "performance": performance(outcomes, trials),
        "uncertainty": uncertainty(outcomes, trials, **options),
        "probabilities": probabilities(outcomes, trials),
        "implication": implication(outcomes, trials),
    }
    frames["expectations"] = expectations(frames["uncertainty"])
    return {
        **head,
        "splits": list(trials),
        "has_truth": all(trial.truth is not None for trial in trials.values()),
        **{name: records(found) for name, found in frames.items()},
    }
