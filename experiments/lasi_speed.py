"""What does LASI cost, in time, memory and compilation, and what do the metrics beside it?

    python -m experiments.lasi_speed

About four minutes on two CPU cores. Every ratio compares medians of calls that
alternate in one run, so that a busy machine disturbs both sides alike. Run it
when nothing else runs. On a CPU the native kernel runs if it can be compiled;
`LASI_JAX_NATIVE=0` in the environment measures the XLA form.
"""

import dataclasses
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax

from experiments import runs
from experiments.image_metrics import named
from experiments.image_metrics.deep_network import Network
from experiments.runs.timing import alternate, report
from lasi_jax import native
from lasi_jax.embedding import DECAY, OFFSET, RIDGE
from lasi_jax.networks import squeezenet
from lasi_jax.wls.neighborhood import neighbor_index


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    repeats: int = 15
    """Timed calls of each function; the median counts."""
    neighborhood_size: int = 10
    """N, the number of elements that predict one."""
    rivals: bool = True
    """Time other metrics beside LASI, up to 800 x 1080."""
    metrics: Annotated[
        tuple[str, ...],
        tyro.conf.arg(help=f"Those metrics, by name. {named.described()}"),
    ] = ("ms_ssim", "deep")
    large: bool = True
    """Run pairs up to 2048 x 2048 too (about 20 seconds)."""
    seed: int = 0
    """Seed of the random images."""


def quadratic_by_sum(x: jax.Array, y: jax.Array, n: int) -> jax.Array:
    """The distance as it is defined: at each element, a sum of outer products over earlier ones."""
    products, weight = _weighted_products(x, y, n)

    def regress(t: jax.Array) -> jax.Array:
        return _ridge_solve((weight(t)[:, None, None] * products).sum(1))

    return _distance(lax.map(regress, jnp.arange(x.size)))


def quadratic_by_element(x: jax.Array, y: jax.Array, n: int) -> jax.Array:
    """The same with each element's sum as one matrix product."""
    values, phi, weight = _examples(x, y, n)
    features = jnp.concatenate([phi, values[..., None]], -1)

    def regress(t: jax.Array) -> jax.Array:
        return _ridge_solve(jnp.einsum("sjk,sjl->skl", phi * weight(t)[:, None], features))

    return _distance(lax.map(regress, jnp.arange(x.size)))


def quadratic_by_product(x: jax.Array, y: jax.Array, n: int) -> jax.Array:
    """The same with all sums as one product, of a matrix of elements x elements weights."""
    products, weight = _weighted_products(x, y, n)
    weights = jax.vmap(weight)(jnp.arange(x.size))
    return _distance(_ridge_solve(jnp.einsum("tj,sjkl->tskl", weights, products)))


def _weighted_products(x: jax.Array, y: jax.Array, n: int):
    """Outer products (2, elements, n, n + 1) of every example, and t -> weights (elements)."""
    values, phi, weight = _examples(x, y, n)
    features = jnp.concatenate([phi, values[..., None]], -1)
    return phi[..., :, None] * features[..., None, :], weight


def _examples(x: jax.Array, y: jax.Array, n: int):
    """Values (2, elements), their neighbours' (2, elements, n), and t -> weights (elements)."""
    values = 2.0 * jnp.stack([x.reshape(-1), y.reshape(-1)]) - 1.0
    index = neighbor_index(x.shape, n)
    phi = jnp.where(index < 0, 0.0, values[:, jnp.maximum(index, 0)])
    position = jnp.asarray(np.indices(x.shape).reshape(x.ndim, -1).T)

    def weight(t: jax.Array) -> jax.Array:
        distance = jnp.abs(position - position[t]).sum(-1)
        return jnp.where(jnp.arange(x.size) < t, DECAY**distance, 0.0)

    return values, phi, weight


def _ridge_solve(moments: jax.Array) -> jax.Array:
    """Coefficients from (..., n, n + 1); both images in one call, since two can hang jax 0.10."""
    n = moments.shape[-2]
    return jnp.linalg.solve(moments[..., :n] + RIDGE * jnp.eye(n), moments[..., n:])[..., 0]


def _distance(theta: jax.Array) -> jax.Array:
    """The mean distance of the embeddings of coefficients (elements, 2, n)."""
    direction = (theta + OFFSET) / jnp.linalg.norm(theta + OFFSET, axis=-1, keepdims=True)
    return jnp.linalg.norm(direction[:, 0] - direction[:, 1], axis=-1).mean()


SHAPES = ((64, 64), (256, 256), (512, 512), (800, 1080))
"""Of the images on which metrics are timed beside LASI."""


