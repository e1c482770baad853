"""The generalized Gaussian: Laplace at shape 1, Gaussian at shape 2, a box at infinity."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from numpy.typing import ArrayLike

from probemb.distributions.gaussians import point
from probemb.numerics import arguments

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
# e^-40 of what is integrated is left out.
_NATS = 40.0


class GeneralizedGaussian(NamedTuple):
    """p(x) = prod_d beta / (2 alpha Gamma(1 / beta)) exp(-(|x - m| / alpha)^beta).

    Attributes:
      location: m (..., dimension), the mean.
      scale: alpha > 0 (..., dimension).
      shape: beta > 0 (..., dimension), of every dimension its own.

    Source: ProbVLM (Upadhyay et al., ICCV 2023); scipy.stats.gennorm.

    Example:
      >>> import jax.numpy as jnp
      >>> laplace = GeneralizedGaussian(jnp.zeros(1), jnp.ones(1), jnp.ones(1))
      >>> round(float(laplace.variance[0]), 4), round(float(laplace.entropy()), 4)
      (2.0, 1.6931)
    """

    location: jax.Array
    scale: jax.Array
    shape: jax.Array

    @property
    def mean(self) -> jax.Array:
        """The location."""
        return self.location

    @property
    def log_variance(self) -> jax.Array:
        """log(alpha^2 Gamma(3 / beta) / Gamma(1 / beta)), (..., dimension)."""
        self = arguments.fields(self)
        return 2.0 * jnp.log(self.scale) + gammaln(3.0 / self.shape) - gammaln(1.0 / self.shape)

    @property
    def variance(self) -> jax.Array:
        """The marginal variances (..., dimension)."""
        return jnp.exp(self.log_variance)

    def sample(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Samples (*shape, ..., dimension), differentiable in all fields.

        (|x - m| / alpha)^beta is Gamma(1 / beta), so that |x - m| / alpha is U G^(1 / beta) with
        U uniform and G of Gamma(1 + 1 / beta), which is well conditioned for any shape.
        """
        self, shape = generalized_gaussian("distribution", self), arguments.shape(shape)
        of_gamma, of_uniform = jax.random.split(arguments.key(key))
        axes = (1,) * len(shape)
        location, scale, beta = (field.reshape(axes + field.shape) for field in self)
        whole = shape + self.location.shape
        # No float holds the power of a greater one, and JAX's loop may not end for it.
        order = 1.0 + jnp.clip(1.0 / beta, 0.0, 1e4)
        gamma = jax.random.gamma(of_gamma, order, whole, dtype=beta.dtype)
        uniform = jax.random.uniform(of_uniform, whole, dtype=beta.dtype, minval=-1.0)
        return location + scale * uniform * gamma ** (1.0 / beta)

    def log_prob(self, x: ArrayLike) -> jax.Array:
        """Log p(x) (...) of points (..., dimension).

        Finite with a finite gradient everywhere: at a residual of exactly 0,
        where the density of a shape below 1 has a cusp, the derivative in x is
        taken as 0; and (|x - m| / alpha)^beta grows only logarithmically above
        the square root of the largest float.
        """
        self = generalized_gaussian("distribution", self)
        self, x = arguments.one_dtype(self, point(x, self.location))
        return jnp.sum(self._log_normalizer() - self._powered_residual(x), axis=-1)

    def _log_normalizer(self) -> jax.Array:
        return jnp.log(self.shape) - jnp.log(2.0 * self.scale) - gammaln(1.0 / self.shape)

    def _powered_residual(self, x: jax.Array) -> jax.Array:
        residual = jnp.abs(x - self.location)
        zero = residual == 0.0
        logarithm = self.shape * (jnp.log(jnp.where(zero, 1.0, residual)) - jnp.log(self.scale))
        # From `most` on, the tangent in the logarithm: value and slope go on without a jump, and
        # derivatives, greater by a factor, have room below the greatest float.
        most = 0.45 * float(np.log(np.finfo(x.dtype).max))
        below = jnp.minimum(logarithm, most)
        powered = jnp.exp(below) * (1.0 + (logarithm - below))
        return jnp.where(zero, 0.0, powered)

    def central_probability(self, x: ArrayLike) -> jax.Array:
        """Of every dimension, the probability of the interval around the mean that ends at x.

        P(1 / beta, (|x - m| / alpha)^beta) (..., dimension), P the regularised incomplete gamma
        function: uniform from 0 to 1 where x is drawn from this distribution. By quadrature, to
        1e-12, with derivatives of any order in all fields.
        """
        self = generalized_gaussian("distribution", self)
        self, x = arguments.one_dtype(self, point(x, self.location))
        residual = jnp.abs(x - self.location)
        zero = residual == 0.0
        log_residual = jnp.log(jnp.where(zero, 1.0, residual)) - jnp.log(self.scale)
        return jnp.where(zero, 0.0, _central_probability(log_residual, self.shape))

    def entropy(self) -> jax.Array:
        """-E log p (...) in nats: sum_d 1 / beta - log normalizer."""
        self = generalized_gaussian("distribution", self)
        return jnp.sum(1.0 / self.shape - self._log_normalizer(), axis=-1)

    def kl_divergence_at_equal_location(self, other: GeneralizedGaussian) -> jax.Array:
        """KL(self || other) (...) in nats, as if both had the same location.

        With different locations there is no closed form: see `monte_carlo`.
        """
        p, q = arguments.one_dtype(
            generalized_gaussian("p", self), generalized_gaussian("q", other)
        )
        if p.location.shape != q.location.shape:
            raise ValueError(
                "p and q must have one shape (..., dimension), "
                f"got {p.location.shape} and {q.location.shape}"
            )
        log_moment = (
            q.shape * (jnp.log(p.scale) - jnp.log(q.scale))
            + gammaln((q.shape + 1.0) / p.shape)
            - gammaln(1.0 / p.shape)
        )
        constant = p._log_normalizer() - q._log_normalizer() - 1.0 / p.shape
        return jnp.sum(constant + jnp.exp(log_moment), axis=-1)


