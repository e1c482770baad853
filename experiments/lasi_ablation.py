"""Which of LASI's parts matter: neighbours, their sides, decay, ridge, or the size of the image?

    python -m experiments.lasi_ablation
    python -m experiments.lasi_ablation --toy
    python -m experiments.lasi_ablation --bapps FOLDER --limit 200

LASI has four numbers, and its paper varies one. Here each is varied by itself around the default
(N = 10, causal, decay 0.8, ridge 80/127.5), and N together with the side of the image and with a
neighbourhood that looks to all sides, for which the sums run over all other elements as well.
Remedies against noise at middle grey (`ablated_lasi`) stand beside them. Shown are agreement, which
is Kendall's tau with the known order of severity (`severity_order`; no human agreement) and, with
`--bapps`, the 2AFC score; the weighted least squares itself, that is its loss at the minimum, and
the error with which an element is predicted, which is not among its examples; what one level of
noise on a flat image scores at grey 64 and at grey 128; the likeness to the default, which is the
paper's; and time.

What is measured is kept in parts: the same command again goes on where the last one was stopped.

On two CPU cores: less than half an hour by default. Expected: loss and error fall with N, and
agreement does not follow them; with the remedy `prior`, noise at grey 128 scores as at 64, and the
order of the distances is nearly the default's.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from skimage import transform

from experiments import runs
from experiments.data import bapps, distortions, graded_squares
from experiments.image_metrics import (
    ablated_lasi,
    ablation,
    ablation_page,
    choices,
    measured,
    named,
)
from experiments.image_metrics.ablated_lasi import Variant
from experiments.reports import tables
from experiments.runs import cells, timing
from lasi_jax import agreement
from lasi_jax.embedding import DECAY, RIDGE

QUESTION = runs.Question("experiments.lasi_ablation", files=("bapps",))
BASE = Variant(10, "causal", DECAY, RIDGE)
_TIMED = 5
_GREYS = (64, 128)

TOY: dict[str, Any] = {
    "sizes": (1, 10),
    "sides": (32, 48),
    "decays": (0.5,),
    "ridges": (1.0,),
    "remedies": ("prior",),
    "squares": 1,
    "num_resamples": 100,
}
"""What `toy` puts in place of options left at their default."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the ablation."""

    sizes: tuple[int, ...] = (1, 2, 4, 6, 8, 10, 12, 16, 24)
    """N, the numbers of elements that predict one."""
    sides: tuple[int, ...] = (32, 64, 128)
    """The sides of the images, in pixels: the greatest is what is cut from a photograph, the
    others are it at a lower resolution. All but the resolution is varied at 64, or the nearest."""
    decays: tuple[float, ...] = (0.3, 0.5, 0.65, 0.9, 0.95)
    """Weights of an example per unit of distance, beside the default 0.8."""
    ridges: tuple[float, ...] = (0.00627, 0.0627, 6.27, 62.7)
    """Ridges beside the default 0.627."""
    remedies: tuple[str, ...] = ablated_lasi.REMEDIES[1:]
    """Remedies against noise at middle grey, of which the default has none."""
    squares: int = 2
    """Squares of each photograph, 1 to 4."""
    bapps: Path | None = None
    """The folder of BAPPS, as it was published. Default: only the order of severity."""
    limit: int = 500
    """The first so many triplets of each subset of BAPPS."""
    num_resamples: int = 1000
    """Bootstrap resamples of every interval."""
    seed: int = 0
    """Seed of the distortions and resamples."""
    datasets: Path = Path("results/datasets")
    """Where BAPPS is kept once it is prepared."""
    output: Path | None = None
    """The folder of the run. Default: a folder in results, named after the options."""
    toy: bool = False
    """To see all of it quickly, too short for what is expected: of the options that are not
    given, two numbers of each, one square of a photograph, 100 resamples."""


