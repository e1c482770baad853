"""Which digits make up which image of N-digit MNIST: tables of numbers and of digit indices.

Under the protocol "number", 70 % of all numbers are for training, test images of those
are `test_seen`, and test images of the rest `test_unseen`; under "instance" every number
is in `train` and in `test`. Digits of training images come from the training pool.

The tables that google/n-digit-mnist publishes are what `draw` makes of MNIST's labels
with its default seed; the tests compare them entry by entry.
"""

import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from experiments.data.digits import Source
from experiments.data.labelled import Labelled

Protocol = Literal["number", "instance"]
"""Whether test images also show numbers that training has not seen."""

SEED = 714
"""The seed of the published tables."""

SIZES: dict[tuple[Source, int, Protocol], dict[str, tuple[int, int]]] = {
    ("mnist", 2, "number"): {"train": (70, 1428), "test_seen": (70, 142), "test_unseen": (30, 333)},
    ("mnist", 2, "instance"): {"train": (100, 1000), "test": (100, 100)},
    ("mnist", 3, "number"): {
        "train": (700, 142),
        "test_seen": (100, 100),
        "test_unseen": (100, 100),
    },
    ("mnist", 3, "instance"): {"train": (1000, 100), "test": (1000, 10)},
    ("sklearn", 2, "number"): {"train": (70, 100), "test_seen": (70, 40), "test_unseen": (30, 40)},
    ("sklearn", 2, "instance"): {"train": (100, 100), "test": (100, 40)},
    ("sklearn", 3, "number"): {
        "train": (700, 40),
        "test_seen": (100, 40),
        "test_unseen": (100, 40),
    },
    ("sklearn", 3, "instance"): {"train": (1000, 40), "test": (1000, 10)},
}
"""Numbers, and images of each, by split. MNIST's are as published."""


class Table(NamedTuple):
    """Numbers (class,), and the indices (class, image, digit) of the digits of each image."""

    numbers: np.ndarray
    digit_ids: np.ndarray


def pool(split: str) -> str:
    """The pool of digits that a split's images are made of."""
    return "train" if split == "train" else "test"


def spelled(numbers: np.ndarray, num_digits: int) -> np.ndarray:
    """The digits (class, num_digits) of numbers (class,), with leading zeros."""
    return numbers[:, None] // 10 ** np.arange(num_digits)[::-1] % 10


def draw(
    digits: dict[str, Labelled],
    num_digits: int,
    protocol: Protocol,
    sizes: dict[str, tuple[int, int]],
    seed: int = SEED,
) -> dict[str, Table]:
    """A table for every split: numbers, and distinct digits at each place for each number.

    Args:
      digits: the pools "train" and "test".
      num_digits: N.
      protocol: "number" or "instance".
      sizes: numbers and images of each by split, an entry of `SIZES`.
      seed: of NumPy's legacy generator, whose stream is frozen.
    """
    random = np.random.RandomState(seed)
    every = np.arange(10**num_digits)
    of_training = every
    tables = {}
    for split, (classes, images_of_each) in sizes.items():
        if protocol == "instance":
            numbers = every
        elif split == "train":
            numbers = of_training = random.choice(every, classes, replace=False)
        else:
            seen = split == "test_seen"
            numbers = of_training if seen else np.setdiff1d(every, of_training)
            if classes < len(numbers):
                numbers = random.choice(numbers, classes, replace=False)
        by_digit = [np.flatnonzero(digits[pool(split)].labels == digit) for digit in range(10)]
        ids = [
            np.stack([random.choice(by_digit[d], images_of_each, replace=False) for d in row], 1)
            for row in spelled(numbers, num_digits)
        ]
        tables[split] = Table(numbers, np.stack(ids))
    return tables


def file_name(num_digits: int, protocol: Protocol, split: str) -> str:
    """The published file of a table."""
    return f"dataset_mnist_{num_digits}_{protocol}_{split}.npz"


def read(path: Path) -> Table:
    """The table in a published file.

    Raises:
      ValueError: the file is damaged or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return Table(archive["chosen_numbers"], archive["image_ids"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be a table of n-digit-mnist: {error}") from None


def check(path: Path, table: Table, published: Table) -> None:
    """Refuse a table that is not the published one, entry by entry."""
    for name, entries, expected in zip(Table._fields, table, published, strict=True):
        if not np.array_equal(entries, expected):
            raise ValueError(
                f"{path} must hold the published table, its {name} differ "
                f"(shape {entries.shape}, published {expected.shape}): damaged or another table"
            )
