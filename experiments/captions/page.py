"""The numbers of image and caption retrieval: means with intervals, tables, and the answer."""

from typing import Any

import jax
import numpy as np

from experiments.captions import evaluation
from experiments.captions.evaluation import METRICS, SIDES, Outcome, Side, Trial
from experiments.captions.methods import METHODS, is_distribution
from experiments.reports import estimates
from experiments.reports.estimates import CORRELATION, SHARE, over_seeds
from experiments.reports.tables import find, number, table
from experiments.uncertainty import baselines
from experiments.uncertainty.baselines import Evidence
from probemb import calibration

Outcomes = dict[str, list[Outcome]]
"""Method -> an outcome for each seed."""
LEAST_SPEARMAN = 0.7
NO_MODEL = "no model"
CEILING = "known probability"
_TO = {"image": "captions of an image", "caption": "images of a caption"}


def performance(outcomes: dict[str, Outcomes], trials: dict[str, Trial]) -> list[dict]:
    """Every metric of retrieval of every method, split and side, and the ceiling."""
    rows = []
    for split, methods in outcomes.items():
        found = {method: [o.metrics for o in each] for method, each in methods.items()}
        ceiling = evaluation.ceiling(trials[split])
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
    return rows


def _measures(outcomes: Outcomes, trial: Trial, side: Side):
    """Every measure of uncertainty of a side: method, name and values (query, seed)."""
    for method, each in outcomes.items():
        for name in each[0].uncertainty[side]:
            yield method, name, np.stack([o.uncertainty[side][name] for o in each], 1)
    if side == "caption":
        for name, values in baselines.measured(Evidence(texts=trial.captions)).items():
            yield NO_MODEL, name, values[:, None]


def _varied(values: np.ndarray) -> bool:
    """Whether the values (query, seed) of no seed are all the same."""
    return bool((values.min(0) < values.max(0)).all())


def uncertainty(
    outcomes: dict[str, Outcomes], trials: dict[str, Trial], *, key: jax.Array, num_resamples: int
) -> list[dict]:
    """How every measure of uncertainty agrees with what is known, and with failure."""

    def interval(statistic, groups, *items: np.ndarray) -> dict[str, float] | None:
        """Of ranked uncertainties; undefined where nothing varies: no error, one uncertainty."""
        if not all(map(_varied, items)):
            return None
        items = estimates.ranks(items[0]), items[1].astype(np.float32)
        return estimates.over_items(
            key, statistic, *items, num_resamples=num_resamples, groups=groups
        )

    rows = []
    for split, methods in outcomes.items():
        trial = trials[split]
        for side in SIDES:
            groups = trial.groups(side)
            for method, measure, values in _measures(methods, trial, side):
                # What no model says is held against the mean model of all methods.
                of_method = (
                    methods[method]
                    if method in methods
                    else [o for each in methods.values() for o in each]
                )
                right, annotated = (
                    np.stack([o.metrics[side][name] for o in of_method], 1).round()
                    for name in ("R@1", "annotated R@1")
                )
                values = np.broadcast_to(values, right.shape)
                row: dict[str, Any] = {
                    "method": method,
                    "measure": measure,
                    "own": method in METHODS and measure == METHODS[method].judged_by,
                    "split": split,
                    "side": side,
                    "r_auroc": interval(calibration.r_auroc, groups, values, right),
                    "r_auroc_annotated": interval(calibration.r_auroc, groups, values, annotated),
                    "aurc_annotated": interval(calibration.aurc, groups, values, 1.0 - annotated),
                    "level_score": _binned(calibration.level_score, values, annotated),
                    "bin_correlation": _binned(calibration.bin_correlation, values, annotated),
                }
                if trial.truth is not None:
                    known = np.broadcast_to(trial.truth.ambiguity[side][:, None], values.shape)
                    row["spearman"] = interval(calibration.spearman, groups, values, known)
                    row["kendall"] = interval(calibration.kendall_tau, groups, values, known)
                    if side == "caption":
                        some = trial.truth.of_one_length
                        row["spearman_of_one_length"] = interval(
                            calibration.spearman, groups[some], values[some], known[some]
                        )
                rows.append(row)
    return rows


