"""The page of adapters on frozen embeddings: tables of its numbers."""

from typing import Any

from experiments.adapters.evaluation import OWN
from experiments.adapters.numbers import FROZEN, LEVEL, METRICS, score_of
from experiments.adapters.training import OWN_WEIGHT
from experiments.captions import numbers as caption_numbers
from experiments.captions.retrieval import SIDES, Side
from experiments.reports import tables

_TO = {"image": "captions of an image", "caption": "images of a caption"}
_TITLES = {
    "spearman": "Spearman, true ambiguity",
    "r_auroc": "R-AUROC",
    "r_auroc_annotated": "R-AUROC, annotated",
    "aurc_annotated": "AURC, annotated",
    "level_score": "-S R^2, annotated",
}
"""Of the scores of a measure of uncertainty."""
_MEANINGS = {
    "spearman": "Spearman's correlation with the true ambiguity",
    "r_auroc_annotated": "R-AUROC of the failures of frozen retrieval",
}
_PAIR = {
    ("probvlm", "released"): "the partner's embedding decides (lambda {weight:g})",
    (
        "probvlm_own",
        "released_own",
    ): "its own embedding decides (lambda {own:g}, as in the release)",
}


def _table(rows: list[dict], columns: dict[str, str]) -> str:
    return tables.markdown(tables.frame(rows), columns, missing="")


def _plural(side: Side) -> str:
    return f"{side}s"


def _trusted(content: dict) -> str:
    """The own measure of the first method beside the best that needs no adapter."""
    rows = [
        {
            **dict.fromkeys(["all_own", "all_difference", "new_own", "new_difference"]),
            **row,
            "of": _plural(row["side"]),
            "failures": content["failures"][row["side"]],
        }
        for row in content["comparisons"]
    ]
    columns = {
        "of": "of",
        "failures": "that fail",
        "all_own": "total uncertainty",
        "rival": "the best without an adapter",
        "rival_score": "it",
        "all_difference": "difference",
        "new_items": "not in training",
        "new_own": "their total uncertainty",
        "new_difference": "their difference",
    }
    return _table(rows, columns)


def _retrieval(content: dict, side: Side) -> str:
    rows = [row for row in content["retrieval"] if row["side"] == side]
    columns = {name: name for name in (*METRICS, "change of R@1")}
    return _table(rows, {"method": "method", "ranking": "ranking by", **columns})


def _fits(content: dict) -> str:
    rows = [{**row, "of": _plural(row["side"])} for row in content["fits"]]
    columns = {
        "method": "method",
        "of": "of",
        "loss": "loss",
        "loss_tempered": "tempered",
        "temperature": "temperature",
        "coverage": f"coverage of {LEVEL:.0%}",
        "coverage_tempered": "tempered",
        "coverage_error": "coverage error",
        "coverage_error_tempered": "tempered",
    }
    return _table(rows, columns)


def _uncertainty(content: dict, side: Side) -> str:
    """Every measure of the first method and of no method, and each other method's own."""
    whole = (content["config"]["methods"][0], FROZEN, caption_numbers.NO_MODEL)
    first = score_of(content["has_truth"])
    rows = [
        row
        for row in content["uncertainty"]
        if row["side"] == side
        and (row["method"] in whole or row["own"])
        and any(row.get(score) for score in _TITLES)
    ]
    rows.sort(key=lambda row: -(row[first]["mean"] if row.get(first) else -2.0))
    columns = {name: title for name, title in _TITLES.items() if any(row.get(name) for row in rows)}
    if not content["has_truth"]:  # the same as what is annotated
        columns.pop("r_auroc", None)
    return _table(rows, {"method": "method", "measure": "measure", **columns})


def _losses(content: dict) -> list[str]:
    """The exact loss beside the released one, budgets equal."""
    score, parts = score_of(content["has_truth"]), []
    for methods, when in _PAIR.items():
        rows = []
        for side in SIDES:
            fits = [tables.find(content["fits"], method=m, side=side) for m in methods]
            if None in fits:
                continue
            for method, fit in zip(methods, fits, strict=True):
                found = tables.find(content["uncertainty"], method=method, measure=OWN, side=side)
                assert fit is not None and found is not None
                rows.append({**fit, "of": _plural(side), "score": found.get(score)})
        if rows:
            columns = {
                "method": "loss",
                "of": "of",
                "loss_tempered": "loss of the partner, tempered",
                "coverage_error": "coverage error",
                "coverage_error_tempered": "tempered",
                "score": _MEANINGS[score],
            }
            weight = content["config"]["cross_modal_weight"]
            when = when.format(weight=weight, own=OWN_WEIGHT)
            parts += [f"Where {when}:", _table(rows, columns)]
    return parts


def markdown(content: dict[str, Any]) -> str:
    """The whole report as text, from what results.json holds."""
    seeds = ", ".join(map(str, content["config"]["seeds"]))
    parts = [
        "# ProbVLM adapters: results",
        f"`{content['command']}`",
        f"Data: {content['data']}. Seeds {seeds}; jax {content['versions']['jax']} on "
        f"{content['backend']}. Everything on this page is written by that command. Intervals are "
        "95 %: of retrieval, losses and coverage over seeds of the adapters (t), of uncertainty "
        "and coverage errors over items (bootstrap of the mean over seeds); all are of one set of "
        "embeddings and one split.",
        "## Can it be trusted?",
        f"The total uncertainty of {content['config']['methods'][0]} and the best measure that "
        f"needs no adapter, by {_MEANINGS[score_of(content['has_truth'])]}; then the same of items "
        "whose vectors are not in training too.",
        _trusted(content),
        "## Retrieval before and after",
        "The embeddings stay frozen, so that retrieval by them is what it was. These are the "
        "rankings that a distribution makes possible, and what each would change.",
    ]
    for side in SIDES:
        parts += [f"The {_TO[side]}:", _retrieval(content, side)]
    parts += [
        "## Are distributions as wide as errors are?",
        "The loss is the negative log-likelihood of the partner's embedding, in nats per "
        "dimension, one partner for each item; temperatures were fitted on pairs set aside. "
        "Coverage is the share of the partners' coordinates within the central interval; its error "
        "is a mean over 19 levels. Densities on the sphere (von_mises_fisher) and in space are not "
        "comparable, and the widths of pfe are those of pairs.",
        _fits(content),
    ]
    if losses := _losses(content):
        parts += ["## The exact loss beside the released one", *losses]
    parts += [
        "## Does uncertainty tell what is vague, and what fails?",
        "Failures are those of retrieval by the frozen embeddings. Variances are tempered. The "
        "measures of no adapter are below 'frozen' and 'no model'; TTDA is the variance of "
        "embeddings of changed inputs.",
    ]
    for side in SIDES:
        parts += [f"Of {_plural(side)} as queries:", _uncertainty(content, side)]
    return "\n\n".join(parts) + "\n"
