"""Candidates beside an original: the value, the rank and the pixels of each by several metrics."""

import math
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments.image_metrics import named
from experiments.image_metrics.deep_network import Network

_SLOW = 32  # beyond so many neighbours a compilation takes minutes


class Comparison(NamedTuple):
    """What metrics say of candidates.

    Attributes:
      values: a row for each candidate, a column for each metric, as readers know it: NaN where the
        images are too small for it.
      maps: by candidate, the distance of every pixel (height, width); of `mapped`.
      mapped: the first row of the metrics' table that is among them and has maps, or None.
      too_small: why a metric is not defined, by metric.
    """

    values: pd.DataFrame
    maps: dict[str, np.ndarray]
    mapped: str | None
    too_small: dict[str, str]


def compare(
    reference: np.ndarray,
    candidates: dict[str, np.ndarray],
    names: tuple[str, ...],
    network: Network | None,
) -> Comparison:
    """Compare every candidate with the reference by every metric.

    Args:
      reference: (height, width, 3) uint8.
      candidates: of the same shape, by name.
      names: of metrics, which `named.check` has let pass.
      network: of the metric `deep`.

    Raises:
      ValueError: the images are too small for all of the metrics.
    """
    with_maps = [name for name in names if named.pixel_map(name, network)]
    mapped = min(with_maps, key=_place_in_table, default=None)
    values, maps, too_small = {}, {}, {}
    for name in names:
        title = named.title(name, network, reference.shape[:2])
        try:
            named.check_size([name], network, reference.shape[:2])
        except ValueError as error:
            values[name], too_small[name] = math.nan, str(error)
            continue
        if any(row.name == "lasi_N" and n > _SLOW for row, n in named.rows(name)):
            print(f"{title}: so many neighbours take minutes to compile", flush=True)
        pixels = named.pixel_map(name, network) if name == mapped else None
        of_pair, found = jax.jit(pixels or named.metric(name, network)), []
        progress = tqdm(candidates.items(), desc=title, unit="image", disable=None)
        for candidate, image in progress:
            result = np.asarray(of_pair(reference, image))
            if pixels:
                maps[candidate] = result
            found.append(named.display(name).value(float(result.mean())))
        values[name] = found
    if len(too_small) == len(names):
        raise ValueError("; ".join(too_small.values()))
    return Comparison(pd.DataFrame(values, index=list(candidates)), maps, mapped, too_small)


def _place_in_table(name: str) -> int:
    return min(list(named.METRICS).index(row.name) for row, _ in named.rows(name))


def ranks(values: pd.DataFrame) -> pd.DataFrame:
    """The rank of each candidate by each metric, 1 for the closest; equal values rank equal."""
    return pd.DataFrame(
        {
            name: values[name].rank(
                method="min", ascending=not named.display(name).higher_is_closer
            )
            for name in values
        }
    )


def sorted_by_first(values: pd.DataFrame) -> pd.DataFrame:
    """The candidates closest first, by the first metric that is defined."""
    return values.loc[ranks(values.dropna(axis=1)).iloc[:, 0].sort_values(kind="stable").index]


def shown(name: str, value: float) -> str:
    """A value in the digits that readers see."""
    return "-" if math.isnan(value) else f"{value:.{named.display(name).digits}f}"


def table(values: pd.DataFrame, titles: dict[str, str]) -> str:
    """The candidates, closest first, with value and rank by each metric.

    Args:
      values: as of `compare`.
      titles: of the metrics.
    """
    ordered = sorted_by_first(values)
    places = ranks(ordered)
    columns = [["", "candidate", *map(str, ordered.index)]]
    for name in ordered:
        closer = "higher" if named.display(name).higher_is_closer else "lower"
        cells = [shown(name, value) for value in ordered[name]]
        columns.append([titles[name], f"{closer} is closer", *cells])
        columns.append(["", "rank", *("-" if math.isnan(r) else f"{r:.0f}" for r in places[name])])
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for first, *others in zip(*columns, strict=True):
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def notes(values: pd.DataFrame, titles: dict[str, str]) -> list[str]:
    """What to look at: candidates on which LASI and another metric are far apart.

    One that LASI puts first, in the digits shown, and another metric last; and one whose SSIM is
    below 0, as that of a negative may be, unless LASI puts it last.

    Args:
      values: as of `compare`.
      titles: of the metrics.
    """
    values = values.dropna(axis=1)  # of images that are too small for a metric
    of_lasi = [name for name in values if {row.name for row, _ in named.rows(name)} == {"lasi_N"}]
    if not of_lasi:
        return []
    lasi = of_lasi[0]
    signs = [1 if named.display(name).higher_is_closer else -1 for name in values]
    closeness = values * signs
    written = [shown(lasi, value) for value in values[lasi]]
    of_all = values[lasi].to_numpy()
    first, last = (shown(lasi, float(end)) for end in (of_all.min(), of_all.max()))
    found = []
    for candidate, of_lasi_shown in zip(values.index, written, strict=True):
        others = closeness.drop(candidate)
        against = [
            titles[name]
            for name in values
            if name not in of_lasi
            and len(others)
            and closeness.loc[candidate, name] < others[name].min()
        ]
        why = []
        if of_lasi_shown == first and against:
            why.append(f"LASI puts it first and {' and '.join(against)} last")
        ssim = values.loc[candidate, "ssim"] if "ssim" in values else math.nan
        if ssim < 0.0 and (of_lasi_shown != last or first == last):
            why.append(f"its SSIM is {ssim:.4f}")
        if why:
            found.append(
                f"look at {candidate}: {', and '.join(why)}. LASI does not see the sign of "
                "contrast, a negative is at distance 0"
            )
    return found
