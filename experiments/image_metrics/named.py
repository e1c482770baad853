"""Image metrics by name, each a distance of two RGB images: less is closer.

`METRICS` is the table of them. What judges or compares metrics reads it, so that a new metric is a
row there and nothing else:

    Metric("mae", "MAE", "the mean absolute error", lambda n, network: mean_absolute_error)

Two names joined by +, such as lasi_10+deep, are the geometric mean of two distances, in which the
scale of neither counts.
"""

import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro

import lasi_jax
from experiments.image_metrics.deep_network import Network
from lasi_jax import deep_features, structural

Distance = Callable[[jax.Array, jax.Array], jax.Array]
"""Of two images (height, width, 3), uint8 or floats in 0..1, to a scalar, or to one a pixel."""

_DEFAULT = ("psnr", "ssim", "ms_ssim", "lasi_4", "lasi_10", "lasi_16")
_WITH_NETWORK = ("deep", "lasi_10+deep")
_WINDOW = 11
_LEAST_ERROR = 1e-10


class Display(NamedTuple):
    """How readers know a metric: by a value that need not be its distance, as SSIM's is not.

    Attributes:
      value: of a distance, such as SSIM = 1 - distance.
      digits: of it, behind the point.
      higher_is_closer: whether a higher value is closer.
    """

    value: Callable[[float], float] = float
    digits: int = 4
    higher_is_closer: bool = False


class Metric(NamedTuple):
    """A row of the table.

    Attributes:
      name: as options have it; an N at its end, as in lasi_N, stands for a number from 1 on.
      title: as readers want it, with {n} for that number and {network} for the network.
      described: what it is, in a line of `--help`.
      make: the number (0 without one) and the network -> the distance.
      make_map: the same -> the distance of every pixel (height, width), whose mean is the distance.
      display: how readers know it.
      distance_title: of the distance, where it is not what readers know by the title.
      has_zero: whether equal images are at 0, which a ratio, a level or a product of two needs.
      needs_network: whether it compares by a network, whose file the user names.
    """

    name: str
    title: str
    described: str
    make: Callable[[int, Network | None], Distance]
    make_map: Callable[[int, Network | None], Distance] | None = None
    display: Display = Display()
    distance_title: str | None = None
    has_zero: bool = True
    needs_network: bool = False


def unit(image: jax.Array) -> jax.Array:
    """An image as floats in 0..1."""
    image = jnp.asarray(image)
    return image.astype(jnp.float32) / 255.0 if image.dtype == jnp.uint8 else image


def _mse(x: jax.Array, y: jax.Array) -> jax.Array:
    if x.dtype == y.dtype == jnp.uint8:  # divided before, equal numbers may differ once compiled
        difference = (x.astype(jnp.float32) - y.astype(jnp.float32)) / 255.0
    else:
        difference = unit(x) - unit(y)
    return jnp.mean(jnp.square(difference))


def _psnr(x: jax.Array, y: jax.Array) -> jax.Array:
    return 10.0 * jnp.log10(jnp.maximum(_mse(x, y), _LEAST_ERROR))


def _decibels(psnr: float) -> float:
    """PSNR from its distance, which ends where images are as good as equal."""
    return -psnr if psnr > 10.0 * math.log10(_LEAST_ERROR) + 1e-4 else math.inf


def _ssim(x: jax.Array, y: jax.Array) -> jax.Array:
    return 1.0 - structural.ssim(x, y)


def scales(shape: tuple[int, ...]) -> int:
    """How many of MS-SSIM's five scales fit an image: each halves it and holds a window."""
    side, fitting = min(shape[:2]), 0
    while side >= _WINDOW and fitting < len(structural.WEIGHTS):
        side, fitting = -(-side // 2), fitting + 1
    return max(1, fitting)


def _ms_ssim(x: jax.Array, y: jax.Array) -> jax.Array:
    return 1.0 - structural.ms_ssim(x, y, weights=structural.WEIGHTS[: scales(x.shape)])


def _lasi(n: int, _: Network | None) -> Distance:
    return functools.partial(lasi_jax.distance, neighborhood_size=n)


def _lasi_map(n: int, _: Network | None) -> Distance:
    return lambda x, y: lasi_jax.distance_map(x, y, neighborhood_size=n).mean(-1)


def _deep(_: int, network: Network | None) -> Distance:
    assert network is not None
    return functools.partial(deep_features.distance, features=network.features, heads=network.heads)


_SIMILARITY = Display(lambda distance: 1.0 - distance, higher_is_closer=True)
METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric(
            "mse",
            "MSE",
            "the mean squared error",
            lambda n, network: _mse,
            display=Display(digits=6),
        ),
        Metric(
            "psnr",
            "PSNR",
            "the peak signal-to-noise ratio in dB, its distance minus that, of equal images -100",
            lambda n, network: _psnr,
            display=Display(_decibels, digits=2, higher_is_closer=True),
            distance_title="-PSNR",
            has_zero=False,
        ),
        Metric(
            "ssim",
            "SSIM",
            "its distance is 1 - SSIM",
            lambda n, network: _ssim,
            display=_SIMILARITY,
            distance_title="1 - SSIM",
        ),
        Metric(
            "ms_ssim",
            "MS-SSIM",
            "with as many of its five scales as fit, its distance 1 - MS-SSIM",
            lambda n, network: _ms_ssim,
            display=_SIMILARITY,
            distance_title="1 - MS-SSIM",
        ),
        Metric(
            "lasi_N",
            "LASI, N = {n}",
            "LASI with a neighbourhood of N elements; an image and its negative are at 0",
            _lasi,
            _lasi_map,
        ),
        Metric(
            "deep",
            "{network}",
            "deep features of the network in --weights; with LPIPS's --heads it is LPIPS",
            _deep,
            needs_network=True,
        ),
    )
}
"""Every metric by its name."""


