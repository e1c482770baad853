"""LASI: a training-free, differentiable perceptual distance between images.

Every element of an image is predicted from its nearest earlier elements by a
weighted least squares solved at that element; the coefficients are its
embedding, and the distance of two images is the mean distance of their
embeddings. Exact, in linear time, with a gradient that is always finite.

Pure functions, ready for `jit`, `grad` and `vmap`; they need jax alone, and
`agreement` SciPy, which comes with it. Data flows down this list:

    neighborhood    which earlier elements predict each element (static)
    tiling          how an image is cut into blocks and chunks (static)
    causal_sums     sums over all earlier elements, in linear time
    least_squares   the ridge system of every element
    regression      image -> solved blocks, and back for the gradient
    images          what users pass -> checked values in [-1, 1]
    batching        how vmap runs over images
    embedding       coefficients, embedding, prediction
    distance        distance, distance_map

Beside it stand the metrics that it is compared with, and how metrics are judged:

    structural      SSIM and MS-SSIM
    deep_features   LPIPS, feature, style and DeePSiM losses over any feature function
    agreement       2AFC, JND and correlations with people's judgements, with intervals
    competition     the images on which two metrics differ most
    weight_files    arrays by name in a user's file
    convolution     how an image enters a network, and what its layers are made of
    squeezenet      image -> feature maps of SqueezeNet, whose weights are in a file
    trunks          the same of AlexNet and VGG16
    lpips_heads     LPIPS's weights of channels, from a file

What reads files is imported by name: `from lasi_jax import squeezenet`.
"""

from lasi_jax import agreement, competition, deep_features, structural
from lasi_jax.distance import distance, distance_map
from lasi_jax.embedding import coefficients, embedding, prediction

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
