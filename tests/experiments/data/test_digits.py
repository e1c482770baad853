import gzip

import numpy as np
import pytest
import sklearn.datasets

from experiments.data import digits


def test_sklearn_pools_are_all_digits_once():
    pools = digits.of_sklearn()
    images = np.concatenate([pool.images for pool in pools.values()])
    bunch = sklearn.datasets.load_digits()

    def as_set(images):
        return sorted(image.tobytes() for image in images.astype(np.uint8))

    assert as_set(np.round(images / 255 * 16)) == as_set(bunch.images)
    assert images.max() == 255 and len(pools["train"].labels) == 1258
    for pool in pools.values():
        assert np.bincount(pool.labels, minlength=10).min() >= 40


def test_sklearn_labels_go_with_their_images():
    bunch = sklearn.datasets.load_digits()
    label_of = {image.tobytes(): y for image, y in zip(bunch.images, bunch.target, strict=True)}
    pool = digits.of_sklearn()["test"]
    for image, label in zip(np.round(pool.images / 255.0 * 16), pool.labels, strict=True):
        assert label_of[image.tobytes()] == label


def test_mnist(data, tmp_path):
    pools = digits.of_mnist(digits.find_mnist(data / "mnist"))
    assert pools["train"].images.shape == (60_000, 28, 28)
    assert pools["test"].labels.shape == (10_000,)
    assert pools["train"].labels[:5].tolist() == [5, 0, 4, 1, 9]  # as everyone has seen them
    for name in digits.MNIST_FILES:  # not compressed, it is the same
        content = gzip.decompress((data / "mnist" / f"{name}.gz").read_bytes())
        (tmp_path / name).write_bytes(content)
    plain = digits.of_mnist(digits.find_mnist(tmp_path))
    np.testing.assert_array_equal(plain["test"].images, pools["test"].images)


def files(folder, content=b"something else"):
    for name in digits.MNIST_FILES:
        (folder / f"{name}.gz").write_bytes(content)
    return folder


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match=r"mnist must be a folder .*missing is none"):
        digits.find_mnist(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"mnist must hold train-images-idx3-ubyte.gz"):
        digits.find_mnist(tmp_path)
    found = digits.find_mnist(files(tmp_path))
    with pytest.raises(ValueError, match=r"must hold MNIST's train-images.*damaged or another"):
        digits.of_mnist(found)
    files(tmp_path, gzip.compress(bytes(1000))[:-9])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is damaged"):
        digits.of_mnist(found)
