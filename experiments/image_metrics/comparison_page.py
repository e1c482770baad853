"""The picture of candidates beside an original, and the map of each as a file."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import cm, colors
from matplotlib.axes import Axes
from PIL import Image

from experiments.image_metrics import comparison, named
from experiments.image_metrics.comparison import Comparison
from experiments.reports import plots

_COLORS = "magma"
_ACROSS = 6  # cells in a row
_WIDTH = 8.1  # of a row, in inches
_WIDEST, _HIGHEST = 3.2, 4.0  # picture, in inches
_LEAST_DPI, _GREATEST_DPI = 110, 200
_LETTERS = 17  # of a name over an inch of a picture


def _scale(found: Comparison) -> colors.Normalize:
    """One scale of colours for all maps, on which the square root is even."""
    top = max(float(np.percentile(pixels, 99)) for pixels in found.maps.values()) or 1.0
    return colors.PowerNorm(0.5, 0.0, top)


def save_maps(folder: Path, found: Comparison) -> None:
    """The map of every candidate: its numbers in maps.npz, and a picture of its size in `maps`.

    Pictures have the colours of the figure's scale; their names begin with the rank.
    """
    np.savez_compressed(folder / "maps.npz", allow_pickle=False, **found.maps)
    (folder / "maps").mkdir()
    paint, norm = plt.get_cmap(_COLORS), _scale(found)
    for place, name in enumerate(comparison.sorted_by_first(found.values).index, 1):
        painted = paint(norm(found.maps[name]), bytes=True)[..., :3]
        path = folder / "maps" / f"{place:02d} {name.replace('/', '_')}.png"
        Image.fromarray(painted).save(path)


def draw(
    path: Path,
    reference: np.ndarray,
    candidates: dict[str, np.ndarray],
    found: Comparison,
    titles: dict[str, str],
    *,
    most: int,
) -> None:
    """The original and candidates, closest first, each over its map; all maps on one scale.

    A picture has the pixels of its image, as far as the page allows.

    Args:
      path: of the figure.
      reference: (height, width, 3) uint8.
      candidates: of the same shape, by name.
      found: of the candidates.
      titles: of the metrics.
      most: candidates, evenly by rank where there are more.
    """
    by = found.values.dropna(axis=1).columns[0]
    ordered = comparison.sorted_by_first(found.values)
    places = np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)
    ordered = ordered.iloc[places]
    rank = comparison.ranks(found.values)[by]
    across = min(_ACROSS, len(ordered) + 1)
    down, rows = math.ceil((len(ordered) + 1) / across), 2 if found.maps else 1
    height, width = reference.shape[:2]
    panel = min(_WIDEST, _WIDTH / across, _HIGHEST * width / height)
    figure, axes = plt.subplots(
        down * rows,
        across,
        figsize=(across * panel, down * (rows * panel * height / width + 0.27) + 0.2),
        squeeze=False,
    )
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.01, wspace=0.0, hspace=0.0)
    for axis in axes.flat:
        axis.axis("off")
    axes[0, 0].imshow(reference)
    axes[0, 0].set_title("original", fontsize=8)
    for position, name in enumerate(ordered.index, 1):
        block, column = divmod(position, across)
        picture = axes[block * rows, column]
        picture.imshow(candidates[name])
        longest = round(_LETTERS * panel)
        short = name if len(name) <= longest else f"…{name[1 - longest :]}"
        drawable = plots.drawable(short)
        value = comparison.shown(by, float(ordered.loc[name, by]))
        drawable["text"] += f"\n{value}, rank {rank[name]:.0f}"
        picture.set_title("", fontsize=8).set(**drawable)
        if found.maps:
            axes[block * rows + 1, column].imshow(
                found.maps[name], cmap=_COLORS, norm=_scale(found)
            )
    closer = "higher" if named.display(by).higher_is_closer else "lower"
    heading = f"Closest first by {titles[by]} ({closer} is closer)"
    if len(ordered) < len(found.values):
        heading += f", {len(ordered)} of {len(found.values)} candidates, evenly by rank"
    figure.suptitle(heading, x=0.01, ha="left", fontsize=9)
    if found.maps:
        assert found.mapped is not None
        _draw_scale(axes[1, 0], _scale(found), titles[found.mapped])
    dpi = float(np.clip(width / panel, _LEAST_DPI, _GREATEST_DPI))
    figure.savefig(path, dpi=dpi)
    plt.close(figure)


def _draw_scale(axis: Axes, norm: colors.Normalize, title: str) -> None:
    """The scale of colours, in the cell under the original, which has no map."""
    place = axis.inset_axes((0.08, 0.62, 0.8, 0.1))
    top = float(norm.vmax or 1.0)
    bar = axis.figure.colorbar(
        cm.ScalarMappable(norm, _COLORS), cax=place, orientation="horizontal", extend="max"
    )
    bar.set_label(f"{title},\nby pixel:\ndark is close", fontsize=8)
    ticks = [0.0, top / 4, top]  # the square root is in the middle there
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    bar.ax.tick_params(labelsize=7)
    bar.ax.grid(False)
