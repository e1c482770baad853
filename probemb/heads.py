"""Flax modules that map features to embeddings: a point, a Gaussian, a mixture.

They alone need flax, so they are imported by name: `from probemb import heads`. Some look
at local features too: of the places of an image or of the words of a text.
"""

import jax
import jax.numpy as jnp

from probemb.distributions.gaussians import DiagonalGaussian, GaussianMixture
from probemb.numerics import arguments
from probemb.numerics.euclidean import normalized

try:
    from flax import nnx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"probemb.heads needs flax, which is not installed ({error}): pip install flax, or the "
        "extra heads of this package"
    ) from None


def _check(**lengths: int) -> None:
    for name, value in lengths.items():
        arguments.count(name, value)


def _start(log_variance: float) -> jax.nn.initializers.Initializer:
    """The bias with which a log-variance starts."""
    like = jnp.zeros((), jnp.float32)  # as the parameters
    return nnx.initializers.constant(arguments.scalar("initial_log_variance", log_variance, like))


def _checked(features: jax.Array, layer: nnx.Linear) -> jax.Array:
    """Features of the length that a layer takes."""
    features = arguments.array("features", features)
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


def _checked_local(
    features: jax.Array, local: jax.Array, mask: jax.Array | None, num_local_features: int
) -> tuple[jax.Array, jax.Array]:
    """Local features and their mask, True where it is None."""
    local = arguments.array("local", local)
    batch = features.shape[:-1]
    fits = local.ndim == len(batch) + 2 and local.shape[:-2] == batch
    if not fits or local.shape[-1] != num_local_features or local.shape[-2] == 0:
        raise ValueError(
            f"local must have shape {(*batch, 'place', num_local_features)} with one place or "
            f"more, got {local.shape}"
        )
    counts = jnp.ones(local.shape[:-1], bool) if mask is None else arguments.array("mask", mask)
    if counts.shape != local.shape[:-1] or counts.dtype != bool:
        raise ValueError(
            f"mask must be boolean of shape {local.shape[:-1]}, got {counts.dtype} of "
            f"{counts.shape}"
        )
    return local, counts


class _AttentionPool(nnx.Module):
    """Local features to their mean, weighted by softmax(w tanh(W x)) over the places."""

    def __init__(self, num_features: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(num_features, num_features // 2 or 1, use_bias=False, rngs=rngs)
        self.logit = nnx.Linear(self.hidden.out_features, 1, use_bias=False, rngs=rngs)

    def __call__(self, local: jax.Array, mask: jax.Array) -> jax.Array:
        logits = self.logit(jnp.tanh(self.hidden(local)))[..., 0]
        # -inf would give NaN where no place counts.
        weights = jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(logits.dtype).min), axis=-1)
        return jnp.einsum("...p,...pf->...f", weights, local, precision="highest")


class LocalAttentionHead(nnx.Module):
    """PCME's head: pooled features, and what an attention finds among the local ones.

    mean = normalize(LayerNorm(A f + sigmoid(B g))), log-variance = C h + D f, where f are the
    pooled features and g, h the local ones as two attentions pool them. The log-variance is
    not normalised.

    Args:
      num_features: the length of a pooled feature vector.
      num_local_features: the length of a local one.
      dimension: of the embedding, from 2 on.
      initial_log_variance: around which the log-variance starts.
      rngs: of the initial parameters.

    Raises:
      TypeError, ValueError: a length that is no positive integer, or a single dimension, which
        LayerNorm leaves nothing of.

    Source: PCME (Chun et al., CVPR 2021).

    Example:
      >>> import jax.numpy as jnp
      >>> head = LocalAttentionHead(8, 6, 2, rngs=nnx.Rngs(0))
      >>> head(jnp.ones((3, 8)), jnp.ones((3, 5, 6))).mean.shape
      (3, 2)
    """

    def __init__(
        self,
        num_features: int,
        num_local_features: int,
        dimension: int,
        *,
        initial_log_variance: float = 0.0,
        rngs: nnx.Rngs,
    ):
        _check(num_features=num_features, num_local_features=num_local_features)
        arguments.count("dimension", dimension, least=2)
        self.mean = nnx.Linear(num_features, dimension, rngs=rngs)
        self.mean_pool = _AttentionPool(num_local_features, rngs=rngs)
        self.mean_residual = nnx.Linear(num_local_features, dimension, rngs=rngs)
        self.norm = nnx.LayerNorm(dimension, rngs=rngs)
        # Its bias starts at 0: the sum of both starts around that of the residual.
        self.log_variance = nnx.Linear(num_features, dimension, rngs=rngs)
        self.log_variance_pool = _AttentionPool(num_local_features, rngs=rngs)
        self.log_variance_residual = nnx.Linear(
            num_local_features,
            dimension,
            bias_init=_start(initial_log_variance),
            rngs=rngs,
        )

    def __call__(
        self, features: jax.Array, local: jax.Array, mask: jax.Array | None = None
    ) -> DiagonalGaussian:
        """Gaussians (..., dimension) with means of length 1.

        Args:
          features: (..., feature).
          local: (..., place, local feature).
          mask: (..., place), True where there is something; by default everywhere.
        """
        features = _checked(features, self.mean)
        local, mask = _checked_local(features, local, mask, self.mean_residual.in_features)
        residual = nnx.sigmoid(self.mean_residual(self.mean_pool(local, mask)))
        log_variance = self.log_variance_residual(self.log_variance_pool(local, mask))
        return DiagonalGaussian(
            normalized(self.norm(self.mean(features) + residual)),
            log_variance + self.log_variance(features),
        )


