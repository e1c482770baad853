"""The page of image and caption retrieval: tables of its numbers, under a few lines each."""

from typing import Any

import pandas as pd

from experiments.captions.methods import METHODS
from experiments.captions.numbers import CEILING, LEAST_SPEARMAN
from experiments.captions.retrieval import METRICS, SIDES
from experiments.reports.tables import frame, number
from experiments.reports.tables import markdown as table

_SCORES = {
    "r_auroc_annotated": "R-AUROC, annotated",
    "aurc_annotated": "AURC, annotated",
    "level_score": "-S R2, 5 levels",
    "bin_correlation": "Pearson, 10 bins",
}
_OF_TRUTH = {
    "spearman": "Spearman, ambiguity",
    "kendall": "Kendall, ambiguity",
    "r_auroc": "R-AUROC, all that is true",
}
_TO = {"image": "captions of an image", "caption": "images of a caption"}


def _run(content: dict[str, Any]) -> list[str]:
    """How the numbers came about."""
    seeds = ", ".join(map(str, content["config"]["seeds"]))
    # A method that was not trained has no settings.
    settings = [
        f"{method} {rate:g}"
        + (f", {METHODS[method].weighs} {weight:g}" if METHODS[method].weighs else "")
        for method, (rate, weight) in content["config"].get("settings", {}).items()
    ]
    return [
        f"`{content['command']}`",
        f"Data: {content['data']}. Seeds {seeds}; jax {content['versions']['jax']} on "
        f"{content['backend']}. Everything on this page is written by that command. Intervals are "
        "95 %: of retrieval, probabilities, implication and the scores of bins over seeds (t), of "
        "uncertainty over images (bootstrap of the mean over seeds: captions of one image are "
        "drawn together).",
        *([f"Learning rates and weights: {'; '.join(settings)}."] if settings else []),
    ]


def _expectations(content: dict[str, Any]) -> list[str]:
    found = frame(content["expectations"])
    if found.empty:
        return []
    found["rival"] = [
        "none" if rival is None else f"{rival}: {number(reached)}"
        for rival, reached in zip(found["rival"], found["rival_reached"], strict=True)
    ]
    columns = {
        "split": "split",
        "method": "method",
        "reached": "reached",
        "met": f"at least {LEAST_SPEARMAN}",
        "of_one_length": "number of digits told",
        "rival": "best rival",
        "ahead": "more than it",
    }
    toy = content["config"].get("toy", False)
    met = {True: "met", False: "MISSED"}
    shown = {"met": lambda is_met: "too short a run to tell" if toy else met[is_met]}
    return [
        "## Expected and reached",
        "Expected: Spearman's correlation of a distribution's total variance with the true "
        f"ambiguity of captions is at least {LEAST_SPEARMAN}, and more than anything says that "
        "needs no distribution: any measure of the deterministic methods, or few words (more "
        "than it: beyond the interval). Beside it the same among captions that tell how many "
        'digits there are: what leaves that open ("some number") is true of images that lie '
        "far apart, where no mean is near to all.",
        table(found, columns, shown=shown),
    ]


def _retrieval(content: dict[str, Any]) -> list[str]:
    known = (
        "All that is true counts as a match; annotated R@1 counts, as COCO does, what was "
        f"written of the image alone. The {CEILING} ranks by what is left to know of a covered "
        "image, ties in random order: no one who knows nothing of the split has more R@1 of "
        'captions to expect. From image to caption, R@1 says little: "some number" is true of '
        "all images."
    )
    found = frame(content["performance"])
    metrics = {name: name for name in METRICS}
    return [
        "## Retrieval",
        *([known] if content["has_truth"] else []),
        *(
            table(_of(found, side), {"split": _TO[side], "method": "method", **metrics})
            for side in SIDES
        ),
    ]


def _of(found: pd.DataFrame, side: str) -> pd.DataFrame:
    return found.query("side == @side")


def _uncertainty(content: dict[str, Any]) -> list[str]:
    truth = content["has_truth"]
    scores = {**_OF_TRUTH, **_SCORES} if truth else _SCORES
    found = frame(content["uncertainty"])
    found["measure"] += [" *" * own for own in found["own"]]
    columns = {"method": "method", "measure": "uncertainty", **scores}
    return [
        "## Is the uncertainty right?",
        ("Correlation with the true ambiguity of the query, 1 is ideal. " if truth else "")
        + "R-AUROC: a failure of R@1 is more uncertain than a success (1/2 is chance, 1 ideal). "
        "AURC: mean error when the least certain are rejected first (0 is ideal). The papers' "
        "scores of bins by annotated R@1: -S R2 (1 is ideal) and Pearson (-1 is ideal). A star: "
        "the measure that the method is judged by.",
        *(
            table(_of(found, side), {"split": f"queries: {side}s", **columns}, digits=2)
            for side in SIDES
        ),
    ]


def _probabilities(content: dict[str, Any]) -> list[str]:
    found = frame(content["probabilities"])
    if found.empty:
        return []
    columns = {
        "split": "split",
        "method": "method",
        "calibration_error": "calibration error",
        "skill": "Brier skill",
        "mean": "mean probability",
        "share": "share",
    }
    one_match = (
        " Training saw one match an image in a batch, so that a probability is that of being the "
        "annotated pair among as many as a batch has."
    )
    annotated = content["config"].get("matches", "annotated") == "annotated"
    return [
        "## Are match probabilities frequencies?",
        "Of all pairs of images and captions. Brier skill: 1 is an oracle, 0 the share of "
        "matches for every pair." + one_match * annotated,
        table(found, columns, digits={"calibration_error": 4, "mean": 4, "share": 4}),
    ]


def _implication(content: dict[str, Any]) -> list[str]:
    found = frame(content["implication"])
    if found.empty:
        return []
    columns = ("split", "method", "detected", "directed")
    return [
        "## Which captions include which?",
        "Detected: AUROC of telling captions that imply another from pairs where neither does, "
        "by ProLIP's inclusion (Gaussians), by the cone (meru), by the cosine (the others). "
        "Directed: how often the wider of two nested captions is the more uncertain.",
        table(found, {name: name for name in columns}),
    ]


def markdown(content: dict[str, Any], title: str) -> str:
    """The whole report as text, from what results.json holds."""
    parts = [
        f"# {title}: results",
        *_run(content),
        *_expectations(content),
        *_retrieval(content),
        *_uncertainty(content),
        *_probabilities(content),
        *_implication(content),
    ]
    return "\n\n".join(parts) + "\n"
