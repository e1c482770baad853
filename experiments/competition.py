"""Where do two image metrics disagree? Each attacks the other on a level set of its own.

    python -m experiments.competition
    python -m experiments.competition --first lasi_10 --second ssim --photograph coffee
    python -m experiments.competition --weights alexnet.safetensors --heads lpips.npz

The maximum differentiation competition of Wang and Simoncelli (2008). From a noisy photograph, one
metric's distance from the original stays fixed, and the other's goes as low and as high as it can:
two images, which the first metric calls equally far. With the roles changed, two more. Whoever
looks at them sees what the fixed metric does not: a pair that differs much to the eye speaks
against it.

Saves the four images (as seen, and as they are in `images.safetensors`), how well the levels were
kept, and both metrics' values along the way. Each image is kept when it is done: the same command
again goes on with those that are missing.

On two CPU cores: about three minutes by default, without `deep`. Expected: the levels are kept to
1e-4 of their value all the way.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import safetensors.numpy
import tyro
from PIL import Image
from tqdm import tqdm

from experiments import runs
from experiments.data import distortions, photographs
from experiments.image_metrics import competition_page, deep_network, extremes, named
from experiments.image_metrics.extremes import SIDES, Side
from experiments.runs import cells, files
from lasi_jax import competition

QUESTION = runs.Question("experiments.competition", files=("reference", "weights", "heads"))


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the competition."""

    first: Annotated[str, tyro.conf.arg(help=f"One metric, by name. {named.described()}")] = (
        "lasi_10"
    )
    second: str | None = None
    """The other one. Default: ms_ssim, or deep where weights are given."""
    reference: Path | None = None
    """The original, an image file. Default: a photograph that comes with scikit-image."""
    photograph: photographs.BundledName = "astronaut"
    """The photograph used when no reference is given."""
    size: int = 192
    """The side of the square in the middle of the original, in pixels."""
    noise: float = 0.08
    """The standard deviation of the noise at the start, the range of values being 0..1."""
    num_steps: int = 100
    """Steps to each of the four images."""
    weights: Path | None = None
    """The network of the metric `deep`, a .safetensors or .npz file."""
    heads: Path | None = None
    """LPIPS's weights of the network's channels, which make `deep` LPIPS."""
    seed: int = 0
    """Seed of the noise."""
    output: Path | None = None
    """The folder of the run. Default: a folder in results, named after the options."""


def resolved(config: Config) -> Config:
    """The configuration with its defaults filled in, checked.

    Raises:
      ValueError: an option out of range.
    """
    if config.second is None:
        config = dataclasses.replace(config, second="deep" if config.weights else "ms_ssim")
    runs.check_least(config, {"size": 16, "num_steps": 1, "seed": 0})
    if config.first == config.second:
        raise ValueError(f"first and second must be different metrics, got {config.first} twice")
    for name in filter(None, (config.first, config.second)):
        if (found := named.row(name)) and not found[0].has_zero:
            raise ValueError(f"{name} has no zero and cannot be held, take mse")
    if not 0.0 < config.noise < 1.0:
        raise ValueError(f"noise must lie between 0 and 1, got {config.noise}")
    return config


def begun(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The reference and the start (size, size, 3), floats in 0..1."""
    given = config.reference
    image = photographs.read(given) if given else photographs.bundled(config.photograph)
    height, width = image.shape[:2]
    if min(height, width) < config.size:
        raise ValueError(
            f"size must fit into the original, got {config.size} for one of {width} x {height}"
        )
    top, left = (height - config.size) // 2, (width - config.size) // 2
    square = image[top : top + config.size, left : left + config.size].astype(np.float32) / 255
    noise = np.random.default_rng(config.seed).standard_normal(square.shape)
    return square, np.clip(square + config.noise * noise, 0.0, 1.0).astype(np.float32)


def _extreme(
    config: Config,
    images: tuple[np.ndarray, np.ndarray],
    roles: dict[str, named.Distance],
    side: Side,
    begin: Callable,
    path: Path,
) -> dict[str, Any]:
    """Walk to one of the four images, save it, and return its numbers.

    Args:
      config: of the run.
      images: the reference and the start.
      roles: the metrics that are held and moved.
      side: which image.
      begin: `competition.begin` of these metrics, compiled.
      path: of the image.
    """
    reference, start = images
    direction = side.split("_")[1]
    step = jax.jit(functools.partial(competition.step, **roles, direction=direction))
    state = begin(reference, start)
    if not 0.0 < float(state.level) < float("inf"):
        raise ValueError(
            f"noise must move both metrics away from 0, got {config.noise} with a level of "
            f"{float(state.level):g}"
        )
    levels, values = [state.held], [state.moved]
    progress = tqdm(range(config.num_steps), desc=side, unit="step", disable=None)
    for _ in progress:
        state = step(reference, state)
        levels.append(state.held)
        values.append(state.moved)
        progress.set_postfix(moved=f"{float(state.moved):.4g}")
    seen = distortions.to_uint8(np.asarray(state.image))
    after = begin(reference, seen.astype(np.float32) / 255.0)
    files.save_tensors(path, {"image": np.ascontiguousarray(state.image)})
    return extremes.of_walk(
        np.array(levels, np.float64),
        np.array(values, np.float64),
        (float(after.held), float(after.moved)),
    )


def run(config: Config) -> dict[str, Any]:
    """Walk to the images that are not there yet, save the report, and return its numbers."""
    asked, config = config, resolved(config)
    assert config.second is not None
    network = deep_network.load(config.weights, config.heads)
    names = {"first": config.first, "second": config.second}
    for name in names.values():
        named.check(name, network)
    reference, start = begun(config)
    options = runs.options(config, without=("output",)) | named.digests(config)
    options["reference"] = config.reference and named.digest(config.reference)
    this = QUESTION.run(asked, config, options)
    if (content := this.earlier()) is not None:
        return content
    data = (
        f"{config.reference.name if config.reference else config.photograph}, {config.size} "
        f"pixels a side, with noise of standard deviation {config.noise:g}"
    )
    this.begin(data)
    metrics = {role: named.metric(name, network) for role, name in names.items()}
    sides = {}
    for moved, held, both in (("first", "second", SIDES[:2]), ("second", "first", SIDES[2:])):
        roles = {"moved": metrics[moved], "held": metrics[held]}
        begin = jax.jit(functools.partial(competition.begin, **roles))
        for side in both:
            path = this.folder / f"{side}.safetensors"
            extreme = functools.partial(
                _extreme, config, (reference, start), roles, side, begin, path
            )
            sides[side] = cells.cell(this.folder / "cells" / f"{side}.json", extreme)
    floats = {
        side: safetensors.numpy.load_file(this.folder / f"{side}.safetensors")["image"]
        for side in SIDES
    }
    content = {
        **this.head(data),
        "titles": {role: named.distance_title(name, network) for role, name in names.items()},
        "sides": sides,
    }

    def draw(partial: Path) -> None:
        every = {"reference": reference, "start": start, **floats}
        seen = {name: distortions.to_uint8(image) for name, image in every.items()}
        for name, image in seen.items():
            Image.fromarray(image).save(partial / f"{name}.png")
        files.save_tensors(partial / "images.safetensors", every)
        competition_page.draw(partial / "competition.png", content, seen)

    return this.save(content, competition_page.markdown(content), draw)


if __name__ == "__main__":
    QUESTION.main(__doc__, Config, run)
