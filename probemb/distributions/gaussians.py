"""Diagonal Gaussians and mixtures of them.

Distributions are named tuples of arrays: pytrees that pass through `jit`,
`vmap`, `grad` and `tree.map`. The last axis holds the dimensions; axes before
it are batches. All share one vocabulary: `mean`, `variance`, `sample(key)`,
`log_prob(x)` and, where they have a closed form, `entropy()` and
`kl_divergence(other)`.

Log-variances may lie far beyond those whose variance is a float: what is finite of such a Gaussian
is so here. What is not ends at a thousandth of the greatest float, and so do its derivatives.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import erf
from numpy.typing import ArrayLike

from probemb.numerics import arguments
from probemb.numerics.euclidean import bounded_exp, capped_exp, quotient, squared_quotient

_LOG_TWO_PI = 1.8378770664093453


class DiagonalGaussian(NamedTuple):
    """N(mean, diag(exp(log_variance))).

    The second field is always the logarithm of the *variance*, sigma^2.
    Released codes call a tensor `logsigma` and read it as log sigma in one
    line and as log sigma^2 in the next.

    Attributes:
      mean: (..., dimension).
      log_variance: (..., dimension).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> p = DiagonalGaussian(jnp.zeros(2), jnp.zeros(2))
      >>> p.sample(jax.random.key(0), (5,)).shape, round(float(p.entropy()), 4)
      ((5, 2), 2.8379)
    """

    mean: jax.Array
    log_variance: jax.Array

    @property
    def variance(self) -> jax.Array:
        """sigma^2 (..., dimension)."""
        return capped_exp(arguments.fields(self).log_variance)

    @property
    def standard_deviation(self) -> jax.Array:
        """Sigma (..., dimension)."""
        # Not the root of the variance, which leaves the floats at half the log-variance.
        return capped_exp(0.5 * arguments.fields(self).log_variance)

    def sample(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Samples (*shape, ..., dimension), differentiable in both fields."""
        self, shape = gaussian("distribution", self), arguments.shape(shape)
        noise = jax.random.normal(
            arguments.key(key), shape + self.mean.shape, dtype=self.mean.dtype
        )
        axes = (1,) * len(shape)
        scale = self.standard_deviation.reshape(axes + self.mean.shape)
        return self.mean.reshape(axes + self.mean.shape) + scale * noise

    def log_prob(self, x: ArrayLike) -> jax.Array:
        """Log p(x) (...) of points (..., dimension)."""
        self = gaussian("distribution", self)
        self, x = arguments.one_dtype(self, point(x, self.mean))
        deviation = squared_quotient(x - self.mean, self.log_variance)
        return -0.5 * jnp.sum(deviation + self.log_variance + _LOG_TWO_PI, axis=-1)

    def central_probability(self, x: ArrayLike) -> jax.Array:
        """Of every dimension, the probability of the interval around the mean that ends at x.

        erf(|x - mean| / sqrt(2 sigma^2)) (..., dimension): uniform from 0 to 1 where x is drawn
        from this distribution.
        """
        self = gaussian("distribution", self)
        self, x = arguments.one_dtype(self, point(x, self.mean))
        return erf(0.5**0.5 * quotient(jnp.abs(x - self.mean), 0.5 * self.log_variance))

    def entropy(self) -> jax.Array:
        """-E log p (...) in nats."""
        self = gaussian("distribution", self)
        return 0.5 * jnp.sum(self.log_variance + 1.0 + _LOG_TWO_PI, axis=-1)

    def kl_divergence(self, other: DiagonalGaussian) -> jax.Array:
        """KL(self || other) (...) in nats.

        sum_d [v / u - 1 - log(v / u) + (mean difference)^2 / u] / 2 for
        variances v of self and u of other.
        """
        p, q = gaussians(self, other)
        log_ratio = p.log_variance - q.log_variance
        # v / u - 1: near 0 by expm1, for its digits; further out bounded, for its derivatives. The
        # inner `where` keeps infinity from the branch that is not taken.
        small = jnp.abs(log_ratio) < 1.0
        excess = jnp.where(
            small, jnp.expm1(jnp.where(small, log_ratio, 0.0)), bounded_exp(log_ratio) - 1.0
        )
        deviation = squared_quotient(p.mean - q.mean, q.log_variance)
        return 0.5 * jnp.sum(excess - log_ratio + deviation, axis=-1)


