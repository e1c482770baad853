"""COCO's test split with the positives of COCO, CxC and ECCV Caption, as published by naver-ai."""

import collections
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

DIRECTIONS = ("image to caption", "caption to image")
COLLECTIONS = ("original", "cxc", "eccv")


class Benchmark(NamedTuple):
    """The test split, in its published order, and the positives of queries by id.

    Attributes:
      image_ids: (image,).
      caption_ids: (caption,).
      image_of_caption: (caption,), the id of the image that a caption was written for.
      positives: by collection and direction, from the id of a query to those of its positives.
    """

    image_ids: np.ndarray
    caption_ids: np.ndarray
    image_of_caption: np.ndarray
    positives: dict[str, dict[str, dict[int, list[int]]]]


def read_array(path: Path) -> np.ndarray:
    """An array of a .npy file, which stays on the disk until it is used."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds several")
        return array
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} must be an array that numpy.save wrote: {error}") from None


def read_positives(path: Path) -> dict[int, list[int]]:
    """The positives by query of one .json file."""
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=tuple)  # lists stay lists
        if not isinstance(content, tuple) or not all(isinstance(x, list) for _, x in content):
            raise TypeError("it holds something else")
        found = {_query(query): [_integer(item) for item in items] for query, items in content}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} must hold lists of ids by id: {error}") from None
    if len(found) < len(content):
        counts = collections.Counter(int(query) for query, _ in content)
        raise ValueError(
            f"{path} must hold each id once, it has {counts.most_common(1)[0][0]} twice"
        )
    return found


def _query(name: str) -> int:
    if not name.isdecimal():
        raise ValueError(f"{name!r} is no id")
    return int(name)


def _integer(item: object) -> int:
    if not isinstance(item, int) or isinstance(item, bool):
        raise TypeError(f"{item!r} is no integer")
    return item


def read(folder: Path) -> Benchmark:
    """The benchmark in a folder of naver-ai/eccv-caption."""
    if not folder.is_dir():
        raise ValueError(f"folder must be a folder, {folder} is none")
    caption_ids = np.asarray(read_array(folder / "coco_test_ids.npy"))
    check_ids(f"{folder / 'coco_test_ids.npy'}", caption_ids, caption_ids)
    positives = {
        collection: {
            direction: read_positives(folder / f"{collection}_{direction.replace(' ', '_')}.json")
            for direction in DIRECTIONS
        }
        for collection in COLLECTIONS
    }
    image_of = positives["original"]["caption to image"]
    unknown = [caption for caption in caption_ids.tolist() if not image_of.get(caption)]
    if unknown:
        raise ValueError(f"{folder} must hold the image of every caption, none of {unknown[0]}")
    images = [image_of[caption][0] for caption in caption_ids.tolist()]
    return Benchmark(
        np.array(list(dict.fromkeys(images))), caption_ids, np.array(images), positives
    )


def check_ids(name: str, ids: np.ndarray, expected: np.ndarray) -> None:
    """Every id of the test split, each once."""
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} must be integers of one axis, got {ids.dtype} {ids.shape}")
    unique, counts = np.unique(ids, return_counts=True)
    for rule, bad in (
        ("not repeat an id", unique[counts > 1]),
        ("be of the test split", np.setdiff1d(unique, expected)),
        ("hold the whole test split", np.setdiff1d(expected, unique)),
    ):
        if len(bad):
            found = "without" if rule.startswith("hold") else "got"
            raise ValueError(f"{name} must {rule}, {found} {bad[0]} ({len(bad)} in all)")
