"""The numbers of active learning: curves over budgets, differences to random, and the answer."""

from typing import Any

import numpy as np

from experiments.adapters.adapted_encoder import METRICS
from experiments.captions.evaluation import SIDES
from experiments.reports.estimates import DIFFERENCE, POSITIVE, SHARE, over_seeds
from experiments.reports.tables import find, number, table

START, WHOLE = "start", "whole pool"
"""No image of the pool, and all of them."""
RANDOM, UNCERTAIN, RIVAL = "random", "most uncertain", "least cosine"
ALL = "all"
"""Of the shifts, a mean over them."""
_MAIN = METRICS[0]
_OF_SIDES = tuple(f"{metric}, {side}" for metric in METRICS for side in SIDES)
_NAMES = (*METRICS, *_OF_SIDES)
_TITLES = {
    **{metric: metric for metric in METRICS},
    **{f"{metric}, image": f"{metric}, captions of an image" for metric in METRICS},
    **{f"{metric}, caption": f"{metric}, images of a caption" for metric in METRICS},
}


def _unique(cells: list[dict], name: str) -> list[Any]:
    return list(dict.fromkeys(cell[name] for cell in cells))


def _values(cells: list[dict], name: str, *, of: str = "shifted", **what: Any) -> np.ndarray:
    """A number of the cells (seed) with these values, in the order of the seeds."""
    found = [cell for cell in cells if all(cell[key] == value for key, value in what.items())]
    return np.array([cell[of][name] for cell in found])


def curves(cells: list[dict]) -> list[dict]:
    """Retrieval of every shift, strategy and budget, and its difference to random choices."""
    rows = []
    for shift in _unique(cells, "shift"):
        of_shift = [cell for cell in cells if cell["shift"] == shift]
        for strategy, budget in dict.fromkeys((c["strategy"], c["budget"]) for c in of_shift):
            what = {"shift": shift, "strategy": strategy, "budget": budget}
            row: dict[str, Any] = dict(what)
            for name in _NAMES:
                row[name] = over_seeds(_values(cells, name, **what).tolist(), bounds=SHARE)
            plain = _values(cells, _MAIN, of="plain", **what)
            row["plain"] = over_seeds(plain.tolist(), bounds=SHARE)
            if strategy not in (START, WHOLE, RANDOM):
                for name in METRICS:
                    other = _values(cells, name, **{**what, "strategy": RANDOM})
                    values = _values(cells, name, **what) - other
                    row[f"difference of {name}"] = over_seeds(values.tolist(), bounds=DIFFERENCE)
            rows.append(row)
    return rows


def summary(cells: list[dict]) -> list[dict]:
    """Means over budgets of every strategy, and the differences to random; of all shifts too."""
    shifts = _unique(cells, "shift")
    budgets = _unique([cell for cell in cells if cell["strategy"] == RANDOM], "budget")

    def mean(name: str, strategy: str, of: list[str]) -> np.ndarray:
        return np.mean(
            [
                _values(cells, name, shift=shift, strategy=strategy, budget=budget)
                for shift in of
                for budget in budgets
            ],
            axis=0,
        )

    rows = []
    for shift in (ALL, *shifts):
        of = shifts if shift == ALL else [shift]
        for strategy in _unique(cells, "strategy"):
            if strategy in (START, WHOLE):
                continue
            row: dict[str, Any] = {"shift": shift, "strategy": strategy}
            for name in METRICS:
                values, other = (mean(name, each, of) for each in (strategy, RANDOM))
                row[name] = over_seeds(values.tolist(), bounds=SHARE)
                if strategy != RANDOM:
                    apart = (values - other).tolist()
                    row[f"difference of {name}"] = over_seeds(apart, bounds=DIFFERENCE)
            rows.append(row)
    return rows


def chosen(cells: list[dict]) -> list[dict]:
    """What images every strategy chooses, at every budget."""
    rows = []
    for row in curves(cells):
        what = {name: row[name] for name in ("shift", "strategy", "budget")}
        if row["strategy"] != START:
            names = ("ambiguity", "numbers", "shifted")
            values = {name: _values(cells, name, of="chosen", **what).tolist() for name in names}
            bounds = {"shifted": SHARE}  # the others count
            rows.append(
                {
                    **what,
                    **{
                        name: over_seeds(each, bounds=bounds.get(name, POSITIVE))
                        for name, each in values.items()
                    },
                }
            )
    return rows


def numbers(cells: list[dict]) -> dict[str, Any]:
    """All numbers of a report, of cells in the order of the seeds."""
    return {"curves": curves(cells), "summary": summary(cells), "chosen": chosen(cells)}


def verdict(difference: dict[str, Any]) -> str:
    """What a difference to random choices says, with its interval."""
    if difference["low"] is None:
        return "of too few seeds, which say nothing of chance"
    if difference["low"] > 0.0:
        return "better"
    if difference["high"] < 0.0:
        return "worse"
    return "no difference within the interval"