def resolved(config: Config) -> Config:
    """The configuration with its defaults filled in, checked.

    Raises:
      ValueError: an option out of range.
    """
    config = runs.shortened(config, TOY) if config.toy else config
    runs.check_least(
        config, {"sizes": 1, "sides": 16, "squares": 1, "limit": 2, "num_resamples": 1}
    )
    runs.check_seed(config)
    runs.check_choices(config, "sizes")
    runs.check_choices(config, "sides")
    if max(config.sizes) > 24:
        raise ValueError(f"sizes must be at most 24, got {max(config.sizes)}")
    if config.squares > 4:
        raise ValueError(f"squares must be at most 4, got {config.squares}")
    for decay in config.decays:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"decays must lie between 0 and 1, got {decay}")
    for remedy in config.remedies:
        if remedy not in ablated_lasi.REMEDIES:
            known = ", ".join(ablated_lasi.REMEDIES)
            raise ValueError(f"remedies must be among {known}, got {remedy!r}")
    for ridge in config.ridges:
        if not 0.0 < ridge < float("inf"):
            raise ValueError(f"ridges must be positive, got {ridge}")
    return config


def plan(config: Config) -> list[tuple[Variant, int]]:
    """Every variant with the side of its images, each once, in the order of the report."""
    side = base_side(config)
    found = [(BASE._replace(neighborhood_size=n), s) for s in config.sides for n in config.sizes]
    found += [(Variant(n, "two-sided", DECAY, RIDGE), side) for n in config.sizes]
    found += [(BASE._replace(decay=decay), side) for decay in (DECAY, *config.decays)]
    found += [(BASE._replace(ridge=ridge), side) for ridge in config.ridges]
    found += [(BASE._replace(remedy=remedy), side) for remedy in config.remedies]
    return list(dict.fromkeys(found))


def base_side(config: Config) -> int:
    """The side at which all but the resolution is varied."""
    return min(config.sides, key=lambda side: abs(side - 64))


def _lower(images: np.ndarray, side: int) -> np.ndarray:
    """Images (..., greatest, greatest, 3) uint8 at the resolution of `side`."""
    if images.shape[-2] == side:
        return images
    flat = images.reshape(-1, *images.shape[-3:])
    small = [
        transform.resize(image / 255.0, (side, side), order=1, anti_aliasing=True) for image in flat
    ]
    return distortions.to_uint8(np.array(small)).reshape(*images.shape[:-3], side, side, 3)


def graded(config: Config) -> dict[int, graded_squares.Squares]:
    """The squares of every side."""
    greatest = graded_squares.graded(
        graded_squares.bundled(), size=max(config.sides), seed=config.seed, squares=config.squares
    )
    return {
        side: graded_squares.Squares(
            greatest.photographs,
            _lower(greatest.references, side),
            _lower(greatest.distorted, side),
        )
        for side in config.sides
    }


@functools.cache
def distance_of(variant: Variant) -> measured.Distance:
    """LASI in the package where it has the variant, and else as `ablated_lasi` has it."""
    if not _in_package(variant):
        return _ablated(variant)
    lasi: Any = named.metric(f"lasi_{variant.neighborhood_size}", None)
    return functools.partial(
        lasi,
        decay=variant.decay,
        ridge=variant.ridge,
        prior=1.0 if variant.remedy == "prior" else 0.0,
    )


def _in_package(variant: Variant) -> bool:
    return variant.neighborhood == "causal" and variant.remedy in ("none", "prior")


def _ablated(variant: Variant) -> measured.Distance:
    return lambda x, y: ablated_lasi.measure(x, y, variant=variant).distance


def name_of(variant: Variant, side: int) -> str:
    """Of the folder of a variant."""
    return (
        f"n{variant.neighborhood_size}-{variant.neighborhood}-d{variant.decay}"
        f"-r{variant.ridge}-s{side}"
    ) + f"-{variant.remedy.replace(' ', '_')}" * (variant.remedy != "none")


def regression(variant: Variant, images: np.ndarray) -> dict[str, float]:
    """The loss and the prediction error of a variant, means over images (image, side, side, 3)."""
    halves = np.array_split(images, 2)  # four squares or more of four photographs: an even number
    found = [ablated_lasi.measure(*pair, variant=variant) for pair in zip(*halves, strict=True)]
    return {
        "loss": float(np.mean([each.loss for each in found])),
        "prediction_error": float(np.mean([each.prediction_error for each in found])),
    }


