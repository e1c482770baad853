"""Files of paired embeddings: images and texts that somebody's model has embedded already.

A side, images or texts, is one file:

    .npy          (item, dimension), floats
    .npz          embeddings (item, dimension), floats; optional ids (item), integers; texts
                  (item), strings; augmented (item, augmentation, dimension), floats: embeddings
                  of the same items changed at random; metadata, a string of JSON
    .safetensors  tensors embeddings, optional ids, augmented, text_bytes and text_ends (strings
                  one after another as UTF-8, and where each ends); metadata in the header
    .parquet      columns embedding (lists of floats), optional id, text; metadata in the schema

Metadata may say which `model` the embeddings are of, and whether they are `normalized` ("true" or
"false"). Both sides in one folder are also read:

    image_embeddings.npy  text_embeddings.npy  [image_ids.npy  text_ids.npy]  [metadata.json]

Ids of images are all different, and the id of a text is that of the image it belongs to. Without
ids, text i belongs to image i.

Embeddings are mapped (`array_files`) and checked in blocks of rows, so that files may be larger
than memory; ids and the places of pairs are held in it, eight bytes a row each.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.data import array_files
from experiments.runs import files as results

IMAGES, TEXTS = "image_embeddings.npy", "text_embeddings.npy"
IMAGE_IDS, TEXT_IDS, METADATA = "image_ids.npy", "text_ids.npy", "metadata.json"

_BLOCK_BYTES = 2**25
_UNIT = 0.01  # norms of what was normalised in bfloat16 differ from 1 by half of that
_ARRAYS = ("embeddings", "ids", "augmented", "text_bytes", "text_ends", "texts", "metadata")
_COLUMNS = {"embedding": "embeddings", "id": "ids", "text": "texts"}


class Embeddings(NamedTuple):
    """Embeddings of images or of texts, checked.

    Attributes:
      vectors: (item, dimension) floats, mapped.
      ids: (item) int64; the numbers of the rows where the file has none.
      has_ids: whether the file has some.
      model: whose embeddings these are, if the file tells.
      normalized: whether all norms are 1.
      norms: the least and the greatest of them.
      augmented: (item, augmentation, dimension) floats, mapped, if there are some.
      texts: (item) what was embedded, in words, if the file tells.
    """

    vectors: np.ndarray
    ids: np.ndarray
    has_ids: bool
    model: str | None
    normalized: bool
    norms: tuple[float, float]
    augmented: np.ndarray | None
    texts: Sequence[str] | None


class PairedEmbeddings(NamedTuple):
    """Images and their texts.

    Attributes:
      images: of which each may have any number of texts.
      texts: of which each belongs to one image.
      image_of: (text) which row of images that is.
    """

    images: Embeddings
    texts: Embeddings
    image_of: np.ndarray


class Part(NamedTuple):
    """Some of the pairs: rows of images, and the rows of all texts that belong to them."""

    images: np.ndarray
    texts: np.ndarray


# --- reading ----------------------------------------------------------------------------------


def read(
    images: Path, texts: Path | None = None, *, names: tuple[str, str] = ("images", "texts")
) -> PairedEmbeddings:
    """The pairs of two files, or of a folder that has both sides.

    Args:
      images: a file, or a folder as `read_folder` takes it.
      texts: a file; None where images is a folder.
      names: of these two arguments, for errors.

    Raises:
      ValueError: a file is missing, damaged or holds something else; embeddings that are not
        finite, or zero, or only in part of norm 1; metadata that does not fit them; ids that are
        given twice or of no image; sides that do not belong together.
    """
    if texts is None:
        return read_folder(images, name=names[0])
    return _paired(read_side(images, name=names[0]), read_side(texts, name=names[1]), names)


def read_side(path: Path, *, name: str) -> Embeddings:
    """The embeddings of one file, checked.

    Raises:
      ValueError: as `read` does.
    """
    arrays, strings, metadata = array_files.read(name, path, only=(*_ARRAYS, *_COLUMNS))
    if path.suffix == ".parquet":
        arrays = {_COLUMNS.get(column, column): array for column, array in arrays.items()}
        if "id" in strings:
            raise ValueError(f"ids of {name} must be integers, column id of {path} has text")
    elif odd := [column for column in _COLUMNS if column in arrays]:
        raise ValueError(f"{name} must call it {_COLUMNS[odd[0]]}, {path} has {odd[0]}")
    if "embeddings" not in arrays:
        wanted = "a column embedding" if path.suffix == ".parquet" else "an array embeddings"
        raise ValueError(f"{name} must hold {wanted}, {path} has none")
    if "metadata" in arrays:
        metadata = _metadata(name, str(arrays["metadata"]))
    return _checked(name, arrays, strings.get("text"), metadata)


def read_folder(folder: Path, *, name: str = "images") -> PairedEmbeddings:
    """The pairs of a folder that has both sides.

    Raises:
      ValueError: as `read` does.
    """
    if not folder.is_dir():
        raise ValueError(f"{name} must be a folder where no texts are given, {folder} is none")
    metadata = {}
    if (path := folder / METADATA).exists():
        metadata = _metadata(str(folder), path.read_bytes())

    def side(embeddings: str, ids: str) -> Embeddings:
        arrays = array_files.read(embeddings, folder / embeddings).arrays
        if (folder / ids).exists():
            arrays["ids"] = array_files.read(ids, folder / ids).arrays["embeddings"]
        return _checked(embeddings, arrays, None, metadata)

    return _paired(side(IMAGES, IMAGE_IDS), side(TEXTS, TEXT_IDS), (IMAGES, TEXTS))


def _metadata(name: str, content: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(content.encode() if isinstance(content, str) else content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"metadata of {name} must be JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"metadata of {name} must be names with values, got {found!r}")
    return found


def _texts(name: str, arrays: Mapping[str, np.ndarray]) -> Sequence[str] | None:
    """Strings of an array of them, or of their bytes and where each ends."""
    if "texts" in arrays:
        texts = arrays["texts"]
        if texts.ndim != 1 or texts.dtype.kind != "U":
            raise ValueError(f"texts of {name} must be strings, got {texts.shape} {texts.dtype}")
        return cast(Sequence[str], texts)
    if ("text_bytes" in arrays) != ("text_ends" in arrays):
        raise ValueError(f"{name} must have text_bytes and text_ends or neither, one is missing")
    if "text_bytes" not in arrays:
        return None
    content, ends = arrays["text_bytes"], np.asarray(arrays["text_ends"])
    is_row = ends.ndim == 1 and ends.dtype.newbyteorder("=") == np.int64
    steps = np.diff(ends, prepend=0) if is_row else -np.ones(1)
    if content.dtype != np.uint8 or content.shape != (steps.sum(),) or (steps < 0).any():
        raise ValueError(
            f"text_bytes of {name} must be bytes, and text_ends where each text ends in them, got "
            f"{content.shape} {content.dtype} and {ends.shape} {ends.dtype}"
        )
    return array_files.Strings(content, ends)


# --- checks -----------------------------------------------------------------------------------


def checked_ids(name: str, ids: np.ndarray, number: int) -> np.ndarray:
    """Ids as int64, if they are as many integers.

    Raises:
      ValueError: they are not.
    """
    if ids.shape != (number,) or ids.dtype.kind not in "iu":
        raise ValueError(f"{name} must be {number} integers, got {ids.shape} {ids.dtype}")
    if ids.dtype.kind == "u" and ids.size and ids.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must fit into 64 bits with a sign, got {ids.max()}")
    return np.asarray(ids).astype(np.int64)


def places(ids: np.ndarray, named: np.ndarray, *, names: tuple[str, str]) -> np.ndarray:
    """Where in ids each of those that are named stands.

    Raises:
      ValueError: an id is there twice, or one is named that is not there.
    """
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    if (ordered[1:] == ordered[:-1]).any():
        twice = ordered[1:][ordered[1:] == ordered[:-1]][0]
        raise ValueError(f"{names[0]} must be all different, got {twice} twice")
    place = np.minimum(np.searchsorted(ordered, named), len(ids) - 1)
    if (ordered[place] != named).any():
        unknown = named[ordered[place] != named][0]
        raise ValueError(f"{names[1]} must be among {names[0]}, got {unknown}")
    return order[place]


def _checked(
    name: str,
    arrays: Mapping[str, np.ndarray],
    texts: Sequence[str] | None,
    metadata: Mapping[str, Any],
) -> Embeddings:
    """The embeddings of a side's arrays."""
    vectors = arrays["embeddings"]
    if vectors.ndim != 2 or 0 in vectors.shape or not _is_float(vectors):
        raise ValueError(
            f"{name} must be floats (item, dimension), not empty, got "
            f"{vectors.shape} {vectors.dtype}"
        )
    ids = np.arange(len(vectors))
    if "ids" in arrays:
        ids = checked_ids(f"ids of {name}", arrays["ids"], len(vectors))
    texts = _texts(name, arrays) if texts is None else texts
    if texts is not None and len(texts) != len(vectors):
        raise ValueError(f"texts of {name} must be {len(vectors)}, got {len(texts)}")
    norms = _norms(name, vectors)
    normalized = _is_normalized(name, norms)
    _check_claim(name, metadata.get("normalized"), normalized, norms)
    augmented = arrays.get("augmented")
    if augmented is not None:
        _check_augmented(name, augmented, vectors)
    model = metadata.get("model")
    return Embeddings(
        vectors,
        ids,
        "ids" in arrays,
        None if model is None else str(model),
        normalized,
        (float(norms.min()), float(norms.max())),
        augmented,
        texts,
    )


