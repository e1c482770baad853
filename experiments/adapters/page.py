"""The numbers of adapters on frozen embeddings: retrieval, widths, uncertainty, and the answer."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.adapters.evaluation import OWN, Evaluation, Frozen
from experiments.adapters.training import OWN_WEIGHT
from experiments.captions import evaluation as caption_evaluation
from experiments.captions import page
from experiments.captions.evaluation import SIDES, Outcome, Side
from experiments.reports import estimates
from experiments.reports.estimates import DIFFERENCE, POSITIVE, SHARE, over_seeds
from experiments.reports.tables import find, number, table
from probemb import calibration

FROZEN = "frozen"
TEST = "test"
_METRICS = ("R@1", "R@5", "R-Precision", "annotated R@1")
_LEVEL = 0.9
_FEW = 20
_TO = {"image": "captions of an image", "caption": "images of a caption"}
_SCORES = ("spearman", "r_auroc", "r_auroc_annotated", "aurc_annotated", "level_score")
_PAIR = {
    ("probvlm", "released"): "the partner's embedding decides (lambda {weight:g})",
    (
        "probvlm_own",
        "released_own",
    ): "its own embedding decides (lambda {own:g}, as in the release)",
}


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
    rows: list[dict],
    *,
    score: str,
    key: jax.Array,
    num_resamples: int,
) -> list[dict]:
    """The own measure of a method beside the best that needs no adapter, on the same resamples.

    For all items of a side, and for those whose vectors are not in training too.
    """
    found = []
    for side in SIDES:
        needless = (FROZEN, page.NO_MODEL)
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
            else caption_evaluation.minus_words(frozen.trial.captions)
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
    return found


def retrieval(before: Outcome, evaluations: dict[str, Evaluation]) -> list[dict]:
    """Every metric of every way to rank, and its change against the frozen embeddings."""
    rows = []
    for side in SIDES:
        base = {name: float(before.metrics[side][name].mean()) for name in _METRICS}
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
                means = {name: [float(m[side][name].mean()) for m in each] for name in _METRICS}
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
    return rows


def fits(
    frozen: Frozen, evaluations: dict[str, Evaluation], *, key: jax.Array, num_resamples: int
) -> list[dict]:
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
        shares = [calibration.coverage(of_seed, level=_LEVEL) for of_seed in central]
        return over_seeds([float(share) for share in shares], bounds=SHARE)

    return [
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


def content(
    frozen: Frozen,
    before: Outcome,
    evaluations: dict[str, Evaluation],
    *,
    key: jax.Array,
    num_resamples: int,
    **head: Any,
) -> dict[str, Any]:
    """All numbers of a report, behind its head (command, config, data, versions, backend)."""
    outcomes = {FROZEN: [before], **{m: e.outcomes for m, e in evaluations.items()}}
    trials = {TEST: frozen.trial}
    found: dict[str, Any] = {
        **head,
        "has_truth": frozen.trial.truth is not None,
        "failures": {
            side: int((before.metrics[side]["annotated R@1"].round() == 0.0).sum())
            for side in SIDES
        },
        "retrieval": retrieval(before, evaluations),
        "fits": fits(frozen, evaluations, key=key, num_resamples=num_resamples),
        "uncertainty": page.uncertainty(
            {TEST: outcomes}, trials, key=key, num_resamples=num_resamples
        ),
    }
    for row in found["uncertainty"]:
        row["own"] = row["measure"] == OWN
    found["comparisons"] = comparisons(
        frozen,
        before,
        next(iter(evaluations.values())),
        found["uncertainty"],
        score=_score(found)[0],
        key=key,
        num_resamples=num_resamples,
    )
    found["answer"] = answer(found)
    return found


def _score(content: dict) -> tuple[str, str]:
    if content["has_truth"]:
        return "spearman", "Spearman's correlation with the true ambiguity"
    return "r_auroc_annotated", "R-AUROC of the failures of frozen retrieval"


def _best(rows: list[dict], name: str) -> dict | None:
    defined = [row for row in rows if row.get(name)]
    return max(defined, key=lambda row: row[name]["mean"]) if defined else None


def verdict(content: dict, method: str, side: Side) -> str | None:
    """Whether a method's uncertainty says more than anything without it does, in words."""
    _, meaning = _score(content)
    row = find(content["comparisons"], side=side)
    if row is None or "all_difference" not in row:
        return None
    difference = row["all_difference"]
    said = "no more and no less, within the interval,"
    if difference["low"] > 0.0:
        said = "more"
    elif difference["high"] < 0.0:
        said = "less"
    text = (
        f"The total uncertainty of {method} of {side}s has {number(row['all_own'])} by {meaning}: "
        f"{said} than the best that needs no adapter, {row['rival']}, {number(row['rival_score'])} "
        f"(difference {number(difference)})."
    )
    if "new_own" in row and row["new_items"] < row["all_items"]:
        text += (
            f" Of the {row['new_items']} whose vectors are not in training too it has "
            f"{number(row['new_own'])} (difference {number(row['new_difference'])})."
        )
    return text


