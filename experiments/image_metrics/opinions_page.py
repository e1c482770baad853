"""The page and the pictures of metrics held against opinions, or a known order of severity."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from experiments.image_metrics.opinions import CURVES, FEWEST, Agreement, Opinions
from experiments.reports import plots, tables
from lasi_jax import agreement

PUBLISHED = {
    "tid2013": {"PSNR": 0.69, "SSIM": 0.72, "MS-SSIM": 0.80, "FSIMc": 0.85, "LPIPS (VGG16)": 0.67},
    "kadid10k": {"PSNR": 0.68, "SSIM": 0.72, "MS-SSIM": 0.80, "FSIMc": 0.85, "LPIPS (VGG16)": 0.72},
}
"""SRCC of other implementations by title, of which piq's documentation gives these."""
_BEHIND = {"less_than_best": "behind the best by"}
_ACROSS = 3
_SHOWN = 4000

_SEVERITY = """**This is no human agreement.** Nobody was asked: more of a distortion is worse, so
that the order of its levels is known, and that is all a metric is held against here. Name the
folder of a judged set with `--tid2013` or `--kadid10k` for agreement with people.

Kendall's tau-b of a metric's distances with the level, the mean over kinds. Within: on each square
of a photograph by itself. Across: over pairs of images of different photographs, so that a level
has to give similar distances whatever is shown. There two images of one level tie in it and hardly
ever in their distances, which keeps tau-b below 1: the attainable is the greatest value that these
ties leave. Behind the best: across."""
_OPINIONS = """Of minus the distance with the opinion: 1 is ideal. PLCC is taken after the
least-squares fit of the curve that its column names; SRCC and KRCC (tau-b) need none. Behind the
best: in SRCC. Published: as piq's documentation gives them."""


def markdown(content: dict[str, Any], sets: dict[str, Agreement]) -> str:
    """The report as a page.

    Args:
      content: what results.json holds.
      sets: by title, the numbers of each judged set, or of the severity.
    """
    resampled = "references" if content["human"] else "photographs"
    lines = [
        "# Agreement of metrics with opinions" if content["human"] else "# Metrics and severity",
        f"`{content['command']}`",
        f"Data: {content['data']}; jax {content['versions']['jax']} on {content['backend']}. "
        "Everything on this page but what is called published is written by that command. "
        f"Intervals are 95 %, by {content['config']['num_resamples']:,} bootstrap resamples of the "
        f"{resampled}, each with all its images; of few {resampled} they are rough, and of less "
        f"than {FEWEST} there are none. Which metric is the best is seen on the same data.",
    ]
    for title, found in sets.items():
        titled = found._replace(
            rows=found.rows.assign(metric=found.rows["metric"].map(content["titles"]))
        )
        by_kind = found.kinds.assign(metric=found.kinds["metric"].map(content["titles"]))
        if content["human"]:
            name = {each["title"]: each["set"] for each in content["sets"]}[title]
            lines += [f"## {title}", *_opinions(titled.rows, by_kind, PUBLISHED[name])]
        else:
            lines += _severity(titled.rows, by_kind)
    return "\n\n".join(lines) + "\n"


def _behind(value: Any) -> str:
    return "" if value is None else tables.number(value)


def _two_digits(value: Any) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.2f}"


def _wide(kinds: pd.DataFrame, index: str, columns: str, values: str) -> str:
    """A table of one number by metric and kind."""
    wide = kinds.pivot(index=index, columns=columns, values=values)
    wide = wide.reindex(index=kinds[index].unique(), columns=kinds[columns].unique()).reset_index()
    names = dict.fromkeys(wide.columns)
    shown = {name: _two_digits for name in names if name != index}
    return tables.markdown(wide, {name: str(name) for name in names}, shown=shown)


