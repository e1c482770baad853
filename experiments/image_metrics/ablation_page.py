"""The table and the figure of LASI's ablation."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from experiments.image_metrics import opinions_page
from experiments.reports.tables import number, table

_VARIED = ("neighborhood_size", "neighborhood", "decay", "ridge", "remedy", "side")
_TAU = "Kendall's tau with the level"


def order(
    distances: np.ndarray, photographs: np.ndarray, num_resamples: int, seed: int
) -> dict[str, Any]:
    """Kendall's tau of distances (reference, kind, level), within and across photographs."""
    options = {"num_resamples": num_resamples, "seed": seed}
    found = opinions_page.of_severity({"": distances}, photographs, **options)
    return {name: found["rows"][0][name] for name in ("within", "across")}


def markdown(content: dict[str, Any]) -> str:
    """The report as a page."""
    judged = any("two_afc" in row for row in content["rows"])
    header = ["N", "neighbourhood", "decay", "ridge", "remedy", "side", "tau within", "tau across"]
    header += ["2AFC"] * judged + ["loss", "prediction error", "noise at 64", "noise at 128"]
    header += ["likeness", "time beside the base"]
    rows = []
    for row in content["rows"]:
        cells = [
            f"{row[name]:.3g}" if name in ("decay", "ridge") else str(row[name]) for name in _VARIED
        ]
        if all(row[name] == content["base"][name] for name in _VARIED):
            cells = [f"**{cell}**" for cell in cells]
        cells += [number(row["within"]), number(row["across"])]
        if judged:
            cells.append(number(row["two_afc"], 1) if "two_afc" in row else "")
        cells += [f"{row['loss']:.5f}", f"{row['prediction_error']:.5f}"]
        cells += [f"{row[f'noise_at_{grey}']:.4f}" for grey in (64, 128)]
        cells.append("" if row["likeness"] is None else f"{row['likeness']:.4f}")
        cells.append(f"{row['times_base']:.2f}")
        rows.append(cells)
    lines = [
        "# What LASI's parts do",
        f"`{content['command']}`",
        f"Data: {content['data']}; jax {content['versions']['jax']} on {content['backend']}. "
        "Everything on this page is written by that command. Intervals are 95 %, by "
        f"{content['config']['num_resamples']:,} bootstrap resamples of the photographs, of which "
        "there are few: they are rough.",
        f"{_TAU}, the mean over kinds, on each square by itself (within) and over pairs of "
        "different photographs (across): **no human agreement**, nobody was asked. Loss: the "
        "weighted least squares (without the ridge's part) where that with the ridge is least, as "
        "a weighted mean of squared residuals, of images in [-1, 1]. Prediction error: of each "
        "element, which is not among its own examples. It is the smaller one mostly: coefficients "
        "suit their element better than examples at some distance. Both are of the photographs "
        "undistorted. Noise: the distance of a flat image of grey 64, or 128, and the same with "
        "noise of one level of 255. Likeness: Spearman's correlation of all distances with those "
        "of the base at the same side, which are the paper's. Remedies are told in "
        "`ablated_lasi`; `prior` is an option of the package. Times are of the package where it "
        "has the variant; two-sided neighbourhoods and other remedies are timed beside the base "
        "in `ablated_lasi`. The base is N = 10 at the same side, timed in turn: where it is "
        "beside itself, what differs from 1 is noise. In bold, the default.",
        table(header, rows),
    ]
    return "\n\n".join(lines) + "\n"


def _rows(content: dict[str, Any], but: tuple[str, ...], **fixed: Any) -> list[dict[str, Any]]:
    """The rows that are the base but in some columns, in order of the first of these."""
    same = {name: content["base"][name] for name in _VARIED if name not in but} | fixed
    found = [row for row in content["rows"] if all(row[k] == v for k, v in same.items())]
    return sorted(found, key=lambda row: row[but[0]])


def _line(axis: Axes, rows: list[dict], x: str, y: str, label: str, color: str) -> None:
    along = [row[x] for row in rows]
    if isinstance(rows[0][y], dict):
        axis.plot(along, [row[y]["mean"] for row in rows], "o-", label=label, color=color, ms=4)
        if rows[0][y]["low"] is not None:
            low, high = ([row[y][end] for row in rows] for end in ("low", "high"))
            axis.fill_between(along, low, high, color=color, alpha=0.12, lw=0)
    else:
        axis.plot(along, [row[y] for row in rows], "o-", label=label, color=color, ms=4)


def draw(path: Path, content: dict[str, Any]) -> None:
    """Agreement over N by side of the image and of the neighbourhood, decay, ridge; loss; time."""
    figure, axes = plt.subplots(2, 3, figsize=(14.5, 8.0), layout="constrained")
    sides = content["config"]["sides"]
    colors = {side: f"C{k}" for k, side in enumerate(sides)}
    base = content["base"]
    for side in sides:
        rows = _rows(content, ("neighborhood_size",), side=side)
        _line(axes[0, 0], rows, "neighborhood_size", "across", f"{side} x {side}", colors[side])
        _line(axes[1, 2], rows, "neighborhood_size", "times_base", f"{side} x {side}", colors[side])
    axes[0, 0].set(title="resolution and N", xlabel="N", ylabel=f"{_TAU}, across")
    title = f"time beside N = {base['neighborhood_size']}"
    axes[1, 2].set(title=title, xlabel="N", ylabel="ratio", yscale="log")
    for kind in ("causal", "two-sided"):
        rows = _rows(content, ("neighborhood_size",), neighborhood=kind)
        color = colors[base["side"]] if kind == "causal" else f"C{len(sides)}"
        _line(axes[0, 1], rows, "neighborhood_size", "across", f"{kind}, across", color)
        axes[0, 1].plot(
            [row["neighborhood_size"] for row in rows],
            [row["within"]["mean"] for row in rows],
            ":",
            color=color,
            label=f"{kind}, within",
        )
        for name, style in (("loss", "--"), ("prediction_error", "-")):
            axes[0, 2].plot(
                [row["neighborhood_size"] for row in rows],
                [row[name] for row in rows],
                style,
                color=color,
                label=f"{kind}, {name.replace('_', ' ')}",
            )
    where = f"{base['side']} x {base['side']}"
    axes[0, 1].set(title=f"sides of the neighbourhood, {where}", xlabel="N", ylabel=_TAU)
    axes[0, 2].set(
        title=f"least squares, {where}", xlabel="N", ylabel="squared error", yscale="log"
    )
    for axis, name in zip(axes[1], ("decay", "ridge"), strict=False):
        rows = _rows(content, (name,))
        for which, color in (("across", "C0"), ("within", "C1")):
            _line(axis, rows, name, which, which, color)
        axis.axvline(base[name], color="gray", lw=0.8, ls=":")
        axis.set(
            title=f"{name}, N = {base['neighborhood_size']}, {where}", xlabel=name, ylabel=_TAU
        )
    axes[1, 1].set_xscale("log")
    for axis in axes.flat:
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
