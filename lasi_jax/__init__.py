"""LASI: a training-free, differentiable perceptual distance between images.

Every element of an image is predicted from its nearest earlier elements by a
weighted least squares solved at that element; the coefficients are its
embedding, and the distance of two images is the mean distance of their
embeddings. Exact, in linear time, with a gradient that is always finite.

Pure functions, ready for `jit`, `grad` and `vmap`; they need jax alone. Data
flows down this list:

    neighborhood    which earlier elements predict each element (static)
    tiling          how an image is cut into blocks and chunks (static)
    causal_sums     sums over all earlier elements, in linear time
    least_squares   the ridge system of every element
    regression      image -> solved blocks, and back for the gradient
    images          what users pass -> checked values in [-1, 1]
    batching        how vmap runs over images
    embedding       coefficients, embedding, prediction
    distance        distance, distance_map
    squeezenet      image -> feature maps of a network whose weights are in a file

`squeezenet` is no part of LASI and is imported by name: `from lasi_jax import squeezenet`.
"""

from lasi_jax.distance import distance, distance_map
from lasi_jax.embedding import coefficients, embedding, prediction

__all__ = ["coefficients", "distance", "distance_map", "embedding", "prediction"]
