"""What does LASI cost, in time, memory and compilation, and what do the metrics beside it?

    python -m experiments.lasi_speed

About four minutes on two CPU cores. Every ratio compares medians of calls that
alternate in one run, so that a busy machine disturbs both sides alike. Run it
when nothing else runs.
"""

import dataclasses
import time
from functools import partial
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
from experiments.runs.timing import alternate, report, temporary_gigabytes
from lasi_jax import structural
from lasi_jax.embedding import DECAY, OFFSET, RIDGE
from lasi_jax.networks import squeezenet
from lasi_jax.wls import least_squares
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
    """Run the 2048 x 2048 pair too (about 20 seconds)."""
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
    """LASI beside other metrics, forward and gradient, as ratios.

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
        for form, of in (("forward", lambda f: f), ("gradient", lambda f: jax.grad(f, 1))):
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
                if (name, form) == ("ms_ssim", "forward") and height >= 256:
                    report(what, ratio, "x", "<= 1.5", ratio <= 1.5)
                else:
                    print(f"{what:<58} {ratio:>9.2f} x")
    return figures


def solves_beside_ms_ssim(config: Config) -> dict[str, float]:
    """The least squares of a 256 x 256 pair, their moments given, beside MS-SSIM of the pair.

    A bound: whatever forms the moments, LASI with these solves is no faster beside MS-SSIM.
    """
    n, elements, blocks = config.neighborhood_size, 24_576, 16
    key = jax.random.key(config.seed)
    features = jax.random.normal(key, (n + 1, blocks, elements))
    pairs = [(i, k) for i in range(n) for k in range(i, n + 1)]
    # A matrix of rank one and the identity: every system is positive definite.
    moments = jnp.stack([features[i] * features[k] + (i == k) for i, k in pairs], 1)

    def solve(planes: jax.Array) -> list[jax.Array]:
        moment = dict(zip(pairs, planes, strict=True))
        factor = least_squares.cholesky(lambda i, k: moment[k, i], n)
        return least_squares.solve(factor, [moment[i, n] for i in range(n)])

    x, y = jax.random.uniform(key, (2, 256, 256, 3))
    calls = (
        partial(jax.jit(partial(lax.map, solve)), moments),
        partial(jax.jit(structural.ms_ssim), x, y),
    )
    solves, ms_ssim = alternate(config.repeats, *calls)
    print(f"256 x 256 x 3: solves {solves * 1e3:.1f} ms, MS-SSIM {ms_ssim * 1e3:.1f} ms")
    print(f"{'  solves alone / MS-SSIM':<58} {solves / ms_ssim:>9.2f} x")
    return {"solves": solves / ms_ssim}


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
    forward, gradient, ssim = jax.jit(lasi), jax.jit(jax.grad(lasi)), jax.jit(dm_pix.ssim)
    print(f"jax {jax.__version__}, {jax.default_backend()}, N = {n}, float32, medians\n")

    for size in (64, 256):
        x, y = pair(size)
        times = alternate(config.repeats, partial(forward, x, y), partial(ssim, x, y))
        print(f"{size} x {size} x 3: LASI {times[0] * 1e3:.1f} ms, SSIM {times[1] * 1e3:.1f} ms")
        figures[f"ssim_{size}"] = ratio = times[0] / times[1]
        report(f"  LASI / dm_pix.ssim at {size} x {size} x 3", ratio, "x", "<= 4", ratio <= 4)

    small, large = pair(128), pair(512)
    times = alternate(
        max(5, config.repeats // 3), partial(forward, *small), partial(forward, *large)
    )
    print(f"128 x 128 x 3: {times[0] * 1e3:.1f} ms, 512 x 512 x 3: {times[1] * 1e3:.1f} ms")
    figures["growth"] = ratio = times[1] / times[0]
    report("  time for 16 x the elements", ratio, "x", "<= 18", ratio <= 18)

    for size in (64, 256):
        x, y = pair(size)
        times = alternate(config.repeats, partial(gradient, x, y), partial(forward, x, y))
        figures[f"gradient_{size}"] = ratio = times[0] / times[1]
        report(f"gradient / forward at {size} x {size} x 3", ratio, "x", "<= 3", ratio <= 3)

    def images(size: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        shape = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
        return shape, shape

    used, _ = temporary_gigabytes(gradient, *images(1024))
    figures["gradient_gb"] = used
    report("temporary memory of the gradient at 1024 x 1024 x 3", used, "GB", "<= 2", used <= 2)

    used, compiled = temporary_gigabytes(forward, *images(2048))
    figures["forward_gb"] = used
    report("temporary memory of a pair at 2048 x 2048 x 3", used, "GB", "< 4", used < 4)
    if config.large:
        x, y = pair(2048)
        start = time.perf_counter()
        value = float(compiled(x, y))
        print(f"  it ran in {time.perf_counter() - start:.1f} s and gave {value:.4f}")

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

    for name, function in (("forward", lasi), ("gradient", jax.grad(lasi))):
        jax.clear_caches()
        start = time.perf_counter()
        jax.jit(function).lower(*images(512)).compile()
        figures[f"compile_{name}"] = seconds = time.perf_counter() - start
        report(f"compile time, {name}, 512 x 512 x 3", seconds, "s", "< 10", seconds < 10)
    if config.rivals:
        figures |= beside_rivals(config) | solves_beside_ms_ssim(config)
    return figures


if __name__ == "__main__":
    run(runs.read_options(Config, "experiments.lasi_speed", __doc__))
