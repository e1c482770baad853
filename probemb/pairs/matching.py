"""The probability that two inputs match: sigmoid(-a * distance + b), averaged over embeddings.

Two points match with probability sigmoid(-a |z_1 - z_2| + b); two distributions, with
its mean over their samples. Three ways lead to a number: Monte Carlo over samples,
the exact expectation by quadrature, and PCME++'s logit on the closed-form sampled
distance, which is a different model and needs no average.

a > 0 is `negative_scale` and b is `shift`, both learned.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from probemb.distributions.gaussians import DiagonalGaussian, GaussianMixture, gaussian_or_mixture
from probemb.numerics import arguments
from probemb.numerics.arguments import Number
from probemb.numerics.euclidean import length
from probemb.pairs import distances
from probemb.pairs.separation import log_expected_sigmoids

Samples = tuple[jax.Array, jax.Array]


def closed_form_match_logit(
    p: DiagonalGaussian, q: DiagonalGaussian, *, negative_scale: Number, shift: Number
) -> jax.Array:
    """-a d + b for the closed-form sampled distance d; its sigmoid is a probability.

    Args:
      p: a Gaussian (..., dimension).
      q: a Gaussian of the same shape.
      negative_scale: a > 0.
      shift: b.

    Returns:
      The logit (...).

    Raises:
      TypeError, ValueError: not two Gaussians of one shape, or values out of range.

    Source: PCME++ (Chun, ICLR 2024).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(2), jnp.zeros(2))
      >>> float(closed_form_match_logit(p, p, negative_scale=5, shift=5))
      -15.0
    """
    distance = distances.sampled_distance(p, q)
    a = arguments.positive("negative_scale", negative_scale, distance)
    return -a * distance + arguments.scalar("shift", shift, distance)


def log_mean_sigmoid(logits: jax.Array, log_weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log of sum_kl w_kl sigmoid(+-l_kl), which sum to 1 in probability."""
    # Both, and as logarithms: of a probability near 1, what is missing to 1 has no digits left.
    yes, no = (
        jax.nn.logsumexp(log_weights + jax.nn.log_sigmoid(sign * logits)) for sign in (1.0, -1.0)
    )
    return yes, no


def _probability(log: jax.Array) -> jax.Array:
    """Of a logarithm that rounding may leave above 0."""
    return jnp.exp(jnp.minimum(log, 0.0))


def _weighted(name: str, samples: Any) -> Samples:
    """Samples with their log-weights, which add up to 1; plain samples weigh the same."""
    if isinstance(samples, tuple) and len(samples) == 2:
        points = arguments.batch(name, samples[0], "sample dimension")
        log_weights = arguments.batch(f"{name}'s log-weights", samples[1], "sample")
        if len(log_weights) != len(points):
            raise ValueError(
                f"{name} must have one log-weight per sample, "
                f"got {len(log_weights)} for {len(points)}"
            )
        return points, jax.nn.log_softmax(log_weights)
    points = arguments.batch(name, samples, "sample dimension")
    return points, jnp.full(len(points), -jnp.log(len(points)), points.dtype)


def log_monte_carlo(x: Any, y: Any, negative_scale: Any, shift: Any) -> tuple[jax.Array, jax.Array]:
    """The logarithms of `monte_carlo_match_probability` and of what it leaves to 1."""
    (x, x_weights), (y, y_weights) = arguments.one_dtype(_weighted("x", x), _weighted("y", y))
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have one dimension, got {x.shape} and {y.shape}")
    a = arguments.positive("negative_scale", negative_scale, x)
    b = arguments.scalar("shift", shift, x)
    # Differences, not a matrix product: samples may nearly coincide, and K x K of them are few.
    distance = length(x[:, None] - y[None])
    return log_mean_sigmoid(b - a * distance, x_weights[:, None] + y_weights[None])


def monte_carlo_match_probability(
    x: ArrayLike | tuple[ArrayLike, ArrayLike],
    y: ArrayLike | tuple[ArrayLike, ArrayLike],
    *,
    negative_scale: Number,
    shift: Number,
) -> jax.Array:
    """The match probability of two inputs from samples of their embeddings.

    sum_kl w_k w_l sigmoid(-a |x_k - y_l| + b), over all pairs of samples.

    Args:
      x: samples (sample, dimension), or (samples, log-weights) as of
        `GaussianMixture.stratified_sample`; weights are divided by their sum.
      y: samples of the other input; as many as there are.
      negative_scale: a > 0.
      shift: b.

    Returns:
      A scalar from 0 to 1. For a batch, `vmap`.

    Raises:
      TypeError, ValueError: shapes that do not fit, or values out of range.

    Source: HIB (Oh et al., ICLR 2019).

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.zeros((3, 2))
      >>> round(float(monte_carlo_match_probability(x, x, negative_scale=1, shift=0)), 4)
      0.5
    """
    log_match, _ = log_monte_carlo(x, y, negative_scale, shift)
    return _probability(log_match)


