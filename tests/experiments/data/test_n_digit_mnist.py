import functools
import http.server
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments.data import digits, n_digit_mnist, n_digit_tables, prepared


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def splits(folder):
    return n_digit_mnist.load("sklearn", 2, "number", folder)


def test_images_are_digits_side_by_side(splits):
    pools = digits.of_sklearn()
    for split, (images, numbers) in splits.items():
        pool = pools[n_digit_tables.pool(split)]
        label_of = {
            image.tobytes(): label for image, label in zip(pool.images, pool.labels, strict=True)
        }
        assert images.dtype == np.uint8 and images.shape[1:] == (8, 16)
        for image, number in zip(images[::97], numbers[::97], strict=True):
            halves = [np.ascontiguousarray(half) for half in (image[:, :8], image[:, 8:])]
            assert [label_of[half.tobytes()] for half in halves] == [number // 10, number % 10]


def test_sizes_are_those_of_the_table(splits):
    for split, (classes, of_each) in n_digit_tables.SIZES["sklearn", 2, "number"].items():
        _, counts = np.unique(splits[split].labels, return_counts=True)
        assert counts.tolist() == [of_each] * classes


def test_prepared_once_without_tensorflow(folder, splits):
    del splits
    code = (
        "import sys; from pathlib import Path; from experiments.data import n_digit_mnist as n\n"
        "n.NDigitMnist._split_generators = None  # would fail if it were asked again\n"
        f"s = n.load('sklearn', 2, 'number', Path({str(folder)!r}))\n"
        "assert len(s['train'].labels) == 7000 and 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow  # 120,000 images
def test_mnist_from_folders(data, tmp_path):
    splits = n_digit_mnist.load(
        "mnist", 2, "number", tmp_path, mnist=data / "mnist", tables=data / "n_digit_mnist"
    )
    sizes = {split: len(of_split.labels) for split, of_split in splits.items()}
    assert sizes == {"train": 99_960, "test_seen": 9_940, "test_unseen": 9_990}
    pools = digits.of_mnist(digits.find_mnist(data / "mnist"))
    path = data / "n_digit_mnist" / n_digit_tables.file_name(2, "number", "test_unseen")
    table = n_digit_tables.read(path)
    for class_, place in ((0, 0), (13, 7), (29, 332)):
        first, second = pools["test"].images[table.digit_ids[class_, place]]
        image = splits["test_unseen"].images[class_ * 333 + place]
        np.testing.assert_array_equal(image, np.concatenate([first, second], 1))
        assert splits["test_unseen"].labels[class_ * 333 + place] == table.numbers[class_]


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(data):
    """The address of a server on this machine for the folder of the data."""
    handler = functools.partial(_Silent, directory=str(data))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_downloaded_where_no_folder_is_named(data, server, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "_MNIST_ADDRESS", f"{server}/mnist/")
    monkeypatch.setattr(n_digit_mnist, "_TABLES_ADDRESS", f"{server}/n_digit_mnist/")
    builder = n_digit_mnist.NDigitMnist(
        config="mnist_2_instance", data_dir=tmp_path, file_format="array_record"
    )
    manager = tfds.download.DownloadManager(
        download_dir=str(tmp_path / "downloads"), dataset_name="n_digit_mnist"
    )
    splits = builder._split_generators(manager)
    assert list(splits) == ["train", "test"]
    _, first = next(iter(splits["test"]))
    assert first["image"].shape == (28, 56) and first["number"] == 0
    labels = (data / "mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes()
    files = (path for path in (tmp_path / "downloads").rglob("*") if path.is_file())
    (path,) = (path for path in files if path.read_bytes() == labels)
    path.write_bytes(labels[:100])
    with pytest.raises(ValueError, match="is damaged"):  # what was downloaded is checked too
        builder._split_generators(manager)


def test_without_a_network_an_error_at_once(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(prepared.urllib.request, "getproxies", dict)
    monkeypatch.setattr(prepared.socket, "create_connection", refuse)
    with pytest.raises(
        ValueError, match=r"gave no files \(Network is unreachable\): .*with --mnist"
    ):
        n_digit_mnist.load("mnist", 2, "number", tmp_path)
    assert not list(tmp_path.rglob("*.array_record*"))


def test_a_refused_download_is_one_error(server, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "_MNIST_ADDRESS", f"{server}/missing/")
    with pytest.raises(ValueError, match=r"127.0.0.1 gave no files .*404.*with --mnist"):
        n_digit_mnist.load("mnist", 2, "number", tmp_path)


def test_bad_choices_and_folders(data, tmp_path):
    with pytest.raises(ValueError, match=r"num_digits and protocol must be .* got 'sklearn', 4"):
        n_digit_mnist.load("sklearn", 4, "number", tmp_path)
    with pytest.raises(ValueError, match=r"mnist must be a folder"):
        n_digit_mnist.load("mnist", 2, "number", tmp_path, mnist=tmp_path / "missing")
    with pytest.raises(ValueError, match=r"tables must be a folder that holds dataset_mnist_2_num"):
        n_digit_mnist.load("mnist", 2, "number", tmp_path, mnist=data / "mnist", tables=tmp_path)


def test_a_damaged_data_set_is_named(tmp_path):
    n_digit_mnist.load("sklearn", 2, "instance", tmp_path)
    for path in tmp_path.rglob("*train.array_record*"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"sklearn_2_instance.* is damaged .*delete it"):
        n_digit_mnist.load("sklearn", 2, "instance", tmp_path)
