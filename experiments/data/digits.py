"""Pictures of single digits: MNIST from its four files, or scikit-learn's small ones.

MNIST's files are checked by what they hold, so a file that was compressed anew, or
not at all, counts as the original; its 60,000 training and 10,000 test images are
28 x 28. Scikit-learn's 1,797 images, 8 x 8, come with the package; a fixed
permutation makes 70 % of them the training pool and the rest the test pool.
"""

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import sklearn.datasets

from experiments.data.labelled import Labelled

Source = Literal["sklearn", "mnist"]
"""Where the digits come from."""

SIDE: dict[Source, int] = {"sklearn": 8, "mnist": 28}
"""Of a picture, in pixels."""

MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of each file's content, decompressed."""


def of_sklearn() -> dict[str, Labelled]:
    """Scikit-learn's digits as the pools "train" and "test", intensities 0..16 as 0..255.

    Images are (image, 8, 8) on a black ground.
    """
    pixels, labels = map(np.asarray, sklearn.datasets.load_digits(return_X_y=True))
    order = np.random.RandomState(0).permutation(len(labels))
    images = np.rint(pixels.reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)[order]
    labels = labels.astype(np.uint8)[order]
    cut = round(0.7 * len(order))
    return {
        "train": Labelled(images[:cut], labels[:cut]),
        "test": Labelled(images[cut:], labels[cut:]),
    }


def find_mnist(folder: Path) -> dict[str, Path]:
    """The four files of MNIST in a folder, by name, with or without `.gz`.

    Raises:
      ValueError: the folder or one of the files is missing.
    """
    if not folder.is_dir():
        raise ValueError(f"mnist must be a folder with MNIST's four files, {folder} is none")
    found = {}
    for name in MNIST_FILES:
        candidates = [folder / f"{name}.gz", folder / name]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise ValueError(f"mnist must hold {name}.gz (or {name}), {folder} does not")
        found[name] = path
    return found


def of_mnist(files: dict[str, Path]) -> dict[str, Labelled]:
    """MNIST as the pools "train" and "test", from the paths of its four files by name.

    Raises:
      ValueError: a file is damaged, or holds something else.
    """
    return {
        pool: Labelled(
            _read_idx(f"{prefix}-images-idx3-ubyte", files),
            _read_idx(f"{prefix}-labels-idx1-ubyte", files),
        )
        for pool, prefix in (("train", "train"), ("test", "t10k"))
    }


def _read_idx(name: str, files: dict[str, Path]) -> np.ndarray:
    content = files[name].read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{files[name]} is damaged: {error}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != MNIST_FILES[name]:
        raise ValueError(
            f"{files[name]} must hold MNIST's {name} (SHA-256 {MNIST_FILES[name][:12]}... "
            f"decompressed), its own is {digest[:12]}...: damaged or another file"
        )
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, 4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def describe(source: Source) -> str:
    """Which digits these are, in words."""
    if source == "sklearn":
        return "scikit-learn's digits, 8 x 8 (the embedded default; --mnist names MNIST's folder)"
    return "MNIST, 28 x 28"
