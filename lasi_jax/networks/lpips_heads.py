"""The trained heads of LPIPS: how much each channel of three networks counts.

They are what `deep_features.distance` takes as `heads`; what each network sees,
`squeezenet` and `trunks` compute.
"""

import os

import jax
import jax.numpy as jnp

from lasi_jax.networks import weight_files

# What files call a network, and the channels of the layers that LPIPS compares.
_NETWORKS = {
    "alexnet": ("alex", (64, 192, 384, 256, 256)),
    "vgg16": ("vgg", (64, 128, 256, 512, 512)),
    "squeezenet": ("squeeze", (64, 128, 256, 384, 384, 512, 512)),
}


def load(path: str | os.PathLike[str], *, network: str) -> tuple[jax.Array, ...]:
    """The heads of one network, version 0.1, from a file.

    The arrays, of shape (1, channel, 1, 1), are named `lin0.model.1.weight` and so
    on, as in the release's state dict of one network, or with the network before
    them, `alex/lin0.model.1.weight`, where a file holds several. The release is
    the repository richzhang/PerceptualSimilarity, in whose folder `lpips` this
    converts a file:

        safetensors.torch.save_file(torch.load("weights/v0.1/alex.pth"), "alex.safetensors")

    Args:
      path: of an `.npz` archive or a `.safetensors` file.
      network: "alexnet", "vgg16" or "squeezenet"; the last is SqueezeNet 1.1.

    Returns:
      One non-negative array (channel,) per layer, in float32: 5 layers of alexnet
      and vgg16, 7 of squeezenet.

    Raises:
      OSError: no such file, or not to be read.
      ImportError: a `.safetensors` file, but no package `safetensors`.
      ValueError: another network or extension, a broken or pickled file, and arrays
        that are missing, superfluous, of another shape, not floating, NaN,
        infinite or negative.

    Source: the release of Zhang et al., CVPR 2018, `weights/v0.1`.

    Example:
      >>> heads = load("alex.safetensors", network="alexnet")  # doctest: +SKIP
      >>> load("alex.safetensors", network="resnet")
      Traceback (most recent call last):
      ValueError: network must be one of alexnet, vgg16, squeezenet, got 'resnet'
    """
    if network not in tuple(_NETWORKS):
        raise ValueError(f"network must be one of {', '.join(_NETWORKS)}, got {network!r}")
    in_files, layers = _NETWORKS[network]
    shapes = {
        f"lin{layer}.model.1.weight": (1, channels, 1, 1) for layer, channels in enumerate(layers)
    }
    of_several = {f"{in_files}/{name}": shape for name, shape in shapes.items()}
    title, arrays = weight_files.load(
        path,
        {"file of several networks": of_several, "file of one network": shapes},
        content=f"LPIPS heads of {network}",
        ignored=tuple(f"{other}/" for other, _ in _NETWORKS.values() if other != in_files),
    )
    for name, array in arrays.items():
        if (least := array.min()) < 0:
            raise ValueError(
                f"path must hold non-negative heads, got {str(path)!r}, "
                f"whose {name} has the value {least:g}"
            )
    names = of_several if title == "file of several networks" else shapes
    return tuple(jnp.asarray(arrays[name].reshape(-1)) for name in names)
