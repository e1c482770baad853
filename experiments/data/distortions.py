"""Graded distortions of a photograph: each kind at three levels, mild to strong."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from skimage import color, filters

Distortion = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def to_uint8(image: np.ndarray) -> np.ndarray:
    """An image in 0..1 in whole steps of 0..255, cut to the range."""
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def noise(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    """White Gaussian noise of standard deviation `level`, the range being 0..1."""
    return to_uint8(image / 255.0 + level * generator.standard_normal(image.shape))


def blur(image: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """A Gaussian of standard deviation `level` pixels."""
    return to_uint8(filters.gaussian(image / 255.0, level, channel_axis=-1))


def jpeg(image: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """JPEG at quality `level`."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=round(level))
    return np.asarray(Image.open(buffer))


def shift(image: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """`level` pixels to the right, the left edge repeated."""
    columns = np.maximum(np.arange(image.shape[1]) - round(level), 0)
    return image[:, columns]


def brightness(image: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """`level` added to every value, the range being 0..1."""
    return to_uint8(image / 255.0 + level)


def contrast(image: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """Deviations from the image's mean times `level`."""
    mean = image.mean() / 255.0
    return to_uint8(mean + level * (image / 255.0 - mean))


def hue(image: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """The hue turned by `level` degrees."""
    hsv = color.rgb2hsv(image)
    hsv[..., 0] = (hsv[..., 0] + level / 360.0) % 1.0
    return to_uint8(color.hsv2rgb(hsv))


GRADES: dict[Distortion, tuple[str, tuple[float, float, float]]] = {
    noise: ("noise σ {:g}", (0.02, 0.06, 0.18)),
    blur: ("blur σ {:g} px", (0.7, 1.5, 4.0)),
    jpeg: ("JPEG quality {:g}", (75, 30, 8)),
    shift: ("shift {:g} px", (1, 2, 4)),
    brightness: ("brightness {:+g}", (0.05, 0.12, 0.3)),
    contrast: ("contrast × {:g}", (0.85, 0.6, 0.3)),
    hue: ("hue {:+g}°", (10, 30, 90)),
}


def graded(image: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Every kind at every level, by name: kinds in order, levels mild to strong."""
    generator = np.random.default_rng(seed)
    return {
        name.format(level): distort(image, level, generator)
        for distort, (name, levels) in GRADES.items()
        for level in levels
    }
