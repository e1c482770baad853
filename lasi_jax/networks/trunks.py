"""AlexNet and VGG16: an image as the feature maps of their convolutions.

The trunks of torchvision's versions, in front of which LPIPS has its weights of
channels. Theirs are read from a file, so the module is imported by name:
`from lasi_jax.networks import trunks`. In an environment that has torch and torchvision
the file is written by::

    safetensors.torch.save_file(
        torchvision.models.alexnet(weights="DEFAULT").state_dict(), "alexnet.safetensors"
    )

and alike for `vgg16`, and for `squeezenet1_1`, which `lasi_jax.networks.squeezenet` reads.

With `functools.partial(features, parameters=parameters)` the network is a
function image -> maps, which says nothing of weights any more.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from lasi_jax.networks import convolution, weight_files
from lasi_jax.networks.convolution import Convolution, convolve_relu, pool_2x2, pool_3x3


class _Layer(NamedTuple):
    """A convolution: its place in torchvision's `features`, and (out, in, height, width)."""

    place: int
    shape: tuple[int, int, int, int]
    stride: int = 1
    padding: int = 1
    pools: bool = False  # before it


class _Network(NamedTuple):
    title: str
    pool: Callable[[jax.Array], jax.Array]
    smallest: int  # the side at which the last pooling still has an element
    layers: dict[str, _Layer]

    def arrays(self) -> dict[str, tuple[int, ...]]:
        """The shape of every array in the file."""
        shapes = {}
        for place, shape, *_ in self.layers.values():
            shapes[f"features.{place}.weight"] = shape
            shapes[f"features.{place}.bias"] = shape[:1]
        return shapes