def answer(content: dict) -> str:
    """Can the uncertainty be trusted, in one paragraph."""
    method = content["config"]["methods"][0]
    parts = [text for side in SIDES if (text := verdict(content, method, side))]
    parts += [
        f"Only {failed} {side}s fail: too few for R-AUROC and its like to tell much."
        for side, failed in content["failures"].items()
        if failed < _FEW and not content["has_truth"]
    ]
    if content["has_truth"]:
        for side in SIDES:
            row = find(content["uncertainty"], method=method, measure=OWN, side=side)
            if row and row["r_auroc"] and row["r_auroc_annotated"]:
                parts.append(
                    f"It predicts the failures of {side}s with an R-AUROC of "
                    f"{number(row['r_auroc'])} where all that is true counts, and of "
                    f"{number(row['r_auroc_annotated'])} where only annotated pairs do."
                )
    for side in SIDES:
        fit = find(content["fits"], method=method, side=side)
        if fit and fit["coverage_tempered"]:
            parts.append(
                f"Intervals of {_LEVEL:.0%} around {side}s hold {fit['coverage']['mean']:.1%} of "
                f"the partners' coordinates, {fit['coverage_tempered']['mean']:.1%} after "
                "temperature scaling."
            )
    for side in SIDES:
        row = find(content["retrieval"], method=method, ranking="locations", side=side)
        if row:
            parts.append(
                f"Retrieval of {_TO[side]} by its locations instead of the frozen embeddings "
                f"changes R@1 by {number(row['change of R@1'])}; by the frozen embeddings, which "
                "stay what they are, it does not change."
            )
    return " ".join(parts)


def _cell(value: dict | None) -> str:
    return "" if value is None else number(value)


def _retrieval_table(content: dict, side: Side) -> str:
    rows = [
        [row["method"], row["ranking"]]
        + [number(row[name]) for name in _METRICS]
        + [_cell(row.get("change of R@1"))]
        for row in content["retrieval"]
        if row["side"] == side
    ]
    return table(["method", "ranking by", *_METRICS, "change of R@1"], rows)


def _fit_table(content: dict) -> str:
    header = [
        "method",
        "of",
        "loss",
        "tempered",
        "temperature",
        f"coverage of {_LEVEL:.0%}",
        "tempered",
        "coverage error",
        "tempered",
    ]
    names = [
        "loss",
        "loss_tempered",
        "temperature",
        "coverage",
        "coverage_tempered",
        "coverage_error",
        "coverage_error_tempered",
    ]
    rows = [
        [row["method"], f"{row['side']}s", *(_cell(row[name]) for name in names)]
        for row in content["fits"]
    ]
    return table(header, rows)


