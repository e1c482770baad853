"""The page of active learning: tables of its numbers."""

from typing import Any

from experiments.adapters.active_learning_numbers import OF_SIDES
from experiments.adapters.adapted_encoder import METRICS
from experiments.adapters.choosing import START, WHOLE
from experiments.reports import tables

_MAIN = METRICS[0]
_TO = {"image": "captions of an image", "caption": "images of a caption"}


def verdict(difference: dict[str, Any] | None) -> str:
    """What a difference to random choices says, with its interval."""
    if difference is None:  # of random choices themselves
        return ""
    if difference["low"] is None:
        return "of too few seeds, which say nothing of chance"
    if difference["low"] > 0.0:
        return "better"
    if difference["high"] < 0.0:
        return "worse"
    return "no difference within the interval"


def _summary(content: dict) -> str:
    difference = f"difference of {_MAIN}"
    rows = [{**row, "verdict": verdict(row[difference])} for row in content["summary"]]
    columns = {"shift": "shift", "strategy": "strategy"}
    for name in METRICS:
        columns |= {name: name, f"difference of {name}": "difference to random"}
    columns["verdict"] = f"by {_MAIN}"
    return tables.markdown(tables.frame(rows), columns, missing="")


def _curves(content: dict, shift: str) -> str:
    rows = [row for row in content["curves"] if row["shift"] == shift]
    columns = {
        "strategy": "strategy",
        "budget": "images",
        _MAIN: _MAIN,
        f"difference of {_MAIN}": "difference to random",
    }
    for name in OF_SIDES:
        metric, side = name.rsplit(", ", 1)
        columns[name] = f"{metric}, {_TO[side]}"
    columns["plain"] = f"{_MAIN}, plain test"
    return tables.markdown(tables.frame(rows), columns, missing="")


def _chosen(content: dict) -> str:
    columns = {
        "shift": "shift",
        "strategy": "strategy",
        "budget": "images",
        "ambiguity": "ambiguity (nats)",
        "numbers": "different numbers",
        "shifted": "shifted",
    }
    return tables.markdown(tables.frame(content["chosen"]), columns, digits=2)


def markdown(content: dict) -> str:
    """The whole report as text, from what results.json holds."""
    seeds = ", ".join(map(str, content["config"]["seeds"]))
    parts = [
        "# Active learning: results",
        f"`{content['command']}`",
        f"Data: {content['data']}. Seeds {seeds}; jax {content['versions']['jax']} on "
        f"{content['backend']}. Everything on this page is written by that command. Intervals are "
        "95 %, over seeds (t); of differences, paired by seed. They are not corrected for how "
        "many there are; the first difference of the most uncertain is the one that counts.",
        "## Means over budgets",
        "Of both directions, on the shifted test; all that is true counts.",
        _summary(content),
        "## Curves",
        f"{START}: before any tuning. {WHOLE}: with the captions of all images. The plain test is "
        "the same one before it shifted: what is forgotten shows there.",
    ]
    for shift in dict.fromkeys(row["shift"] for row in content["curves"]):
        parts += [f"{shift}:", _curves(content, shift)]
    parts += [
        "## What is chosen",
        "Means over what is chosen: the ambiguity that grey covers leave, the share of different "
        "numbers, and the share of images that shifted at all.",
        _chosen(content),
    ]
    return "\n\n".join(parts) + "\n"
