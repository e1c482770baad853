"""Photographs: the bundled ones by name, and the user's own files."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import skimage
from PIL import Image, ImageOps, UnidentifiedImageError

BundledName = Literal["astronaut", "chelsea", "coffee", "rocket"]
"""Photographs that come with scikit-image and need no download."""
NAMES: tuple[BundledName, ...] = get_args(BundledName)


def bundled(name: BundledName) -> np.ndarray:
    """One of scikit-image's photographs, (height, width, 3) uint8."""
    if name not in NAMES:
        raise ValueError(f"photograph must be one of {NAMES}, got {name!r}")
    return np.asarray(getattr(skimage.data, name)())


def read(path: Path) -> np.ndarray:
    """The photograph in a file, (height, width, 3) uint8, upright and in RGB.

    EXIF orientation is applied. An alpha channel is dropped where it is opaque
    and refused where it is not, since what lies behind it is unknown.

    Raises:
      ValueError: the file is missing, is no image, is damaged, has more than
        one frame, more than 8 bits a channel, or transparent pixels.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        with Image.open(path) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise ValueError(f"{path} must hold one frame, it has {frames}")
            if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
                raise ValueError(
                    f"{path} must have 8 bits a channel, its mode is {image.mode}; convert it first"
                )
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                opacity = np.asarray(image.getchannel("A"))
                if opacity.min() < 255:
                    share = np.mean(opacity < 255)
                    raise ValueError(
                        f"{path} must be opaque, {share:.1%} of its pixels are not; "
                        "flatten it onto a background first"
                    )
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that Pillow can read") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def in_folder(folder: Path) -> dict[str, np.ndarray]:
    """All photographs in a folder by file name, in order; other files are left out.

    Raises:
      ValueError: no folder, no photographs in it, or one that `read` refuses.
    """
    if not folder.is_dir():
        raise ValueError(f"photographs must be in a folder, {folder} is none")
    formats = Image.registered_extensions()
    known = {suffix for suffix, name in formats.items() if name in Image.OPEN}
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in known)
    if not paths:
        raise ValueError(f"photographs must lie in their folder as image files, {folder} has none")
    return {path.name: read(path) for path in paths}