def _binned(score, values: np.ndarray, right: np.ndarray) -> dict[str, Any] | None:
    """A score of bins over the seeds."""
    if not (_varied(values) and _varied(right)) or len(values) < 10:
        return None
    scores = [
        float(score(v.astype(np.float32), r.astype(np.float32)))
        for v, r in zip(values.T, right.T, strict=True)
    ]
    return over_seeds(scores, bounds=CORRELATION) if np.isfinite(scores).all() else None


def probabilities(outcomes: dict[str, Outcomes], trials: dict[str, Trial]) -> list[dict]:
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
    return rows


def implication(outcomes: dict[str, Outcomes], trials: dict[str, Trial]) -> list[dict]:
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
    return rows


def _ranked(content: dict, split: str, name: str) -> list[dict]:
    """Rows of caption uncertainty that have a score, the best first."""
    rows = [
        row
        for row in content["uncertainty"]
        if row["split"] == split and row["side"] == "caption" and row.get(name)
    ]
    return sorted(rows, key=lambda row: -row[name]["mean"])


def _of_distributions(content: dict, split: str, name: str) -> list[dict]:
    """Those of distributions, by their own measure."""
    ranked = _ranked(content, split, name)
    return [row for row in ranked if is_distribution(row["method"]) and row["own"]]


def _of_rivals(content: dict, split: str, name: str) -> list[dict]:
    """Those of what is to be had without a distribution, by every measure."""
    return [row for row in _ranked(content, split, name) if not is_distribution(row["method"])]


def _named(row: dict) -> str:
    return f"the {row['measure']} of {row['method']}"


def expectations(content: dict) -> list[dict]:
    """What is expected of caption uncertainty, and what is reached."""
    rows = []
    for split in content["splits"]:
        rivals = _of_rivals(content, split, "spearman")
        for row in _of_distributions(content, split, "spearman"):
            reached = row["spearman"]
            rows.append(
                {
                    "split": split,
                    "method": row["method"],
                    "reached": reached,
                    "of_one_length": row["spearman_of_one_length"],
                    "met": reached["mean"] >= LEAST_SPEARMAN,
                    "rival": _named(rivals[0]) if rivals else None,
                    "rival_reached": rivals[0]["spearman"] if rivals else None,
                    "ahead": not rivals or rivals[0]["spearman"]["mean"] < reached["low"],
                }
            )
    return rows


