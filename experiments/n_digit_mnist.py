"""N-digit MNIST as a TFDS data set: N digits side by side, and the number that they spell.

    from experiments import n_digit_mnist
    splits = n_digit_mnist.load("sklearn", 2, "number", Path("results/datasets"))

Prepared once as array_record, without TensorFlow, and read into memory. MNIST's four
files and the tables of google/n-digit-mnist come from folders of the user's, or TFDS
downloads them. Scikit-learn's 8 x 8 digits need neither.
"""

import contextlib
import io
import socket
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, get_args

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import DownloadError

from experiments import digits, number_tables

_MNIST_ADDRESS = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_TABLES_ADDRESS = (
    "https://raw.githubusercontent.com/google/n-digit-mnist/"
    "830a36d6614482595145bfb6f6c8ef688d2b418c/standard_datasets/"
)
_SIDE = {"sklearn": 8, "mnist": 28}


class Numbers(NamedTuple):
    """Images (image, side, N * side) uint8 and the numbers (image) int64 in them."""

    images: np.ndarray
    numbers: np.ndarray


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
        for source, num_digits, protocol in number_tables.SIZES
    ]

    def __init__(self, *, mnist: Path | None = None, tables: Path | None = None, **kwargs):
        super().__init__(**kwargs)
        self._mnist, self._tables = mnist, tables

    @property
    def _choice(self) -> tuple[digits.Source, int, number_tables.Protocol]:
        assert self.builder_config is not None
        name = self.builder_config.name
        return next(c for c in number_tables.SIZES if name == "{}_{}_{}".format(*c))

    def _info(self) -> tfds.core.DatasetInfo:
        source, num_digits, _ = self._choice
        shape = (_SIDE[source], num_digits * _SIDE[source])
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
        sizes = number_tables.SIZES[self._choice]
        if source == "sklearn":
            pools = digits.of_sklearn()
            tables = number_tables.draw(pools, num_digits, protocol, sizes)
        else:
            pools = digits.of_mnist(self._mnist_files(dl_manager))
            tables = number_tables.draw(pools, num_digits, protocol, sizes)
            for split, path in self._table_files(dl_manager, num_digits, protocol, sizes).items():
                number_tables.check(path, number_tables.read(path), tables[split])
        return {
            split: self._generate_examples(pools[number_tables.pool(split)].images, table)
            for split, table in tables.items()
        }

    def _generate_examples(self, images: np.ndarray, table: number_tables.Table):
        for class_, (number, of_class) in enumerate(zip(*table, strict=True)):
            for place, ids in enumerate(of_class):
                image = np.concatenate(images[ids], axis=1)
                key = class_ * len(of_class) + place
                yield key, {"image": image, "number": int(number)}

    def _mnist_files(self, dl_manager) -> dict[str, Path]:
        if self._mnist is not None:
            return digits.find_mnist(self._mnist)
        return _download(
            dl_manager,
            {name: f"{_MNIST_ADDRESS}{name}.gz" for name in digits.MNIST_FILES},
            "name the folder of MNIST's four files with --mnist",
        )

    def _table_files(self, dl_manager, num_digits, protocol, sizes) -> dict[str, Path]:
        names = {split: number_tables.file_name(num_digits, protocol, split) for split in sizes}
        if self._tables is None and self._mnist is not None:
            print("no tables given: they are drawn anew, as published", file=sys.stderr)
            return {}
        if self._tables is None:
            return _download(
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


def _download(dl_manager, addresses: dict[str, str], otherwise: str) -> dict[str, Path]:
    """Files by TFDS's download manager; without a network an error at once, not after minutes."""
    address = urllib.parse.urlsplit(next(iter(addresses.values())))
    try:
        if not urllib.request.getproxies():  # a proxy knows the way, this machine may not
            socket.create_connection((address.hostname, address.port or 443), timeout=10).close()
        files = dl_manager.download(addresses)
    except (OSError, DownloadError) as error:
        raise ValueError(f"{address.hostname} gave no files ({error}): {otherwise}") from None
    return {name: Path(path) for name, path in files.items()}


def load(
    source: digits.Source,
    num_digits: int,
    protocol: number_tables.Protocol,
    folder: Path,
    *,
    mnist: Path | None = None,
    tables: Path | None = None,
) -> dict[str, Numbers]:
    """All splits in memory, prepared in `folder` if they are not there yet.

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
    if (source, num_digits, protocol) not in number_tables.SIZES:
        raise ValueError(
            f"source, num_digits and protocol must be one of {get_args(digits.Source)}, 2 or 3 and "
            f"{get_args(number_tables.Protocol)}, got {source!r}, {num_digits!r} and {protocol!r}"
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
    if not Path(builder.data_dir).exists():
        print(f"preparing {builder.data_dir}", flush=True)
    # TFDS speaks of a download even where there is none.
    with _quiet(), contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    try:
        return {split: _in_memory(builder, split) for split in builder.info.splits}
    except Exception as error:  # array_record, zlib and protobuf each have errors of their own
        raise ValueError(
            f"{builder.data_dir} is damaged ({error}): delete it, and it is prepared anew"
        ) from None


def describe(source: digits.Source) -> str:
    """Which digits these are, in words."""
    if source == "sklearn":
        return "scikit-learn's digits, 8 x 8 (the embedded default; --mnist names MNIST's folder)"
    return "MNIST, 28 x 28"


def _in_memory(builder: NDigitMnist, split: str) -> Numbers:
    as_data_source: Any = builder.as_data_source  # its decorator hides its parameters
    source = as_data_source(split=split)
    examples = source.__getitems__(range(len(source)))
    return Numbers(
        np.stack([example["image"] for example in examples]),
        np.array([example["number"] for example in examples], np.int64),
    )


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
