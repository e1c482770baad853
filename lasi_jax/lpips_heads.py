"""The trained heads of LPIPS: how much each channel of three networks counts.

They are what `deep_features.distance` takes as `heads`; what each network sees,
`squeezenet` and `trunks` compute.
"""

import os

import jax
import jax.numpy as jnp

from lasi_jax import weight_files

# The channels of the layers that LPIPS compares.
_CHANNELS = {
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 128, 256, 512, 512),
    "squeeze": (64, 128, 256, 384, 384, 512, 512),
}


def load(path: str | os.PathLike[str], *, network: str) -> tuple[jax.Array, ...]:
    """The heads of one network, version 0.1, from a file.

    The arrays, of shape (1, channel, 1, 1), are named `lin0.model.1.weight` and so
    on, as in the release's state dict of one network, or with the network before
    them, `alex/lin0.model.1.weight`, where a file holds several. This converts
    the release's file:

        safetensors.torch.save_file(torch.load("weights/v0.1/alex.pth"), "alex.safetensors")

    Args:
      path: of an `.npz` archive or a `.safetensors` file.
      network: "alex", "vgg" or "squeeze"; the last is SqueezeNet 1.1.

    Returns:
      One non-negative array (channel,) per layer, in float32: 5 layers of alex and
      vgg, 7 of squeeze.

    Raises:
      OSError: no such file, or not to be read.
      ImportError: a `.safetensors` file, but no package `safetensors`.
      ValueError: another network or extension, a broken or pickled file, and arrays
        that are missing, superfluous, of another shape, not floating, NaN,
        infinite or negative.

    Source: the release of Zhang et al., CVPR 2018, `weights/v0.1`.

    Example:
      >>> heads = load("alex.safetensors", network="alex")  # doctest: +SKIP
      >>> load("alex.safetensors", network="resnet")
      Traceback (most recent call last):
      ValueError: network must be one of alex, vgg, squeeze, got 'resnet'
    """
    if network not in _CHANNELS:
        raise ValueError(f"network must be one of {', '.join(_CHANNELS)}, got {network!r}")
    shapes = {
        f"lin{layer}.model.1.weight": (1, channels, 1, 1)
        for layer, channels in enumerate(_CHANNELS[network])
    }
    of_several = {f"{network}/{name}": shape for name, shape in shapes.items()}
    title, arrays = weight_files.load(
        path,
        {"file of several networks": of_several, "file of one network": shapes},
        content=f"LPIPS heads of {network}",
        ignored=tuple(f"{other}/" for other in _CHANNELS if other != network),
    )
    for name, array in arrays.items():
        if (least := array.min()) < 0:
            raise ValueError(
                f"path must hold non-negative heads, got {str(path)!r}, "
                f"whose {name} has the value {least:g}"
            )
    names = of_several if title == "file of several networks" else shapes
    return tuple(jnp.asarray(arrays[name].reshape(-1)) for name in names)
