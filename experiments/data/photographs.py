"""Photographs: the bundled ones by name, and the user's own files."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import skimage
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from tqdm import tqdm

BundledName = Literal["astronaut", "chelsea", "coffee", "rocket"]
"""Photographs that come with scikit-image and need no download."""
NAMES: tuple[BundledName, ...] = get_args(BundledName)

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339  # of TIFF
_EXIF, _INTEROPERABILITY, _COLOR_SPACE, _ADOBE_RGB = 0x8769, 0xA005, 0xA001, 2
_GAMMA = 1.0 / 2.2
_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green, blue
# By number in ITU-T H.273: Rec. 709's primaries and curves, sRGB's curve, and what is unspecified.
_PRIMARIES, _CURVES = (1, 2), (1, 2, 6, 13, 14, 15)
_ROUNDING = 2  # of 255: how far profiles of sRGB are from each other


def bundled(name: BundledName) -> np.ndarray:
    """One of scikit-image's photographs, (height, width, 3) uint8."""
    if name not in NAMES:
        raise ValueError(f"photograph must be one of {NAMES}, got {name!r}")
    return np.asarray(getattr(skimage.data, name)())


def read(path: Path) -> np.ndarray:
    """The photograph in a file, (height, width, 3) uint8, upright and in sRGB.

    EXIF orientation is applied. Colours are converted to sRGB, and a line says so, where the file
    has the profile of another space; without a profile they are taken for sRGB. An alpha channel
    is dropped where it is opaque and refused where it is not, since what lies behind it is unknown.

    Raises:
      ValueError: the file is missing, is no image, is damaged, has more than one frame, more than
        8 bits a channel, transparent pixels, or names other colours than sRGB without a profile
        that could convert them, as CMYK does.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        with Image.open(path) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise ValueError(f"{path} must hold one frame, it has {frames}")
            if image.mode not in _MODES:
                raise ValueError(
                    f"{path} must have 8 bits a channel, its mode is {image.mode}; convert it first"
                )
            content = path.read_bytes()
            if (bits := _bits(image, content)) > 8:
                raise ValueError(
                    f"{path} must have 8 bits a channel, it has {bits}; convert it first"
                )
            profile = image.info.get("icc_profile")
            if not profile and (named := _colors_named(image, content)):
                raise ValueError(f"{path} must be in sRGB, it has {named}; convert it first")
            image = ImageOps.exif_transpose(image)
            is_grey = image.mode in ("1", "L", "LA")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                opacity = np.asarray(image.getchannel("A"))
                if opacity.min() < 255:
                    count = np.count_nonzero(opacity < 255)
                    raise ValueError(
                        f"{path} must be opaque, {count / opacity.size:.1%} of its pixels are not "
                        f"({count:,} in all); flatten it onto a background first"
                    )
            if image.mode != "CMYK":
                image = image.convert("L" if is_grey else "RGB")
            return np.asarray(_in_srgb(image, profile, path) if profile else image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that Pillow can read") from None
    except (OSError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _bits(image: Any, content: bytes) -> int:
    """The most bits that a file has in a channel: Pillow makes 8 of more in silence."""
    if image.format == "PNG":
        return content[24]
    if image.format == "TIFF":
        tags = image.tag_v2
        whole = set(tags.get(_SAMPLE_FORMAT, (1,))) == {1}  # and not signed, nor floats
        return max(tags.get(_BITS_PER_SAMPLE, (1,))) if whole else 32
    if image.format == "PPM":
        greatest = [x for tile in image.tile for x in tile.args if isinstance(x, int)]
        return max([255, *greatest]).bit_length()
    if image.format == "SGI":
        return 8 * content[3]
    if image.format == "JPEG2000":
        size = content.index(b"\xff\x4f\xff\x51") + 40  # where the number of components is
        (count,) = struct.unpack(">H", content[size : size + 2])
        return max((depth & 0x7F) + 1 for depth in content[size + 2 : size + 2 + 3 * count : 3])
    if image.format == "AVIF":
        flags = content[content.index(b"av1C") + 6]
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    return 8


def _colors_named(image: Any, content: bytes) -> str | None:
    """What a file without a profile says of its colours, if that is not sRGB."""
    if image.mode == "CMYK":
        return "CMYK without a profile"
    exif = image.getexif()
    is_adobe = exif.get_ifd(_EXIF).get(_COLOR_SPACE) == _ADOBE_RGB
    if is_adobe or exif.get_ifd(_INTEROPERABILITY).get(1) == "R03":
        return "Adobe RGB without a profile"
    if image.format == "PNG" and (place := content.find(b"cICP", 0, content.find(b"IDAT"))) > 0:
        primaries, curve = content[place + 4 : place + 6]
    elif image.format == "AVIF" and (place := content.find(b"nclx")) > 0:
        primaries, curve = struct.unpack(">HH", content[place + 4 : place + 8])
    else:
        return None if "srgb" in image.info else _calibration_named(image.info)
    if primaries in _PRIMARIES and curve in _CURVES:
        return None
    return f"the colours of primaries {primaries} and curve {curve} of H.273"


def _calibration_named(info: dict[Any, Any]) -> str | None:
    """What a PNG file says of its gamma and primaries, if these are not sRGB's."""
    if abs(info.get("gamma", _GAMMA) - _GAMMA) > 0.01:
        return f"gamma {info['gamma']:g}"
    found = info.get("chromaticity", _CHROMATICITIES)
    return None if np.allclose(found, _CHROMATICITIES, atol=0.005) else f"chromaticities {found}"


