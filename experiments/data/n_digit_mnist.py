"""N-digit MNIST as a TFDS data set: N digits side by side, and the number that they spell.

    from experiments.data import n_digit_mnist
    splits = n_digit_mnist.load("sklearn", 2, "number", Path("results/datasets"))

Prepared once as array_record, without TensorFlow, and read into memory. MNIST's four
files and the tables of google/n-digit-mnist come from folders of the user's, or TFDS
downloads them. Scikit-learn's 8 x 8 digits need neither.
"""

import sys
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
import tensorflow_datasets as tfds

from experiments.data import digits, n_digit_tables, prepared
from experiments.data.labelled import Labelled

_TABLES_ADDRESS = (
    "https://raw.githubusercontent.com/google/n-digit-mnist/"
    "830a36d6614482595145bfb6f6c8ef688d2b418c/standard_datasets/"
)


class NDigitMnist(tfds.core.GeneratorBasedBuilder):
    """N-digit MNIST (Oh et al., ICLR 2019); the configuration is <source>_<N>_<protocol>.

    Args:
      mnist: a folder with MNIST's four files. Default: downloaded.
      tables: a folder with the tables of google/n-digit-mnist. Default: downloaded with
        MNIST. A table that is not at hand is drawn anew, as it was published.
      kwargs: as of every TFDS builder; `file_format="array_record"` needs no TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(
            name=f"{source}_{num_digits}_{protocol}",
            description=f"{num_digits} digits of {source}, protocol {protocol}",
        )
        for source, num_digits, protocol in n_digit_tables.SIZES
    ]

    def __init__(self, *, mnist: Path | None = None, tables: Path | None = None, **kwargs):
        super().__init__(**kwargs)
        self._mnist, self._tables = mnist, tables

    @property
    def _choice(self) -> tuple[digits.Source, int, n_digit_tables.Protocol]:
        assert self.builder_config is not None
        name = self.builder_config.name
        return next(c for c in n_digit_tables.SIZES if name == "{}_{}_{}".format(*c))

    def _info(self) -> tfds.core.DatasetInfo:
        source, num_digits, _ = self._choice
        shape = (digits.SIDE[source], num_digits * digits.SIDE[source])
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(
                        shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.ZLIB
                    ),
                    "number": tfds.features.Scalar(np.int64),
                }
            ),
            supervised_keys=("image", "number"),
            disable_shuffling=True,  # training shuffles
        )

    def _split_generators(self, dl_manager):
        source, num_digits, protocol = self._choice
        sizes = n_digit_tables.SIZES[self._choice]
        if source == "sklearn":
            pools = digits.of_sklearn()
            tables = n_digit_tables.draw(pools, num_digits, protocol, sizes)
        else:
            pools = digits.of_mnist(prepared.mnist_files(dl_manager, self._mnist))
            tables = n_digit_tables.draw(pools, num_digits, protocol, sizes)
            for split, path in self._table_files(dl_manager, num_digits, protocol, sizes).items():
                n_digit_tables.check(path, n_digit_tables.read(path), tables[split])
        return {
            split: self._generate_examples(pools[n_digit_tables.pool(split)].images, table)
            for split, table in tables.items()
        }

    def _generate_examples(self, images: np.ndarray, table: n_digit_tables.Table):
        for class_, (number, of_class) in enumerate(zip(*table, strict=True)):
            for place, ids in enumerate(of_class):
                image = np.concatenate(images[ids], axis=1)
                key = class_ * len(of_class) + place
                yield key, {"image": image, "number": int(number)}

    def _table_files(self, dl_manager, num_digits, protocol, sizes) -> dict[str, Path]:
        names = {split: n_digit_tables.file_name(num_digits, protocol, split) for split in sizes}
        if self._tables is None and self._mnist is not None:
            print("no tables given: they are drawn anew, as published", file=sys.stderr)
            return {}
        if self._tables is None:
            return prepared.download(
                dl_manager,
                {split: _TABLES_ADDRESS + name for split, name in names.items()},
                "name the folder of google/n-digit-mnist's tables with --tables",
            )
        paths = {split: self._tables / name for split, name in names.items()}
        if not paths["train"].is_file():
            raise ValueError(
                f"tables must be a folder that holds {names['train']}, {self._tables} is none"
            )
        for split, path in paths.items():
            if not path.is_file():
                message = f"{path} is missing: {split} is drawn anew, as it was published"
                print(message, file=sys.stderr)
        return {split: path for split, path in paths.items() if path.is_file()}


def load(
    source: digits.Source,
    num_digits: int,
    protocol: n_digit_tables.Protocol,
    folder: Path,
    *,
    mnist: Path | None = None,
    tables: Path | None = None,
) -> dict[str, Labelled]:
    """All splits in memory, prepared in `folder` if they are not there yet.

    Images are (image, side, N * side), labels the numbers in them.

    Args:
      source: "sklearn" or "mnist".
      num_digits: N, 2 or 3.
      protocol: "number" (train, test_seen, test_unseen) or "instance" (train, test).
      folder: where TFDS keeps what it prepares.
      mnist: as of `NDigitMnist`.
      tables: as of `NDigitMnist`.

    Raises:
      ValueError: an unknown choice, files missing or damaged, no network.
    """
    if (source, num_digits, protocol) not in n_digit_tables.SIZES:
        raise ValueError(
            f"source, num_digits and protocol must be one of {get_args(digits.Source)}, 2 or 3 and "
            f"{get_args(n_digit_tables.Protocol)}, got {source!r}, {num_digits!r} and {protocol!r}"
        )
    builder = NDigitMnist(
        config=f"{source}_{num_digits}_{protocol}",
        data_dir=folder.resolve(),
        file_format="array_record",
        mnist=mnist,
        tables=tables,
    )
    if mnist is not None:
        digits.find_mnist(mnist)
    return {
        split: Labelled(
            np.stack([example["image"] for example in examples]),
            np.array([example["number"] for example in examples], np.int64),
        )
        for split, examples in prepared.prepared(builder).items()
    }