def row(name: str) -> tuple[Metric, int] | None:
    """The row of a single name and the number in it, 0 without one; None of an unknown name."""
    if name in METRICS and not name.endswith("_N"):
        return METRICS[name], 0
    stem, _, number = name.rpartition("_")
    found = METRICS.get(f"{stem}_N")
    return (found, int(number)) if found and re.fullmatch(r"[1-9]\d*", number) else None


def rows(name: str) -> list[tuple[Metric, int]]:
    """The row and the number of each part of a name that `check` has let pass."""
    found = [row(part) for part in name.split("+")]
    return [each for each in found if each is not None]


def known() -> str:
    """The names of the table in a sentence."""
    listed = [f"{n} (N at least 1)" if n.endswith("_N") else n for n in METRICS]
    return f"{', '.join(listed)}, or two of them joined by +"


def described() -> str:
    """The names of the table with what they are, for `--help`."""
    listed = "; ".join(f"{name}: {metric.described}" for name, metric in METRICS.items())
    return f"{listed}; two joined by +: the geometric mean of two distances."


Metrics = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        help=f"Metrics to judge, by name. {described()} Default: {' '.join(_DEFAULT)}, and where "
        f"weights are given {' '.join(_WITH_NETWORK)}."
    ),
]


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of experiments that judge metrics."""

    metrics: Metrics = ()
    weights: Path | None = None
    """The network of the metric `deep`, a .safetensors or .npz file: torchvision's AlexNet, VGG16
    or SqueezeNet, or Caffe's SqueezeNet."""
    heads: Path | None = None
    """LPIPS's weights of the network's channels, which make `deep` LPIPS."""
    num_resamples: int = 1000
    """Bootstrap resamples of every interval."""
    seed: int = 0
    """Seed of what is random."""
    output: Path | None = None
    """The folder of the run. Default: a folder in results, named after the options."""


def chosen(options: Options, network: Network | None) -> tuple[str, ...]:
    """The names of the metrics to judge.

    Raises:
      ValueError: as of `check_all`.
    """
    names = options.metrics or _DEFAULT + (network is not None) * _WITH_NETWORK
    check_all(names, network)
    return names


def check_all(names: tuple[str, ...], network: Network | None) -> None:
    """Refuse names of which one is bad, or stands twice.

    Raises:
      ValueError: an unknown name, a metric that lacks its network, or one that is named twice.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"metrics must be all different, got {names}")
    for name in names:
        check(name, network)


def check(name: str, network: Network | None) -> None:
    """Refuse a name that no metric has, and a network's where there is none.

    Raises:
      ValueError: for one of both.
    """
    parts = name.split("+")
    found = rows(name)
    if len(found) < len(parts) or len(parts) > 2:
        raise ValueError(f"metrics must be among {known()}; got {name!r}")
    for metric, _ in found:
        if len(found) > 1 and not metric.has_zero:
            raise ValueError(
                f"{metric.name} has no zero and cannot be combined, take mse; got {name!r}"
            )
        if metric.needs_network and network is None:
            raise ValueError(
                f"metric {name!r} needs a network: name the file of one with --weights"
            )


def digests(options: Any) -> dict[str, str | None]:
    """What the files of the network hold, so that a run with others is told apart."""
    return {
        name: path and digest(path)
        for name, path in (("weights", options.weights), ("heads", options.heads))
    }


def digest(path: Path) -> str:
    """What a file holds, in sixteen digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def check_size(names: Iterable[str], network: Network | None, size: tuple[int, int]) -> None:
    """Refuse images (height, width) that are too small for one of the metrics.

    Raises:
      ValueError: they are.
    """
    image = jax.ShapeDtypeStruct((*size, 3), jnp.uint8)
    for name in names:
        try:
            jax.eval_shape(metric(name, network), image, image)
        except ValueError as error:
            raise ValueError(f"metric {name!r} on {size[0]} x {size[1]} pixels: {error}") from None


def title(name: str, network: Network | None, size: tuple[int, int] | None = None) -> str:
    """The name of a metric as a reader wants it.

    Args:
      name: that `check` has let pass.
      network: of the metric `deep`.
      size: (height, width) of the images, which tells how many scales MS-SSIM has.
    """
    found = []
    for of_part, n in rows(name):
        named = of_part.title.format(n=n, network=network.title if network else of_part.name)
        if of_part.name == "ms_ssim" and size is not None:
            fitting = scales(size)
            named += f" ({fitting} scales)" * (fitting < len(structural.WEIGHTS))
        found.append(named)
    return " with ".join(found)


def distance_title(name: str, network: Network | None) -> str:
    """The name of a metric's distance as a reader wants it, such as 1 - SSIM."""
    (first, _), *more = rows(name)
    return title(name, network) if more or not first.distance_title else first.distance_title


def display(name: str) -> Display:
    """How readers know a metric; of two joined, by the distance."""
    (first, _), *more = rows(name)
    return Display() if more else first.display


def metric(name: str, network: Network | None) -> Distance:
    """The metric of a name that `check` has let pass."""
    first, *second = (of_part.make(n, network) for of_part, n in rows(name))
    if not second:
        return first

    def together(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sqrt(first(x, y) * second[0](x, y))

    return together


def pixel_map(name: str, network: Network | None) -> Distance | None:
    """The distance of every pixel (height, width) by a metric; None where it has none."""
    (first, n), *more = rows(name)
    return None if more or first.make_map is None else first.make_map(n, network)
