"""Values of one example, from a seed and from how far out they may lie."""

import numpy as np

from probemb import DiagonalGaussian, GaussianMixture, GeneralizedGaussian, VonMisesFisher


def single(values):
    """Float64 that float32 holds exactly: both precisions see the same values."""
    return np.asarray(values, np.float32).astype(np.float64)


class Draw:
    """Draws small valid arguments.

    At an extent of 0 values are of order 1; at 1 they reach the far ends of what a function
    promises to take, and ties, equal means and flat images are as frequent as ordinary ones.
    """

    def __init__(self, seed: int, extent: float):
        self.random = np.random.default_rng(seed)
        self.extent = extent

    def seed(self):
        """Of a random key."""
        return self.random.integers(2**32, dtype=np.uint32)

    def rarely(self) -> bool:
        return bool(self.random.random() < 0.5 * self.extent)

    def between(self, low: float, high: float, shape=()):
        """Uniform over the middle of an interval, over all of it at an extent of 1."""
        width = 0.1 + 0.9 * self.extent
        share = 0.5 + width * (self.random.random(shape) - 0.5)
        return single(low + (high - low) * share)

    def positive(self, low: float, high: float, shape=()):
        """As `between`, of the logarithm."""
        return single(np.exp(self.between(np.log(low), np.log(high), shape)))

    def floats(self, *shape: int, decades: float = 1.5):
        """Of either sign; the magnitude of all of them varies by decades, and some tie."""
        values = self.random.standard_normal(shape)
        values = np.round(2.0 * values) / 2.0 if self.rarely() else values
        return single(values * 10.0 ** (self.extent * self.random.uniform(-decades, decades)))

    def shares(self, *shape: int):
        """From 0 to 1, both of them included."""
        values = self.random.random(shape)
        return single(np.round(4.0 * values) / 4.0 if self.rarely() else values)

    def binary(self, *shape: int):
        """0 and 1; both among the first two of the last axis."""
        values = self.random.integers(0, 2, shape)
        values[..., 0], values[..., 1] = 0, 1
        return values

    def unit(self, *shape: int):
        vectors = self.random.standard_normal(shape)
        return single(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))

    def image(self, *shape: int):
        """Noise, or flat, black, white, in halves or of few levels."""
        noise, kind = self.random.random(shape), self.random.integers(6) if self.rarely() else 0
        half = np.arange(shape[1]).reshape(-1, *(1,) * (len(shape) - 2)) < shape[1] // 2
        flat = np.full(shape, self.random.random())
        kinds = noise, flat, 0.0 * noise, 1.0 + 0.0 * noise, noise * half, np.round(2 * noise) / 2
        return single(kinds[kind])

    def images(self, *shape: int):
        """Two images: unlike each other, alike but for little, or the same."""
        x, y = self.image(*shape), self.image(*shape)
        if self.rarely():
            apart = 10.0 ** self.random.uniform(-4, -1) if self.random.random() < 0.7 else 0.0
            y = np.clip(x + apart * (self.random.random(shape) - 0.5), 0.0, 1.0)
        return x, single(y)

    def gaussian(self, *shape: int, log_variance: float = 30.0, decades: float = 1.5):
        """Means as `floats`; log-variances to +-`log_variance`, all of one sign or mixed."""
        middle = self.between(-log_variance, log_variance)
        noise = (1.0 + 2.0 * self.extent) * self.random.standard_normal(shape)
        spread = np.clip(middle + noise, -log_variance, log_variance)
        return DiagonalGaussian(self.floats(*shape, decades=decades), single(spread))

    def gaussians(self, *shape: int, **options):
        """Two of one shape; the means of some pairs coincide, or nearly."""
        p, q = self.gaussian(*shape, **options), self.gaussian(*shape, **options)
        if self.rarely():
            near = p.mean * (1.0 + self.random.choice([0.0, 1e-6, 1e-3]))
            q = q._replace(mean=single(near))
        return p, q

    def mixture(self, *shape: int, components: int = 2, **options):
        gaussian = self.gaussian(*shape[:-1], components, shape[-1], **options)
        return GaussianMixture(self.floats(*shape[:-1], components, decades=1.0), gaussian)

    def generalized(self, *shape: int):
        location = self.floats(*shape)
        scale, beta = self.positive(0.1, 100.0, shape), self.positive(0.25, 4.0, shape)
        return GeneralizedGaussian(location, scale, beta)

    def von_mises_fisher(self, *shape: int, most: float = 1e6):
        return VonMisesFisher(self.unit(*shape), self.positive(1e-3, most, shape[:-1]))
