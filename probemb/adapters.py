"""Adapters: a frozen embedding to a distribution around it, and what its members are unsure of.

They alone and `heads` need flax, so they are imported by name: `from probemb import adapters`.
The embedding is not touched; what is learned is how far to trust it, from pairs (`probvlm`,
`bayescap`, `pfe`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import numbers
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from numpy.typing import ArrayLike

from probemb.distributions.gaussians import DiagonalGaussian
from probemb.distributions.generalized_gaussian import GeneralizedGaussian
from probemb.distributions.von_mises_fisher import VonMisesFisher
from probemb.numerics import arguments
from probemb.numerics.euclidean import normalized

try:
    from flax import nnx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"probemb.adapters needs flax, which is not installed ({error}): pip install flax, or the "
        "extra heads of this package"
    ) from None

Output = Literal["generalized_gaussian", "gaussian", "von_mises_fisher"]
"""The family of an adapter's distributions."""
Location = Literal["residual", "frozen"]
"""Where a distribution lies: the embedding and a learned step from it, or the embedding."""

# Least, greatest and first: the logarithm of a standard deviation, in units of a coordinate of a
# unit vector, and that of a shape. From a shape of 4 on, single residuals decide the gradient.
_LOG_DEVIATION = (-7.0, 3.0, -0.5)
_LOG_SHAPE = (math.log(0.5), math.log(4.0), math.log(2.0))


def _between(x: jax.Array, low: float, high: float, first: float) -> jax.Array:
    """Any x to a value between two bounds, smoothly and growing; 0 to `first`."""
    offset = math.log((first - low) / (high - first))
    return low + (high - low) * nnx.sigmoid(x + offset)


