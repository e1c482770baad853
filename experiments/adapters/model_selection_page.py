"""The numbers of model selection: what is picked, what that costs, and the answer."""

from typing import Any

import numpy as np
import scipy.stats

from experiments.adapters.adapted_encoder import METRICS
from experiments.adapters.evaluation import OWN
from experiments.reports.estimates import CORRELATION, DIFFERENCE, POSITIVE, SHARE, over_seeds
from experiments.reports.tables import find, number, table

BOTH = "total, dropout, images and captions"
RANDOM = "random"
ALL, OTHERS = "all", "others"
"""The sources to pick from: all, or all but the one of the target's own domain."""
PLAIN, RELATIVE, PER_SPREAD = "as it is", "relative", "per spread"
"""A criterion; less what it is on the source's own test; of a variance, in units of that of the
source's embeddings of captions."""
_VARIANCES = {"aleatoric": 1, "epistemic, dropout": 1, OWN: 1, BOTH: 2}
"""Criteria that are logarithms of variances, or sums of so many."""
RIVALS = ("minus best cosine", "minus margin", "entropy over items")
_MAIN = METRICS[0]
_NAMES = ("hit", f"regret of {_MAIN}", f"regret of {METRICS[1]}", "kendall", "spearman")
_BOUNDS = {"kendall": CORRELATION, "spearman": CORRELATION}
"""Of these; the others are shares."""
_TITLES = {
    "hit": "best one picked",
    "kendall": "Kendall's tau",
    "spearman": "Spearman",
}


def _names(cells: list[dict], name: str) -> list[Any]:
    return list(dict.fromkeys(cell[name] for cell in cells))


def matrices(cells: list[dict], group: str, name: str) -> np.ndarray:
    """A number of all cells (seed, source, target).

    Args:
      cells: of every seed and source.
      group: "retrieval" or "criteria".
      name: of the number.
    """
    domains = _names(cells, "source")
    value = {
        (cell["seed"], cell["source"], target): found[group][name]
        for cell in cells
        for target, found in cell["targets"].items()
    }
    return np.array(
        [
            [[value[seed, source, target] for target in domains] for source in domains]
            for seed in _names(cells, "seed")
        ]
    )


def relative(criterion: np.ndarray) -> np.ndarray:
    """A criterion (..., source, target) less what it is on the source's own target."""
    return criterion - np.diagonal(criterion, axis1=-2, axis2=-1)[..., None]


def forms(cells: list[dict], name: str) -> dict[str, np.ndarray]:
    """A criterion (seed, source, target) in all its forms."""
    values = matrices(cells, "criteria", name)
    found = {PLAIN: values, RELATIVE: relative(values)}
    if name in _VARIANCES:
        spread = np.array([cell["log_spread"] for cell in cells]).reshape(*values.shape[:2], 1)
        found[PER_SPREAD] = values - _VARIANCES[name] * spread
    return found


def _ranked(criterion: np.ndarray, recall: np.ndarray, kind: Any) -> float:
    """The rank correlation of minus a criterion with recall (source); 0 where nothing varies."""
    if np.ptp(criterion) == 0.0 or np.ptp(recall) == 0.0:
        return 0.0
    return float(kind(-criterion, recall).statistic)


def picks(
    criterion: np.ndarray | None, recalls: dict[str, np.ndarray], candidates: str
) -> dict[str, list[float]]:
    """How good the sources of the lowest criterion are: a mean over targets, of every seed.

    Args:
      criterion: (seed, source, target); None to pick at random, in expectation.
      recalls: metric -> (seed, source, target).
      candidates: `ALL` or `OTHERS`.
    """
    seeds, domains, _ = recalls[_MAIN].shape
    found: dict[str, list[list[float]]] = {name: [[] for _ in range(seeds)] for name in _NAMES}
    for seed, target in np.ndindex(seeds, domains):
        sources = [each for each in range(domains) if candidates == ALL or each != target]
        recall = {name: values[seed, sources, target] for name, values in recalls.items()}
        share = np.full(len(sources), 1.0 / len(sources))
        if criterion is not None:
            of = criterion[seed, sources, target]
            share = np.eye(len(sources))[np.argmin(of)]
            found["kendall"][seed].append(_ranked(of, recall[_MAIN], scipy.stats.kendalltau))
            found["spearman"][seed].append(_ranked(of, recall[_MAIN], scipy.stats.spearmanr))
        found["hit"][seed].append(float(share[np.argmax(recall[_MAIN])]))
        for name, values in recall.items():
            found[f"regret of {name}"][seed].append(float(values.max() - share @ values))
    return {
        name: [float(np.mean(of_seed)) if of_seed else 0.0 for of_seed in values]
        for name, values in found.items()
    }