def _vgg16() -> dict[str, _Layer]:
    """Blocks of 3x3; in `features` a convolution and its ReLU take two places, a pooling one."""
    layers, place, before = {}, 0, 3
    for block, (channels, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        for i in range(depth):
            pools = block > 0 and i == 0
            place += pools
            layer = _Layer(place, (channels, before, 3, 3), pools=pools)
            layers[f"conv{block + 1}_{i + 1}"] = layer
            place, before = place + 2, channels
    return layers


_ALEXNET = {
    "conv1": _Layer(0, (64, 3, 11, 11), stride=4, padding=2),
    "conv2": _Layer(3, (192, 64, 5, 5), padding=2, pools=True),
    "conv3": _Layer(6, (384, 192, 3, 3), pools=True),
    "conv4": _Layer(8, (256, 384, 3, 3)),
    "conv5": _Layer(10, (256, 256, 3, 3)),
}
_NETWORKS = {
    "alexnet": _Network("AlexNet", pool_3x3, 31, _ALEXNET),
    "vgg16": _Network("VGG16", pool_2x2, 16, _vgg16()),
}

LAYERS = {name: tuple(network.layers) for name, network in _NETWORKS.items()}
# Where LPIPS compares two images (Zhang et al., CVPR 2018).
LPIPS_LAYERS = {
    "alexnet": LAYERS["alexnet"],
    "vgg16": ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"),
}


# A registered dataclass, no NamedTuple: `jit` must see the network as static.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Parameters:
    """A trunk: its weights, and how an image has to enter them.

    A tree of arrays; the network's name is static. It computes in the precision of
    the arrays.

    Args:
      convolutions: `Convolution`s by name: conv1, ..., conv5 of AlexNet, conv1_1,
        ..., conv5_3 of VGG16.
      mean: (3,), subtracted from RGB values in [0, 1].
      deviation: (3,), by which the difference is divided.
      network: "alexnet" or "vgg16".

    Source: Krizhevsky, arXiv 1404.5997; Simonyan and Zisserman, arXiv 1409.1556,
    configuration D.

    Example:
      >>> parameters = initialize(jax.random.key(0), network="alexnet")
      >>> sum(array.size for pair in parameters.convolutions.values() for array in pair)
      2469696
    """

    convolutions: dict[str, Convolution]
    mean: jax.Array
    deviation: jax.Array
    network: str = dataclasses.field(metadata={"static": True})


def _check_network(network: Any) -> _Network:
    if network not in tuple(_NETWORKS):
        raise ValueError(f"network must be one of {', '.join(_NETWORKS)}, got {network!r}")
    return _NETWORKS[network]


def _parameters(convolutions: dict[str, Convolution], network: str) -> Parameters:
    statistics = (convolution.MEAN, convolution.DEVIATION)
    mean, deviation = (jnp.array(rgb, jnp.float32) for rgb in statistics)
    return Parameters(convolutions, mean, deviation, network)


def initialize(key: jax.Array, *, network: str) -> Parameters:
    """An untrained trunk with random weights.

    Args:
      key: of the weights.
      network: "alexnet" or "vgg16".

    Returns:
      `Parameters` in float32: weights uniform around 0 with variance 2 / fan-in,
      biases 0; images enter by the mean and the deviation of ImageNet.

    Raises:
      ValueError: another network.

    Source: He et al., ICCV 2015, equation 10; torchvision draws VGG16 with the
    fan-out instead, and AlexNet with a sixth of this variance.

    Example:
      >>> initialize(jax.random.key(0), network="alexnet").convolutions["conv1"].weight.shape
      (11, 11, 3, 64)
    """
    shapes = {name: layer.shape for name, layer in _check_network(network).layers.items()}
    return _parameters(convolution.initialize(key, shapes=shapes), network)


def load(path: str | os.PathLike[str]) -> Parameters:
    """A trained trunk from a file that holds torchvision's state dict.

    The names `features.N.weight` and `features.N.bias` tell which network it is.
    Entries `classifier.*` may be there and are not read. The head of this module
    shows how to write the file.

    Args:
      path: of an `.npz` archive or a `.safetensors` file.

    Returns:
      `Parameters` in float32, for RGB images.

    Raises:
      OSError: no such file, or not to be read.
      ImportError: a `.safetensors` file, but no package `safetensors`.
      ValueError: another extension, a broken or pickled file, and arrays that are
        missing, superfluous, of another shape, not floating, NaN or infinite.

    Source: torchvision, `models.alexnet` and `models.vgg`.

    Example:
      >>> parameters = load("alexnet.safetensors")  # doctest: +SKIP
      >>> load("alexnet.h5")
      Traceback (most recent call last):
      ValueError: path must end in .npz or .safetensors, got 'alexnet.h5'
    """
    title, arrays = weight_files.load(
        path,
        {f"torchvision's {name}": network.arrays() for name, network in _NETWORKS.items()},
        content="AlexNet or VGG16",
        ignored=("classifier.",),
    )
    network = title.removeprefix("torchvision's ")
    convolutions = {}
    for name, layer in _NETWORKS[network].layers.items():
        weight, bias = (arrays[f"features.{layer.place}.{part}"] for part in ("weight", "bias"))
        convolutions[name] = convolution.from_file(weight, bias)
    return _parameters(convolutions, network)


def _maps(planes: jax.Array, parameters: Parameters) -> Iterator[tuple[str, jax.Array]]:
    """Name and map of one layer after the other, each computed when it is asked for."""
    network = _NETWORKS[parameters.network]
    for name, layer in network.layers.items():
        planes = network.pool(planes) if layer.pools else planes
        weights = parameters.convolutions[name]
        planes = convolve_relu(planes, weights, stride=layer.stride, padding=layer.padding)
        yield name, planes


def features(
    image: ArrayLike,
    *,
    parameters: Parameters,
    layers: Sequence[str] | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[jax.Array, ...]:
    """The feature maps of an image (H W 3, channels last), after their ReLU, before any pooling.

    One feature vector of the image is the mean of a map: `maps[-1].mean((0, 1))`.

    Args:
      image: (height, width, 3), RGB; floats in `value_range`, or uint8. Any size
        from 31 (AlexNet) or 16 (VGG16) upwards; the weights were trained on 224.
        Batches go through `jax.vmap`. Under `jit` no values are looked at:
        floats of 0..255 at the default range give wrong maps in silence, unless the caller
        checks by `jax.experimental.checkify`.
      parameters: of the network, from `load` or `initialize`.
      layers: names out of `LAYERS[network]`; by default those that LPIPS compares,
        `LPIPS_LAYERS[network]`. What comes after the last of them is not computed.
      value_range: the least and the greatest value of a float image. uint8 is
        always read as 0..255.

    Returns:
      One map (height', width', channel) per layer, in the order of `layers` and the
      precision of the parameters. For 224 x 224, AlexNet's conv1 has 55 x 55 x 64
      and its conv5 13 x 13 x 256; VGG16's conv5_3 has 14 x 14 x 512.

    Raises:
      TypeError: dtypes other than floats and uint8, no array, or no `Parameters`.
      ValueError: another shape, too small an image, unknown layers, or concrete
        values outside the range or NaN.

    Source: Krizhevsky, arXiv 1404.5997, and Simonyan and Zisserman, arXiv 1409.1556,
    as torchvision has them. The five slices of either in Zhang et al., CVPR 2018,
    whose shift and scale of values in [-1, 1] are this mean and this deviation.

    Example:
      >>> parameters = initialize(jax.random.key(0), network="alexnet")
      >>> conv1, conv3 = features(
      ...     jnp.full((64, 64, 3), 0.5), parameters=parameters, layers=("conv1", "conv3")
      ... )
      >>> conv1.shape, conv3.shape
      ((15, 15, 64), (3, 3, 384))
    """
    if not isinstance(parameters, Parameters):
        raise TypeError(
            "parameters must be trunks.Parameters, as load returns them, "
            f"got {type(parameters).__name__}"
        )
    network = _check_network(parameters.network)
    if layers is None:
        layers = LPIPS_LAYERS[parameters.network]
    layers = convolution.check_layers(layers, LAYERS[parameters.network])
    planes = convolution.enter(
        image,
        mean=parameters.mean,
        deviation=parameters.deviation,
        value_range=value_range,
        smallest=network.smallest,
        network=network.title,
    )
    return convolution.select(_maps(planes, parameters), layers)
