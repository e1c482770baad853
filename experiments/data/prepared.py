"""TFDS data sets: prepared once in a folder, without TensorFlow, and read whole or by rows."""

import contextlib
import functools
import hashlib
import io
import shutil
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import DownloadError

from experiments.data import digits, photographs

_MNIST_ADDRESS = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_PNG = b"\x89PNG\r\n\x1a\n"
_EIGHT_BIT_RGB = b"\x08\x02"  # bytes 24 and 25 of a PNG file
_ROWS = 256
"""Examples in memory at once where one feature of all is read."""


def prepared(builder: tfds.core.DatasetBuilder) -> dict[str, list[dict[str, Any]]]:
    """All examples of all splits, after preparing them if they are not there yet.

    Raises:
      ValueError: what is there is damaged.
    """
    prepare(builder)
    with _damage_named(builder):
        sources = {split: _source(builder, split) for split in builder.info.splits}
        return {split: source.__getitems__(range(len(source))) for split, source in sources.items()}


def prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Prepare a data set if it is not there yet; what was interrupted is done again.

    TFDS writes beside the place and renames at the end. Without TensorFlow it fails where a
    split has more than 1 GB.
    """
    folder = Path(builder.data_dir)
    if new := not folder.exists():
        print(f"preparing {folder}", flush=True)
    # TFDS speaks of a download even where there is none.
    with _quiet(), contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    for left in folder.parent.glob("incomplete.*") if new else ():  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)


class Examples:
    """Examples of a prepared data set, each read and decoded when it is asked for.

    Args:
      builder: of the data set.
      split: of the examples; several are joined by +.

    Attributes:
      contents: tells the files that it was prepared from from others, where `place` placed it.

    Raises:
      ValueError: what is there is damaged.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        self._builder = builder
        self.contents = Path(builder.data_dir).parents[2].name  # above name, config and version
        features: Any = builder.info.features
        self._images = {
            name for name in features if isinstance(features[name], tfds.features.Image)
        }
        skip = {name: tfds.decode.SkipDecoding() for name in self._images}
        with _damage_named(builder):
            self._source = _source(builder, split, decoders=skip)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: range, *names: str) -> tuple[np.ndarray, ...]:
        """Features of some examples by name, the first axis being the examples'.

        Raises:
          ValueError: what is there is damaged.
        """
        with _damage_named(self._builder):
            examples = self._source.__getitems__(rows)
            return tuple(np.stack([self._value(each, name) for each in examples]) for name in names)

    def column(self, name: str) -> np.ndarray:
        """One feature of all examples.

        Raises:
          ValueError: what is there is damaged.
        """
        everything = range(len(self))
        parts = [everything[start : start + _ROWS] for start in everything[::_ROWS]]
        return np.concatenate([self.read(rows, name)[0] for rows in parts])

    def _value(self, example: dict[str, Any], name: str) -> np.ndarray:
        value = example[name]
        return _pixels(value) if name in self._images else value


@functools.lru_cache(maxsize=16)  # neighbours often share a reference
def _pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def _source(builder: tfds.core.DatasetBuilder, split: str, **options: Any) -> Any:
    as_data_source: Any = builder.as_data_source  # its decorator hides its parameters
    return as_data_source(split=split, **options)


@contextlib.contextmanager
def _damage_named(builder: tfds.core.DatasetBuilder):
    try:
        yield
    except Exception as error:  # array_record, zlib and protobuf each have errors of their own
        raise ValueError(
            f"{builder.data_dir} is damaged ({error}): delete it, and it is prepared anew"
        ) from None


def _digest(root: Path, files: Iterable[Path]) -> str:
    """What tells some files from others: of their names below `root`, sizes and times of change.

    It is another one where a file was added, taken away or changed, and not where all were moved.
    """
    found = hashlib.sha256()
    for path in sorted(files):
        state = path.stat()
        name = path.relative_to(root).as_posix()
        found.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return found.hexdigest()[:16]


def place(datasets: Path, root: Path, files: Iterable[Path]) -> Path:
    """Where a data set made of some files is kept: of other files, another folder."""
    return datasets.resolve() / _digest(root, files)


def png(path: Path, size: tuple[int, int]) -> bytes:
    """The image in a file as a PNG file of 8-bit RGB; one that is that already stays as it is.

    Args:
      path: of the file, see `photographs.read`.
      size: the height and width that it must have.

    Raises:
      ValueError: the file is no image, is damaged or of another size.
    """
    image = photographs.read(path)
    if image.shape[:2] != size:
        height, width = image.shape[:2]
        raise ValueError(f"{path} must be {size[1]} x {size[0]} pixels, it is {width} x {height}")
    content = path.read_bytes()
    is_rgb = content.startswith(_PNG) and content[24:26] == _EIGHT_BIT_RGB
    if is_rgb and np.array_equal(np.asarray(Image.open(io.BytesIO(content))), image):
        return content  # neither a profile nor an orientation would change it
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def mnist_files(dl_manager: tfds.download.DownloadManager, folder: Path | None) -> dict[str, Path]:
    """MNIST's four files by name, from a folder or, without one, downloaded."""
    if folder is not None:
        return digits.find_mnist(folder)
    return download(
        dl_manager,
        {name: f"{_MNIST_ADDRESS}{name}.gz" for name in digits.MNIST_FILES},
        "name the folder of MNIST's four files with --mnist",
    )


def download(
    dl_manager: tfds.download.DownloadManager, addresses: dict[str, str], otherwise: str
) -> dict[str, Path]:
    """Files by TFDS's download manager; without a network an error at once, not after minutes."""
    address = urllib.parse.urlsplit(next(iter(addresses.values())))
    try:
        if not urllib.request.getproxies():  # a proxy knows the way, this machine may not
            socket.create_connection((address.hostname, address.port or 443), timeout=10).close()
        files: Any = dl_manager.download(addresses)
    except (OSError, DownloadError) as error:
        raise ValueError(f"{address.hostname} gave no files ({error}): {otherwise}") from None
    return {name: Path(path) for name, path in files.items()}


@contextlib.contextmanager
def _quiet():
    """TFDS's progress bars only where someone watches."""
    if sys.stderr.isatty():
        yield
        return
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()
