"""A network from the user's files, as the metric `deep` compares images with it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lasi_jax.networks import lpips_heads, squeezenet, trunks


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


def load(weights: Path | None, heads: Path | None) -> Network | None:
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