def beside_rivals(config: Config) -> dict[str, float]:
    """LASI beside other metrics, the value alone and with its gradient, as ratios.

    The network of `deep` is SqueezeNet 1.1 with random weights, which take as long as others. At
    64 x 64 MS-SSIM has three of its five scales.
    """
    parameters = squeezenet.initialize(jax.random.key(config.seed), version="1.1")
    features = partial(squeezenet.features, parameters=parameters)
    network = Network("deep features", features, None)
    named.check_all(config.metrics, network)
    lasi = f"lasi_{config.neighborhood_size}"
    metrics = {name: named.metric(name, network) for name in (lasi, *config.metrics)}
    figures = {}
    for height, width in SHAPES:
        x, y = jax.random.uniform(jax.random.key(config.seed), (2, height, width, 3))
        print(f"{height} x {width} x 3, {named.scales((height, width))} scales of MS-SSIM:")
        forms = {"value": lambda f: f, "value and gradient": lambda f: jax.value_and_grad(f, 1)}
        for form, of in forms.items():
            calls = [partial(jax.jit(of(metric)), x, y) for metric in metrics.values()]
            repeats = config.repeats if height < 512 else max(3, config.repeats // 3)
            seconds = dict(zip(metrics, alternate(repeats, *calls), strict=True))
            titles = {
                name: "LASI" if name == lasi else named.title(name, network) for name in seconds
            }
            listed = ", ".join(f"{titles[name]} {t * 1e3:.1f} ms" for name, t in seconds.items())
            print(f"  {form}: {listed}")
            for name in config.metrics:
                ratio = seconds[lasi] / seconds[name]
                figures[f"{titles[name]} {form} {height} x {width}"] = ratio
                what = f"  LASI / {titles[name]}, {form}"
                most = {"value": 1.5, "value and gradient": 2.0}[form]
                if name == "ms_ssim" and height >= 256:
                    report(what, ratio, "x", f"<= {most}", ratio <= most)
                else:
                    print(f"{what:<58} {ratio:>9.2f} x")
    return figures


def processor_nanoseconds(function: Callable, x: jax.Array, y: jax.Array) -> float:
    """Processor time of a call, of all threads, for each element of either image."""
    jax.block_until_ready(function(x, y))
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < 1.0:
        start = time.process_time()
        jax.block_until_ready(function(x, y))
        seconds.append(time.process_time() - start)
    return statistics.median(seconds) / (2 * x.size) * 1e9


def flops_of_an_element(n: int) -> float:
    """Additions and multiplications as counted by hand: of the moments' sums, factor and solves.

    A moment is a product and enters five sums, two operations each; L D L^T of n unknowns takes
    n^3 / 3, and its two solves 2 n^2.
    """
    return n * (n + 3) / 2 * 11 + n**3 / 3 + 2 * n**2


def matrix_product_gigaflops(key: jax.Array, size: int = 2048) -> float:
    """What a core reaches in a product of two square matrices, in processor time."""
    a, b = jax.random.normal(key, (2, size, size))
    product = jax.jit(partial(jnp.matmul, precision="highest"))
    nanoseconds = processor_nanoseconds(product, a, b) * 2 * a.size
    return 2.0 * size**3 / nanoseconds


def peak_gigabytes(size: int, n: int) -> float:
    """What value and gradient of a pair take beyond arguments and results, on Linux; else NaN.

    The process's own peak, as XLA does not know what a native kernel allocates: to be called
    first in a process of its own, `in_a_process`.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return float("nan")
    x, y = jax.random.uniform(jax.random.key(0), (2, size, size, 3))
    function = jax.jit(jax.value_and_grad(named.metric(f"lasi_{n}", None), 1))
    compiled = jax.block_until_ready(function.lower(x, y).compile())

    def kilobytes(name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+)", status.read_text())
        return int(found.group(1)) if found else 0

    reset.write_text("5")  # the peak begins anew
    before = kilobytes("VmRSS")
    results = jax.block_until_ready(compiled(x, y))
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(results))
    return (kilobytes("VmHWM") - before) / 1e6 - own / 1e9


def in_a_process(size: int, n: int) -> float:
    """`peak_gigabytes`, of a new process."""
    code = f"from experiments import lasi_speed; print(lasi_speed.peak_gigabytes({size}, {n}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def run(config: Config) -> dict[str, float]:
    """Measure everything, print it line by line, and return the figures by name."""
    runs.check_least(config, {"repeats": 1, "neighborhood_size": 1})
    n = config.neighborhood_size
    key = jax.random.key(config.seed)
    figures: dict[str, float] = {}

    def pair(size: int) -> tuple[jax.Array, jax.Array]:
        x, y = jax.random.uniform(jax.random.fold_in(key, size), (2, size, size, 3))
        return x, y

    lasi = named.metric(f"lasi_{n}", None)
    forward, gradient = jax.jit(lasi), jax.jit(jax.value_and_grad(lasi, 1))
    ssim, batch = jax.jit(dm_pix.ssim), jax.jit(jax.vmap(lasi))
    print(f"jax {jax.__version__}, {jax.default_backend()}, N = {n}, float32, medians")
    print(f"form of LASI on a CPU: {native.status()}\n")

    for size in (64, 256):
        x, y = pair(size)
        times = alternate(config.repeats, partial(forward, x, y), partial(ssim, x, y))
        print(f"{size} x {size} x 3: LASI {times[0] * 1e3:.1f} ms, SSIM {times[1] * 1e3:.1f} ms")
        figures[f"ssim_{size}"] = ratio = times[0] / times[1]
        report(f"  LASI / dm_pix.ssim at {size} x {size} x 3", ratio, "x", "<= 0.5", ratio <= 0.5)

    for size in (64, 256, 512):
        x, y = pair(size)
        times = alternate(config.repeats, partial(gradient, x, y), partial(forward, x, y))
        figures[f"gradient_{size}"] = ratio = times[0] / times[1]
        what = f"value and gradient / value at {size} x {size} x 3"
        report(what, ratio, "x", "<= 2.5", ratio <= 2.5)

    x, y = (jnp.stack(16 * [image]) for image in pair(64))
    times = alternate(config.repeats, partial(batch, x, y), partial(forward, x[0], y[0]))
    figures["batch"] = ratio = times[0] / (16 * times[1])
    report("16 pairs of 64 x 64 x 3 / 16 calls of one", ratio, "x", "<= 0.625", ratio <= 0.625)

    sizes = (64, 256, 512, 1024, 2048) if config.large else (64, 256)
    each = {size: processor_nanoseconds(forward, *pair(size)) for size in sizes}
    listed = ", ".join(f"{size}: {time:.0f} ns" for size, time in each.items())
    print(f"processor time for an element of either image, by side: {listed}")
    figures["growth"] = ratio = max(each.values()) / min(each.values())
    report("  the most / the least", ratio, "x", "<= 1.3", ratio <= 1.3)
    figures["gflops"] = reached = flops_of_an_element(n) / min(each.values())
    product = matrix_product_gigaflops(key)
    print(f"  by count {reached:.0f} Gflop/s of a core; a matrix product reaches {product:.0f}")

    size = 2048 if config.large else 512
    figures["gradient_gb"] = used = in_a_process(size, n)
    what = f"memory of value and gradient at {size} x {size} x 3"
    report(what, used, "GB", "< 0.5", used < 0.5)

    x, y = pair(32)
    quadratics = {
        "a sum of outer products per element": quadratic_by_sum,
        "a matrix product per element": quadratic_by_element,
        "one matrix product": quadratic_by_product,
    }
    calls = [
        partial(jax.jit(function, static_argnums=2), x, y, n) for function in quadratics.values()
    ]
    # Apart from each other: after a second of another call, the first call is always slow.
    (seconds,) = alternate(config.repeats, partial(forward, x, y))
    slow = alternate(3, *calls)
    error = max(abs(float(forward(x, y)) - float(call())) for call in calls)
    print(f"32 x 32 x 3: LASI {seconds * 1e3:.2f} ms, all values agree to {error:.0e}")
    figures["quadratic"] = ratio = slow[0] / seconds
    report("  the quadratic sum / LASI", ratio, "x", ">= 200", ratio >= 200)
    for name, time_ in zip(quadratics, slow, strict=True):
        figures[f"quadratic, {name}"] = time_ / seconds
        print(f"    as {name}: {time_ / seconds:.0f} x")

    x, y = pair(512)
    for name, function in (("value", lasi), ("value and gradient", jax.value_and_grad(lasi, 1))):
        jax.block_until_ready(jax.jit(function)(x, y))  # the kernel is in the cache folder
        jax.clear_caches()
        start = time.perf_counter()
        jax.block_until_ready(jax.jit(function)(x, y))
        figures[f"first_{name}"] = seconds = time.perf_counter() - start
        report(f"first call, {name}, 512 x 512 x 3", seconds, "s", "< 1", seconds < 1)
    if config.rivals:
        figures |= beside_rivals(config)
    return figures


if __name__ == "__main__":
    run(runs.read_options(Config, "experiments.lasi_speed", __doc__))
