"""Which distortion of a photograph does LASI find closest to the original?

    python -m experiments.compare_images
    python -m experiments.compare_images --reference a.png --candidates b.png c.jpg

Ranks the candidates by LASI, of which lower is closer, beside SSIM and PSNR, of
which higher is closer, and saves a figure with the per-pixel maps. LASI does not
see the sign of contrast: a photograph's negative is at distance 0 of it and ranks
first. A line under the table names a candidate that LASI puts first (in the digits
shown) and SSIM or PSNR last, and one whose SSIM is below 0 as a negative's may be.

Files are read with 8 bits a channel; those with more are refused. Colours are
compared in sRGB: a file with another profile is converted, and a line says so.

By default the candidates are 21 graded distortions of one of scikit-image's
photographs: under a minute on two CPU cores. Expected there: within every kind LASI
puts the mild level before the strong one, and the shift by 1 pixel, 11th of 21 for
SSIM and for PSNR, is 3rd.
"""

import dataclasses
import math
from pathlib import Path

import dm_pix
import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.cm
import matplotlib.colors

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

import lasi_jax
from experiments import runs
from experiments.data import distortions, photographs
from experiments.runs import files

SSIM_WINDOW = 11


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the comparison."""

    reference: Path | None = None
    """The original, an image file. Default: a photograph that comes with scikit-image."""
    candidates: tuple[Path, ...] = ()
    """Image files of the reference's size to rank. Default: graded distortions of the reference."""
    photograph: photographs.BundledName = "astronaut"
    """The photograph used when no reference is given."""
    neighborhood_size: int = 10
    """LASI's N, the number of elements that predict one."""
    seed: int = 0
    """Seed of the noise."""
    output: Path | None = None
    """A new folder for figure.png and results.json. Default: results/compare_images, numbered."""


@dataclasses.dataclass(frozen=True)
class Score:
    """One candidate beside the reference; NaN where a metric is not defined."""

    name: str
    lasi: float
    ssim: float
    psnr: float


def load(config: Config) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
    """The reference's name, the reference, and the candidates by name."""
    if config.reference is None:
        if config.candidates:
            raise ValueError("candidates need a reference: add --reference FILE")
        name, reference = config.photograph, photographs.bundled(config.photograph)
    else:
        name, reference = str(config.reference), photographs.read(config.reference)
    if not config.candidates:
        return name, reference, distortions.graded(reference, config.seed)
    candidates: dict[str, np.ndarray] = {}
    for path in config.candidates:
        image = photographs.read(path)
        if image.shape != reference.shape:
            height, width = reference.shape[:2]
            raise ValueError(
                f"{path} must have the reference's size {width} x {height}, "
                f"it is {image.shape[1]} x {image.shape[0]}"
            )
        if str(path) in candidates:
            raise ValueError(f"candidates must differ, {path} is given twice")
        candidates[str(path)] = image
    return name, reference, candidates


def compare(
    reference: np.ndarray, candidates: dict[str, np.ndarray], neighborhood_size: int
) -> tuple[list[Score], dict[str, np.ndarray]]:
    """Scores and LASI maps (height, width), in the order of the candidates."""
    lasi_map = jax.jit(
        lambda x, y: lasi_jax.distance_map(x, y, neighborhood_size=neighborhood_size).mean(-1)
    )
    structural, signal_to_noise = jax.jit(dm_pix.ssim), jax.jit(dm_pix.psnr)
    scores, maps = [], {}
    progress = tqdm(candidates.items(), desc="comparing", unit="image", disable=None)
    for name, image in progress:
        maps[name] = np.asarray(lasi_map(reference, image))
        floats = [jnp.asarray(x, jnp.float32) / 255 for x in (reference, image)]
        ssim, psnr = structural(*floats), signal_to_noise(*floats)
        defined = min(reference.shape[:2]) >= SSIM_WINDOW
        scores.append(
            Score(name, float(maps[name].mean()), float(ssim) if defined else math.nan, float(psnr))
        )
    return scores, maps


def table(scores: list[Score]) -> str:
    """The candidates, closest first by LASI, with their ranks by SSIM and PSNR."""
    by_ssim = sorted(-score.ssim for score in scores if not math.isnan(score.ssim))
    by_psnr = sorted(-score.psnr for score in scores)
    width = max(len("candidate"), *(len(score.name) for score in scores))
    header = f"{'':>4} {'candidate':<{width}} {'LASI':>7}"
    lines = [f"{header} {'SSIM':>8} {'rank':>4} {'PSNR':>7} {'rank':>4}"]
    for rank, score in enumerate(sorted(scores, key=lambda score: score.lasi), 1):
        ssim_rank = "-" if math.isnan(score.ssim) else 1 + by_ssim.index(-score.ssim)
        psnr_rank = 1 + by_psnr.index(-score.psnr)
        lines.append(
            f"{rank:>4} {score.name:<{width}} {_shown(score.lasi):>7} "
            f"{score.ssim:>8.4f} {ssim_rank:>4} {score.psnr:>7.2f} {psnr_rank:>4}"
        )
    return "\n".join(lines)


