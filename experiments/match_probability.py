"""How exact is the match probability without samples?

    python -m experiments.match_probability

About two minutes on two CPU cores. For isotropic Gaussians the quadrature is exact.
For others, the isotropic Gaussian with the same mean and variance of the squared
distance stands in, and this measures what that costs: the greatest error against
many samples, over distances of the means and over sharpnesses and thresholds of
the sigmoid, for variances that spread evenly in logarithm over a ratio of greatest
to least.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import runs
from probemb import DiagonalGaussian, expected_match_probability

DISTANCES = (0.0, 0.5, 1.0, 2.0, 4.0)
SHARPNESSES = (0.5, 2.0, 8.0, 32.0, 128.0)
# Where the sigmoid is a half, as a share of the root of the mean squared distance.
THRESHOLDS = (0.2, 0.35, 0.5, 1.0, 1.5)
DIRECTIONS = ("narrowest", "widest", "all")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the measurement."""

    dimensions: tuple[int, ...] = (2, 8, 64)
    """Dimensions of the embedding."""
    ratios: tuple[float, ...] = (1.0, 4.0, 16.0, 100.0, 10000.0)
    """Greatest variance over least variance."""
    num_samples: int = 1_000_000
    """Samples behind each estimate."""
    seed: int = 0
    """Seed of the samples."""


@functools.partial(jax.jit, static_argnums=(0, 3))
def case(dimension: int, ratio: float, distance: float, direction: str):
    """Two Gaussians with the same variances, whose difference has a total variance of 1."""
    spread = jnp.geomspace(1.0, ratio, dimension)
    log_variance = jnp.log(0.5 * spread / jnp.sum(spread))
    toward = {
        "narrowest": jnp.eye(dimension)[0],
        "widest": jnp.eye(dimension)[-1],
        "all": jnp.full(dimension, dimension**-0.5),
    }[direction]
    return (
        DiagonalGaussian(distance * toward, log_variance),
        DiagonalGaussian(jnp.zeros(dimension), log_variance),
    )


def sigmoids(p: DiagonalGaussian, q: DiagonalGaussian) -> tuple[jax.Array, jax.Array]:
    """The scale a and the shift b of every sharpness and threshold."""
    size = jnp.sqrt(jnp.sum(jnp.square(p.mean - q.mean) + p.variance + q.variance))
    a, threshold = (x.ravel() for x in jnp.meshgrid(jnp.array(SHARPNESSES), jnp.array(THRESHOLDS)))
    return a, a * threshold * size


@functools.partial(jax.jit, static_argnums=3)
def estimates(key: jax.Array, p: DiagonalGaussian, q: DiagonalGaussian, number: int):
    """The mean match probability over samples for each sigmoid, and its standard error."""
    chunk = min(number, 2**20 // p.mean.size)
    chunks = -(-number // chunk)
    deviation = jnp.sqrt(p.variance + q.variance)

    def moments(key):
        noise = jax.random.normal(key, (chunk, p.mean.size))
        distance = jnp.linalg.norm(p.mean - q.mean + deviation * noise, axis=1)
        a, b = sigmoids(p, q)
        matches = jax.nn.sigmoid(b[:, None] - a[:, None] * distance)
        return jnp.mean(matches, 1), jnp.mean(jnp.square(matches), 1)

    first, second = jax.lax.map(moments, jax.random.split(key, chunks))
    mean = jnp.mean(first, 0)
    variance = jnp.maximum(jnp.mean(second, 0) - jnp.square(mean), 0.0)
    return mean, jnp.sqrt(variance / (chunk * chunks))


@jax.jit
def expectations(p: DiagonalGaussian, q: DiagonalGaussian) -> jax.Array:
    """The same by quadrature."""

    def expected(a, b):
        return expected_match_probability(p, q, negative_scale=a, shift=b)

    return jax.vmap(expected)(*sigmoids(p, q))


def run(config: Config) -> dict[tuple[int, float], dict[str, float]]:
    """Measure, print a table, and return both errors by dimension and ratio of variances."""
    key = jax.random.key(config.seed)
    table: dict[tuple[int, float], dict[str, float]] = {}
    cases = [(d, ratio) for d in config.dimensions for ratio in config.ratios]
    for dimension, ratio in tqdm(cases, desc="variances", unit="case"):
        errors = []
        for distance in DISTANCES:
            for direction in DIRECTIONS if distance else DIRECTIONS[:1]:
                key, of_samples = jax.random.split(key)
                p, q = case(dimension, ratio, distance, direction)
                mean, error = estimates(of_samples, p, q, config.num_samples)
                errors.append((np.abs(np.asarray(expectations(p, q) - mean)), np.asarray(error)))
        worst, standard = (np.max(np.stack(one)) for one in zip(*errors, strict=True))
        table[dimension, ratio] = {"error": float(worst), "standard": float(standard)}
    print(f"\ngreatest error of the match probability, {config.num_samples} samples a case\n")
    print(f"{'dimension':>10}{'ratio of variances':>20}{'error':>10}{'standard error':>16}")
    for (dimension, ratio), row in table.items():
        print(f"{dimension:>10}{ratio:>20g}{row['error']:>10.4f}{row['standard']:>16.4f}")
    return table


if __name__ == "__main__":
    run(runs.read_options(Config, "experiments.match_probability", __doc__))