def _uncertainty_table(content: dict, side: Side) -> str:
    """Every measure of the first method and of no method, and each other method's own."""
    first = content["config"]["methods"][0]
    whole = (first, FROZEN, page.NO_MODEL)
    name, _ = _score(content)
    rows = [
        row
        for row in content["uncertainty"]
        if row["side"] == side and (row["method"] in whole or row["own"])
    ]
    rows = [row for row in rows if any(row.get(score) for score in _SCORES)]
    rows.sort(key=lambda row: -(row[name]["mean"] if row.get(name) else -2.0))
    names = [score for score in _SCORES if any(row.get(score) for row in rows)]
    if not content["has_truth"]:  # the same as what is annotated
        names = [score for score in names if score != "r_auroc"]
    titles = {
        "spearman": "Spearman, true ambiguity",
        "r_auroc": "R-AUROC",
        "r_auroc_annotated": "R-AUROC, annotated",
        "aurc_annotated": "AURC, annotated",
        "level_score": "-S R^2, annotated",
    }
    cells = [
        [row["method"], row["measure"], *(_cell(row.get(score)) for score in names)] for row in rows
    ]
    return table(["method", "measure", *(titles[score] for score in names)], cells)


def _comparison(content: dict) -> str:
    """The exact loss beside the released one, budgets equal."""
    parts = []
    for (exact, released), when in _PAIR.items():
        rows = []
        for side in SIDES:
            of_side = [find(content["fits"], method=m, side=side) for m in (exact, released)]
            if None in of_side:
                continue
            for method, row in zip((exact, released), of_side, strict=True):
                found = find(content["uncertainty"], method=method, measure=OWN, side=side)
                assert row is not None and found is not None
                rows.append(
                    [
                        method,
                        f"{side}s",
                        number(row["loss_tempered"]),
                        _cell(row["coverage_error"]),
                        _cell(row["coverage_error_tempered"]),
                        _cell(found.get(_score(content)[0])),
                    ]
                )
        if rows:
            header = [
                "loss",
                "of",
                "loss of the partner, tempered",
                "coverage error",
                "tempered",
                _score(content)[1],
            ]
            weight = content["config"]["cross_modal_weight"]
            when = when.format(weight=weight, own=OWN_WEIGHT)
            parts += [f"Where {when}:", table(header, rows)]
    return "\n\n".join(parts)


def markdown(content: dict, title: str) -> str:
    """The whole report as text, from what results.json holds."""
    seeds = ", ".join(map(str, content["config"]["seeds"]))
    parts = [
        f"# {title}: results",
        f"`{content['command']}`",
        f"Data: {content['data']}. Seeds {seeds}; jax {content['versions']['jax']} on "
        f"{content['backend']}. Everything on this page is written by that command. Intervals are "
        "95 %: of retrieval, losses and coverage over seeds of the adapters (t), of uncertainty "
        "and coverage errors over items (bootstrap of the mean over seeds); all are of one set of "
        "embeddings and one split.",
        "## Can it be trusted?",
        content["answer"],
        "## Retrieval before and after",
        "The embeddings stay frozen, so that retrieval by them is what it was. These are the "
        "rankings that a distribution makes possible, and what each would change.",
    ]
    for side in SIDES:
        parts += [f"The {_TO[side]}:", _retrieval_table(content, side)]
    parts += [
        "## Are distributions as wide as errors are?",
        "The loss is the negative log-likelihood of the partner's embedding, in nats per "
        "dimension, one partner for each item; temperatures were fitted on pairs set aside. "
        "Coverage is the share of the partners' coordinates within the central interval; its error "
        "is a mean over 19 levels. Densities on the sphere (von_mises_fisher) and in space are not "
        "comparable, and the widths of pfe are those of pairs.",
        _fit_table(content),
    ]
    if comparison := _comparison(content):
        parts += ["## The exact loss beside the released one", comparison]
    parts.append("## Does uncertainty tell what is vague, and what fails?")
    parts.append(
        "Failures are those of retrieval by the frozen embeddings. Variances are tempered. The "
        "measures of no adapter are below 'frozen' and 'no model'; TTDA is the variance of "
        "embeddings of changed inputs."
    )
    for side in SIDES:
        parts += [f"Of {side}s as queries:", _uncertainty_table(content, side)]
    return "\n\n".join(parts) + "\n"
