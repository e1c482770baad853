"""SqueezeNet: an image as the feature maps of a small network trained on ImageNet.

Convolutions of 1x1 and 3x3 alone, 1.2 million weights. They are read from a
file, so the module is imported by name: `from lasi_jax.networks import squeezenet`.
How a file wants its input (the order of channels, mean, scale) is part of the
parameters that `load` returns: images here are RGB, like everywhere.

With `functools.partial(features, parameters=parameters)` the network is a
function image -> maps, which says nothing of weights any more.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from lasi_jax.networks import convolution, weight_files
from lasi_jax.networks.convolution import Convolution, convolve_relu, pool_3x3_over_the_edge

# Every fire module squeezes to the first number of channels and expands to twice the second.
_FIRES = {
    **{"fire2": (16, 64), "fire3": (16, 64), "fire4": (32, 128), "fire5": (32, 128)},
    **{"fire6": (48, 192), "fire7": (48, 192), "fire8": (64, 256), "fire9": (64, 256)},
}
_CLASSES = 1000

LAYERS = ("conv1", *_FIRES)
# Where LPIPS compares two images (Zhang et al., CVPR 2018).
LPIPS_LAYERS = ("conv1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")


class _Version(NamedTuple):
    """What tells the two networks apart: the first convolution, and where they pool."""

    channels: int
    kernel: int
    pooled: tuple[str, ...]

    @property
    def smallest(self) -> int:
        """The side at which the last of three poolings still has an element: conv1 gives 8."""
        return self.kernel + 14


_VERSIONS = {
    "1.0": _Version(96, 7, ("conv1", "fire4", "fire8")),
    "1.1": _Version(64, 3, ("conv1", "fire3", "fire5")),
}


# A registered dataclass, no NamedTuple: `jit` must see version and border as static.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Parameters:
    """A SqueezeNet: its weights, and how an image has to enter them.

    A tree of arrays; version and border are static. The network computes in the
    precision of the arrays.

    Args:
      convolutions: `Convolution`s by name: conv1, fire2.squeeze, fire2.expand1x1,
        fire2.expand3x3, ..., conv10.
      mean: (3,), subtracted from RGB values in [0, 1].
      deviation: (3,), by which the difference is divided.
      version: "1.0" or "1.1".
      border: the width of the frame of zeros around the input of conv10.

    Source: Iandola et al., arXiv 1602.07360.

    Example:
      >>> parameters = initialize(jax.random.key(0), version="1.1")
      >>> sum(array.size for pair in parameters.convolutions.values() for array in pair)
      1235496
    """

    convolutions: dict[str, Convolution]
    mean: jax.Array
    deviation: jax.Array
    version: str = dataclasses.field(metadata={"static": True})
    border: int = dataclasses.field(metadata={"static": True})


def _check_version(version: Any) -> _Version:
    if version not in tuple(_VERSIONS):
        raise ValueError(f"version must be one of {', '.join(_VERSIONS)}, got {version!r}")
    return _VERSIONS[version]


def _shapes(version: str) -> dict[str, tuple[int, int, int, int]]:
    """(out, in, height, width) of every convolution, in the order of the network."""
    channels, kernel, _ = _check_version(version)
    shapes = {"conv1": (channels, 3, kernel, kernel)}
    for fire, (squeeze, expand) in _FIRES.items():
        shapes[f"{fire}.squeeze"] = (squeeze, channels, 1, 1)
        shapes[f"{fire}.expand1x1"] = (expand, squeeze, 1, 1)
        shapes[f"{fire}.expand3x3"] = (expand, squeeze, 3, 3)
        channels = 2 * expand
    return shapes | {"conv10": (_CLASSES, channels, 1, 1)}


def _parameters(convolutions, mean, deviation, version: str, border: int) -> Parameters:
    mean, deviation = (jnp.array(rgb, jnp.float32) for rgb in (mean, deviation))
    return Parameters(convolutions, mean, deviation, version, border)


def initialize(key: jax.Array, *, version: str) -> Parameters:
    """An untrained SqueezeNet with random weights.

    Args:
      key: of the weights.
      version: "1.0" or "1.1".

    Returns:
      `Parameters` in float32: weights uniform around 0 with variance 2 / fan-in,
      biases 0; images enter by the mean and the deviation of ImageNet.

    Raises:
      ValueError: another version.

    Source: torchvision, `models.squeezenet`, but there conv10 is normal with
    standard deviation 0.01.

    Example:
      >>> initialize(jax.random.key(0), version="1.1").convolutions["conv1"].weight.shape
      (3, 3, 3, 64)
    """
    convolutions = convolution.initialize(key, shapes=_shapes(version))
    return _parameters(convolutions, convolution.MEAN, convolution.DEVIATION, version, 0)


class _Layout(NamedTuple):
    """How a source names its convolutions and what it wants to be fed."""

    title: str
    version: str
    names: dict[str, str]
    suffixes: tuple[str, str]
    is_bgr: bool
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    border: int

    def arrays(self) -> dict[str, tuple[int, ...]]:
        """The shape of every array in the file."""
        weight, bias = self.suffixes
        shapes = {}
        for name, shape in _shapes(self.version).items():
            shapes |= {self.names[name] + weight: shape, self.names[name] + bias: shape[:1]}
        return shapes


def _caffe() -> _Layout:
    """The network as its authors' compressed model has it: BGR in 0..255, a mean, no scale."""
    parts = {"squeeze": "conv1x1_1", "expand1x1": "conv1x1_2", "expand3x3": "conv3x3_2"}
    names = {
        f"{fire}.{ours}": f"{fire}/{theirs}" for fire in _FIRES for ours, theirs in parts.items()
    }
    names |= {"conv1": "conv1", "conv10": "conv_final"}
    # Of RGB in 0..1, as images are here: divided by 1 / 255, they are back in 0..255.
    mean, deviation = (123 / 255, 117 / 255, 104 / 255), (1 / 255,) * 3
    return _Layout("Caffe's SqueezeNet 1.0", "1.0", names, ("/w", "/b"), True, mean, deviation, 1)