def _shown(lasi: float) -> str:
    return f"{lasi:.4f}"


def notes(scores: list[Score]) -> list[str]:
    """What to look at: candidates on which LASI and another metric are far apart.

    One that LASI puts first, in the digits shown, and another metric last; and one whose SSIM is
    below 0, as that of a negative may be, unless LASI puts it last.
    """
    first, last = (_shown(end(score.lasi for score in scores)) for end in (min, max))
    found = []
    for score in scores:
        others = [other for other in scores if other is not score]
        against = [
            name.upper()
            for name in ("ssim", "psnr")
            if others and getattr(score, name) < min(getattr(other, name) for other in others)
        ]
        why = []
        if _shown(score.lasi) == first and against:
            why.append(f"LASI puts it first and {' and '.join(against)} last")
        if score.ssim < 0.0 and (_shown(score.lasi) != last or first == last):
            why.append(f"its SSIM is {score.ssim:.4f}")
        if why:
            found.append(
                f"look at {score.name}: {', and '.join(why)}. LASI does not see the sign of "
                "contrast, a negative is at distance 0"
            )
    return found


def draw(
    path: Path,
    reference: np.ndarray,
    candidates: dict[str, np.ndarray],
    scores: list[Score],
    maps: dict[str, np.ndarray],
) -> None:
    """Every candidate beside its LASI map, three to a row, all maps on one scale."""
    across = min(3, len(candidates))
    down = math.ceil(len(candidates) / across)
    height, width = reference.shape[:2]
    panel = 1.6
    figure, axes = plt.subplots(
        down + 1,
        2 * across,
        figsize=(2 * across * panel * 1.05, (down + 1) * (panel * height / width + 0.28) + 0.3),
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat:
        axis.axis("off")
    axes[0, 0].imshow(reference)
    axes[0, 0].set_title("reference", fontsize=8)
    order = sorted(scores, key=lambda score: score.lasi)
    rank = {score.name: place for place, score in enumerate(order, 1)}
    top = max(float(np.percentile(lasi_map, 99)) for lasi_map in maps.values()) or 1.0
    norm = matplotlib.colors.PowerNorm(0.5, 0.0, top)
    for position, score in enumerate(scores):
        row, column = 1 + position // across, 2 * (position % across)
        axes[row, column].imshow(candidates[score.name])
        name = Path(score.name).name
        axes[row, column].set_title(
            name if len(name) < 24 else f"…{name[-22:]}", fontsize=8, parse_math=False
        )
        axes[row, column + 1].imshow(maps[score.name], cmap="magma", norm=norm)
        axes[row, column + 1].set_title(f"LASI {score.lasi:.3f}  (#{rank[score.name]})", fontsize=8)
    scale = matplotlib.cm.ScalarMappable(norm, "magma")
    place = axes[0, 1].inset_axes((0.1, 0.45, 2 * across - 2 + 0.6, 0.1))
    place.set_in_layout(False)  # it spans columns, which the layout would widen
    bar = figure.colorbar(scale, cax=place, orientation="horizontal", extend="max")
    bar.set_label("LASI distance per pixel, on a square-root scale: dark is close", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(config: Config) -> dict:
    """Compare, print, and save; returns what results.json holds."""
    output = config.output or files.free_folder("compare_images")
    files.check_free(output)
    name, reference, candidates = load(config)
    scores, maps = compare(reference, candidates, config.neighborhood_size)
    print(f"\nreference: {name}, {reference.shape[1]} x {reference.shape[0]}\n")
    print(f"{table(scores)}\n\nLASI: lower is closer; SSIM, PSNR: higher is closer")
    noted = notes(scores)
    print("\n".join(noted), end="\n" * bool(noted))
    content = {
        "config": files.plain(dataclasses.asdict(config)),
        "versions": {"jax": jax.__version__, "dm_pix": dm_pix.__version__},
        "backend": jax.default_backend(),
        "reference": name,
        "shape": list(reference.shape),
        "scores": [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in dataclasses.asdict(score).items()
            }
            for score in sorted(scores, key=lambda score: score.lasi)
        ],
        "notes": noted,
    }
    with files.new_folder(output) as folder:
        files.write_json(folder / "results.json", content)
        draw(folder / "figure.png", reference, candidates, scores, maps)
    print(f"\nsaved {output / 'figure.png'} and {output / 'results.json'}")
    return content


if __name__ == "__main__":
    runs.main(
        "experiments.compare_images",
        __doc__,
        Config,
        run,
        interrupted="interrupted, nothing was saved",
    )
