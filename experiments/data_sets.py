"""TFDS data sets: prepared once in a folder, without TensorFlow, and read into memory."""

import contextlib
import io
import socket
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import DownloadError

from experiments import digits

_MNIST_ADDRESS = "https://storage.googleapis.com/cvdf-datasets/mnist/"


def prepared(builder: tfds.core.DatasetBuilder) -> dict[str, list[dict[str, Any]]]:
    """All examples of all splits, after preparing them if they are not there yet.

    Raises:
      ValueError: what is there is damaged.
    """
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


def _in_memory(builder: tfds.core.DatasetBuilder, split: str) -> list[dict[str, Any]]:
    as_data_source: Any = builder.as_data_source  # its decorator hides its parameters
    source = as_data_source(split=split)
    return source.__getitems__(range(len(source)))


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