def _is_float(array: np.ndarray) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating)) and array.dtype.itemsize in (2, 4, 8)


def _blocks(
    name: str, array: np.ndarray, *, work: str = "checking"
) -> Iterator[tuple[int, np.ndarray]]:
    """An array in blocks of a bounded size, each with the number of its first row."""
    step = max(1, _BLOCK_BYTES // (8 * math.prod(array.shape[1:])))
    firsts = range(0, len(array), step)
    for first in tqdm(firsts, desc=f"{work} {name}", unit="block", delay=2, mininterval=1):
        yield first, np.asarray(array[first : first + step])


def _norms(name: str, vectors: np.ndarray) -> np.ndarray:
    """The norms (item) of vectors (item, dimension), none of them 0 or infinite."""
    norms = np.empty(len(vectors))
    for first, block in _blocks(name, vectors):
        with np.errstate(over="ignore"):
            found = np.linalg.norm(block.astype(np.float64), axis=1)
        if not np.isfinite(found).all():
            row = int(np.argmin(np.isfinite(found)))
            odd = block[row][~np.isfinite(block[row])]
            what = odd[0] if len(odd) else f"a norm of {found[row]}"
            raise ValueError(f"{name} must be finite, got {what} in row {first + row}")
        if not found.all():
            row = first + int(np.argmin(found))
            raise ValueError(f"{name} must not be zero vectors, row {row} is one")
        norms[first : first + len(block)] = found
    return norms


def _is_normalized(name: str, norms: np.ndarray) -> bool:
    """Whether all norms are 1: a few of norms that vary around 1 may be so by chance."""
    is_unit = np.abs(norms - 1.0) <= _UNIT
    varies = norms.min() < 1.0 - _UNIT and norms.max() > 1.0 + _UNIT
    if is_unit.any() and not is_unit.all() and not (varies and is_unit.mean() < 0.5):
        unit, other = int(np.argmax(is_unit)), int(np.argmin(is_unit))
        raise ValueError(
            f"{name} must be normalised in all rows or in none, row {unit} has norm 1 and "
            f"row {other} has norm {norms[other]:.7g}"
        )
    return bool(is_unit.all())


def _check_claim(name: str, claimed: Any, normalized: bool, norms: np.ndarray) -> None:
    """Refuse embeddings whose metadata says something else of their norms."""
    said = str(claimed).lower()
    if claimed is not None and said not in ("true", "false"):
        raise ValueError(f"normalized of {name} must be true or false, got {claimed!r}")
    if claimed is not None and (said == "true") != normalized:
        raise ValueError(
            f"{name} must {'not ' * normalized}be normalised where the metadata has normalized = "
            f"{said}, the norms lie in {norms.min():.7g}..{norms.max():.7g}, and one that is off 1 "
            f"by no more than {_UNIT} is normalised"
        )


def _check_augmented(name: str, augmented: np.ndarray, vectors: np.ndarray) -> None:
    number, dimension = vectors.shape
    fits = augmented.ndim == 3 and augmented.shape[::2] == vectors.shape and augmented.shape[1]
    if not fits or not _is_float(augmented):
        raise ValueError(
            f"augmented of {name} must be floats ({number}, augmentation, {dimension}), not empty, "
            f"got {augmented.shape} {augmented.dtype}"
        )
    for place in range(augmented.shape[1]):
        _norms(f"augmented {place} of {name}", augmented[:, place])


def _check_alike(one: Embeddings, other: Embeddings, names: tuple[str, str]) -> None:
    """Refuse embeddings of two models, as far as they show."""
    if None not in (one.model, other.model) and one.model != other.model:
        raise ValueError(
            f"{names[0]} and {names[1]} must be of one model, got {one.model} and {other.model}"
        )
    dimensions = one.vectors.shape[1], other.vectors.shape[1]
    if dimensions[0] != dimensions[1]:
        raise ValueError(
            f"{names[0]} and {names[1]} must have one dimension, got {dimensions[0]} and "
            f"{dimensions[1]}"
        )
    if one.normalized != other.normalized:
        first, second = (f"{side.norms[0]:.4g}..{side.norms[1]:.4g}" for side in (one, other))
        raise ValueError(
            f"{names[0]} and {names[1]} must both be normalised or neither, got norms in {first} "
            f"and in {second}"
        )


def _paired(images: Embeddings, texts: Embeddings, names: tuple[str, str]) -> PairedEmbeddings:
    _check_alike(images, texts, names)
    if images.has_ids != texts.has_ids:
        with_ids, without = names if images.has_ids else names[::-1]
        raise ValueError(
            f"{names[0]} and {names[1]} must both have ids or neither, {with_ids} has some and "
            f"{without} has none"
        )
    if not images.has_ids and len(images.ids) != len(texts.ids):
        raise ValueError(
            f"{names[0]} and {names[1]} must be equally many where they have no ids, got "
            f"{len(images.ids)} and {len(texts.ids)}"
        )
    named = f"ids of {names[0]}", f"ids of {names[1]}"
    return PairedEmbeddings(images, texts, places(images.ids, texts.ids, names=named))


# --- rows and parts ---------------------------------------------------------------------------


def rows(vectors: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Some rows of vectors (item, ..., dimension), of norm 1, in float32: only they are read."""
    found = np.asarray(vectors[indices]).astype(np.float64)
    return (found / np.linalg.norm(found, axis=-1, keepdims=True)).astype(np.float32)


def whole(paired: PairedEmbeddings) -> Part:
    """All texts, and all images that have some."""
    return Part(np.unique(paired.image_of), np.arange(len(paired.image_of)))


def split(
    paired: PairedEmbeddings,
    part: Part,
    share: float,
    *,
    seed: int = 0,
    name: str = "test_share",
) -> tuple[Part, Part]:
    """A part in two, the second a random share of its images with all texts of theirs.

    Images whose vectors are the same stay together; images without a text are in neither.

    Args:
      paired: images and texts.
      part: of them, such as `whole(paired)`.
      share: of the images, for the second part.
      seed: of the choice.
      name: of the share, for errors.

    Raises:
      ValueError: the share is not between 0 and 1, or leaves fewer than two images on a side.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, got {share}")
    described = np.unique(paired.image_of[part.texts])
    found = keys("images", paired.images.vectors)[described]
    group_of = np.unique(found, return_inverse=True)[1]
    sizes = np.bincount(group_of)
    count, taken = round(share * len(described)), 0
    is_test = np.zeros(len(sizes), bool)
    for group in np.random.RandomState(seed).permutation(len(sizes)):
        if taken + sizes[group] <= count:
            is_test[group] = True
            taken += sizes[group]
    if min(taken, len(described) - taken) < 2:
        raise ValueError(
            f"{name} must leave two images on either side, got {share} of "
            f"{len(described)} images with texts, of which {len(sizes)} differ"
        )
    of_test = described[is_test[group_of]]
    texts_of_test = np.isin(paired.image_of[part.texts], of_test)
    return (
        Part(described[~is_test[group_of]], part.texts[~texts_of_test]),
        Part(of_test, part.texts[texts_of_test]),
    )


def at_most(paired: PairedEmbeddings, part: Part, number: int, *, seed: int = 0) -> Part:
    """A part, or a random choice of so many of its images with all texts of theirs."""
    if len(part.images) <= number:
        return part
    chosen = np.random.RandomState(seed).permutation(part.images)[:number]
    texts = part.texts[np.isin(paired.image_of[part.texts], chosen)]
    return Part(np.sort(chosen), texts)


def keys(name: str, vectors: np.ndarray) -> np.ndarray:
    """A number (item) uint64 for each vector, the same for the same values in float32."""
    digests = [
        b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in single)
        for _, block in _blocks(name, vectors, work="comparing")
        for single in [block.astype(np.float32) + np.float32(0.0)]  # minus zero is zero
    ]
    return np.frombuffer(b"".join(digests), np.uint64)


def check_apart(train: PairedEmbeddings, test: PairedEmbeddings) -> None:
    """Refuse a test that has something of the training in it, or is of another model.

    Where both have ids, no image of the test may be one of training's. Where ids are only row
    numbers, no vector may be in both.

    Raises:
      ValueError: something is in both; models, dimensions or norms differ.
    """
    _check_alike(train.images, test.images, ("images", "test images"))
    if train.images.has_ids and test.images.has_ids:
        shared = np.flatnonzero(np.isin(test.images.ids, train.images.ids))
        if len(shared):
            raise ValueError(
                f"ids of test images must be none of training's, {len(shared)} are, such as "
                f"{test.images.ids[shared[0]]}"
            )
        return
    sides = {"images": (train.images, test.images), "texts": (train.texts, test.texts)}
    for name, (one, other) in sides.items():
        of_training = keys(name, one.vectors)
        of_test = keys(f"test {name}", other.vectors)
        shared = np.flatnonzero(np.isin(of_test, of_training))
        if len(shared):
            row = shared[0]
            raise ValueError(
                f"test {name} must be none of training's, {len(shared)} are, value for value: row "
                f"{row} is row {np.argmax(of_training == of_test[row])} of training (where they "
                "are different things, give ids on both sides)"
            )


# --- writing and identity ---------------------------------------------------------------------


def write(
    path: Path,
    embeddings: np.ndarray,
    ids: np.ndarray | None = None,
    *,
    model: str | None = None,
    augmented: np.ndarray | None = None,
    texts: Sequence[str] | None = None,
    others: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a side to a .safetensors file, whole or not at all; it says itself if normalised.

    Args:
      path: which is replaced if it is there.
      embeddings: (item, dimension).
      ids: (item) integers.
      model: whose embeddings they are.
      augmented: (item, augmentation, dimension).
      texts: (item) what was embedded, in words.
      others: further arrays by name, which `read` leaves alone.

    Raises:
      ValueError: the path has another suffix, or `read` would refuse what is to be written.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"path must be .safetensors, got {path.name}")
    arrays = {"embeddings": embeddings, "ids": ids, "augmented": augmented}
    if texts is not None:
        parts = [text.encode("utf-8") for text in texts]
        arrays["text_bytes"] = np.frombuffer(b"".join(parts), np.uint8)
        arrays["text_ends"] = np.cumsum([len(part) for part in parts], dtype=np.int64)
    arrays = {name: array for name, array in arrays.items() if array is not None}
    found = _checked("embeddings", arrays, None, {})
    metadata = {"normalized": str(found.normalized).lower()}
    if model is not None:
        metadata["model"] = model
    every = {  # in the byte order of the format
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        for name, array in {**arrays, **(others or {})}.items()
    }
    results.save_tensors(path, every, metadata)


def digest(path: Path, *, name: str) -> str:
    """What a file, or a folder as `read_folder` takes it, holds: its SHA-256, read in blocks.

    Raises:
      ValueError: there is neither.
    """
    if path.is_dir():
        files = (IMAGES, TEXTS, IMAGE_IDS, TEXT_IDS, METADATA)
        parts = [
            f"{file} {digest(path / file, name=name)}" for file in files if (path / file).exists()
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    if not path.is_file():
        raise ValueError(f"{name} must be a file, {path} is none")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
