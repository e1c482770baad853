"""The von Mises-Fisher distribution: the Gaussian of the unit sphere."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from probemb.distributions.gaussians import point
from probemb.numerics import arguments
from probemb.numerics.bessel import log_bessel_and_ratio
from probemb.numerics.euclidean import greatest, normalized

_LOG_TWO_PI = 1.8378770664093453
# The least accepted share of proposals is 0.65 (in two dimensions, far from uniform).
_PROPOSALS = 100
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)


class VonMisesFisher(NamedTuple):
    """p(x) = C_D(kappa) exp(kappa m . x) for unit vectors x.

    C_D(kappa) = kappa^v / ((2 pi)^(D / 2) I_v(kappa)) with v = D / 2 - 1. Finite from
    kappa = 0, the uniform distribution, to the largest floats.

    Attributes:
      mean_direction: m (..., dimension), unit vectors of two dimensions or more.
      concentration: kappa >= 0 (...).

    Source: Mardia and Jupp, Directional Statistics (2000).

    Example:
      >>> import jax.numpy as jnp
      >>> p = VonMisesFisher(jnp.array([1.0, 0.0, 0.0]), jnp.array(0.0))
      >>> round(float(p.entropy()), 4)  # log of the sphere's area, 4 pi
      2.531
    """

    mean_direction: jax.Array
    concentration: jax.Array

    def _order(self) -> float:
        return self.mean_direction.shape[-1] / 2.0 - 1.0

    def _peak(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The logarithm of p(m), and A / kappa and 1 - A for the mean resultant length A."""
        log_bessel, ratio, rest = log_bessel_and_ratio(self._order(), self.concentration)
        return -0.5 * self.mean_direction.shape[-1] * _LOG_TWO_PI - log_bessel, ratio, rest

    @property
    def mean_resultant_length(self) -> jax.Array:
        """A_D(kappa) = I_{v+1}(kappa) / I_v(kappa) = |E x| (...)."""
        self = arguments.fields(self)
        return self._length(*self._peak()[1:])

    def _length(self, ratio: jax.Array, rest: jax.Array) -> jax.Array:
        # Of a large concentration, the first has derivatives that cancel; of a small one, the other
        # has a value that does.
        near = self.concentration < self.mean_direction.shape[-1]
        return jnp.where(near, self.concentration * ratio, 1.0 - rest)

    @property
    def mean(self) -> jax.Array:
        """E x = A_D(kappa) m (..., dimension), inside the sphere."""
        self = arguments.fields(self)
        return self.mean_resultant_length[..., None] * self.mean_direction

    @property
    def variance(self) -> jax.Array:
        """The marginal variances (..., dimension)."""
        self = arguments.fields(self)
        _, ratio, rest = self._peak()
        m = self.mean_direction.shape[-1] - 1.0
        along = rest * (1.0 + self.concentration * ratio) - m * ratio
        # Both terms cancel where the concentration is large; there, the expansion in 1 / kappa.
        far = (30.0 if along.dtype == jnp.float32 else 1e4) * (m + 1.0)
        inverse = 1.0 / jnp.maximum(self.concentration, far)
        expansion = (m - m * (m - 2.0) * inverse * (0.5 + 0.75 * inverse)) * 0.5 * inverse**2
        along = jnp.where(self.concentration > far, expansion, along)
        squared = jnp.square(self.mean_direction)
        return ratio[..., None] * (1.0 - squared) + along[..., None] * squared

    def sample(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Samples (*shape, ..., dimension), differentiable in both fields.

        The angle to the mean direction is drawn by rejection (Wood, 1994); its
        derivative in the concentration is that of its distribution function.
        """
        self, shape = von_mises_fisher("distribution", self), arguments.shape(shape)
        of_angle, of_tangent = jax.random.split(arguments.key(key))
        whole = shape + self.mean_direction.shape
        direction = jnp.broadcast_to(
            self.mean_direction.reshape((1,) * len(shape) + self.mean_direction.shape), whole
        )
        concentration = jnp.broadcast_to(
            self.concentration.reshape((1,) * len(shape) + self.concentration.shape), whole[:-1]
        )
        angle = _angle(of_angle, concentration, whole[-1])[..., None]
        noise = jax.random.normal(of_tangent, whole, dtype=direction.dtype)
        tangent = _orthogonal(_orthogonal(noise, direction), direction)  # twice, for rounding
        return jnp.cos(angle) * direction + jnp.sin(angle) * tangent

    def log_prob(self, x: ArrayLike) -> jax.Array:
        """Log p(x) (...) of unit vectors (..., dimension), against the sphere's area."""
        self = von_mises_fisher("distribution", self)
        self, x = arguments.one_dtype(self, point(x, self.mean_direction))
        unit("x", x)
        # kappa (m . x - 1), free of cancellation.
        squared_distance = jnp.sum(jnp.square(x - self.mean_direction), axis=-1)
        return self._peak()[0] - 0.5 * self.concentration * squared_distance

    def entropy(self) -> jax.Array:
        """-E log p (...) in nats: kappa (1 - A_D(kappa)) - log p(m)."""
        self = von_mises_fisher("distribution", self)
        log_peak, _, rest = self._peak()
        return self.concentration * rest - log_peak

    def kl_divergence(self, other: VonMisesFisher) -> jax.Array:
        """KL(self || other) (...) in nats."""
        p, q = arguments.one_dtype(von_mises_fisher("p", self), von_mises_fisher("q", other))
        if p.mean_direction.shape != q.mean_direction.shape:
            raise ValueError(
                "p and q must have one shape (..., dimension), "
                f"got {p.mean_direction.shape} and {q.mean_direction.shape}"
            )
        peak_p, ratio, rest = p._peak()
        peak_q, *_ = q._peak()
        apart = 0.5 * jnp.sum(jnp.square(p.mean_direction - q.mean_direction), axis=-1)
        # E (1 - m_q . x) = 1 - A + A (1 - m_q . m_p), where the last bracket is half a squared
        # distance, so that directions that are close keep their digits.
        return (
            peak_p
            - peak_q
            + (q.concentration - p.concentration) * rest
            + q.concentration * p._length(ratio, rest) * apart
        )


def _orthogonal(x: jax.Array, direction: jax.Array) -> jax.Array:
    """The unit vector of the part of x that is orthogonal to a unit vector."""
    rest = x - jnp.sum(x * direction, axis=-1, keepdims=True) * direction
    return normalized(rest)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
@functools.partial(jax.jit, static_argnums=2)  # a loop outside of jit compiles at every call
def _angle(key: jax.Array, concentration: jax.Array, dimension: int) -> jax.Array:
    """Angles to the mean direction, of density proportional to exp(kappa cos t) sin^(D-2) t.

    Everything is in terms of 1 - cos t, which keeps its precision where the
    concentration is large, and of its quotient by the center, which keeps to the floats.
    """
    m = dimension - 1.0
    concentration = jnp.minimum(concentration, jnp.finfo(concentration.dtype).max)
    wide = concentration < m
    in_m = jnp.where(wide, concentration, m) / m  # of 0..1: no square leaves the floats
    of_m = m / jnp.where(wide, m, concentration)
    slope = jnp.where(
        wide,
        1.0 / (2.0 * in_m + jnp.sqrt(1.0 + 4.0 * in_m**2)),
        of_m / (2.0 + jnp.sqrt(4.0 + of_m**2)),
    )
    center = 2.0 * slope / (1.0 + slope)
    # kappa center / m, at most 1 / 2.
    pull = jnp.where(wide, in_m * slope, 1.0 / (2.0 + jnp.sqrt(4.0 + of_m**2)))
    pull = 2.0 * pull / (1.0 + slope)

    def propose(number):
        of_radius, of_turn, of_odds = (
            jax.random.uniform(one, concentration.shape, concentration.dtype)
            for one in jax.random.split(jax.random.fold_in(key, number), 3)
        )
        # z of Beta(m / 2, m / 2), and 1 - z, by Ulrich's way from two uniform numbers.
        short = of_radius ** (2.0 / (m - 1.0)) if m > 1.0 else 0.0 * of_radius
        radius = jnp.sqrt(1.0 - short)
        least = 0.5 * short / (1.0 + radius)
        z, rest = (
            least + radius * jnp.square(turn(jnp.pi * of_turn)) for turn in (jnp.cos, jnp.sin)
        )
        in_centers = (1.0 + slope) * z / (rest + slope * z)
        missing = center * in_centers
        log_odds = m * pull * (1.0 - in_centers)
        log_odds += m * jnp.log((1.0 + in_centers - missing) / (2.0 - center))
        return jnp.log1p(-of_odds) <= log_odds, missing

    def again(state):
        number, accepted, kept = state
        passes, missing = propose(number)
        return number + 1, accepted | passes, jnp.where(accepted, kept, missing)

    # What is no concentration is NaN, and nothing waits for it. The others are all accepted long
    # before the last proposal.
    accepted, kept = propose(0)
    valid = concentration >= 0.0
    state = 1, accepted | ~valid, jnp.where(valid, kept, jnp.nan)
    _, _, kept = jax.lax.while_loop(
        lambda state: (state[0] < _PROPOSALS) & ~jnp.all(state[1]), again, state
    )
    return 2.0 * jnp.arcsin(jnp.sqrt(jnp.clip(0.5 * kept, 0.0, 1.0)))


@_angle.defjvp
def _angle_jvp(dimension, primals, tangents):
    """dt/dkappa = -(d/dkappa F(t)) / density(t), from the tail on t's side of the mean.

    On one side of the mean all terms (cos s - A) have one sign: nothing cancels.
    """
    (key, concentration), (_, tangent) = primals, tangents
    angle = _angle(key, concentration, dimension)
    concentration = jnp.minimum(concentration, greatest(concentration.dtype))
    *_, missing = log_bessel_and_ratio(dimension / 2.0 - 1.0, concentration)
    inner = 2.0 * jnp.square(jnp.sin(0.5 * angle)) < missing
    reach = 12.0 / jnp.sqrt(concentration + (dimension - 1.0))
    width = jnp.minimum(jnp.where(inner, angle, jnp.pi - angle), reach)
    sign = jnp.where(inner, -1.0, 1.0)
    nodes, weights = (
        jnp.asarray(x, angle.dtype).reshape((1,) * angle.ndim + (-1,)) for x in (_NODES, _WEIGHTS)
    )
    step = 0.5 * width[..., None] * (1.0 + nodes)
    s = angle[..., None] + sign[..., None] * step
    log_density = -concentration[..., None] * (2.0 * jnp.square(jnp.sin(0.5 * s)))
    log_density += (dimension - 2.0) * jnp.log(jnp.maximum(jnp.sin(s), jnp.finfo(s.dtype).tiny))
    here = -concentration * (2.0 * jnp.square(jnp.sin(0.5 * angle)))
    here += (dimension - 2.0) * jnp.log(jnp.maximum(jnp.sin(angle), jnp.finfo(s.dtype).tiny))
    away = jnp.abs(missing[..., None] - 2.0 * jnp.square(jnp.sin(0.5 * s)))
    integrand = away * jnp.exp(log_density - here[..., None])
    tail = 0.5 * width * jnp.sum(weights * integrand, axis=-1)
    return angle, -tail * tangent


def unit(name: str, vectors: jax.Array) -> None:
    """Concrete vectors of length 1, to a thousandth."""
    if arguments.concrete(vectors):
        lengths = np.linalg.norm(np.asarray(vectors), axis=-1)
        # What float16 rounded, by 5e-4 at most, still passes.
        if not np.all(np.abs(lengths - 1.0) < 1e-3):
            worst = arguments.shown(lengths.flat[np.argmax(np.abs(lengths - 1.0))], 0.999, 1.001)
            raise ValueError(f"{name} must hold unit vectors, got one of length {worst}")


def von_mises_fisher(name: str, value: Any) -> VonMisesFisher:
    """A checked VonMisesFisher."""
    if not isinstance(value, VonMisesFisher):
        raise TypeError(f"{name} must be a VonMisesFisher, got {type(value).__name__}")
    direction = arguments.floats(f"{name}.mean_direction", value.mean_direction)
    concentration = arguments.floats(f"{name}.concentration", value.concentration)
    if direction.ndim < 1 or direction.shape[-1] < 2 or concentration.shape != direction.shape[:-1]:
        raise ValueError(
            f"{name} must have mean_direction (..., dimension) of two dimensions or more and "
            f"concentration (...), got {direction.shape} and {concentration.shape}"
        )
    unit(f"{name}.mean_direction", direction)
    if arguments.concrete(concentration) and np.asarray(concentration).min() < 0.0:
        raise ValueError(
            f"{name}.concentration must not be negative, got {np.asarray(concentration).min():g}"
        )
    return VonMisesFisher(*arguments.one_dtype(direction, concentration))