def answer(content: dict) -> str:
    """Which method's uncertainty is right, and at what cost in recall: in one paragraph."""
    split, methods = content["splits"][0], content["config"]["methods"]
    name, meaning = "r_auroc_annotated", "R-AUROC of the failures of captions"
    if content["has_truth"]:
        name, meaning = "spearman", "Spearman's correlation with the true ambiguity of captions"
    ranked = _of_distributions(content, split, name)
    rivals = _of_rivals(content, split, name)

    def precision(method: str) -> dict[str, Any]:
        row = find(content["performance"], method=method, side="caption", split=split)
        assert row is not None
        return row["R-Precision"]

    def cost(method: str) -> str:
        best = max(methods, key=lambda m: precision(m)["mean"])
        less = precision(best)["mean"] - precision(method)["mean"]
        return f"R-Precision from caption to image {number(precision(method))}" + (
            ", the best of all"
            if best == method
            else f", {less:.3f} less than that of {best}, the best"
        )

    if not ranked and not rivals:
        return f"On {split}, nothing varies by which an uncertainty could be judged."
    parts = [f"On {split}, by {meaning}:"]
    if ranked:
        best = ranked[0]
        parts.append(
            f"the most right of the distributions is {_named(best)} with {number(best[name])}, at "
            f"{cost(best['method'])}."
        )
        parts += [
            f"{row['method'].capitalize()} has {number(row[name])}, at {cost(row['method'])}."
            for row in ranked[1:]
        ]
    if rivals:
        rival = rivals[0]
        ahead = [row["method"] for row in ranked if row[name]["low"] > rival[name]["mean"]]
        text = f"Of what is to be had without a distribution, the most is {_named(rival)}: "
        text += number(rival[name])
        if rival["method"] in methods:
            text += f", at {cost(rival['method'])}"
        if ranked:
            text += f"; {', '.join(ahead) or 'no distribution'} says more beyond its interval"
        parts.append(text + ".")
    if content["has_truth"] and ranked:
        true, written = ranked[0]["r_auroc"], ranked[0]["r_auroc_annotated"]
        if true and written:
            parts.append(
                "Counted by the annotated pairs alone, as on COCO, the uncertainty of "
                f"{ranked[0]['method']} predicts the failures of captions with an R-AUROC of "
                f"{number(written)}; counted by all that is true, with {number(true)}."
            )
            if written["mean"] > true["mean"]:
                parts.append(
                    "For what is vague is true of many images and rarely fails: an uncertainty "
                    "that knows ambiguity looks the better the more matches the annotation misses."
                )
    return " ".join(parts)


def content(
    outcomes: dict[str, Outcomes],
    trials: dict[str, Trial],
    *,
    key: jax.Array,
    num_resamples: int,
    **head: Any,
) -> dict[str, Any]:
    """All numbers of a report, behind its head (command, config, data, versions, backend)."""
    found: dict[str, Any] = {
        **head,
        "splits": list(trials),
        "has_truth": all(trial.truth is not None for trial in trials.values()),
        "performance": performance(outcomes, trials),
        "uncertainty": uncertainty(outcomes, trials, key=key, num_resamples=num_resamples),
        "probabilities": probabilities(outcomes, trials),
        "implication": implication(outcomes, trials),
    }
    found["expectations"] = expectations(found)
    found["answer"] = answer(found)
    return found


def _settings(settings: dict[str, list[float]]) -> list[str]:
    """What each method was trained with, if it was trained."""
    each = [
        f"{method} {rate:g}"
        + (f", {METHODS[method].weighs} {weight:g}" if METHODS[method].weighs else "")
        for method, (rate, weight) in settings.items()
    ]
    return [f"Learning rates and weights: {'; '.join(each)}."] if each else []