def _torchvision(version: str, places: tuple[int, ...]) -> _Layout:
    """A state dict of torchvision, whose poolings take places in the count too."""
    title = f"torchvision's squeezenet{version.replace('.', '_')}"
    names = {
        f"{fire}.{part}": f"features.{place}.{part}"
        for fire, place in zip(_FIRES, places, strict=True)
        for part in ("squeeze", "expand1x1", "expand3x3")
    }
    names |= {"conv1": "features.0", "conv10": "classifier.1"}
    suffixes = (".weight", ".bias")
    mean, deviation = convolution.MEAN, convolution.DEVIATION
    return _Layout(title, version, names, suffixes, False, mean, deviation, 0)


_LAYOUTS = {
    layout.title: layout
    for layout in (
        _caffe(),
        _torchvision("1.0", (3, 4, 5, 7, 8, 9, 10, 12)),
        _torchvision("1.1", (3, 4, 6, 7, 9, 10, 11, 12)),
    )
}


def load(path: str | os.PathLike[str]) -> Parameters:
    """A trained SqueezeNet from a file.

    Which of three sources it comes from is told by the names and shapes of its
    arrays: Caffe's version 1.0 (`conv1/w`, `fire2/conv1x1_1/b`, ...), whose input
    is BGR in 0..255 less (104, 117, 123) and whose conv10 has a border of 1, or
    torchvision's `squeezenet1_0` and `squeezenet1_1` (`features.0.weight`, ...),
    whose input is RGB by mean and deviation. All weights are (out, in, height,
    width). Where torch and torchvision are installed, this writes such a file::

        safetensors.torch.save_file(
            torchvision.models.squeezenet1_1(weights="DEFAULT").state_dict(),
            "squeezenet1_1.safetensors",
        )

    Args:
      path: of an `.npz` archive or a `.safetensors` file.

    Returns:
      `Parameters` in float32, for RGB images.

    Raises:
      OSError: no such file, or not to be read.
      ImportError: a `.safetensors` file, but no package `safetensors`.
      ValueError: another extension, a broken or pickled file, and arrays that are
        missing, superfluous, of another shape, not floating, NaN or infinite.

    Source: the prototxt of songhan/SqueezeNet-Deep-Compression for Caffe; torchvision,
    `models.squeezenet`.

    Example:
      >>> parameters = load("squeezenet1_1.safetensors")  # doctest: +SKIP
      >>> load("squeezenet1_1.h5")
      Traceback (most recent call last):
      ValueError: path must end in .npz or .safetensors, got 'squeezenet1_1.h5'
    """
    shapes = {title: layout.arrays() for title, layout in _LAYOUTS.items()}
    title, arrays = weight_files.load(path, shapes, content="a SqueezeNet")
    layout = _LAYOUTS[title]
    convolutions = {}
    for name, source in layout.names.items():
        weight, bias = (arrays[source + suffix] for suffix in layout.suffixes)
        if name == "conv1" and layout.is_bgr:
            # Once in the weights instead of in every image.
            weight = weight[:, ::-1]
        convolutions[name] = convolution.from_file(weight, bias)
    return _parameters(convolutions, layout.mean, layout.deviation, layout.version, layout.border)