def _severity(rows: pd.DataFrame, kinds: pd.DataFrame) -> list[str]:
    columns = {name: name for name in ("metric", "within", "across", "attainable")}
    columns |= {"share": "share of the attainable"} | _BEHIND
    lines = [_SEVERITY, tables.markdown(rows, columns, shown={"less_than_best": _behind})]
    for which in ("across", "within"):
        lines += [f"Kendall's tau {which}, by kind:", _wide(kinds, "metric", "kind", which)]
    return lines


def _opinions(rows: pd.DataFrame, kinds: pd.DataFrame, known: dict[str, float]) -> list[str]:
    theirs = tables.frame(
        [
            {"metric": f"{name}, published", "published": score}
            for name, score in known.items()
            if name not in set(rows["metric"])
        ]
    )
    every = pd.concat(
        [rows.assign(published=[known.get(title) for title in rows["metric"]]), theirs]
    )
    columns = {"metric": "metric", "srcc": "SRCC", "krcc": "KRCC"}
    columns |= {curve: f"PLCC, {curve}" for curve in CURVES}
    columns |= {"published": "SRCC published"} | _BEHIND
    estimates = ("srcc", "krcc", *CURVES, "less_than_best")
    shown: dict[str, Any] = {name: _estimate for name in estimates} | {"published": _two_digits}
    return [
        _OPINIONS,
        tables.markdown(every, columns, shown=shown),
        "SRCC by kind of distortion:",
        _wide(kinds, "kind", "metric", "srcc"),
    ]


def _estimate(value: Any) -> str:
    return tables.number(value) if isinstance(value, dict) else ""


def draw_severity(path: Path, found: Agreement, titles: dict[str, str]) -> None:
    """Kendall's tau by metric and kind, within and between photographs, as tables of colours."""
    metrics, kinds = found.rows["metric"], found.kinds["kind"].unique()
    figure, axes = plots.panels(2, 1, panel=(8.0, 0.95 + 0.26 * len(metrics)), sharex=True)
    for axis, which in zip(axes[:, 0], ("within", "across"), strict=True):
        wide = found.kinds.pivot(index="metric", columns="kind", values=which)
        values = wide.reindex(index=metrics, columns=kinds).to_numpy(float)
        plots.heat(axis, values, [titles[name] for name in metrics], list(kinds))
        where = "on each photograph by itself" if which == "within" else "between photographs"
        axis.set_title(f"Kendall's tau of distance and level, {where}")
    plots.save(path, figure)


def draw_opinions(
    path: Path,
    title: str,
    found: Agreement,
    titles: dict[str, str],
    distances: dict[str, np.ndarray],
    judged: Opinions,
) -> None:
    """Opinion over distance for every metric, with the first of the logistic curves."""
    across = min(_ACROSS, len(distances))
    down = math.ceil(len(distances) / across)
    figure, axes = plots.panels(down, across, panel=(2.75, 2.4), sharey=True)
    figure.suptitle(title)
    for axis in axes.flat[len(distances) :]:
        axis.axis("off")
    srcc = {row["metric"]: row["srcc"]["mean"] for row in tables.records(found.rows)}
    shown = np.random.default_rng(0).permutation(len(judged.opinion))[:_SHOWN]
    for axis, (name, values) in zip(axes.flat, distances.items(), strict=False):
        _draw_fit(axis, values, judged.opinion, shown)
        axis.set(title=f"{titles[name]}: SRCC {srcc[name]:.3f}", xlabel="distance")
    for line in axes:
        line[0].set_ylabel("mean opinion score")
    plots.save(path, figure)


def _draw_fit(axis: Axes, values: np.ndarray, opinion: np.ndarray, shown: np.ndarray) -> None:
    color = plots.palette(["images"])["images"]
    opacity = min(0.8, max(0.25, 200 / len(shown)))
    axis.scatter(values[shown], opinion[shown], s=6, alpha=opacity, linewidths=0, color=color)
    fit = agreement.fit_logistic(-values, opinion, curve=CURVES[0])
    along = np.linspace(values.min(), values.max(), 200)
    axis.plot(along, fit(-along), color=plots.INK)
