"""Which distortion of a photograph does LASI find closest to the original?

    python -m experiments.compare_images
    python -m experiments.compare_images --reference a.png --candidates b.png c.jpg
    python -m experiments.compare_images --metrics ms_ssim deep --weights alexnet.safetensors

Ranks the candidates by LASI, of which lower is closer, beside SSIM and PSNR, of which higher is
closer, or by whatever `--metrics` names, in the order of the first. Equal values rank equal. Saves
the table, a figure, and LASI's distance of every pixel: `maps.npz` has the numbers, the folder
`maps` a picture of each in the image's own size.

LASI does not see the sign of contrast: a photograph's negative is at distance 0 of it and ranks
first. A line under the table names a candidate that LASI puts first (in the digits shown) and
another metric last, and one whose SSIM is below 0 as a negative's may be.

Files are read with 8 bits a channel; those with more are refused. Colours are compared in sRGB: a
file with another profile is converted, and a line says so.

By default the candidates are 21 graded distortions of one of scikit-image's photographs: under a
minute on two CPU cores. Expected there: within every kind LASI puts the mild level before the
strong one, and the shift by 1 pixel, 11th of 21 for SSIM and for PSNR, is 3rd.
"""

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from experiments import runs
from experiments.data import distortions, photographs
from experiments.image_metrics import comparison, comparison_page, deep_network, named
from experiments.runs import files


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the comparison."""

    reference: Path | None = None
    """The original, an image file. Default: a photograph that comes with scikit-image."""
    candidates: tuple[Path, ...] = ()
    """Image files of the reference's size to rank. Default: graded distortions of the reference."""
    photograph: photographs.BundledName = "astronaut"
    """The photograph used when no reference is given."""
    metrics: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            help=f"Metrics by name; the first one orders the table. {named.described()} Default: "
            "lasi_10 ssim psnr, and where weights are given deep."
        ),
    ] = ()
    neighborhood_size: int = 10
    """LASI's N in the default metrics, the number of elements that predict one."""
    weights: Path | None = None
    """The network of the metric `deep`, a .safetensors or .npz file; `python -m
    experiments.convert_weights` writes them."""
    heads: Path | None = None
    """LPIPS's weights of the network's channels, which make `deep` LPIPS."""
    shown: int = 11
    """How many candidates the figure shows: where there are more, evenly by rank."""
    seed: int = 0
    """Seed of the noise."""
    output: Path | None = None
    """A new folder for the results. Default: results/compare_images, numbered."""


def chosen(config: Config, network: deep_network.Network | None) -> tuple[str, ...]:
    """The names of the metrics, checked.

    Raises:
      ValueError: an unknown name, one that lacks its network, or one named twice.
    """
    runs.check_least(config, {"neighborhood_size": 1, "shown": 1, "seed": 0})
    default = (f"lasi_{config.neighborhood_size}", "ssim", "psnr") + ("deep",) * bool(network)
    if config.metrics and config.neighborhood_size != Config.neighborhood_size:
        raise ValueError(
            "neighborhood_size is of the default metrics: name "
            f"lasi_{config.neighborhood_size} in metrics instead, got {config.metrics}"
        )
    names = config.metrics or default
    named.check_all(names, network)
    return names


def load(config: Config) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
    """The reference's name, the reference, and the candidates by name."""
    if config.reference is None:
        if config.candidates:
            raise ValueError("candidates need a reference: add --reference FILE")
        name, reference = config.photograph, photographs.bundled(config.photograph)
    else:
        name, reference = config.reference.name, photographs.read(config.reference)
    if not config.candidates:
        return name, reference, distortions.graded(reference, config.seed)
    names = photographs.short_names(config.candidates)
    candidates: dict[str, np.ndarray] = {}
    for path, short in zip(config.candidates, names, strict=True):
        image = photographs.read(path)
        if image.shape != reference.shape:
            height, width = reference.shape[:2]
            raise ValueError(
                f"{path} must have the reference's size {width} x {height}, "
                f"it is {image.shape[1]} x {image.shape[0]}"
            )
        candidates[short] = image
    return name, reference, candidates


def run(config: Config) -> dict:
    """Compare, print, and save; returns what results.json holds."""
    network = deep_network.load(config.weights, config.heads)
    names = chosen(config, network)
    output = config.output or files.free_folder("compare_images")
    files.check_free(output)
    name, reference, candidates = load(config)
    titles = {each: named.title(each, network, reference.shape[:2]) for each in names}
    with files.new_folder(output) as folder:  # made first: a place that cannot be is told at once
        found = comparison.compare(reference, candidates, names, network)
        print(f"\nreference: {name}, {reference.shape[1]} x {reference.shape[0]}\n")
        noted = comparison.notes(found.values, titles)
        lines = [comparison.table(found.values, titles), *found.too_small.values(), *noted]
        print("\n".join(lines), end="\n\n")
        ordered = comparison.sorted_by_first(found.values)
        content = {
            "config": files.plain(dataclasses.asdict(config)),
            "versions": {"jax": jax.__version__},
            "backend": jax.default_backend(),
            "reference": name,
            "shape": list(reference.shape),
            "titles": titles,
            "scores": [
                {"name": candidate, **{n: v if math.isfinite(v) else None for n, v in row.items()}}
                for candidate, row in ordered.to_dict("index").items()
            ],
            "notes": noted,
        }
        files.write_json(folder / "results.json", content)
        comparison_page.draw(
            folder / "figure.png", reference, candidates, found, titles, most=config.shown
        )
        if found.maps:
            comparison_page.save_maps(folder, found)
    saved = ["results.json", "figure.png", *(("maps.npz", "maps") if found.maps else ())]
    print(f"saved {', '.join(str(output / each) for each in saved)}")
    return content


if __name__ == "__main__":
    runs.main(
        "experiments.compare_images",
        __doc__,
        Config,
        run,
        interrupted="interrupted, nothing was saved",
    )
