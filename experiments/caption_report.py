"""The numbers of image and caption retrieval: means with intervals, tables, and the answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import caption_evaluation, results, summaries
from experiments.caption_embedding import PROBABILISTIC
from experiments.caption_evaluation import METRICS, OWN, SIDES, Outcome, Side, Trial
from experiments.summaries import find, number, over_seeds, table
from probemb import calibration

Outcomes = dict[str, list[Outcome]]
"""Method -> an outcome for each seed."""
LEAST_SPEARMAN = 0.7
NO_MODEL = "no model"
CEILING = "known probability"
_HAS_PROBABILITY = (*PROBABILISTIC, "siglip")
_TO = {"image": "captions of an image", "caption": "images of a caption"}


def performance(outcomes: dict[str, Outcomes], trials: dict[str, Trial]) -> list[dict]:
    """Every metric of retrieval of every method, split and side, and the ceiling."""
    rows = []
    for split, methods in outcomes.items():
        found = {method: [o.metrics for o in each] for method, each in methods.items()}
        ceiling = caption_evaluation.ceiling(trials[split])
        if ceiling is not None:
            found[CEILING] = [ceiling]
        rows += [
            {
                "method": method,
                "split": split,
                "side": side,
                **{
                    name: over_seeds([float(m[side][name].mean()) for m in each])
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
        yield NO_MODEL, "minus words", caption_evaluation.word_counts(trial.captions)[:, None]


def _varied(values: np.ndarray) -> bool:
    """Whether the values (query, seed) of no seed are all the same."""
    return bool((values.min(0) < values.max(0)).all())


def uncertainty(
    outcomes: dict[str, Outcomes], trials: dict[str, Trial], *, key: jax.Array, num_resamples: int
) -> list[dict]:
    """How every measure of uncertainty agrees with what is known, and with failure."""

    def interval(statistic, *items: np.ndarray) -> dict[str, float] | None:
        """Undefined where nothing varies: no error, no ambiguity, one uncertainty."""
        if not all(map(_varied, items)):
            return None
        items = tuple(item.astype(np.float32) for item in items)
        return summaries.over_items(key, statistic, *items, num_resamples=num_resamples)

    rows = []
    for split, methods in outcomes.items():
        trial = trials[split]
        for side in SIDES:
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
                    "own": measure == OWN.get(method),
                    "split": split,
                    "side": side,
                    "r_auroc": interval(calibration.r_auroc, values, right),
                    "r_auroc_annotated": interval(calibration.r_auroc, values, annotated),
                    "aurc_annotated": interval(calibration.aurc, values, 1.0 - annotated),
                    "level_score": _binned(calibration.level_score, values, annotated),
                    "bin_correlation": _binned(calibration.bin_correlation, values, annotated),
                }
                if trial.truth is not None:
                    known = np.broadcast_to(trial.truth.ambiguity[side][:, None], values.shape)
                    row["spearman"] = interval(calibration.spearman, values, known)
                    row["kendall"] = interval(calibration.kendall_tau, values, known)
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
    return over_seeds(scores) if np.isfinite(scores).all() else None


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
                "calibration_error": over_seeds(errors),
                "skill": over_seeds(skills),
                "mean": over_seeds([float(p.mean()) for p in each]),
                "share": float(match.mean()),
            }

        rows += [
            row(method, [o.probability.astype(np.float64) for o in each])
            for method, each in methods.items()
            if method in _HAS_PROBABILITY
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
            own = [o.uncertainty["caption"][OWN[method]] for o in each]
            rows.append(
                {
                    "method": method,
                    "split": split,
                    # Pairs that look least like implication are to be the ones that are none.
                    "detected": over_seeds(
                        [
                            float(
                                calibration.r_auroc(
                                    -o.implication.astype(np.float64), truth.implied
                                )
                            )
                            for o in each
                            if o.implication is not None
                        ]
                    ),
                    "directed": over_seeds([float(np.mean(u[wide] > u[narrow])) for u in own]),
                }
            )
    return rows


def expectations(content: dict) -> list[dict]:
    """What is expected of caption uncertainty, and what is reached."""
    rows = []
    for split in content["splits"]:
        of_split = [
            row
            for row in content["uncertainty"]
            if row["split"] == split and row["side"] == "caption" and row.get("spearman")
        ]
        own = {row["method"]: row["spearman"] for row in of_split if row["own"]}
        rivals = {method: value for method, value in own.items() if method not in PROBABILISTIC}
        for method in PROBABILISTIC:
            if method not in own:
                continue
            reached = own[method]
            better = [rival for rival, value in rivals.items() if value["mean"] >= reached["mean"]]
            rows.append(
                {
                    "split": split,
                    "method": method,
                    "reached": reached,
                    "met": reached["mean"] >= LEAST_SPEARMAN,
                    "rivals": max(rivals.values(), key=lambda v: v["mean"]) if rivals else None,
                    "better_rivals": better,
                }
            )
    return rows


def answer(content: dict) -> str:
    """Which method's uncertainty is right, and at what cost in recall: in one paragraph."""
    split = content["splits"][0]

    def of_own(method: str, side: Side, name: str) -> Any:
        row = next(
            row
            for row in content["uncertainty"]
            if (row["method"], row["side"], row["split"]) == (method, side, split) and row["own"]
        )
        return row.get(name)

    def recall(method: str, side: Side, name: str = "R-Precision") -> dict[str, Any]:
        row = find(content["performance"], method=method, side=side, split=split)
        assert row is not None
        return row[name]

    methods = content["config"]["methods"]
    by_recall = max(methods, key=lambda m: recall(m, "caption")["mean"])
    name = "spearman" if content["has_truth"] else "r_auroc_annotated"
    meaning = (
        "Spearman's correlation with the true ambiguity"
        if content["has_truth"]
        else "R-AUROC of its own failures"
    )
    judged = [m for m in methods if of_own(m, "caption", name) is not None]
    if not judged:
        return f"On {split}, nothing varies by which uncertainty could be judged."
    ranked = sorted(judged, key=lambda m: -of_own(m, "caption", name)["mean"])
    best = ranked[0]
    rivals = [m for m in ranked if m not in PROBABILISTIC]
    text = (
        f"On {split}, the caption uncertainty of {best} ({OWN[best]}) is the most right: "
        f"{meaning} is {number(of_own(best, 'caption', name))}"
    )
    others = ", ".join(f"{m} {of_own(m, 'caption', name)['mean']:.3f}" for m in ranked[1:])
    text += f" (the others: {others}). " if others else ". "
    if content["has_truth"]:
        images = [m for m in methods if of_own(m, "image", name) is not None]
        if images:
            top = max(images, key=lambda m: of_own(m, "image", name)["mean"])
            text += f"Of images it is that of {top}, with {number(of_own(top, 'image', name))}" + (
                f"; {best} has {number(of_own(best, 'image', name))}. " if top != best else ". "
            )
    cost = recall(by_recall, "caption")["mean"] - recall(best, "caption")["mean"]
    text += (
        f"Its R-Precision from caption to image is {number(recall(best, 'caption'))}; the best is "
        f"that of {by_recall}, {number(recall(by_recall, 'caption'))}: a cost of {cost:.3f}. "
    )
    if rivals and best in PROBABILISTIC:
        text += (
            f"The best deterministic rival is {rivals[0]} with "
            f"{number(of_own(rivals[0], 'caption', name))}, at an R-Precision of "
            f"{number(recall(rivals[0], 'caption'))}. "
        )
    if content["has_truth"]:
        true, written = (of_own(best, "caption", key) for key in ("r_auroc", "r_auroc_annotated"))
        if true and written:
            text += (
                "Counted by the annotated pairs alone, as on COCO, that uncertainty predicts the "
                f"failures of captions with an R-AUROC of {number(written)}; counted by all that "
                f"is true, with {number(true)}."
            )
            if written["mean"] > true["mean"]:
                text += (
                    " A vague caption is true of many images and rarely fails: the uncertainty "
                    "looks the better the more matches the annotation misses."
                )
    return text.strip()


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