def slowness(variant: Variant, pair: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """The milliseconds of a pair, and how many times as long as the base it takes.

    A variant that the package lacks is compared with the base in `ablated_lasi`.
    """
    if _in_package(variant):
        functions = [jax.jit(distance_of(each)) for each in (variant, BASE)]
    else:
        functions = [_ablated(each) for each in (variant, BASE)]
    calls = [functools.partial(function, *pair) for function in functions]
    seconds = timing.alternate(_TIMED, *calls)
    return {"milliseconds": 1e3 * seconds[0], "times_base": seconds[0] / seconds[1]}


def of_noise(variant: Variant, side: int, seed: int) -> dict[str, float]:
    """The distance of a flat image and the same with noise of one level, by grey."""
    noise = np.random.default_rng(seed).integers(-1, 2, (side, side, 3))
    distance = jax.jit(distance_of(variant))
    found = {}
    for grey in _GREYS:
        flat = np.full(noise.shape, grey, np.uint8)
        found[f"noise_at_{grey}"] = float(distance(flat, (flat + noise).astype(np.uint8)))
    return found


def _measured(
    config: Config,
    folder: Path,
    variant: Variant,
    side: int,
    squares: graded_squares.Squares,
    judged: dict,
) -> dict[str, Any]:
    """All numbers of a variant."""
    place = folder / "variants" / name_of(variant, side)
    metric = distance_of(variant)
    title = _title(variant, side)
    distances = measured.distances(place / "severity", metric, squares, title=title)
    of_base = measured.distances(
        folder / "variants" / name_of(BASE, side) / "severity",
        distance_of(BASE),
        squares,
        title=_title(BASE, side),
    )
    row: dict[str, Any] = {**variant._asdict(), "side": side}
    by_level, photographs = squares.by_level(distances), squares.photographs
    row |= ablation.order(by_level, photographs, config.num_resamples, config.seed)
    row["likeness"] = ablation.likeness(distances[:, 0], of_base[:, 0])
    row |= cells.cell(place / "noise.json", lambda: of_noise(variant, side, config.seed))
    references = squares.references
    row |= cells.cell(place / "regression.json", lambda: regression(variant, references))
    pair = (references[0], squares.distorted[0, 0, 0])
    row |= cells.cell(place / "time.json", lambda: slowness(variant, pair))
    if judged and side == base_side(config):  # BAPPS has one side for all
        row["two_afc"] = _two_afc(config, place, metric, title, judged)
    return row


def _title(variant: Variant, side: int) -> str:
    remedy = f", {variant.remedy}" * (variant.remedy != "none")
    return f"N {variant.neighborhood_size}, {variant.neighborhood}{remedy}, side {side}"


def _two_afc(
    config: Config, place: Path, metric, title: str, judged: dict
) -> dict[str, float | None]:
    """The 2AFC score in percent, the mean over subsets, with its interval over triplets."""
    scores = {}
    for subset, source in judged.items():
        first = measured.First(source, config.limit)
        path, name = place / "2afc" / subset, f"{title}, {subset}"
        distances = measured.distances(path, metric, first, title=name)
        scores[subset] = (*distances.T, source.judgements[: len(first)])
    interval = functools.partial(
        agreement.bootstrap_interval,
        jax.random.key(config.seed),
        num_resamples=config.num_resamples,
    )
    return choices.mean_of_subsets(scores, agreement.two_afc, interval)


def run(config: Config) -> dict[str, Any]:
    """Measure what is not there yet, save the report, and return its numbers."""
    asked, config = config, resolved(config)
    options = runs.options(config, without=("datasets", "output"))
    judged = bapps.load(config.bapps, config.datasets, kind="2afc") if config.bapps else {}
    squares = graded(config)
    sources = [*squares.values(), *judged.values()]
    options["contents"] = [source.contents for source in sources]
    this = QUESTION.run(asked, config, options)
    if (content := this.earlier()) is not None:
        return content
    variants = plan(config)
    first = squares[config.sides[0]]
    data = (
        f"{len(first.references)} squares of scikit-image's photographs, {len(first):,} "
        f"distortions; {len(variants)} variants"
    )
    if judged:
        data += (
            f"; BAPPS, at most {config.limit:,} triplets of each of {len(judged)} subsets, "
            f"{bapps.SIDE} pixels a side"
        )
    this.begin(data)
    rows = [
        _measured(config, this.folder, variant, side, squares[side], judged)
        for variant, side in variants
    ]
    content = {
        **this.head(data),
        "base": {**BASE._asdict(), "side": base_side(config)},
        "rows": rows,
    }
    table = tables.frame(rows)
    return this.save(
        content,
        ablation_page.markdown(content, table),
        lambda partial: ablation_page.draw(partial / "lasi_ablation.png", content, table),
    )


if __name__ == "__main__":
    QUESTION.main(__doc__, Config, run)