def selection(cells: list[dict]) -> list[dict]:
    """Every criterion, as it is and relative, from all sources and from the others."""
    recalls = {name: matrices(cells, "retrieval", name) for name in METRICS}
    criteria = list(next(iter(cells[0]["targets"].values()))["criteria"])
    rows = []
    for candidates in (ALL, OTHERS):
        of_random = picks(None, recalls, candidates)
        every: list[tuple[str, str, np.ndarray | None]] = [(RANDOM, PLAIN, None)]
        for name in criteria:
            every += [(name, form, values) for form, values in forms(cells, name).items()]
        for name, form, values in every:
            of = picks(values, recalls, candidates)
            row: dict[str, Any] = {"criterion": name, "form": form, "candidates": candidates}
            row |= {each: over_seeds(of[each], bounds=_BOUNDS.get(each, SHARE)) for each in _NAMES}
            if name != RANDOM:
                regret = f"regret of {_MAIN}"
                saved = np.subtract(of_random[regret], of[regret])
                row["saved"] = over_seeds(saved.tolist(), bounds=DIFFERENCE)
            else:
                row |= {"kendall": None, "spearman": None}
            rows.append(row)
    return rows


def levels(cells: list[dict]) -> list[dict]:
    """What every source makes of every target: retrieval, total uncertainty, best cosine."""
    domains = _names(cells, "source")
    wanted = {
        "retrieval": METRICS,
        "criteria": (OWN, *RIVALS),
    }
    found = {
        name: matrices(cells, group, name) for group, names in wanted.items() for name in names
    }
    found[f"{OWN}, {PER_SPREAD}"] = forms(cells, OWN)[PER_SPREAD]
    return [
        {
            "source": source,
            "target": target,
            **{
                name: over_seeds(values[:, i, k].tolist(), bounds=SHARE)
                if name in METRICS
                else over_seeds(values[:, i, k].tolist())
                for name, values in found.items()
            },
        }
        for k, target in enumerate(domains)
        for i, source in enumerate(domains)
    ]


def scales(cells: list[dict]) -> list[dict]:
    """Whether a criterion has one scale in all sources, each on its own test.

    Between seeds: the standard deviation over seeds of one source, a mean over sources; it is
    the scale of the embeddings alone. Between sources: that over sources of one seed, a mean
    over seeds. Rise: how much a criterion is higher on the tests of other domains, a mean.
    """
    rows = []
    for name in next(iter(cells[0]["targets"].values()))["criteria"]:
        for form, values in forms(cells, name).items():
            if form == RELATIVE:  # nothing is left to compare
                continue
            own = np.diagonal(values, axis1=1, axis2=2)  # seed, source
            others = ~np.eye(own.shape[1], dtype=bool)
            several = len(own) > 1
            rows.append(
                {
                    "criterion": name,
                    "form": form,
                    "between seeds": float(own.std(0, ddof=1).mean()) if several else None,
                    "between sources": over_seeds(own.std(1, ddof=1).tolist(), bounds=POSITIVE),
                    "rise": over_seeds(relative(values)[:, others].mean(1).tolist()),
                }
            )
    return rows


def numbers(cells: list[dict]) -> dict[str, Any]:
    """All numbers of a report, of cells in the order of seeds and sources."""
    return {"selection": selection(cells), "levels": levels(cells), "scales": scales(cells)}


# --- the answer -------------------------------------------------------------------------------


def verdict(saved: dict[str, Any]) -> str:
    """What the recall that a criterion saves against picking at random says, in a word."""
    if saved["low"] is None:
        return "too few seeds, which say nothing of chance"
    if saved["low"] > 0.0:
        return "better than at random"
    if saved["high"] < 0.0:
        return "worse than at random"
    return "no better than at random, within the interval"


def _row(content: dict, criterion: str, form: str, candidates: str) -> dict:
    row = find(content["selection"], criterion=criterion, form=form, candidates=candidates)
    assert row is not None
    return row


def _said(row: dict) -> str:
    return (
        f"picks the best source for {number(row['hit'], 2)} of the targets and loses "
        f"{number(row[f'regret of {_MAIN}'])} of {_MAIN} against it"
    )


def _compared(content: dict, candidates: str) -> str:
    """The best rival by regret, beside the adapters' uncertainty."""
    regret = f"regret of {_MAIN}"
    rivals = [
        _row(content, name, form, candidates) for name in RIVALS for form in (PLAIN, RELATIVE)
    ]
    best = min(rivals, key=lambda row: row[regret]["mean"])
    return (
        f"the best that needs no adapter, {best['criterion']} ({best['form']}), loses "
        f"{number(best[regret])}, picking at random "
        f"{number(_row(content, RANDOM, PLAIN, candidates)[regret])}"
    )


