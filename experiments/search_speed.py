"""What does the exact search for the nearest Gaussians cost beside Faiss's flat index?

    python -m experiments.search_speed

About a minute on two CPU cores; needs the extra `serving`. `probemb.search.top_k` stands
beside `faiss.IndexFlatIP` with as many threads as Faiss takes by default. Every ratio
compares medians of calls that alternate in one run. Run it when nothing else runs.
"""

import dataclasses
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runs
from experiments.runs.timing import alternate, report, temporary_gigabytes
from probemb import DiagonalGaussian, search, serving


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    number: int = 100_000
    """Items."""
    dimension: int = 256
    """Dimension of the embedding; the vectors have one more."""
    queries: int = 1000
    """Queries of a batch."""
    k: int = 10
    """Neighbours of each query."""
    seed: int = 0
    """Seed of the random embeddings."""
    repeats: int = 11
    """Timed calls of each function; the median counts."""


def gaussians(key: jax.Array, number: int, dimension: int) -> DiagonalGaussian:
    """Gaussians with means close to unit vectors and variances that differ between them."""
    of_mean, of_variance, of_whole = jax.random.split(key, 3)
    mean = jax.random.normal(of_mean, (number, dimension)) / dimension**0.5
    log_variance = 0.3 * jax.random.normal(of_variance, (number, dimension)) - jnp.log(dimension)
    return DiagonalGaussian(mean, log_variance + jax.random.normal(of_whole, (number, 1)) - 1.0)


def agreement(found: search.TopK, expected: search.TopK) -> float:
    """The share of neighbours that both searches find, whatever their order."""
    shared = [
        len(np.intersect1d(*rows))
        for rows in zip(np.asarray(found.indices), np.asarray(expected.indices), strict=True)
    ]
    return float(np.mean(shared)) / np.shape(expected.indices)[1]


def run(config: Config) -> dict[str, float]:
    """Measure everything, print it line by line, and return the figures by name."""
    of_items, of_queries = jax.random.split(jax.random.key(config.seed))
    items, queries = jax.block_until_ready(
        (
            search.item_vectors(gaussians(of_items, 2 * config.number, config.dimension)),
            search.query_vectors(gaussians(of_queries, config.queries, config.dimension)),
        )
    )
    half = jax.block_until_ready(items[: config.number])
    index = serving.faiss_index(half)
    nearest = partial(search.top_k, k=config.k)
    figures: dict[str, float] = {}
    print(f"jax {jax.__version__}, {jax.default_backend()}, float32, medians")
    print(f"{config.number} items in {config.dimension} dimensions, k = {config.k}\n")

    for number in sorted({config.queries, 1}, reverse=True):
        some = queries[:number]
        as_numpy = np.asarray(some)
        gigabytes, call = temporary_gigabytes(nearest, some, half)
        expected = serving.search_faiss(index, as_numpy, k=config.k)
        name = f"{number} queries" if number > 1 else "1 query"
        figures[f"{name}, same"] = same = agreement(call(some, half), expected)
        seconds, of_faiss = alternate(
            config.repeats, partial(call, some, half), partial(index.search, as_numpy, config.k)
        )
        print(f"{name}: {seconds * 1e3:.1f} ms, Faiss {of_faiss * 1e3:.1f} ms")
        figures[f"{name}, time"] = ratio = seconds / of_faiss
        report("  top_k / Faiss's flat index, time", ratio, "x", "<= 1", ratio <= 1)
        report("  neighbours that both find", same, "", ">= 0.999", same >= 0.999)
        figures[f"{name}, memory"] = gigabytes
        report("  temporary memory", gigabytes, "GB", "< 0.1", gigabytes < 0.1)

    twice_gigabytes, twice = temporary_gigabytes(nearest, queries, items)
    gigabytes, once = temporary_gigabytes(nearest, queries, half)
    seconds, longer = alternate(
        config.repeats, partial(once, queries, half), partial(twice, queries, items)
    )
    print(f"\ntwice the items, {config.queries} queries: {longer * 1e3:.1f} ms")
    figures["growth of time"] = ratio = longer / seconds
    report("  time", ratio, "x", "<= 2.2", ratio <= 2.2)
    figures["growth of memory"] = ratio = twice_gigabytes / gigabytes
    report("  temporary memory", ratio, "x", "<= 1.1", ratio <= 1.1)
    return figures


if __name__ == "__main__":
    try:
        run(runs.read_options(Config, "experiments.search_speed", __doc__))
    except (ImportError, ValueError) as error:
        sys.exit(f"error: {error}")