def matched_moments(apart: jax.Array, spread: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The isotropic variance and the degrees of freedom that stand for a diagonal Gaussian.

    With s_d the variance and m_d the mean of dimension d of z_1 - z_2, |z_1 - z_2|^2 has
    the mean |m|^2 + sum s_d and the variance 2 sum s_d^2 + 4 sum m_d^2 s_d. The noncentral
    chi-squared of the same |m|^2, mean and variance has

        s = sum w_d s_d / sum w_d,  w_d = s_d + 2 m_d^2,    D = sum s_d / s:

    a weighted mean of the s_d, and if all are equal, the result is exact.

    Args:
      apart: m_d^2 (..., dimension).
      spread: s_d (..., dimension).
    """
    weights = spread + 2.0 * apart
    shares = weights / jnp.sum(weights, axis=-1, keepdims=True)
    variance = jnp.sum(shares * spread, axis=-1)
    return variance, jnp.sum(spread, axis=-1) / variance


def _in_range(p: DiagonalGaussian) -> DiagonalGaussian:
    """Log-variances within +-35 (+-300 in float64), where no square of a variance overflows."""
    most = 35.0 if p.mean.dtype == jnp.float32 else 300.0
    return p._replace(log_variance=jnp.clip(p.log_variance, -most, most))


def _log_expected(p: DiagonalGaussian, q: DiagonalGaussian, a: jax.Array, b: jax.Array):
    p, q = _in_range(p), _in_range(q)
    apart, spread = jnp.square(p.mean - q.mean), p.variance + q.variance
    variance, degrees = matched_moments(apart, spread)
    a, b = (jnp.broadcast_to(value, variance.shape) for value in (a, b))
    return log_expected_sigmoids(jnp.sum(apart, axis=-1), variance, degrees, a, b)


def log_expected_match_probability(
    p: DiagonalGaussian | GaussianMixture,
    q: DiagonalGaussian | GaussianMixture,
    *,
    negative_scale: Number,
    shift: Number,
) -> tuple[jax.Array, jax.Array]:
    """Log E sigmoid(l) and log E sigmoid(-l), of matching and of not, without sampling.

    l = -a |z_1 - z_2| + b over independent z_1 of p and z_2 of q.

    Args:
      p: a Gaussian (dimension) or a mixture (component, dimension).
      q: another, in the same dimension.
      negative_scale: a > 0.
      shift: b.

    Returns:
      Two scalars. For a batch, `vmap`.

    Raises:
      TypeError, ValueError: as `expected_match_probability`.

    Source: as `expected_match_probability`.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(2), jnp.zeros(2))
      >>> yes, no = log_expected_match_probability(p, p, negative_scale=1, shift=2)
      >>> round(float(jnp.exp(yes) + jnp.exp(no)), 4)
      1.0
    """
    p, q = arguments.one_dtype(_as_mixture("p", p), _as_mixture("q", q))
    of_p, of_q = p.components, q.components
    if of_p.mean.ndim != 2 or of_q.mean.ndim != 2 or of_p.mean.shape[1] != of_q.mean.shape[1]:
        raise ValueError(
            "p and q must be single distributions in one dimension (map over batches with vmap), "
            f"got means of shape {p.mean.shape} and {q.mean.shape}"
        )
    a = arguments.positive("negative_scale", negative_scale, of_p.mean)
    b = arguments.scalar("shift", shift, of_p.mean)
    every = jax.vmap(jax.vmap(_log_expected, (None, 0, None, None)), (0, None, None, None))
    log_weights = jax.nn.log_softmax(p.logits)[:, None] + jax.nn.log_softmax(q.logits)[None]
    yes, no = (jax.nn.logsumexp(log_weights + log) for log in every(of_p, of_q, a, b))
    return yes, no


def _as_mixture(name: str, p: Any) -> GaussianMixture:
    """A mixture as it is, a Gaussian as a mixture of one."""
    p = gaussian_or_mixture(name, p)
    if isinstance(p, GaussianMixture):
        return p
    logits = jnp.zeros((*p.mean.shape[:-1], 1), p.mean.dtype)
    return GaussianMixture(logits, jax.tree.map(lambda x: x[..., None, :], p))


def expected_match_probability(
    p: DiagonalGaussian | GaussianMixture,
    q: DiagonalGaussian | GaussianMixture,
    *,
    negative_scale: Number,
    shift: Number,
) -> jax.Array:
    """The match probability of two inputs in closed form up to one integral: no samples.

    E sigmoid(-a |z_1 - z_2| + b) over independent z_1 of p and z_2 of q. For isotropic
    Gaussians it is exact, a one-dimensional quadrature over the noncentral chi
    distribution (see `separation`). Other Gaussians stand in by the isotropic one
    whose squared distance has the same mean and variance (see `matched_moments`). Against
    10^6 samples, over many distances, thresholds and sharpnesses, the greatest error of the
    probability is 0.04 in 2 dimensions and 0.005 in 64 where the greatest variance is 4 times
    the least, and 0.15 and 0.03 at 100 times (`python -m experiments.match_probability`). A
    mixture is the weighted sum over its components.

    Args:
      p: a Gaussian (dimension) or a mixture (component, dimension).
      q: another, in the same dimension.
      negative_scale: a > 0.
      shift: b.

    Returns:
      A scalar from 0 to 1, differentiable in everything. Log-variances beyond +-35 (float64:
      +-300) count as that. For a batch, `vmap`.

    Raises:
      TypeError: p or q is neither a Gaussian nor a mixture.
      ValueError: shapes that do not fit, or values out of range.

    Source: the model is HIB's (Oh et al., ICLR 2019); the quadrature is this package's.

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(2), jnp.full(2, -30.0))
      >>> round(float(expected_match_probability(p, p, negative_scale=1, shift=0)), 4)
      0.5
    """
    log_match, _ = log_expected_match_probability(p, q, negative_scale=negative_scale, shift=shift)
    return _probability(log_match)


def self_mismatch(
    p: DiagonalGaussian | GaussianMixture, *, negative_scale: Number, shift: Number
) -> jax.Array:
    """Eta = 1 - p(match | x, x): the probability that an input does not match itself.

    HIB's uncertainty of an input, by quadrature.

    Args:
      p: the Gaussian (dimension) or mixture (component, dimension) of the input.
      negative_scale: a > 0.
      shift: b.

    Returns:
      A scalar from 0 to 1, the greater the more uncertain. For a batch, `vmap`.

    Raises:
      TypeError, ValueError: as `expected_match_probability`.

    Source: HIB (Oh et al., ICLR 2019).

    Example:
      >>> import jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> sharp, wide = (DiagonalGaussian(jnp.zeros(2), jnp.full(2, v)) for v in (-9.0, 1.0))
      >>> eta = lambda p: float(self_mismatch(p, negative_scale=2, shift=3))
      >>> eta(sharp) < eta(wide)
      True
    """
    _, log_mismatch = log_expected_match_probability(
        p, p, negative_scale=negative_scale, shift=shift
    )
    return _probability(log_mismatch)


def monte_carlo_self_mismatch(
    key: jax.Array,
    p: DiagonalGaussian | GaussianMixture,
    *,
    num_samples: int,
    negative_scale: Number,
    shift: Number,
) -> jax.Array:
    """Eta = 1 - p(match | x, x) from two independent sets of samples of one input.

    With one set for both sides, every sample would meet itself, at distance 0.

    Args:
      key: a random key.
      p: the Gaussian (dimension) or mixture (component, dimension) of the input.
      num_samples: K; all K x K pairs count (of every component of a mixture).
      negative_scale: a > 0.
      shift: b.

    Returns:
      A scalar from 0 to 1. For a batch, `vmap`.

    Raises:
      TypeError, ValueError: no key, no distribution, or values out of range.

    Source: HIB (Oh et al., ICLR 2019).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from probemb import DiagonalGaussian
      >>> p = DiagonalGaussian(jnp.zeros(2), jnp.full(2, -30.0))
      >>> options = {"num_samples": 8, "negative_scale": 1.0, "shift": 0.0}
      >>> round(float(monte_carlo_self_mismatch(jax.random.key(0), p, **options)), 4)
      0.5
    """
    keys = jax.random.split(arguments.key(key))
    x, y = (weighted_samples(one, "p", p, num_samples) for one in keys)
    _, log_mismatch = log_monte_carlo(x, y, negative_scale, shift)
    return _probability(log_mismatch)


def weighted_samples(key: jax.Array, name: str, p: Any, num_samples: int) -> Samples:
    """Samples (sample, dimension) of a Gaussian or a mixture, and their log-weights."""
    p = _as_mixture(name, p)
    if p.components.mean.ndim != 2:
        raise ValueError(
            f"{name} must be a single distribution (map over batches with vmap), "
            f"got a mean of shape {p.mean.shape}"
        )
    return p.stratified_sample(key, num_samples)


def pairwise_log_expected(
    p: DiagonalGaussian, q: DiagonalGaussian, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`log_expected_match_probability` of all pairs of two sets of Gaussians.

    Means are subtracted pair by pair: in |m_p|^2 + |m_q|^2 - 2 m_p . m_q, nearly equal means
    leave only rounding, beside which a small variance is nothing. The quadrature costs more.
    Memory is rows x columns times `separation.NODES` and the dimension.
    """
    rows, columns = (
        jax.tree.map(lambda x, k=k: jnp.expand_dims(x, k), g) for k, g in ((1, p), (0, q))
    )
    return _log_expected(rows, columns, a, b)
