"""The page of hedged digits: tables of its numbers."""

from typing import Any

from experiments.hedging.evaluation import NEIGHBORS
from experiments.hedging.numbers import NUM_BINS
from experiments.reports import tables


def _verdict(row: dict[str, Any], toy: bool) -> str:
    """Whether an expectation is met, and whether its interval leaves that open."""
    if toy:
        return "too short a run to tell"
    low, high = ((row["reached"] or {}).get(end) for end in ("low", "high"))
    within = low is not None and low <= row["least"] <= high
    return ("met" if row["met"] else "MISSED") + ", but the interval allows either" * within


def _expected(content: dict) -> str:
    toy = content["config"].get("toy", False)
    rows = [{**row, "verdict": _verdict(row, toy)} for row in content["expectations"]]
    return tables.markdown(
        tables.frame(rows),
        {
            "split": "test images",
            "what": "expected",
            "least": "at least",
            "reached": "reached",
            "verdict": "",
        },
        shown={"least": lambda least: f"{least:g}" if least else "above 0"},
    )


def _of_trials(rows: list[dict], columns: dict[str, str], **options: Any) -> str:
    """A table with a column for split and condition."""
    named = [{**row, "trial": f"{row['split']}, {row['condition']}"} for row in rows]
    columns = {"trial": "test images", "embedding": "embedding", **columns}
    return tables.markdown(tables.frame(named), columns, **options)


def _mean(estimate: dict | None) -> str:
    return tables.number(estimate and estimate["mean"], 2)


def markdown(content: dict) -> str:
    """The whole report as text, from what results.json holds."""
    seeds = content["config"]["seeds"]
    parts = [
        "# Hedged digits: results",
        f"`{content['command']}`",
        f"Data: {content['data']}. Seeds {', '.join(map(str, seeds))}; jax "
        f"{content['versions']['jax']} on {content['backend']}. Everything on this page is written "
        "by that command.",
        "## Expected and reached",
        "Intervals are 95 %: over seeds (t) for differences and for corrupt against clean, over "
        "test images (bootstrap, those of one number together) for R-AUROC. Images of different "
        "numbers share digits too, so that intervals over images may still be too narrow.",
        _expected(content),
        "## Performance",
        f"Verification: average precision over pairs. Identification: accuracy of {NEIGHBORS} "
        "nearest neighbours in a clean gallery. Calibration: expected calibration error of the "
        "match probability (0 is ideal). Mean over seeds [95 % t interval].",
        _of_trials(
            content["performance"],
            {
                "average_precision": "verification",
                "accuracy": "identification",
                "calibration_error": "calibration",
            },
        ),
        "## Does the uncertainty predict failure?",
        "R-AUROC: an error of identification is more uncertain than a success (1/2 is chance). "
        "AURC: mean error when the least certain are rejected first (0 is ideal). Both: mean over "
        f"seeds [95 % bootstrap interval over test images]. tau: Kendall's between {NUM_BINS} bins "
        "of uncertainty and their accuracy (identification) or average precision (verification, a "
        "pair counts as uncertain as the less certain of its two images); -1 is ideal; mean over "
        "seeds.",
        _of_trials(
            content["uncertainty"],
            {
                "measure": "uncertainty",
                "r_auroc": "R-AUROC",
                "aurc": "AURC",
                "tau_identification": "tau id.",
                "tau_verification": "tau ver.",
            },
            shown={"tau_identification": _mean, "tau_verification": _mean},
        ),
        "## Is a corrupt image more uncertain than a clean one?",
        "AUROC, mean over seeds [95 % t interval].",
        tables.markdown(
            tables.frame(content["separation"]),
            {
                "split": "test images",
                "embedding": "embedding",
                "measure": "uncertainty",
                "auroc": "AUROC",
            },
        ),
    ]
    return "\n\n".join(parts) + "\n"
