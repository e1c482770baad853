"""What do the losses of all pairs cost, in time and memory?

    python -m experiments.loss_speed

About three minutes on two CPU cores. The losses in blocks stand beside a plain
version that writes every pair out by broadcasting, as the released code does.
Every ratio compares medians of calls that alternate in one run. Run it when
nothing else runs.
"""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from experiments import runs
from experiments.runs.timing import alternate, report, temporary_gigabytes
from probemb import DiagonalGaussian, pcme_of_samples, pcmepp, prolip

ALPHA, BETA = 0.1, 1e-4  # of PCME++


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    repeats: int = 5
    """Timed calls of each function; the median counts."""
    large: bool = True
    """Run PCME's gradient at B = 4096, K = 8, D = 512 too (about a minute)."""
    processes: bool = True
    """Measure the memory of whole processes too."""
    seed: int = 0
    """Seed of the random embeddings."""


def plain_pcme(x: jax.Array, y: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """PCME from differences of all pairs of samples: batch^2 x sample^2 x dimension numbers."""
    difference = x[:, None, :, None, :] - y[None, :, None, :, :]
    logits = b - a * jnp.sqrt(jnp.sum(jnp.square(difference), -1) + 1e-12)
    sign = 2.0 * jnp.eye(len(x)) - 1.0
    log_probabilities = jax.nn.log_sigmoid(sign[:, :, None, None] * logits)
    return -jnp.sum(jnp.log(jnp.mean(jnp.exp(log_probabilities), (2, 3))))


def plain_pcmepp(image: DiagonalGaussian, text: DiagonalGaussian, a: jax.Array, b: jax.Array):
    """PCME++ from differences of all pairs of means: batch^2 x dimension numbers."""
    difference = jnp.square(image.mean[:, None] - text.mean[None])
    spread = jnp.exp(image.log_variance)[:, None] + jnp.exp(text.log_variance)[None]
    logits = b - a * jnp.sum(difference + spread, -1)
    label, positive = jnp.eye(len(logits)), jax.lax.stop_gradient(jnp.diagonal(logits))

    def cross_entropy(label):
        return jnp.mean(jax.nn.softplus(logits) - label * logits)

    def divergence(p):
        return 0.5 * jnp.mean(jnp.exp(p.log_variance) + p.mean**2 - 1.0 - p.log_variance)

    by_row = jnp.where(logits >= positive[:, None], 1.0, label)
    by_column = jnp.where(logits >= positive[None], 1.0, label)
    pseudo = cross_entropy(by_row) + cross_entropy(by_column)
    both = divergence(image) + divergence(text)
    return 2.0 * cross_entropy(label) + ALPHA * pseudo + BETA * both


def blocked_pcme(x: jax.Array, y: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """The same as `plain_pcme`, in blocks."""
    return pcme_of_samples(x, y, negative_scale=a, shift=b)


def blocked_pcmepp(image: DiagonalGaussian, text: DiagonalGaussian, a: jax.Array, b: jax.Array):
    """The same as `plain_pcmepp`, in blocks."""
    return pcmepp(
        image, text, negative_scale=a, shift=b, pseudo_positive_weight=ALPHA, kl_weight=BETA
    )


def samples(key: jax.Array, batch: int, number: int, dimension: int):
    """Samples of images and texts close to unit vectors, and a, b as PCME starts."""
    x, y = jax.random.normal(key, (2, batch, number, dimension)) / dimension**0.5
    return x, y, jnp.float32(5.0), jnp.float32(5.0)


def gaussians(key: jax.Array, batch: int, dimension: int):
    """Gaussians with means close to unit vectors, half shared, and a, b as PCME++ starts."""
    shared, *own = jax.random.normal(key, (3, batch, dimension)) / (2.0 * dimension) ** 0.5
    log_variances = jax.random.normal(jax.random.fold_in(key, 1), (2, *shared.shape)) * 0.3 - 8.0
    image, text = map(DiagonalGaussian, shared + jnp.stack(own), log_variances)
    return image, text, jnp.float32(5.0), jnp.float32(5.0)


def with_gradient(loss: Callable) -> Callable:
    """Value and gradient in all four arguments."""
    return jax.value_and_grad(loss, (0, 1, 2, 3))


def difference(one: tuple, other: tuple) -> float:
    """The greatest difference of values and gradients, relative to the greatest entry of each."""

    def relative(x: jax.Array, y: jax.Array) -> float:
        return float(jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y)))

    return max(jax.tree.leaves(jax.tree.map(relative, one, other)))


# name: (plain, in blocks, its inputs, least ratio of time, of memory, seconds of the release)
CASES = {
    "PCME, B 128, K 7, D 1024": (plain_pcme, blocked_pcme, (samples, 128, 7, 1024), 10, 100, 27.7),
    "PCME++, B 1024, D 512": (plain_pcmepp, blocked_pcmepp, (gaussians, 1024, 512), 5, 50, 23.5),
}


