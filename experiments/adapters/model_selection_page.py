"""The page of model selection: tables of its numbers."""

from typing import Any

from experiments.adapters.adapted_encoder import METRICS
from experiments.adapters.evaluation import OWN
from experiments.adapters.picking import ALL, OTHERS, PER_SPREAD, RANDOM, RIVALS, SCORES
from experiments.reports import tables

_MAIN = METRICS[0]
_TITLES = {
    "hit": "best one picked",
    "kendall": "Kendall's tau",
    "spearman": "Spearman",
}


def verdict(saved: dict[str, Any] | None) -> str:
    """What the recall that a criterion saves against picking at random says, in a word."""
    if saved is None:  # of picking at random itself
        return ""
    if saved["low"] is None:
        return "too few seeds, which say nothing of chance"
    if saved["low"] > 0.0:
        return "better than at random"
    if saved["high"] < 0.0:
        return "worse than at random"
    return "no better than at random, within the interval"


def _selection(content: dict, candidates: str) -> str:
    rows = [
        {
            **row,
            "form": "" if row["criterion"] == RANDOM else row["form"],
            "verdict": verdict(row["saved"]),
        }
        for row in content["selection"]
        if row["candidates"] == candidates
    ]
    columns = {name: _TITLES.get(name, name) for name in SCORES}
    columns = {"criterion": "criterion", "form": "form", **columns}
    columns |= {"saved": "saved against random", "verdict": ""}
    return tables.markdown(tables.frame(rows), columns, missing="")


def _levels(content: dict) -> str:
    names = (*METRICS, OWN, f"{OWN}, {PER_SPREAD}", *RIVALS)
    columns = {name: name for name in ("target", "source", *names)}
    return tables.markdown(tables.frame(content["levels"]), columns)


def _scales(content: dict) -> str:
    names = "criterion", "form", "between seeds", "between sources", "rise"
    frame = tables.frame(content["scales"])
    return tables.markdown(frame, {name: name for name in names}, missing="")


def markdown(content: dict) -> str:
    """The whole report as text, from what results.json holds."""
    seeds = ", ".join(map(str, content["config"]["seeds"]))
    parts = [
        "# Model selection: results",
        f"`{content['command']}`",
        f"Data: {content['data']}. Domains {', '.join(content['config']['domains'])}; seeds "
        f"{seeds}; jax {content['versions']['jax']} on {content['backend']}. Everything on this "
        "page is written by that command. Intervals are 95 %, over seeds (t), of means over "
        "targets; they are not corrected for how many there are.",
        "## What is picked",
        "The source with the lowest mean of a criterion over the target's images is picked; "
        f"regret is what the best source has more of, by {_MAIN} of both directions where all "
        "that is true counts, and saved what picking at random would lose beyond that. Rank "
        f"correlations are of minus the criterion with {_MAIN} over the sources. Relative: less "
        "what the criterion is on the source's own test, so that a source is always at 0 on it. "
        "Per spread: variances in units of the total variance of the source's embeddings of "
        "captions, which need no label.",
        "From all sources:",
        _selection(content, ALL),
        "From all but the source of the target's own domain:",
        _selection(content, OTHERS),
        "## Is there one scale?",
        "Criteria of sources on their own tests: the standard deviation between seeds of a source "
        "(the scale of its embeddings alone), that between sources, and by how much the criterion "
        "is higher on the tests of other domains. Only where the rise is much the larger can "
        "sources be compared, though they may also differ by how vague their own tests are.",
        _scales(content),
        "## Every source on every target",
        "Means over images; an uncertainty is the logarithm of a total variance.",
        _levels(content),
    ]
    return "\n\n".join(parts) + "\n"
