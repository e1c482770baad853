"""LASI: a training-free, differentiable perceptual distance between images.

Every element of an image is predicted from its nearest earlier elements by a
weighted least squares solved at that element; the coefficients are its
embedding, and the distance of two images is the mean distance of their
embeddings. Exact, in linear time, with a gradient that is always finite.

An image is (height, width) or (height, width, channel), channels last, floats
in 0..1 or uint8. Three things to know first:

- LASI does not tell an image from its negative: their distance is next to 0.
- In even areas of middle grey only noise has a direction: noise that nobody sees
  counts as a large difference there, unless `prior=1.0`.
- Under `jit` no values are looked at: floats of 0..255 at the default range give
  a plausible wrong number, unless `jax.experimental.checkify` checks them.

Pure functions, ready for `jit`, `grad` and `vmap`; they need jax alone, and
`agreement` SciPy, which comes with it. Data flows down this list:

    batching           how a mesh runs over images
    native
        build          the kernel for CPUs, in C++: compiled at first use and kept
    wls
        neighborhood   which earlier elements predict each element (static)
        tiling         how an image is cut into blocks and chunks (static)
        causal_sums    sums over all earlier elements, in linear time
        least_squares  the ridge system of every element
        regression     image -> solved blocks, and back for the gradient
        kernel         the same by the native kernel
        operation      a function of images as a primitive of JAX
        derivatives    the regression as operations, with derivatives of every order
    images             what users pass -> checked values in [-1, 1]
    embedding          coefficients, embedding, prediction
    separation         how far apart two embeddings are, with derivatives of every order
    distance           distance, distance_map

Beside it stand the metrics that it is compared with, and how metrics are judged:

    means              the mean of a map, within its range
    metrics
        structural     SSIM and MS-SSIM
        deep_features  LPIPS, feature, style and DeePSiM losses over any feature function
    judging
        agreement      2AFC, JND and correlations with people's judgements, with intervals
    probing
        competition    the images on which two metrics differ most
    networks
        weight_files   arrays by name in a user's file
        convolution    how an image enters a network, and what its layers are made of
        squeezenet     image -> feature maps of SqueezeNet, whose weights are in a file
        trunks         the same of AlexNet and VGG16
        lpips_heads    LPIPS's weights of channels, from a file

What reads files is imported by name: `from lasi_jax.networks import squeezenet`.
"""

import importlib

from lasi_jax.distance import distance, distance_map
from lasi_jax.embedding import coefficients, embedding, prediction
from lasi_jax.judging import agreement
from lasi_jax.metrics import deep_features, structural
from lasi_jax.probing import competition

__all__ = [
    "agreement",
    "coefficients",
    "competition",
    "deep_features",
    "distance",
    "distance_map",
    "embedding",
    "prediction",
    "structural",
]

__version__ = "0.1.0"
_BY_NAME = ("native", "networks")


def __getattr__(name: str):
    """What is imported by name is there without an import, too."""
    if name in _BY_NAME:
        return importlib.import_module(f"lasi_jax.{name}")
    raise AttributeError(f"module 'lasi_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_BY_NAME, "__version__"])