@jax.jit  # dozens of small operations, slow one by one
def _integral(log_residual: jax.Array, beta: jax.Array) -> jax.Array:
    """P(a, r^beta) for a = 1 / beta, given log r.

    With t = r^beta e^-s, Gamma(a) P = int_0^inf t^a e^-t ds: from s = 0 outwards the integrand
    falls, without a scale of its own where a is small, but there its tail is exponential. Beyond
    the mode, the same with s < 0 is what is missing to 1.
    """
    a, powered = 1.0 / beta, _powered(log_residual, beta)
    left = powered <= jnp.maximum(a, 1.0)
    # How far the integrand counts, which the result does not depend on: to where e^-40 is left,
    # which is s + e^-s - 1 = 40 / a, or 40 / r^beta beyond the mode; a little overestimated.
    few = _NATS / a
    low = jnp.minimum(few + jnp.sqrt(2.0 * few), _NATS)
    few = _NATS / jnp.where(left, 1.0, powered)
    high = jnp.log1p(few + jnp.sqrt(2.0 * few))
    width = jax.lax.stop_gradient(jnp.where(left, low, high))
    nodes, weights = (
        jnp.asarray(values, beta.dtype).reshape((1,) * beta.ndim + (-1,))
        for values in (0.5 * (1.0 + _NODES), 0.5 * _WEIGHTS)
    )
    s = jnp.where(left, width, -width)[..., None] * nodes
    exponent = -a[..., None] * s - powered[..., None] * jnp.expm1(-s)
    area = a * width * jnp.sum(weights * jnp.exp(exponent), axis=-1)
    # Where a is small, e^-s is nothing at s = 40, but e^(-a s) is not: the rest in closed form.
    open_end = left & (low >= _NATS)
    tail = jnp.where(open_end, jnp.exp(jnp.where(open_end, powered - a * width, 0.0)), 0.0)
    share = _slope(log_residual, beta) * (area + tail)
    return jnp.where(left, share, 1.0 - share)


def _powered(log_residual: jax.Array, beta: jax.Array) -> jax.Array:
    """r^beta, up to where nothing is left beyond it."""
    most = 0.45 * float(np.log(np.finfo(beta.dtype).max))
    logarithm = beta * log_residual
    within = logarithm < most
    return jnp.exp(jnp.where(within, logarithm, most))


def _slope(log_residual: jax.Array, beta: jax.Array) -> jax.Array:
    """The derivative of the central probability in log r: r exp(-r^beta) / Gamma(1 + 1 / beta)."""
    return jnp.exp(log_residual - _powered(log_residual, beta) - gammaln(1.0 + 1.0 / beta))


@jax.custom_jvp
def _central_probability(log_residual: jax.Array, beta: jax.Array) -> jax.Array:
    return _integral(log_residual, beta)


@_central_probability.defjvp
def _central_probability_jvp(primals, tangents):
    (log_residual, beta), (of_residual, of_beta) = primals, tangents
    # The integral's derivative in r would be a small difference of terms as large as beta.
    of_shape_alone = functools.partial(_integral, log_residual)
    value, of_shape = jax.jvp(of_shape_alone, (beta,), (of_beta,))
    return value, of_shape + _slope(log_residual, beta) * of_residual


def generalized_gaussian(name: str, value: Any) -> GeneralizedGaussian:
    """A checked GeneralizedGaussian."""
    if not isinstance(value, GeneralizedGaussian):
        raise TypeError(f"{name} must be a GeneralizedGaussian, got {type(value).__name__}")
    fields = [arguments.floats(f"{name}.{field}", getattr(value, field)) for field in value._fields]
    shapes = [field.shape for field in fields]
    if fields[0].ndim < 1 or len(set(shapes)) > 1:
        raise ValueError(
            f"{name} must have location, scale and shape of one shape (..., dimension), "
            f"got {shapes[0]}, {shapes[1]} and {shapes[2]}"
        )
    for field, values in zip(("scale", "shape"), fields[1:], strict=True):
        arguments.all_positive(f"{name}.{field}", values)
    return GeneralizedGaussian(*arguments.one_dtype(*fields))