def answer(content: dict) -> str:
    """Does it work, in one paragraph."""
    row, others = (_row(content, OWN, PLAIN, candidates) for candidates in (ALL, OTHERS))
    start = {
        "better than at random": "Better than at random",
        "worse than at random": "No, it is worse than at random",
        "no better than at random, within the interval": "No better than at random",
    }.get(verdict(row["saved"]), "Fewer than three seeds cannot tell")
    if start == "Better than at random" and row["hit"]["low"] >= 0.9:
        start = "Yes"
    scale = find(content["scales"], criterion=OWN, form=PLAIN)
    assert scale is not None
    spread, rise = scale["between sources"], scale["rise"]
    judged = "comparable" if 2.0 * spread["mean"] < rise["mean"] else "not comparable"
    seeds = scale["between seeds"]
    return (
        f"{start}: with all sources to pick from, the lowest mean total uncertainty {_said(row)} "
        f"(Kendall's tau {number(row['kendall'], 2)}); {_compared(content, ALL)}. Without the "
        f"source of the target's own domain it {_said(others)}: {verdict(others['saved'])}; "
        f"{_compared(content, OTHERS)}. The scales of the sources are {judged}: on their own "
        f"tests the logarithms of their variances differ by {number(spread, 2)} (standard "
        f"deviation) between sources"
        + (f" and by {seeds:.2f} between seeds of one source" if seeds is not None else "")
        + f", where another domain changes them by {number(rise, 2)}. {_mended(content, RELATIVE)} "
        f"{_mended(content, PER_SPREAD)}"
    )


def _mended(content: dict, form: str) -> str:
    """What a form with another scale picks."""
    row, others = (_row(content, OWN, form, candidates) for candidates in (ALL, OTHERS))
    units = {
        RELATIVE: "Relative to its mean on the source's own test",
        PER_SPREAD: "In units of the variance of the source's embeddings of captions",
    }
    return (
        f"{units[form]}, the uncertainty {_said(row)} ({verdict(row['saved'])}), and without the "
        f"own source it {_said(others)} ({verdict(others['saved'])})."
    )


# --- the page ---------------------------------------------------------------------------------


def _selection_table(content: dict, candidates: str) -> str:
    rows = [
        [row["criterion"], row["form"] if row["criterion"] != RANDOM else ""]
        + [number(row[name]) if row[name] is not None else "" for name in _NAMES]
        + ([number(row["saved"]), verdict(row["saved"])] if "saved" in row else ["", ""])
        for row in content["selection"]
        if row["candidates"] == candidates
    ]
    titles = [_TITLES.get(name, name) for name in _NAMES]
    return table(["criterion", "form", *titles, "saved against random", ""], rows)


def _levels_table(content: dict) -> str:
    names = (*METRICS, OWN, f"{OWN}, {PER_SPREAD}", *RIVALS)
    rows = [
        [row["target"], row["source"], *(number(row[name]) for name in names)]
        for row in content["levels"]
    ]
    return table(["target", "source", *names], rows)


def _scales_table(content: dict) -> str:
    rows = [
        [
            row["criterion"],
            row["form"],
            "" if row["between seeds"] is None else f"{row['between seeds']:.3f}",
            number(row["between sources"]),
            number(row["rise"]),
        ]
        for row in content["scales"]
    ]
    return table(["criterion", "form", "between seeds", "between sources", "rise"], rows)


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
        "## Does it work?",
        content["answer"],
        "## What is picked",
        "The source with the lowest mean of a criterion over the target's images is picked; "
        f"regret is what the best source has more of, by {_MAIN} of both directions where all "
        "that is true counts, and saved what picking at random would lose beyond that. Rank "
        f"correlations are of minus the criterion with {_MAIN} over the sources. Relative: less "
        "what the criterion is on the source's own test, so that a source is always at 0 on it. "
        "Per spread: variances in units of the total variance of the source's embeddings of "
        "captions, which need no label.",
        "From all sources:",
        _selection_table(content, ALL),
        "From all but the source of the target's own domain:",
        _selection_table(content, OTHERS),
        "## Is there one scale?",
        "Criteria of sources on their own tests: the standard deviation between seeds of a source "
        "(the scale of its embeddings alone), that between sources, and by how much the criterion "
        "is higher on the tests of other domains. Only where the rise is much the larger can "
        "sources be compared: the answer calls scales comparable where it is twice the deviation "
        "between sources, though these may also differ by how vague their own tests are.",
        _scales_table(content),
        "## Every source on every target",
        "Means over images; an uncertainty is the logarithm of a total variance.",
        _levels_table(content),
    ]
    return "\n\n".join(parts) + "\n"