def _in_srgb(image: Image.Image, profile: bytes, path: Path) -> Image.Image:
    """An image with a profile in sRGB; as it is where that is what the profile says."""
    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"GRAY": "L"}.get(space := source.profile.xcolor_space.strip(), space)
        if mode not in (image.mode, *(("RGB",) if image.mode == "L" else ())):
            raise ValueError(
                f"{path} must have a profile of its own colours, its mode is {image.mode} and its "
                f"profile of {space}; convert it first"
            )
        image = image.convert(mode)
        transform: Any = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB"
        )
        if mode != "CMYK":
            every = _lattice().convert(mode)
            change = np.asarray(transform.apply(every), int) - np.asarray(every.convert("RGB"))
            if np.abs(change).max() <= _ROUNDING:
                return image.convert("RGB")
        converted = transform.apply(image)
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(f"{path} has a damaged colour profile: {error}") from None
    named = (source.profile.profile_description or "without a name").strip()
    tqdm.write(f"{path} is converted to sRGB from its colour profile, {named}")
    return converted


def _lattice() -> Image.Image:
    """Colours from all over the cube, and all greys."""
    levels = np.linspace(0, 255, 17)
    colors = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    greys = np.repeat(np.arange(256)[:, None], 3, 1)
    return Image.fromarray(np.concatenate([colors, greys]).astype(np.uint8)[None])


def short_names(paths: Sequence[Path]) -> list[str]:
    """The name of each file, with as much of its folder before it as tells it from the others.

    Raises:
      ValueError: one file is given twice.
    """
    whole = [path.resolve().parts for path in paths]
    for place, path in enumerate(paths):
        if whole.index(whole[place]) < place:
            raise ValueError(f"candidates must differ, {path} is given twice")
    found = []
    for parts in whole:
        length = 1
        while sum(other[-length:] == parts[-length:] for other in whole) > 1:
            length += 1
        found.append("/".join(parts[-length:]))
    return found


def in_folder(folder: Path) -> dict[str, np.ndarray]:
    """All photographs in a folder by file name, in order.

    One that `read` refuses is left out, and a line says why; files whose names are not those of
    images are left out in one line for all.

    Raises:
      ValueError: no folder, or no photographs in it.
    """
    if not folder.is_dir():
        raise ValueError(f"photographs must be in a folder, {folder} is none")
    formats = Image.registered_extensions()
    known = {suffix for suffix, name in formats.items() if name in Image.OPEN}
    listed = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    of_others = [path.name for path in listed if path.suffix.lower() not in known]
    if of_others:
        tqdm.write(f"left out: {len(of_others)} that are no images by name, as {of_others[0]}")
    found = {}
    for path in (path for path in listed if path.name not in of_others):
        try:
            found[path.name] = read(path)
        except ValueError as error:
            tqdm.write(f"left out: {error}")
    if not found:
        raise ValueError(
            f"photographs must lie in their folder as image files, {folder} has none that can be "
            "read"
        )
    return found
