"""Distortions of a photograph, each by a level; and seven kinds at three levels, mild to strong."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from skimage import color, filters, transform

_FLOWS = 6
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


def impulses(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    """A share `level` of the pixels black or white."""
    drawn = generator.random(image.shape[:2])
    noisy = image.copy()
    noisy[drawn < level / 2], noisy[drawn > 1 - level / 2] = 0, 255
    return noisy


def pixels(image: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """Squares of `level` pixels a side, each of its mean colour; the last ones are cut."""
    side = round(level)
    height, width = image.shape[:2]
    padding = ((0, -height % side), (0, -width % side), (0, 0))
    padded = np.pad(image / 255.0, padding, mode="edge")
    small = transform.downscale_local_mean(padded, (side, side, 1))
    return to_uint8(small.repeat(side, 0).repeat(side, 1)[:height, :width])


def tones(image: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """Only `level` tones a channel."""
    steps = level - 1
    return to_uint8(np.round(image / 255.0 * steps) / steps)


def rotation(image: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """Turned by `level` degrees about the middle, the edges mirrored."""
    turned = transform.rotate(image / 255.0, level, mode="symmetric", order=3)
    return to_uint8(turned)


def warp(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    """Pixels moved by a smooth random flow of standard deviation `level` pixels."""
    height, width = image.shape[:2]
    coarse = generator.standard_normal((2, _FLOWS, _FLOWS))
    flow = np.array([transform.resize(way, (height, width), order=3) for way in coarse])
    flow *= level / flow.std()
    places = np.indices((height, width)) + flow
    moved = [
        transform.warp(channel, places, mode="symmetric", order=3)
        for channel in np.moveaxis(image / 255.0, -1, 0)
    ]
    return to_uint8(np.stack(moved, -1))


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
