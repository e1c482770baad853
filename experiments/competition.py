"""Where do two image metrics disagree? Each attacks the other on a level set of its own.

    python -m experiments.competition
    python -m experiments.competition --first lasi_10 --second ssim --photograph coffee
    python -m experiments.competition --weights alexnet.safetensors --heads lpips.npz

The maximum differentiation competition of Wang and Simoncelli (2008). From a noisy photograph, one
metric's distance from the original stays fixed, and the other's goes as low and as high as it can:
two images, which the first metric calls equally far. With the roles changed, two more. Whoever looks
at them sees what the fixed metric does not: a pair that differs much to the eye speaks against it.

Saves the four images (as seen, and as they are in `images.safetensors`), how well the levels were
kept, and both metrics' values along the way. Each image is kept when it is done: the same command
again goes on with those that are missing.

On two CPU cores: about ten minutes by default. Expected: the levels are kept to 1e-4 of their
value all the way.
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import safetensors.numpy
from tqdm import tqdm

from experiments import (
    cell_files,
    competition_report,
    image_metrics,
    photographs,
    results,
    runs,
)
from experiments.competition_report import SIDES, Side
from lasi_jax import competition

_MODULE = "experiments.competition"
_FILES = ("reference", "weights", "heads")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the competition."""

    first: str = "lasi_10"
    """One metric, see `image_metrics`."""
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
