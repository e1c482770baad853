"""The numbers of metrics held against opinions, or against a known order of severity."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from experiments.data import graded_squares
from experiments.image_metrics import severity_order
from experiments.reports import tables
from lasi_jax import agreement

CURVES = ("logistic4", "logistic5")
"""What PLCC is taken after, of four and of five parameters."""
FEWEST = 4
"""Photographs or references of which resamples tell anything."""


class Opinions(NamedTuple):
    """What people said of images, and of what kind and reference these are, all (image)."""

    opinion: np.ndarray
    kind: np.ndarray
    reference: np.ndarray


class Agreement(NamedTuple):
    """How metrics agree with opinions, or with the order of severity.

    Attributes:
      rows: of each metric (metric), estimates over all images, and what it is behind the best.
      kinds: of each metric and kind of distortion (metric, kind), one number or two.
      best: the metric that agrees best, seen on the same images.
    """

    rows: pd.DataFrame
    kinds: pd.DataFrame
    best: str

    def content(self) -> dict[str, Any]:
        """As results.json holds it: each metric with its kinds, strictly JSON."""
        rows = tables.records(self.rows)
        for row in rows:
            of_metric = tables.where(self.kinds, metric=row["metric"]).drop(columns="metric")
            row["kinds"] = {
                kind: values.pop("srcc") if "srcc" in values else values
                for kind, values in of_metric.set_index("kind").to_dict("index").items()
            }
        return {"rows": rows, "best": self.best}


def _interval(value: float, ends: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = map(float, ends) if ends else (None, None)
    return {"mean": float(value), "low": low, "high": high}


def of_severity(
    distances: dict[str, np.ndarray], photographs: np.ndarray, *, num_resamples: int, seed: int
) -> Agreement:
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
        return _interval(value, _percentiles(resampled) if count >= FEWEST else None)

    across = functools.partial(severity_order.across, photographs=photographs)
    pairs = {name: severity_order.order(values) for name, values in distances.items()}
    pooled = {name: across(of, weights=draws).mean(1) for name, of in pairs.items()}
    means = {name: float(across(of, weights=once).mean()) for name, of in pairs.items()}
    best = max(means, key=means.__getitem__)
    rows, kinds = [], []
    for name, of in pairs.items():
        alone, between = severity_order.within(of), across(of, weights=once)
        less = interval(means[best] - means[name], pooled[best] - pooled[name])
        bounds = severity_order.attainable(of, photographs, once).mean()
        bound = severity_order.attainable(of, photographs, draws).mean(1)
        share = interval(_share(means[name], bounds), _share(pooled[name], bound))
        by_kind = zip(graded_squares.KINDS, alone.mean(1), between, strict=True)
        kinds += [
            {"metric": name, "kind": kind, "within": float(w), "across": float(a)}
            for kind, w, a in by_kind
        ]
        rows.append(
            {
                "metric": name,
                "within": interval(alone.mean(), draws @ alone.mean(0) / draws.sum(1)),
                "across": interval(means[name], pooled[name]),
                "attainable": float(bounds),
                "share": share,
                "less_than_best": None if name == best else less,
            }
        )
    return Agreement(tables.frame(rows), tables.frame(kinds), best)


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
) -> Agreement:
    """SRCC, KRCC and PLCC of every metric with opinions; SRCC by kind.

    All are of minus the distance, so that 1 is ideal.

    Args:
      distances: (image) of each metric.
      opinions: of the images, more is better.
      kinds: the names of the kinds, in the order of their numbers from 1.
      num_resamples: of the references, with all their images.
      seed: of the resamples.
    """
    few = len(np.unique(opinions.reference)) < FEWEST
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
    rows, of_kinds = [], []
    for name, values in distances.items():
        items = (-values, opinions.opinion)
        row: dict[str, Any] = {"less_than_best": None, "metric": name}
        for statistic, function in statistics.items():
            row[statistic] = _interval(function(*items), interval(function, *items))
        if name != best:
            three = (-distances[best], *items)
            row["less_than_best"] = _interval(_less(*three), interval(_less, *three))
        rows.append(row)
        for kind in np.unique(opinions.kind):
            of_kind = opinions.kind == kind
            found = _srcc(-values[of_kind], opinions.opinion[of_kind])
            of_kinds.append({"metric": name, "kind": kinds[kind - 1], "srcc": found})
    return Agreement(tables.frame(rows), tables.frame(of_kinds), best)


def _less(best: np.ndarray, other: np.ndarray, opinion: np.ndarray) -> float:
    return agreement.srcc(best, opinion) - agreement.srcc(other, opinion)


def _srcc(score: np.ndarray, opinion: np.ndarray) -> float | None:
    """Of the few images of one kind, where either may be constant."""
    varied = np.ptp(score) > 0 and np.ptp(opinion) > 0
    return float(agreement.srcc(score, opinion)) if varied else None
