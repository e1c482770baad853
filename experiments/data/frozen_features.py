"""Frozen features of images and captions: SqueezeNet's of photographs, or anybody's in a file.

What such a file holds is told by `experiments.photograph_captions`, which reads it.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import skimage.transform
from tqdm import tqdm

from experiments.data import array_files, embedding_files, photographs
from experiments.runs import files
from lasi_jax.networks import squeezenet

_ARRAYS = ("image_features", "image_ids", "caption_features", "caption_image_ids")
_SIDE, _PLACES = 227, 3


class Features(NamedTuple):
    """What a file of features holds.

    Attributes:
      images: (image, place, feature) float32.
      texts: (caption, place, feature) float32.
      image_of: the image (caption) that each was written of.
    """

    images: np.ndarray
    texts: np.ndarray
    image_of: np.ndarray


@jax.jit
def _fire9(parameters: squeezenet.Parameters, photograph: jax.Array) -> jax.Array:
    return squeezenet.features(photograph, parameters=parameters, layers=("fire9",))[0]


def of_photograph(parameters: squeezenet.Parameters, photograph: np.ndarray) -> np.ndarray:
    """SqueezeNet's last map of a photograph (height, width, 3) uint8, as (9, 512) float32.

    The photograph is resized to 227 x 227; the places are means over a 3 x 3 grid of the map.
    """
    resized = skimage.transform.resize(photograph, (_SIDE, _SIDE), anti_aliasing=True)
    found = np.asarray(_fire9(parameters, np.asarray(resized, np.float32)))
    parts = [np.array_split(band, _PLACES, axis=1) for band in np.array_split(found, _PLACES)]
    return np.stack([cell.mean((0, 1)) for band in parts for cell in band])


def digest_of(photos: tuple[Path, ...]) -> np.ndarray:
    """Which photographs these are (32) uint8, by their names and what they hold."""
    digest = hashlib.sha256()
    for file in photos:
        digest.update(file.name.encode() + b"\n" + file.read_bytes())
    return np.frombuffer(digest.digest(), np.uint8)


def of_photographs(
    photos: tuple[Path, ...], digest: np.ndarray, weights: Path, kept: Path
) -> np.ndarray:
    """Frozen features (image, 9, 512) of photographs, or those that are kept in a file.

    Raises:
      ValueError: weights or a photograph are missing or damaged; kept are those of others.
    """
    if kept.is_file():
        arrays = _read_arrays(kept)
        if not np.array_equal(arrays.get("files", ()), digest):
            raise ValueError(f"{kept} must be of the same photographs, delete its folder")
        return arrays["image_features"]
    if not weights.is_file():
        raise ValueError(f"squeezenet must be a file, {weights} is none")
    parameters = squeezenet.load(weights)
    return np.stack(
        [
            of_photograph(parameters, photographs.read(file))
            for file in tqdm(photos, desc="SqueezeNet", unit="photograph", mininterval=1)
        ]
    )


def keep(images: np.ndarray, digest: np.ndarray, kept: Path) -> None:
    """Save frozen features where `of_photographs` finds them."""
    files.save_tensors(kept, {"image_features": images, "files": digest})


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz (without pickle) or .safetensors file."""
    return array_files.read("features", path, suffixes=(".npz", ".safetensors")).arrays


def _checked_features(name: str, values: np.ndarray) -> np.ndarray:
    """Features (item, place, feature) float32 of (item, feature) or (item, place, feature)."""
    is_float = jnp.issubdtype(values.dtype, jnp.floating)  # bfloat16 too
    if values.ndim not in (2, 3) or 0 in values.shape or not is_float:
        raise ValueError(
            f"{name} must be floats (item, feature) or (item, place, feature), not empty, got "
            f"{values.shape} {values.dtype}"
        )
    with np.errstate(over="ignore"):
        single = np.asarray(values).astype(np.float32)
    if not np.isfinite(single).all():
        where = np.argwhere(~np.isfinite(single))[0].tolist()
        raise ValueError(f"{name} must be finite in float32, got {values[tuple(where)]} at {where}")
    return single[:, None] if single.ndim == 2 else single


def read(path: Path) -> Features:
    """Images and captions of a file of features.

    Raises:
      ValueError: the file is missing, damaged or holds something else; features that are not
        finite; ids that are not integers, given twice, or of no image.
    """
    arrays = _read_arrays(path)
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise ValueError(f"features must hold {', '.join(_ARRAYS)}; {path} lacks {missing[0]}")
    images, texts = (
        _checked_features(name, arrays[name]) for name in ("image_features", "caption_features")
    )
    ids, of_captions = (
        embedding_files.checked_ids(name, arrays[name], number)
        for name, number in (("image_ids", len(images)), ("caption_image_ids", len(texts)))
    )
    image_of = embedding_files.places(ids, of_captions, names=("image_ids", "caption_image_ids"))
    return Features(images, texts, image_of)