def markdown(content: dict, title: str) -> str:
    """The whole report as text, from what results.json holds."""
    truth = content["has_truth"]
    seeds = ", ".join(map(str, content["config"]["seeds"]))
    parts = [
        f"# {title}: results",
        f"`{content['command']}`",
        f"Data: {content['data']}. Seeds {seeds}; jax {content['versions']['jax']} on "
        f"{content['backend']}. Everything on this page is written by that command. Intervals are "
        "95 %: of retrieval, probabilities, implication and the scores of bins over seeds (t), of "
        "uncertainty over images (bootstrap of the mean over seeds: captions of one image are "
        "drawn together).",
        *_settings(content["config"].get("settings", {})),
        "## The answer",
        content["answer"],
    ]
    if content["expectations"]:
        toy = content["config"].get("toy", False)
        parts += [
            "## Expected and reached",
            "Expected: Spearman's correlation of a distribution's total variance with the true "
            f"ambiguity of captions is at least {LEAST_SPEARMAN}, and more than anything says that "
            "needs no distribution: any measure of the deterministic methods, or few words (more "
            "than it: beyond the interval). Beside it the same among captions that tell how many "
            'digits there are: what leaves that open ("some number") is true of images that lie '
            "far apart, where no mean is near to all.",
            table(
                [
                    "split",
                    "method",
                    "reached",
                    f"at least {LEAST_SPEARMAN}",
                    "number of digits told",
                    "best rival",
                    "more than it",
                ],
                [
                    [
                        row["split"],
                        row["method"],
                        number(row["reached"]),
                        "too short a run to tell" if toy else "met" if row["met"] else "MISSED",
                        number(row["of_one_length"]),
                        f"{row['rival']}: {number(row['rival_reached'])}"
                        if row["rival"]
                        else "none",
                        "yes" if row["ahead"] else "NO",
                    ]
                    for row in content["expectations"]
                ],
            ),
        ]
    parts.append("## Retrieval")
    if truth:
        parts.append(
            "All that is true counts as a match; annotated R@1 counts, as COCO does, what was "
            f"written of the image alone. The {CEILING} ranks by what is left to know of a covered "
            "image, ties in random order: no one who knows nothing of the split has more R@1 of "
            'captions to expect. From image to caption, R@1 says little: "some number" is true of '
            "all images."
        )
    parts += [
        table(
            [_TO[side], "method", *METRICS],
            [
                [row["split"], row["method"], *(number(row[name]) for name in METRICS)]
                for row in content["performance"]
                if row["side"] == side
            ],
        )
        for side in SIDES
    ]
    names = {
        **({"spearman": "Spearman, ambiguity", "kendall": "Kendall, ambiguity"} if truth else {}),
        **({"r_auroc": "R-AUROC, all that is true"} if truth else {}),
        "r_auroc_annotated": "R-AUROC, annotated",
        "aurc_annotated": "AURC, annotated",
        "level_score": "-S R2, 5 levels",
        "bin_correlation": "Pearson, 10 bins",
    }
    parts += [
        "## Is the uncertainty right?",
        ("Correlation with the true ambiguity of the query, 1 is ideal. " if truth else "")
        + "R-AUROC: a failure of R@1 is more uncertain than a success (1/2 is chance, 1 ideal). "
        "AURC: mean error when the least certain are rejected first (0 is ideal). The papers' "
        "scores of bins by annotated R@1: -S R2 (1 is ideal) and Pearson (-1 is ideal). A star: "
        "the measure that the method is judged by.",
    ]
    parts += [
        table(
            [f"queries: {side}s", "method", "uncertainty", *names.values()],
            [
                [
                    row["split"],
                    row["method"],
                    row["measure"] + " *" * row["own"],
                    *(number(row[name], 2) for name in names),
                ]
                for row in content["uncertainty"]
                if row["side"] == side
            ],
        )
        for side in SIDES
    ]
    if content["probabilities"]:
        parts += [
            "## Are match probabilities frequencies?",
            "Of all pairs of images and captions. Brier skill: 1 is an oracle, 0 the share of "
            "matches for every pair."
            + (
                " Training saw one match an image in a batch, so that a probability is that of "
                "being the annotated pair among as many as a batch has."
                if content["config"].get("matches", "annotated") == "annotated"
                else ""
            ),
            table(
                [
                    "split",
                    "method",
                    "calibration error",
                    "Brier skill",
                    "mean probability",
                    "share",
                ],
                [
                    [
                        row["split"],
                        row["method"],
                        number(row["calibration_error"], 4),
                        number(row["skill"]),
                        number(row["mean"], 4),
                        f"{row['share']:.4f}",
                    ]
                    for row in content["probabilities"]
                ],
            ),
        ]
    if content["implication"]:
        parts += [
            "## Which captions include which?",
            "Detected: AUROC of telling captions that imply another from pairs where neither does, "
            "by ProLIP's inclusion (Gaussians), by the cone (meru), by the cosine (the others). "
            "Directed: how often the wider of two nested captions is the more uncertain.",
            table(
                ["split", "method", "detected", "directed"],
                [
                    [row["split"], row["method"], number(row["detected"]), number(row["directed"])]
                    for row in content["implication"]
                ],
            ),
        ]
    return "\n\n".join(parts) + "\n"