class UncertaintyTokenHead(nnx.Module):
    """ProLIP's head: a learned token gathers the log-variance.

    mean = normalize(A f) of the pooled features f; a token u attends to the local ones,
    and log-variance = B (u + attention(u)).

    Args:
      num_features: the length of a pooled feature vector.
      num_local_features: the length of a local one, a multiple of `num_heads`.
      dimension: of the embedding.
      num_heads: of the attention.
      initial_log_variance: around which the log-variance starts.
      rngs: of the initial parameters.

    Raises:
      TypeError, ValueError: a length that is no positive integer, or no multiple.

    Source: ProLIP's [UNC] token (Chun et al., ICLR 2025), whose log-variance starts at -10.
    There it goes through all layers of a transformer beside the other tokens; here it reads the
    output of whichever tower there is, so that a convolutional one will do.

    Example:
      >>> import jax.numpy as jnp
      >>> head = UncertaintyTokenHead(8, 6, 2, num_heads=2, rngs=nnx.Rngs(0))
      >>> head(jnp.ones((3, 8)), jnp.ones((3, 5, 6))).mean.shape
      (3, 2)
    """

    def __init__(
        self,
        num_features: int,
        num_local_features: int,
        dimension: int,
        *,
        num_heads: int = 1,
        initial_log_variance: float = 0.0,
        rngs: nnx.Rngs,
    ):
        _check(
            num_features=num_features,
            num_local_features=num_local_features,
            dimension=dimension,
            num_heads=num_heads,
        )
        if num_local_features % num_heads:
            raise ValueError(
                f"num_local_features must be a multiple of num_heads = {num_heads}, "
                f"got {num_local_features}"
            )
        self.mean = nnx.Linear(num_features, dimension, rngs=rngs)
        token = jax.random.normal(rngs.params(), (num_local_features,), jnp.float32)
        self.token = nnx.Param(token)
        self.attention = nnx.MultiHeadAttention(
            num_heads, num_local_features, decode=False, rngs=rngs
        )
        self.log_variance = nnx.Linear(
            num_local_features,
            dimension,
            bias_init=_start(initial_log_variance),
            rngs=rngs,
        )

    def __call__(
        self, features: jax.Array, local: jax.Array, mask: jax.Array | None = None
    ) -> DiagonalGaussian:
        """Gaussians (..., dimension) with means of length 1.

        Args:
          features: (..., feature).
          local: (..., place, local feature).
          mask: (..., place), True where there is something; by default everywhere.
        """
        features = _checked(features, self.mean)
        local, mask = _checked_local(features, local, mask, self.token.shape[0])
        token = jnp.broadcast_to(self.token[...], (*local.shape[:-2], 1, local.shape[-1]))
        # The mask is (..., head, query, place), and the token the only query.
        found = token + self.attention(token, local, mask=mask[..., None, None, :])
        return DiagonalGaussian(
            normalized(self.mean(features)), self.log_variance(found[..., 0, :])
        )
