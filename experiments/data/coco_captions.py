"""A captions file as COCO has it, with the photographs that it describes."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.words import words_of


class Annotations(NamedTuple):
    """What a captions file says: files (image), captions, and the image (caption) of each."""

    files: tuple[Path, ...]
    captions: tuple[str, ...]
    image_of: np.ndarray


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _names_by_id(path: Path, named: list[tuple[Any, Any]]) -> dict[int, str]:
    """The file names of images by their ids, each of one image."""
    names: dict[int, str] = {}
    for image, name in named:
        if not _is_integer(image) or not isinstance(name, str):
            raise ValueError(
                f"captions must be a captions file as COCO has it, {path}: an image has the id "
                f"{image!r}, which must be an integer, and the file_name {name!r}, a text"
            )
        if image in names:
            raise ValueError(
                f"captions must give each image an id of its own, {path} has {image} of "
                f"{names[image]} and of {name}"
            )
        names[image] = name
    return names


def read(path: Path, folder: Path) -> Annotations:
    """A captions file as COCO has it, with the files of its images in a folder.

    Images without captions are left out.

    Raises:
      ValueError: the file is missing, damaged or holds something else; an id that is no integer,
        or of two images; a file of a photograph is missing; a caption of an image that is not
        there, or without a word.
    """
    if not path.is_file():
        raise ValueError(f"captions must be a file, {path} is none")
    try:
        content = json.loads(path.read_bytes())  # of bytes a mark of their order may come first
        named = [(image["id"], image["file_name"]) for image in content["images"]]
        written = [(a["image_id"], a["caption"]) for a in content["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"captions must be a captions file as COCO has it, {path}: {error!r}"
        ) from None
    names = _names_by_id(path, named)
    for image, caption in written:
        if not _is_integer(image):
            raise ValueError(
                f"captions must be a captions file as COCO has it, {path}: an image_id must be an "
                f"integer, that of {caption!r} is {image!r}"
            )
    unknown = [image for image, _ in written if image not in names]
    if unknown or not written:
        what = (
            f"image_id {unknown[0]} is none of its images" if unknown else "it has no annotations"
        )
        raise ValueError(f"captions must describe images of the file, {path}: {what}")
    for image, caption in written:
        if not isinstance(caption, str) or not words_of(caption):
            raise ValueError(f"captions must have words, {path} has {caption!r} of image {image}")
    ids = sorted({image for image, _ in written})
    files = tuple(folder / names[image] for image in ids)
    for file in files:
        if not file.is_file():
            raise ValueError(f"photographs must hold {file.name}, {folder} does not")
    place = {image: number for number, image in enumerate(ids)}
    image_of = np.array([place[image] for image, _ in written])
    return Annotations(files, tuple(caption for _, caption in written), image_of)