def save(report: Path, content: dict[str, Any], title: str, draw: Callable[[Path], None]) -> None:
    """Write the report whole: results.json, results.md, and what `draw` saves in its folder."""
    text = markdown(content, title)
    with results.new_folder(report) as partial:
        results.write_json(partial / "results.json", content)
        results.replace_text(partial / "results.md", text)
        draw(partial)
    print(f"\n{text}\nsaved {report}")


def markdown(content: dict, title: str) -> str:
    """The whole report as text, from what results.json holds."""
    truth = content["has_truth"]
    seeds = ", ".join(map(str, content["config"]["seeds"]))
    parts = [
        f"# {title}: results",
        f"`{content['command']}`",
        f"Data: {content['data']}. Seeds {seeds}; jax {content['versions']['jax']} on "
        f"{content['backend']}. Everything on this page is written by that command. Intervals are "
        "95 %: of retrieval, probabilities and implication over seeds (t), of uncertainty over "
        "queries (bootstrap of the mean over seeds).",
        "## The answer",
        content["answer"],
    ]
    if content["expectations"]:
        toy = content["config"].get("toy", False)
        parts += [
            "## Expected and reached",
            "Expected: Spearman's correlation of a probabilistic method's caption uncertainty "
            f"with the true ambiguity is at least {LEAST_SPEARMAN}, and that of the deterministic "
            "rivals is less. Each method by its own measure: total variance; minus the best score "
            "(cosine) of info_nce, siglip and triplet; minus the distance from the root of meru.",
            table(
                [
                    "split",
                    "method",
                    "reached",
                    f"at least {LEAST_SPEARMAN}",
                    "rivals that have more",
                ],
                [
                    [
                        row["split"],
                        row["method"],
                        number(row["reached"]),
                        "too short a run to tell" if toy else "met" if row["met"] else "MISSED",
                        ", ".join(row["better_rivals"]) or "none",
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
            "image: no one who sees the cover can do better."
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
            "matches for every pair. Training saw one match an image in a batch, so that a "
            "probability is that of being the annotated pair among as many as a batch has.",
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
