"""The numbers of metrics held against opinions, or against a known order of severity."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.image_metrics import severity
from experiments.reports.tables import number, table
from lasi_jax import agreement

PUBLISHED = {
    "tid2013": {"PSNR": 0.69, "SSIM": 0.72, "MS-SSIM": 0.80, "FSIMc": 0.85, "LPIPS (VGG16)": 0.67},
    "kadid10k": {"PSNR": 0.68, "SSIM": 0.72, "MS-SSIM": 0.80, "FSIMc": 0.85, "LPIPS (VGG16)": 0.72},
}
"""SRCC of other implementations by title, of which piq's documentation gives these."""
CURVES = ("logistic4", "logistic5")
_FEWEST = 4  # photographs or references of which resamples tell anything


class Opinions(NamedTuple):
    """What people said of images, and of what kind and reference these are, all (image)."""

    opinion: np.ndarray
    kind: np.ndarray
    reference: np.ndarray


def _interval(value: float, ends: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = map(float, ends) if ends else (None, None)
    return {"mean": float(value), "low": low, "high": high}


def of_severity(
    distances: dict[str, np.ndarray], photographs: np.ndarray, *, num_resamples: int, seed: int
) -> dict[str, Any]:
    """Kendall's tau of every metric with the level, by kind and over all kinds.

    Args:
      distances: (reference, kind, level) of each metric.
      photographs: (reference), what each reference was cut from; two at least.
      num_resamples: of the photographs, with all their references, the same for all metrics.
      seed: of the resamples.
    """
    places = np.unique(photographs, return_inverse=True)[1]
    count = places.max() + 1
    draws = np.random.default_rng(seed).multinomial(
        count, np.full(count, 1 / count), size=num_resamples
    )
    draws = draws[np.count_nonzero(draws, 1) > 1]  # of one photograph there is nothing across
    draws, once = draws[:, places], np.ones(len(places))

    def interval(value: float, resampled: np.ndarray) -> dict[str, float | None]:
        return _interval(value, _percentiles(resampled) if count >= _FEWEST else None)

    across = functools.partial(severity.across, photographs=photographs)
    pairs = {name: severity.order(values) for name, values in distances.items()}
    pooled = {name: across(of, weights=draws).mean(1) for name, of in pairs.items()}
    means = {name: float(across(of, weights=once).mean()) for name, of in pairs.items()}
    best = max(means, key=means.__getitem__)
    rows = []
    for name, of in pairs.items():
        alone, between = severity.within(of), across(of, weights=once)
        less = interval(means[best] - means[name], pooled[best] - pooled[name])
        bounds = severity.attainable(of, photographs, once).mean()
        bound = severity.attainable(of, photographs, draws).mean(1)
        share = interval(_share(means[name], bounds), _share(pooled[name], bound))
        by_kind = zip(severity.KINDS, alone.mean(1), between, strict=True)
        rows.append(
            {
                "metric": name,
                "within": interval(alone.mean(), draws @ alone.mean(0) / draws.sum(1)),
                "across": interval(means[name], pooled[name]),
                "attainable": float(bounds),
                "share": share,
                "less_than_best": None if name == best else less,
                "kinds": {kind: {"within": float(w), "across": float(a)} for kind, w, a in by_kind},
            }
        )
    return {"rows": rows, "best": best}


def _share(tau: Any, bound: Any) -> Any:
    """The share of the attainable tau; of nothing, nothing."""
    return tau / np.where(bound > 0.0, bound, 1.0)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return low, high


def of_opinions(
    distances: dict[str, np.ndarray],
    opinions: Opinions,
    kinds: tuple[str, ...],
    *,
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """SRCC, KRCC and PLCC of every metric with opinions; SRCC by kind.

    All are of minus the distance, so that 1 is ideal.

    Args:
      distances: (image) of each metric.
      opinions: of the images, more is better.
      kinds: the names of the kinds, in the order of their numbers from 1.
      num_resamples: of the references, with all their images.
      seed: of the resamples.
    """
    few = len(np.unique(opinions.reference)) < _FEWEST
    of_resamples = functools.partial(
        agreement.bootstrap_interval,
        jax.random.key(seed),
        num_resamples=num_resamples,
        groups=opinions.reference,
    )

    def interval(function: Any, *items: np.ndarray) -> tuple[float, float] | None:
        return None if few else of_resamples(function, *items)

    statistics: dict[str, Any] = {"srcc": agreement.srcc, "krcc": agreement.krcc}
    statistics |= {curve: functools.partial(agreement.plcc, curve=curve) for curve in CURVES}
    srcc = {name: agreement.srcc(-values, opinions.opinion) for name, values in distances.items()}
    best = max(srcc, key=srcc.__getitem__)
    rows = []
    for name, values in distances.items():
        items = (-values, opinions.opinion)
        row: dict[str, Any] = {"metric": name}
        for statistic, function in statistics.items():
            row[statistic] = _interval(function(*items), interval(function, *items))
        if name != best:
            three = (-distances[best], *items)
            row["less_than_best"] = _interval(_less(*three), interval(_less, *three))
        row["kinds"] = {}
        for kind in np.unique(opinions.kind):
            of_kind = opinions.kind == kind
            row["kinds"][kinds[kind - 1]] = _srcc(-values[of_kind], opinions.opinion[of_kind])
        rows.append({"less_than_best": None, **row})
    return {"rows": rows, "best": best}


def _less(best: np.ndarray, other: np.ndarray, opinion: np.ndarray) -> float:
    return agreement.srcc(best, opinion) - agreement.srcc(other, opinion)


def _srcc(score: np.ndarray, opinion: np.ndarray) -> float | None:
    """Of the few images of one kind, where either may be constant."""
    varied = np.ptp(score) > 0 and np.ptp(opinion) > 0
    return float(agreement.srcc(score, opinion)) if varied else None


def markdown(content: dict[str, Any]) -> str:
    """The report as a page."""
    resampled = "references" if content["human"] else "photographs"
    lines = [
        "# Agreement of metrics with opinions" if content["human"] else "# Metrics and severity",
        f"`{content['command']}`",
        f"Data: {content['data']}; jax {content['versions']['jax']} on {content['backend']}. "
        "Everything on this page but what is called published is written by that command. "
        f"Intervals are 95 %, by {content['config']['num_resamples']:,} bootstrap resamples of the "
        f"{resampled}, each with all its images; of few {resampled} they are rough, and of less "
        f"than {_FEWEST} there are none. Which metric is the best is seen on the same data.",
    ]
    for found in content["sets"]:
        lines += (_opinions if content["human"] else _severity)(found, content["titles"])
    return "\n\n".join(lines) + "\n"


def _less_text(row: dict, best: str) -> str:
    return "" if row["metric"] == best else number(row["less_than_best"])


def _two_digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _severity(found: dict[str, Any], titles: dict[str, str]) -> list[str]:
    kinds = list(severity.KINDS)
    rows = [
        [
            titles[r["metric"]],
            number(r["within"]),
            number(r["across"]),
            f"{r['attainable']:.3f}",
            number(r["share"]),
            _less_text(r, found["best"]),
        ]
        for r in found["rows"]
    ]
    header = ["metric", "within", "across", "attainable", "share of the attainable"]
    header.append("across, behind the best by")
    lines = [
        "**This is no human agreement.** Nobody was asked: more of a distortion is worse, so that "
        "the order of its levels is known, and that is all a metric is held against here. Name the "
        "folder of a judged set with `--tid2013` or `--kadid10k` for agreement with people.",
        "Kendall's tau-b of a metric's distances with the level, the mean over kinds. Within: on "
        "each square of a photograph by itself. Across: over pairs of images of different "
        "photographs, so that a level has to give similar distances whatever is shown. There two "
        "images of one level tie in it and hardly ever in their distances, which keeps tau-b below "
        "1: the attainable is the greatest value that these ties leave.",
        table(header, rows),
    ]
    for which in ("across", "within"):
        rows = [
            [titles[r["metric"]], *(f"{r['kinds'][kind][which]:.2f}" for kind in kinds)]
            for r in found["rows"]
        ]
        lines += [f"Kendall's tau {which}, by kind:", table(["metric", *kinds], rows)]
    return lines


def _opinions(found: dict[str, Any], titles: dict[str, str]) -> list[str]:
    published = PUBLISHED[found["set"]]
    rows = []
    for r in found["rows"]:
        scores = [number(r[name]) for name in ("srcc", "krcc", *CURVES)]
        title = titles[r["metric"]]
        known = _two_digits(published.get(title))
        rows.append([title, *scores, known, _less_text(r, found["best"])])
    measured = {titles[r["metric"]] for r in found["rows"]}
    rows += [
        [f"{name}, published", "", "", "", "", _two_digits(value), ""]
        for name, value in published.items()
        if name not in measured
    ]
    header = ["metric", "SRCC", "KRCC", "PLCC, logistic 4", "PLCC, logistic 5"]
    header += ["SRCC published", "SRCC, behind the best by"]
    kinds = list(dict.fromkeys(kind for r in found["rows"] for kind in r["kinds"]))
    by_kind = [
        [kind, *(_two_digits(r["kinds"].get(kind)) for r in found["rows"])] for kind in kinds
    ]
    return [
        f"## {found['title']}",
        "Of minus the distance with the opinion: 1 is ideal. PLCC is taken after the least-squares "
        "fit of the curve that its column names; SRCC and KRCC (tau-b) need none. "
        "Published: as piq's documentation gives them.",
        table(header, rows),
        "SRCC by kind of distortion:",
        table(["kind", *(titles[r["metric"]] for r in found["rows"])], by_kind),
    ]