def _fire(planes: jax.Array, convolutions: dict[str, Convolution], name: str) -> jax.Array:
    squeezed = convolve_relu(planes, convolutions[f"{name}.squeeze"])
    narrow = convolve_relu(squeezed, convolutions[f"{name}.expand1x1"])
    wide = convolve_relu(squeezed, convolutions[f"{name}.expand3x3"], padding=1)
    return jnp.concatenate([narrow, wide], -1)


def _maps(planes: jax.Array, parameters: Parameters) -> Iterator[tuple[str, jax.Array]]:
    """Name and map of one layer after the other, each computed when it is asked for."""
    pooled = _VERSIONS[parameters.version].pooled
    planes = convolve_relu(planes, parameters.convolutions["conv1"], stride=2)
    yield "conv1", planes
    for before, name in itertools.pairwise(LAYERS):
        planes = pool_3x3_over_the_edge(planes) if before in pooled else planes
        planes = _fire(planes, parameters.convolutions, name)
        yield name, planes


def _enter(image: Any, parameters: Any, value_range: tuple[float, float]) -> jax.Array:
    """The image as the first convolution wants it."""
    if not isinstance(parameters, Parameters):
        raise TypeError(
            "parameters must be squeezenet.Parameters, as load returns them, "
            f"got {type(parameters).__name__}"
        )
    return convolution.enter(
        image,
        mean=parameters.mean,
        deviation=parameters.deviation,
        value_range=value_range,
        smallest=_check_version(parameters.version).smallest,
        network=f"SqueezeNet {parameters.version}",
    )


def features(
    image: ArrayLike,
    *,
    parameters: Parameters,
    layers: Sequence[str] = LPIPS_LAYERS,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[jax.Array, ...]:
    """The feature maps of an image (H W 3, channels last), after their ReLU, before any pooling.

    One feature vector of the image is the mean of a map: `maps[-1].mean((0, 1))`.

    Args:
      image: (height, width, 3), RGB; floats in `value_range`, or uint8. Any size
        from 21 (version 1.0) or 17 (1.1) upwards; the weights were trained on
        227 or 224. Batches go through `jax.vmap`. Under `jit` no values are looked at:
        floats of 0..255 at the default range give wrong maps in silence, unless the caller
        checks by `jax.experimental.checkify`.
      parameters: of the network, from `load` or `initialize`.
      layers: names out of `LAYERS`; by default those that LPIPS compares. What
        comes after the last of them is not computed.
      value_range: the least and the greatest value of a float image. uint8 is
        always read as 0..255.

    Returns:
      One map (height', width', channel) per layer, in the order of `layers` and
      the precision of the parameters. For 227 x 227, conv1 has 111 x 111 x 96
      (1.0) or 113 x 113 x 64 (1.1), and fire9 13 x 13 or 14 x 14, of 512.

    Raises:
      TypeError: dtypes other than floats and uint8, no array, or no `Parameters`.
      ValueError: another shape, too small an image, unknown layers, or concrete
        values outside the range or NaN.

    Source: Iandola et al., arXiv 1602.07360; version 1.1 from its repository. The
    seven slices of Zhang et al., CVPR 2018, in either version by the same names.

    Example:
      >>> parameters = initialize(jax.random.key(0), version="1.1")
      >>> conv1, fire2 = features(
      ...     jnp.full((32, 32, 3), 0.5), parameters=parameters, layers=("conv1", "fire2")
      ... )
      >>> conv1.shape, fire2.shape
      ((15, 15, 64), (7, 7, 128))
    """
    layers = convolution.check_layers(layers, LAYERS)
    planes = _enter(image, parameters, value_range)
    return convolution.select(_maps(planes, parameters), layers)


def logits(
    image: ArrayLike, *, parameters: Parameters, value_range: tuple[float, float] = (0.0, 1.0)
) -> jax.Array:
    """An image's (H W 3, channels last) scores of ImageNet's classes: softmax makes probabilities.

    Args:
      image: as in `features`.
      parameters: as in `features`.
      value_range: as in `features`.

    Returns:
      (1000,), the means over the image of conv10 after its ReLU, hence no negative
      ones; the classes in the order of ILSVRC 2012. Nothing is dropped out.

    Raises:
      As `features`.

    Source: Iandola et al., arXiv 1602.07360. Weights of Caffe see zeros around
    fire9 and average over that frame too, as their prototxt says.

    Example:
      >>> parameters = initialize(jax.random.key(0), version="1.1")
      >>> logits(jnp.full((32, 32, 3), 0.5), parameters=parameters).shape
      (1000,)
    """
    (planes,) = features(image, parameters=parameters, layers=LAYERS[-1:], value_range=value_range)
    scores = convolve_relu(planes, parameters.convolutions["conv10"], padding=parameters.border)
    return scores.mean((0, 1))