class _Network(nnx.Module):
    def __init__(self, adapter: Adapter, rngs: nnx.Rngs):
        sizes = (adapter.dimension, *adapter.hidden)
        self.hidden = nnx.List([nnx.Linear(n, m, rngs=rngs) for n, m in itertools.pairwise(sizes)])
        self.dropout = nnx.Dropout(adapter.dropout)

        def last(number: int) -> nnx.Linear:
            """All items alike at first, around their frozen embeddings."""
            return nnx.Linear(sizes[-1], number, kernel_init=nnx.initializers.zeros, rngs=rngs)

        one = adapter.output == "von_mises_fisher"
        self.log_deviation = last(1 if one else adapter.dimension)
        if adapter.location == "residual":
            self.step = last(adapter.dimension)
        if adapter.output == "generalized_gaussian":
            self.log_shape = last(adapter.dimension)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A small perceptron on frozen embeddings, as pure functions of a tree of parameters.

    Of an embedding z, in units of u = 1 / sqrt(dimension), a hidden layer h gives the location
    z + u A h (or z itself), and of every dimension a standard deviation u exp(s(B h)) and a shape
    exp(t(C h)), s and t sigmoids between bounds, so that nothing runs away where the data say
    little: a deviation lies between u e^-7 and u e^3, a shape between 0.5 and 4. A, B and C start
    at 0. A generalized Gaussian has the scale that goes with its deviation and shape: that way
    both are learned nearly independently. A von Mises-Fisher distribution has one deviation, and
    1 / deviation^2 for a concentration.

    Attributes:
      dimension: of the embedding.
      output: the family: "generalized_gaussian", "gaussian" or "von_mises_fisher".
      location: "residual", a learned step from the embedding, or "frozen", the embedding.
      hidden: the lengths of the hidden layers.
      dropout: how probably a hidden unit is dropped, where a key is given.

    Raises:
      TypeError, ValueError: on making one, of options out of range; on calling, of embeddings
        of another shape or not finite.

    Source: ProbVLM (Upadhyay et al., ICCV 2023), after BayesCap (ECCV 2022). The release gives
    1 / scale and shape, each behind a ReLU: dead units make variances of 1e26. PFE (Shi and Jain,
    ICCV 2019) is "gaussian" with a "frozen" location.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> adapter = Adapter(4, hidden=(8,))
      >>> parameters = adapter.initialize(jax.random.key(0))
      >>> adapter.apply(parameters, jnp.eye(4)).scale.shape
      (4, 4)
    """

    dimension: int
    output: Output = "generalized_gaussian"
    location: Location = "residual"
    hidden: tuple[int, ...] = (256, 256)
    dropout: float = 0.1

    def __post_init__(self):
        arguments.count("dimension", self.dimension, least=2)
        if not isinstance(self.hidden, tuple) or not self.hidden:
            raise TypeError(f"hidden must be a tuple of lengths, got {self.hidden!r}")
        for length in self.hidden:
            arguments.count("hidden", length)
        for name, choices in (("output", Output), ("location", Location)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(
                    f"{name} must be one of {get_args(choices)}, got {getattr(self, name)!r}"
                )
        if not isinstance(self.dropout, numbers.Real) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in 0..1, below 1, got {self.dropout!r}")

    @functools.cached_property
    def _graph(self) -> nnx.GraphDef:
        # By shapes alone, without drawing weights.
        return nnx.split(nnx.eval_shape(lambda: _Network(self, nnx.Rngs(0))))[0]

    @functools.cached_property
    def _form(self) -> dict[str, Any]:
        """The shapes of the parameters."""
        return jax.tree.map(jnp.shape, jax.eval_shape(self.initialize, jax.random.key(0)))

    def initialize(self, key: jax.Array) -> dict[str, Any]:
        """Parameters, a tree of float32 arrays. Under `vmap`, those of an ensemble."""
        _, network = nnx.split(_Network(self, nnx.Rngs(arguments.key(key))))
        return nnx.to_pure_dict(network)

    def apply(
        self, parameters: dict[str, Any], embedding: ArrayLike, *, key: jax.Array | None = None
    ) -> Any:
        """The distributions (..., dimension) of embeddings (..., dimension).

        Args:
          parameters: as of `initialize`.
          embedding: z, of unit length or about so.
          key: of dropout; without one, nothing is dropped.
        """
        embedding = arguments.floats("embedding", embedding)
        if embedding.ndim < 1 or embedding.shape[-1] != self.dimension:
            raise ValueError(
                f"embedding must have shape (..., {self.dimension}), got {embedding.shape}"
            )
        found = jax.tree.map(jnp.shape, parameters)
        if found != self._form:
            raise ValueError(f"parameters must have the shapes {self._form}, got {found}")
        network = nnx.merge(self._graph, parameters)
        unit = self.dimension**-0.5
        keys = [None] * len(self.hidden)
        if key is not None:
            keys = jax.random.split(arguments.key(key), len(self.hidden))
        # Coordinates of a unit vector are about u; the first weights are made for values about 1.
        hidden = embedding / unit
        for layer, layer_key in zip(network.hidden, keys, strict=True):
            hidden = nnx.relu(layer(hidden))
            if layer_key is not None:
                hidden = network.dropout(hidden, deterministic=False, rngs=nnx.Rngs(layer_key))
        location = embedding
        if self.location == "residual":
            location = embedding + unit * network.step(hidden)
        log_deviation = math.log(unit) + _between(network.log_deviation(hidden), *_LOG_DEVIATION)
        if self.output == "gaussian":
            return DiagonalGaussian(location, 2.0 * log_deviation)
        if self.output == "von_mises_fisher":
            return VonMisesFisher(normalized(location), jnp.exp(-2.0 * log_deviation[..., 0]))
        shape = jnp.exp(_between(network.log_shape(hidden), *_LOG_SHAPE))
        # The variance is alpha^2 Gamma(3 / beta) / Gamma(1 / beta).
        log_scale = log_deviation + 0.5 * (gammaln(1.0 / shape) - gammaln(3.0 / shape))
        return GeneralizedGaussian(location, jnp.exp(log_scale), shape)


class Uncertainty(NamedTuple):
    """Variances of every dimension (..., dimension), as logarithms.

    Attributes:
      log_aleatoric: of the mean of the members' variances: what stays with any number of data.
      log_epistemic: of the variance of the members' means: what they disagree about.
      log_total: of the sum of both, the variance of the mixture of all members.
    """

    log_aleatoric: jax.Array
    log_epistemic: jax.Array
    log_total: jax.Array


def uncertainty(p: Any) -> Uncertainty:
    """What the members of an ensemble are unsure of, together and among each other.

    Aleatoric mean_m var_m, epistemic mean_m (mean_m - mean)^2, and their sum, the law of total
    variance; in logarithms, from variances of 1e-30 to 1e30 in float32.

    Args:
      p: distributions (member, ..., dimension): an `Adapter` under `vmap` over keys of
        dropout, or over the parameters of an ensemble. Any that has a mean and a variance.

    Returns:
      An `Uncertainty` (..., dimension). Where all members agree, the logarithm of the epistemic
      variance is that of the smallest float, with a gradient of 0.

    Raises:
      TypeError, ValueError: no distribution, or no axis of members.

    Source: Kendall and Gal (NeurIPS 2017); Monte Carlo dropout: Gal and Ghahramani (ICML
    2016); ensembles: Lakshminarayanan et al. (NeurIPS 2017). ProbVLM's release has the geometric
    mean of the variances of the means and of the scales for the epistemic one.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> members = DiagonalGaussian(jnp.array([[-1.0], [1.0]]), jnp.zeros((2, 1)))
      >>> round(float(jnp.exp(uncertainty(members).log_total[0])), 4)
      2.0
    """
    if not (hasattr(p, "mean") and hasattr(p, "variance")):
        raise TypeError(f"p must be distributions, got {type(p).__name__}")
    mean = arguments.floats("p.mean", p.mean)
    if mean.ndim < 2:
        raise ValueError(f"p must have shape (member, ..., dimension), got {mean.shape}")
    log_variance = p.log_variance if hasattr(p, "log_variance") else jnp.log(p.variance)
    log_variance = arguments.floats("p.log_variance", log_variance)
    if log_variance.shape != mean.shape:
        raise ValueError(
            "p must have a mean and a variance of one shape, "
            f"got {mean.shape} and {log_variance.shape}"
        )
    return _of_members(mean, log_variance)


@jax.jit
def _of_members(mean: jax.Array, log_variance: jax.Array) -> Uncertainty:
    """The uncertainties of members (member, ..., dimension)."""
    log_aleatoric = jax.nn.logsumexp(log_variance, axis=0) - math.log(len(mean))
    moved = mean - mean[:1]  # so that members that agree do so to the last bit
    apart = moved - jnp.mean(moved, axis=0, keepdims=True)
    spread = jnp.mean(jnp.square(apart), axis=0)
    least = np.finfo(spread.dtype).tiny
    log_epistemic = jnp.log(jnp.maximum(spread, least))
    return Uncertainty(log_aleatoric, log_epistemic, jnp.logaddexp(log_aleatoric, log_epistemic))
