"""The table and the picture of LASI's ablation."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from experiments.image_metrics import ablation
from experiments.reports import plots, tables

_TAU = "Kendall's tau with the level"
_COLUMNS = {
    "neighborhood_size": "N",
    "neighborhood": "neighbourhood",
    "decay": "decay",
    "ridge": "ridge",
    "remedy": "remedy",
    "side": "side",
    "within": "tau within",
    "across": "tau across",
    "two_afc": "2AFC",
    "loss": "loss",
    "prediction_error": "prediction error",
    "noise_at_64": "noise at 64",
    "noise_at_128": "noise at 128",
    "likeness": "likeness",
    "times_base": "time beside the base",
}
_DIGITS = {"two_afc": 1, "loss": 5, "prediction_error": 5, "noise_at_64": 4, "noise_at_128": 4}
_DIGITS |= {"likeness": 4, "times_base": 2}

_LEGEND = """Kendall's tau with the level, the mean over kinds, on each square by itself (within)
and over pairs of different photographs (across): **no human agreement**, nobody was asked. Loss:
the weighted least squares (without the ridge's part) where that with the ridge is least, as a
weighted mean of squared residuals, of images in [-1, 1]. Prediction error: of each element, which
is not among its own examples. It is the smaller one mostly: coefficients suit their element better
than examples at some distance. Both are of the photographs undistorted. Noise: the distance of a
flat image of grey 64, or 128, and the same with noise of one level of 255. Likeness: Spearman's
correlation of all distances with those of the base at the same side, which are the paper's.
Remedies are told in `ablated_lasi`; `prior` is an option of the package. Times are of the package
where it has the variant; two-sided neighbourhoods and other remedies are timed beside the base in
`ablated_lasi`. The base is N = 10 at the same side, timed in turn: where it is beside itself, what
differs from 1 is noise. In bold, the default."""


def markdown(content: dict[str, Any], rows: pd.DataFrame) -> str:
    """The report as a page.

    Args:
      content: what results.json holds.
      rows: its variants.
    """
    columns = {name: title for name, title in _COLUMNS.items() if name in rows}
    base = content["base"]
    of_base = tables.where(rows, **{name: base[name] for name in ablation.VARIED}).index
    is_base = [place in of_base for place in rows.index]
    written = rows.copy()
    for name in ablation.VARIED:
        cells = [f"{x:.3g}" if name in ("decay", "ridge") else str(x) for x in rows[name]]
        written[name] = [f"**{c}**" * b or c for c, b in zip(cells, is_base, strict=True)]
    lines = [
        "# What LASI's parts do",
        f"`{content['command']}`",
        f"Data: {content['data']}; jax {content['versions']['jax']} on {content['backend']}. "
        "Everything on this page is written by that command. Intervals are 95 %, by "
        f"{content['config']['num_resamples']:,} bootstrap resamples of the photographs, of which "
        "there are few: they are rough.",
        _LEGEND,
        tables.markdown(
            written,
            columns,
            digits=_DIGITS,
            shown={
                "likeness": lambda value: "" if value is None else f"{value:.4f}",
                "two_afc": lambda value: "" if value is None else tables.number(value, 1),
            },
        ),
    ]
    return "\n\n".join(lines) + "\n"


def _line(axis: Axes, rows: pd.DataFrame, x: str, y: str, label: str, color: str, **style) -> None:
    """A column over another, with its interval where it has one."""
    along, values = list(rows[x]), list(rows[y])
    if not values:
        return
    if isinstance(values[0], dict):
        low, high = ([value[end] for value in values] for end in ("low", "high"))
        if None not in low:
            axis.fill_between(along, low, high, color=color, alpha=0.12, lw=0)
        values = [value["mean"] for value in values]
    axis.plot(along, values, marker="o", label=label, color=color, markersize=3, **style)


def draw(path: Path, content: dict[str, Any], rows: pd.DataFrame) -> None:
    """Agreement over N by side of the image and of the neighbourhood, decay, ridge; loss; time."""
    base, sides = content["base"], content["config"]["sides"]
    figure, axes = plots.panels(3, 2, panel=(4.0, 2.7))
    colors = plots.palette([*sides, "two-sided", "decay", "ridge"])
    n, where = "neighborhood_size", f"{base['side']} x {base['side']}"
    for side in sides:
        of_side = ablation.beside(rows, base, n, side=side)
        _line(axes[0, 0], of_side, n, "across", f"{side} px", colors[side])
        _line(axes[2, 1], of_side, n, "times_base", f"{side} px", colors[side])
    axes[0, 0].set(title="Resolution: between photographs", xlabel="N", ylabel=_TAU)
    axes[2, 1].set(title=f"Time beside N = {base[n]}", xlabel="N", ylabel="ratio", yscale="log")
    for kind in ("causal", "two-sided"):
        of_kind = ablation.beside(rows, base, n, neighborhood=kind)
        color = colors[base["side"] if kind == "causal" else kind]
        _line(axes[0, 1], of_kind, n, "across", f"{kind}, across", color)
        _line(axes[0, 1], of_kind, n, "within", f"{kind}, within", color, linestyle=":")
        _line(axes[1, 0], of_kind, n, "loss", f"{kind}, loss", color, linestyle="--")
        _line(axes[1, 0], of_kind, n, "prediction_error", f"{kind}, error", color)
    axes[0, 1].set(title=f"Sides of the neighbourhood, {where} px", xlabel="N", ylabel=_TAU)
    axes[1, 0].set(title=f"Least squares, {where} px", xlabel="N", yscale="log")
    axes[1, 0].set_ylabel("squared error, values in [-1, 1]")
    for axis, name in ((axes[1, 1], "decay"), (axes[2, 0], "ridge")):
        of_name = ablation.beside(rows, base, name)
        for which, style in (("across", "-"), ("within", ":")):
            _line(axis, of_name, name, which, which, colors[name], linestyle=style)
        axis.axvline(base[name], color=plots.GRAY, linewidth=0.8)
        axis.set(title=f"{name.capitalize()}, N = {base[n]}, {where} px", xlabel=name, ylabel=_TAU)
    axes[1, 1].set_xlabel("decay: weight of an example per pixel of distance")
    axes[2, 0].set(xscale="log", xlabel="ridge, of values in [-1, 1]")
    figure.canvas.draw()  # lays the panels out, which names at line ends need
    for axis in axes.flat:
        plots.name_ends(axis)
    plots.save(path, figure)
