"""Image metrics by name, each a distance of two RGB images: less is closer.

mse, psnr     the mean squared error, and minus the peak signal-to-noise ratio in dB, which
              of equal images is taken to be 100 dB
ssim          1 - SSIM
ms_ssim       1 - MS-SSIM; on small images with as many of the five scales as fit
lasi_N        LASI with a neighbourhood of N elements, such as lasi_10; it does not see the sign
              of contrast: an image and its negative are at distance 0
deep          the deep-feature distance of a network whose weights are in a file; with
              LPIPS's weights of its channels it is LPIPS
a+b           both together: the geometric mean of two distances, in which the scale of
              neither counts, such as lasi_10+deep
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import lasi_jax
from lasi_jax import deep_features, structural
from lasi_jax.networks import lpips_heads, squeezenet, trunks

Distance = Callable[[jax.Array, jax.Array], jax.Array]
"""Of two images (height, width, 3), uint8 or floats in 0..1, to a scalar."""

DEEP = "deep"
_DEFAULT = ("psnr", "ssim", "ms_ssim", "lasi_4", "lasi_10", "lasi_16")
TITLES = {"mse": "MSE", "psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM"}
_KNOWN = f"{', '.join(TITLES)}, lasi_N (N at least 1), {DEEP}, or two of them joined by +"
_WINDOW = 11
_LEAST_ERROR = 1e-10


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of experiments that judge metrics."""

    metrics: tuple[str, ...] = ()
    """Metrics to judge: mse, psnr, ssim, ms_ssim, lasi_N, deep, or two joined by +, which is their
    geometric mean. Default: psnr ssim ms_ssim lasi_4 lasi_10 lasi_16, and where weights are
    given deep lasi_10+deep."""
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


class Network(NamedTuple):
    """A network that compares images.

    Attributes:
      title: such as "LPIPS (AlexNet)".
      features: image (height, width, 3) -> maps.
      heads: the weights of the channels of each map, or None.
    """

    title: str
    features: Callable[[Any], tuple[jax.Array, ...]]
    heads: tuple[jax.Array, ...] | None


def chosen(options: Options, network: Network | None) -> tuple[str, ...]:
    """The names of the metrics to judge.

    Raises:
      ValueError: an unknown name, a metric that lacks its network, or one that is named twice.
    """
    names = options.metrics or _DEFAULT + (network is not None) * (DEEP, f"lasi_10+{DEEP}")
    if len(set(names)) < len(names):
        raise ValueError(f"metrics must be all different, got {names}")
    for name in names:
        check(name, network)
    return names


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


def network(weights: Path | None, heads: Path | None) -> Network | None:
    """The network in a file, and LPIPS's weights of its channels in another.

    Args:
      weights: of AlexNet, VGG16 or SqueezeNet, see `trunks.load` and `squeezenet.load`.
      heads: of LPIPS 0.1, see `lpips_heads.load`; SqueezeNet 1.0 has none.

    Raises:
      ValueError, OSError: heads without weights, or files that hold something else.
    """
    if weights is None:
        if heads is not None:
            raise ValueError(f"heads need the weights of their network: add --weights, got {heads}")
        return None
    title, head, features = _trunk(weights)
    if heads is None:
        return Network(f"deep features ({title})", features, None)
    if head is None:
        raise ValueError(
            f"heads must be left out for {title}: LPIPS has them of AlexNet, VGG16 and "
            f"SqueezeNet 1.1 alone, got {heads}"
        )
    return Network(f"LPIPS ({title})", features, lpips_heads.load(heads, network=head))


def _trunk(weights: Path) -> tuple[str, Any, Callable]:
    """Title, name among LPIPS's heads, and features of the network in a file."""
    try:
        parameters = trunks.load(weights)
    except ValueError as no_trunk:
        try:
            parameters = squeezenet.load(weights)
        except ValueError as no_squeezenet:
            errors = dict.fromkeys((str(no_trunk), str(no_squeezenet)))  # of a bad file one alone
            raise ValueError("; ".join(errors)) from None
        head = "squeezenet" if parameters.version == "1.1" else None
        features = functools.partial(squeezenet.features, parameters=parameters)
        return f"SqueezeNet {parameters.version}", head, features
    title = {"alexnet": "AlexNet", "vgg16": "VGG16"}[parameters.network]
    return title, parameters.network, functools.partial(trunks.features, parameters=parameters)


def check(name: str, network: Network | None) -> None:
    """Refuse a name that no metric has, and a network's where there is none.

    Raises:
      ValueError: for one of both.
    """
    parts = name.split("+")
    for part in parts:
        known = part in (*TITLES, DEEP) or re.fullmatch(r"lasi_[1-9]\d*", part)
        if not known or len(parts) > 2:
            raise ValueError(f"metrics must be among {_KNOWN}; got {name!r}")
        if part == "psnr" and len(parts) > 1:
            raise ValueError(f"psnr has no zero and cannot be combined, take mse; got {name!r}")
    if DEEP in parts and network is None:
        raise ValueError(f"metric {name!r} needs a network: name the file of one with --weights")


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
    titles = {**TITLES, DEEP: network.title if network else DEEP}
    if size is not None and (fitting := scales(size)) < len(structural.WEIGHTS):
        titles["ms_ssim"] += f" ({fitting} scales)"
    return " with ".join(
        titles.get(part) or part.replace("lasi_", "LASI, N = ") for part in name.split("+")
    )


def metric(name: str, network: Network | None) -> Distance:
    """The metric of a name that `check` has let pass."""
    first, *second = (_single(part, network) for part in name.split("+"))
    if not second:
        return first

    def together(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sqrt(first(x, y) * second[0](x, y))

    return together


def _single(name: str, network: Network | None) -> Distance:
    if name == DEEP:
        assert network is not None
        return functools.partial(
            deep_features.distance, features=network.features, heads=network.heads
        )
    if name.startswith("lasi_"):
        size = int(name.removeprefix("lasi_"))
        return functools.partial(lasi_jax.distance, neighborhood_size=size)
    return {"mse": _mse, "psnr": _psnr, "ssim": _ssim, "ms_ssim": _ms_ssim}[name]


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