class GaussianMixture(NamedTuple):
    """sum_c w_c N(mean_c, diag(variance_c)), weights w = softmax(logits).

    Its entropy and divergences have no closed form: see `monte_carlo`.

    Attributes:
      logits: (..., component), not necessarily normalized.
      components: Gaussians (..., component, dimension).

    Example:
      >>> import jax.numpy as jnp
      >>> pair = DiagonalGaussian(jnp.array([[-1.0], [1.0]]), jnp.zeros((2, 1)))
      >>> p = GaussianMixture(jnp.zeros(2), pair)
      >>> float(p.mean[0]), float(p.variance[0])
      (0.0, 2.0)
    """

    logits: jax.Array
    components: DiagonalGaussian

    @property
    def weights(self) -> jax.Array:
        """Probabilities (..., component)."""
        return jax.nn.softmax(arguments.fields(self).logits, axis=-1)

    @property
    def mean(self) -> jax.Array:
        """The mean (..., dimension)."""
        self = arguments.fields(self)
        return jnp.sum(self.weights[..., None] * self.components.mean, axis=-2)

    @property
    def variance(self) -> jax.Array:
        """The marginal variances (..., dimension): within components, and between them."""
        self = arguments.fields(self)
        within = jnp.square(self.components.mean - self.mean[..., None, :])
        return jnp.sum(self.weights[..., None] * (self.components.variance + within), axis=-2)

    def sample(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Samples (*shape, ..., dimension), differentiable in the components only.

        The choice of a component has no derivative; `stratified_sample` is
        differentiable in the logits too.
        """
        self, shape = mixture("distribution", self), arguments.shape(shape)
        of_component, of_point = jax.random.split(arguments.key(key))
        chosen = jax.random.categorical(
            of_component, self.logits, axis=-1, shape=shape + self.logits.shape[:-1]
        )
        points = self.components.sample(of_point, shape)
        return jnp.take_along_axis(points, chosen[..., None, None], axis=-2)[..., 0, :]

    def stratified_sample(self, key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
        """`number` samples of every component, and the logarithms of their weights.

        sum_k exp(log_weight_k) f(point_k) estimates E f without bias, with
        derivatives in the logits as in the components.

        Returns:
          Points (number * component, ..., dimension) and log-weights
          (number * component, ...), which sum to 1 in probability.
        """
        self = mixture("distribution", self)
        number = arguments.count("number", number)
        points = jnp.moveaxis(self.components.sample(key, (number,)), -2, 1)
        log_weights = jnp.moveaxis(jax.nn.log_softmax(self.logits, axis=-1), -1, 0)
        # Every component has `number` samples, which share its weight.
        each = jnp.broadcast_to(log_weights[None] - jnp.log(number), points.shape[:-1])
        return (
            points.reshape(-1, *points.shape[2:]),
            each.reshape(-1, *each.shape[2:]),
        )

    def log_prob(self, x: ArrayLike) -> jax.Array:
        """Log p(x) (...) of points (..., dimension)."""
        self = mixture("distribution", self)
        self, x = arguments.one_dtype(self, point(x, self.mean))
        repeated = jnp.broadcast_to(x[..., None, :], self.components.mean.shape)
        each = self.components.log_prob(repeated)
        return jax.nn.logsumexp(jax.nn.log_softmax(self.logits, axis=-1) + each, axis=-1)


def gaussian(name: str, value: Any) -> DiagonalGaussian:
    """A checked DiagonalGaussian."""
    if not isinstance(value, DiagonalGaussian):
        raise TypeError(f"{name} must be a DiagonalGaussian, got {type(value).__name__}")
    mean = arguments.floats(f"{name}.mean", value.mean)
    log_variance = arguments.floats(f"{name}.log_variance", value.log_variance)
    if mean.ndim < 1 or mean.shape != log_variance.shape:
        raise ValueError(
            f"{name} must have mean and log_variance of one shape (..., dimension), "
            f"got {mean.shape} and {log_variance.shape}"
        )
    return DiagonalGaussian(*arguments.one_dtype(mean, log_variance))


def gaussians(p: Any, q: Any) -> tuple[DiagonalGaussian, DiagonalGaussian]:
    """Two checked Gaussians of one shape and dtype."""
    p, q = arguments.one_dtype(gaussian("p", p), gaussian("q", q))
    if p.mean.shape != q.mean.shape:
        raise ValueError(
            f"p and q must have one shape (..., dimension), got {p.mean.shape} and {q.mean.shape}"
        )
    return p, q


def mixture(name: str, value: Any) -> GaussianMixture:
    """A checked GaussianMixture."""
    if not isinstance(value, GaussianMixture):
        raise TypeError(f"{name} must be a GaussianMixture, got {type(value).__name__}")
    logits = arguments.floats(f"{name}.logits", value.logits)
    components = gaussian(f"{name}.components", value.components)
    if components.mean.ndim < 2 or logits.shape != components.mean.shape[:-1]:
        raise ValueError(
            f"{name} must have logits (..., component) and components (..., component, "
            f"dimension), got {logits.shape} and {components.mean.shape}"
        )
    return GaussianMixture(*arguments.one_dtype(logits, components))


def gaussian_or_mixture(name: str, value: Any) -> DiagonalGaussian | GaussianMixture:
    """A checked distribution of either kind."""
    if isinstance(value, GaussianMixture):
        return mixture(name, value)
    if isinstance(value, DiagonalGaussian):
        return gaussian(name, value)
    raise TypeError(
        f"{name} must be a DiagonalGaussian or a GaussianMixture, got {type(value).__name__}"
    )


def point(x: Any, like: jax.Array, name: str = "x") -> jax.Array:
    """A checked point of the shape of a distribution's mean."""
    x = arguments.floats(name, x)
    if x.shape != like.shape:
        raise ValueError(
            f"{name} must have the shape of the distribution's mean {like.shape}, got {x.shape} "
            "(map over samples with vmap)"
        )
    return x


def standard_normal(like: jax.Array) -> DiagonalGaussian:
    """N(0, I) in the shape of `like`."""
    return DiagonalGaussian(jnp.zeros_like(like), jnp.zeros_like(like))
