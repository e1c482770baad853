"""Flax modules that map features to embeddings: a point, a Gaussian, a mixture.

They alone need flax, so they are imported by name: `from probemb import heads`.
"""

import jax
from flax import nnx

from probemb import arguments
from probemb.gaussians import DiagonalGaussian, GaussianMixture


def _check(**lengths: int) -> None:
    for name, value in lengths.items():
        arguments.count(name, value)


def _checked(features: jax.Array, layer: nnx.Linear) -> jax.Array:
    """Features of the length that a layer takes."""
    if features.ndim < 1 or features.shape[-1] != layer.in_features:
        raise ValueError(
            f"features must have shape (..., {layer.in_features}), got {features.shape}"
        )
    return features


class PointHead(nnx.Module):
    """Features (..., feature) to points (..., dimension), by a linear layer.

    Args:
      num_features: the length of a feature vector.
      dimension: of the embedding.
      rngs: of the initial parameters.

    Raises:
      TypeError, ValueError: a length that is no positive integer.

    Source: HIB (Oh et al., ICLR 2019), its deterministic baseline.

    Example:
      >>> import jax.numpy as jnp
      >>> PointHead(8, 2, rngs=nnx.Rngs(0))(jnp.ones((3, 8))).shape
      (3, 2)
    """

    def __init__(self, num_features: int, dimension: int, *, rngs: nnx.Rngs):
        _check(num_features=num_features, dimension=dimension)
        self.linear = nnx.Linear(num_features, dimension, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Points (..., dimension)."""
        return self.linear(_checked(features, self.linear))


class GaussianHead(nnx.Module):
    """Features (..., feature) to a `DiagonalGaussian` (..., dimension), by two linear layers.

    Args:
      num_features: the length of a feature vector.
      dimension: of the embedding.
      rngs: of the initial parameters.

    Raises:
      TypeError, ValueError: a length that is no positive integer.

    Source: HIB (Oh et al., ICLR 2019).

    Example:
      >>> import jax.numpy as jnp
      >>> GaussianHead(8, 2, rngs=nnx.Rngs(0))(jnp.ones((3, 8))).mean.shape
      (3, 2)
    """

    def __init__(self, num_features: int, dimension: int, *, rngs: nnx.Rngs):
        _check(num_features=num_features, dimension=dimension)
        self.mean = nnx.Linear(num_features, dimension, rngs=rngs)
        # It starts around 0. From much narrower Gaussians the way to wide ones is long: the
        # gradient of a match probability in the log-variance falls with the variance.
        self.log_variance = nnx.Linear(num_features, dimension, rngs=rngs)

    def __call__(self, features: jax.Array) -> DiagonalGaussian:
        """Gaussians (..., dimension)."""
        features = _checked(features, self.mean)
        return DiagonalGaussian(self.mean(features), self.log_variance(features))


class MixtureHead(nnx.Module):
    """Features (..., feature) to a `GaussianMixture` of C Gaussians (..., C, dimension).

    Args:
      num_features: the length of a feature vector.
      dimension: of the embedding.
      num_components: C.
      rngs: of the initial parameters.

    Raises:
      TypeError, ValueError: a length that is no positive integer.

    Source: HIB (Oh et al., ICLR 2019). The weights are learned too.

    Example:
      >>> import jax.numpy as jnp
      >>> mixture = MixtureHead(8, 2, num_components=2, rngs=nnx.Rngs(0))(jnp.ones((3, 8)))
      >>> mixture.weights.shape, mixture.components.mean.shape
      ((3, 2), (3, 2, 2))
    """

    def __init__(self, num_features: int, dimension: int, *, num_components: int, rngs: nnx.Rngs):
        _check(num_features=num_features, dimension=dimension, num_components=num_components)
        self.logits = nnx.Linear(num_features, num_components, rngs=rngs)
        self.components = GaussianHead(num_features, num_components * dimension, rngs=rngs)
        self.shape = (num_components, dimension)

    def __call__(self, features: jax.Array) -> GaussianMixture:
        """Mixtures (..., component, dimension)."""
        features = _checked(features, self.logits)
        flat = self.components(features)
        components = jax.tree.map(lambda x: x.reshape(*x.shape[:-1], *self.shape), flat)
        return GaussianMixture(self.logits(features), components)