def peak_gigabytes(name: str) -> float:
    """The greatest resident memory of a fresh process that computes a case once, in blocks."""
    program = (
        "import pathlib, re, resource, sys, jax\n"
        "from experiments.loss_speed import CASES, with_gradient\n"
        "_, blocked, (make, *shape), *_ = CASES[sys.argv[1]]\n"
        "jax.block_until_ready(jax.jit(with_gradient(blocked))(*make(jax.random.key(0), *shape)))\n"
        # On Linux, ru_maxrss of a child starts at its parent's.
        "status = pathlib.Path('/proc/self/status')\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "peak /= 1e9 if sys.platform == 'darwin' else 1e6\n"
        "if status.exists():\n"
        "    peak = int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text()).group(1)) / 1e6\n"
        "print(peak)\n"
    )
    command = [sys.executable, "-c", program, name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run(config: Config) -> dict[str, float]:
    """Measure everything, print it line by line, and return the figures by name."""
    key = jax.random.key(config.seed)
    figures: dict[str, float] = {}
    print(f"jax {jax.__version__}, {jax.default_backend()}, float32, medians\n")

    for name, (plain, blocked, (make, *shape), faster, smaller, released) in CASES.items():
        inputs = make(key, *shape)
        plain_gb, plain_call = temporary_gigabytes(with_gradient(plain), *inputs)
        gb, call = temporary_gigabytes(with_gradient(blocked), *inputs)
        calls = [partial(one, *inputs) for one in (plain_call, call)]
        error = difference(calls[1](), calls[0]())
        plain_seconds, _ = alternate(config.repeats, *calls)
        # Apart, because the first call after seconds of another is always slow.
        (seconds,) = alternate(5 * config.repeats, calls[1])
        forward = [partial(jax.jit(one), *inputs) for one in (plain, blocked)]
        plain_forward, forward_seconds = alternate(config.repeats, *forward)
        print(f"{name}: value and gradient {seconds * 1e3:.0f} ms and {gb * 1e3:.0f} MB,")
        print(f"  plain {plain_seconds * 1e3:.0f} ms and {plain_gb * 1e3:.0f} MB; they differ by")
        print(f"  {error:.0e}. The value alone: {forward_seconds * 1e3:.0f} ms,", end=" ")
        print(f"plain {plain_forward * 1e3:.0f} ms.")
        figures[f"{name}, time"] = ratio = plain_seconds / seconds
        report("  plain / blocks, time", ratio, "x", f">= {faster}", ratio >= faster)
        figures[f"{name}, memory"] = ratio = plain_gb / gb
        report("  plain / blocks, temporary memory", ratio, "x", f">= {smaller}", ratio >= smaller)
        figures[f"{name}, released"] = ratio = released / seconds
        report(f"  released ({released} s elsewhere) / blocks", ratio, "x", ">= 100", ratio >= 100)
        if config.processes:
            figures[f"{name}, process"] = peak = peak_gigabytes(name)
            report("  peak memory of a whole process", peak, "GB", "< 1", peak < 1)

    print("\ntwice the batch (4 x the pairs), value and gradient in blocks:")
    growing = {
        "PCME, K 7, D 256": (blocked_pcme, lambda batch: samples(key, batch, 7, 256), 256),
        "PCME++, D 512": (blocked_pcmepp, lambda batch: gaussians(key, batch, 512), 1024),
        "ProLIP, D 512": (
            lambda image, text, a, b: prolip(image, text, logit_scale=a, logit_bias=b),
            lambda batch: gaussians(key, batch, 512),
            1024,
        ),
    }
    for name, (loss, make, batch) in growing.items():
        measured = []
        for size in (batch, 2 * batch):
            inputs = make(size)
            gb, call = temporary_gigabytes(with_gradient(loss), *inputs)
            measured.append((*alternate(config.repeats, partial(call, *inputs)), gb))
        time_ratio, memory_ratio = (measured[1][i] / measured[0][i] for i in (0, 1))
        figures[f"{name}, growth of time"] = time_ratio
        figures[f"{name}, growth of memory"] = memory_ratio
        report(
            f"  {name}, time, B {batch} to {2 * batch}", time_ratio, "x", "<= 5", time_ratio <= 5
        )
        report(f"  {name}, temporary memory", memory_ratio, "x", "<= 2.5", memory_ratio <= 2.5)

    inputs = samples(key, *((4096, 8, 512) if config.large else (256, 8, 512)))
    gb, call = temporary_gigabytes(with_gradient(blocked_pcme), *inputs)
    figures["large"] = gb
    print(f"\nPCME, B {len(inputs[0])}, K 8, D 512, value and gradient:")
    report("  temporary memory", gb, "GB", "< 4", gb < 4)
    start = time.perf_counter()
    value, gradient = jax.block_until_ready(call(*inputs))
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((value, gradient)))
    figures["large, seconds"] = seconds = time.perf_counter() - start
    print(f"  it ran in {seconds:.0f} s and gave {float(value):.6g}; all finite: {finite}")
    return figures


if __name__ == "__main__":
    run(runs.read_options(Config, "experiments.loss_speed", __doc__))