def answer(content: dict) -> str:
    """Does it work, in one paragraph."""
    rows, name = content["summary"], f"difference of {_MAIN}"

    def of(strategy: str, shift: str = ALL) -> dict:
        row = find(rows, shift=shift, strategy=strategy)
        assert row is not None
        return row

    difference = of(UNCERTAIN)[name]
    found = verdict(difference)
    words = {
        "better": "Yes: the most uncertain images teach more than random ones.",
        "worse": "No: the most uncertain images teach less than random ones.",
        "no difference within the interval": (
            "No: that the most uncertain images teach more than random ones is not shown."
        ),
    }
    start = words.get(found, "Fewer than three seeds cannot tell.")
    shifts = [row["shift"] for row in rows if row["strategy"] == RANDOM and row["shift"] != ALL]
    each = "; ".join(
        f"{shift} {number(of(UNCERTAIN, shift)[name])}, {verdict(of(UNCERTAIN, shift)[name])}"
        for shift in shifts
    )
    others = ", ".join(
        f"{row['strategy']} by {number(row[name])}"
        for row in rows
        if row["shift"] == ALL and row["strategy"] not in (RANDOM, UNCERTAIN)
    )
    gains = "; ".join(f"{shift} {_gain(content, shift)}" for shift in shifts)
    first = min(row["budget"] for row in content["curves"] if row["strategy"] == RANDOM)
    return (
        f"{start} By {_MAIN} on the shifted tests, both directions, a mean over shifts and "
        f"budgets: random choices reach {number(of(RANDOM)[_MAIN])}, and the most uncertain first "
        f"differ by {number(difference)} ({found}). By shift: {each}. Of the other strategies, "
        f"{others}. What there is to learn, from no image of the pool to all: {gains}. The "
        f"{first} that are the most uncertain may each show {_shown(content, UNCERTAIN, first)} "
        f"numbers under their grey covers, {first} random ones {_shown(content, RANDOM, first)} "
        "(geometric means)."
    )


def _gain(content: dict, shift: str) -> str:
    """What the whole pool teaches, from the start on."""
    rows = [find(content["curves"], shift=shift, strategy=strategy) for strategy in (START, WHOLE)]
    return " to ".join(number(row[_MAIN]) for row in rows if row is not None)


def _shown(content: dict, strategy: str, budget: int) -> str:
    """How many numbers the chosen images may show, a mean over shifts."""
    nats = [
        row["ambiguity"]["mean"]
        for row in content["chosen"]
        if row["strategy"] == strategy and row["budget"] == budget
    ]
    return f"{np.exp(np.mean(nats)):.0f}"


def _summary_table(content: dict) -> str:
    rows = [
        [row["shift"], row["strategy"]]
        + [
            cell
            for name in METRICS
            for cell in (
                number(row[name]),
                number(row[f"difference of {name}"]) if row["strategy"] != RANDOM else "",
            )
        ]
        + [verdict(row[f"difference of {_MAIN}"]) if row["strategy"] != RANDOM else ""]
        for row in content["summary"]
    ]
    header = ["shift", "strategy"]
    for name in METRICS:
        header += [name, "difference to random"]
    return table([*header, f"by {_MAIN}"], rows)


def _curve_table(content: dict, shift: str) -> str:
    rows = [
        [
            row["strategy"],
            str(row["budget"]),
            number(row[_MAIN]),
            number(row[name]) if (name := f"difference of {_MAIN}") in row else "",
            *(number(row[name]) for name in _OF_SIDES),
            number(row["plain"]),
        ]
        for row in content["curves"]
        if row["shift"] == shift
    ]
    titles = [_TITLES[name] for name in _OF_SIDES]
    header = ["strategy", "images", _MAIN, "difference to random", *titles, f"{_MAIN}, plain test"]
    return table(header, rows)


def _chosen_table(content: dict) -> str:
    rows = [
        [row["shift"], row["strategy"], str(row["budget"])]
        + [number(row[name], 2) for name in ("ambiguity", "numbers", "shifted")]
        for row in content["chosen"]
    ]
    header = ["shift", "strategy", "images", "ambiguity (nats)", "different numbers", "shifted"]
    return table(header, rows)


def markdown(content: dict) -> str:
    """The whole report as text, from what results.json holds."""
    seeds = ", ".join(map(str, content["config"]["seeds"]))
    parts = [
        "# Active learning: results",
        f"`{content['command']}`",
        f"Data: {content['data']}. Seeds {seeds}; jax {content['versions']['jax']} on "
        f"{content['backend']}. Everything on this page is written by that command. Intervals are "
        "95 %, over seeds (t); of differences, paired by seed. They are not corrected for how "
        "many there are; the answer is about the first difference of the most uncertain.",
        "## Does it work?",
        content["answer"],
        "## Means over budgets",
        "Of both directions, on the shifted test; all that is true counts.",
        _summary_table(content),
        "## Curves",
        f"{START}: before any tuning. {WHOLE}: with the captions of all images. The plain test is "
        "the same one before it shifted: what is forgotten shows there.",
    ]
    for shift in dict.fromkeys(row["shift"] for row in content["curves"]):
        parts += [f"{shift}:", _curve_table(content, shift)]
    parts += [
        "## What is chosen",
        "Means over what is chosen: the ambiguity that grey covers leave, the share of different "
        "numbers, and the share of images that shifted at all.",
        _chosen_table(content),
    ]
    return "\n\n".join(parts) + "\n"
