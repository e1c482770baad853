import functools
import re

import jax
import numpy as np
import pytest

from experiments.data import frozen_features
from lasi_jax.networks import squeezenet
from tests.experiments.made_up_pairs import features, save


def test_features_of_either_file(tmp_path):
    arrays = features()
    found = frozen_features.read(save(tmp_path / "pairs.npz", arrays))
    np.testing.assert_array_equal(found.images, arrays["image_features"])
    np.testing.assert_array_equal(found.texts, arrays["caption_features"][:, None])
    assert found.images.dtype == found.texts.dtype == np.float32
    named = [arrays["image_ids"][image] for image in found.image_of]
    assert named == arrays["caption_image_ids"].tolist()
    again = frozen_features.read(save(tmp_path / "pairs.safetensors", arrays))
    for value, expected in zip(again, found, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jax.numpy.bfloat16])
def test_features_of_any_precision(tmp_path, dtype):
    arrays = features()
    arrays["image_features"] = arrays["image_features"].astype(dtype)
    found = frozen_features.read(save(tmp_path / "pairs.safetensors", arrays))
    assert found.images.dtype == np.float32
    np.testing.assert_array_equal(found.images, arrays["image_features"].astype(np.float32))


def changed(name, change):
    arrays = features()
    arrays[name] = change(arrays[name])
    return arrays


def with_value(value):
    def change(array):
        array = array.astype(np.float64)
        array[2, 1] = value
        return array

    return change


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image_features": np.ones((3, 2))}, "pairs.npz lacks image_ids"),
        (
            changed("image_features", lambda x: x[0, 0]),
            "image_features must be floats (item, feature) or (item, place, feature), not empty, "
            "got (10,) float32",
        ),
        (changed("image_features", lambda x: x[:, :0]), "not empty, got (24, 0, 10)"),
        (changed("caption_features", lambda x: x.astype(int)), "got (48, 5) int64"),
        (
            changed("caption_features", with_value(np.nan)),
            "caption_features must be finite in float32, got nan at [2, 1]",
        ),
        (changed("caption_features", with_value(1e300)), "got 1e+300 at [2, 1]"),
        (
            changed("image_ids", lambda x: x[1:]),
            "image_ids must be 24 integers, got (23,) int64",
        ),
        (changed("image_ids", lambda x: x.astype(float)), "got (24,) float64"),
        (
            changed("caption_image_ids", lambda x: x.reshape(2, -1)),
            "caption_image_ids must be 48 integers, got (2, 24) int64",
        ),
        (
            changed("image_ids", lambda x: np.concatenate([[7, 7], x[2:]])),
            "image_ids must be all different, got 7 twice",
        ),
        (
            changed("caption_image_ids", lambda x: np.concatenate([x[:-1], [5000]])),
            "caption_image_ids must be among image_ids, got 5000",
        ),
        (
            changed("caption_image_ids", lambda x: np.concatenate([[-1], x[1:]])),
            "caption_image_ids must be among image_ids, got -1",
        ),
        ({"image_features": np.array([{}])}, "Object arrays cannot be loaded"),
    ],
)
def test_bad_features(tmp_path, arrays, message):
    path = save(tmp_path / "pairs.npz", arrays)
    with pytest.raises(ValueError, match=re.escape(message)):
        frozen_features.read(path)


def corrupt(content):
    return content[:120] + b"\xff" * 40 + content[160:]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("damage", [corrupt, lambda x: x[:300], lambda x: b""])
def test_damaged_files_of_features(tmp_path, suffix, damage):
    path = save(tmp_path / f"pairs{suffix}", features())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"features must be a whole file of plain arrays, .*pairs"):
        frozen_features.read(path)


def test_no_file_and_other_files(tmp_path):
    with pytest.raises(ValueError, match=r"features must be a file, .*none.npz is none"):
        frozen_features.read(tmp_path / "none.npz")
    (tmp_path / "pairs.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be .npz or .safetensors, got pairs\.pt"):
        frozen_features.read(tmp_path / "pairs.pt")
    with open(tmp_path / "single.npz", "wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match="features must be a whole file of plain arrays"):
        frozen_features.read(tmp_path / "single.npz")


@functools.cache
def parameters():
    return squeezenet.initialize(jax.random.key(0), version="1.0")


def test_frozen_features_are_means_of_the_last_map():
    photograph = np.random.default_rng(0).integers(0, 256, (227, 227, 3), np.uint8)
    found = frozen_features.of_photograph(parameters(), photograph)
    assert found.shape == (9, 512) and found.dtype == np.float32
    last = np.asarray(frozen_features._fire9(parameters(), photograph / np.float32(255.0)))
    assert last.shape == (13, 13, 512)
    parts = [slice(0, 5), slice(5, 9), slice(9, 13)]
    expected = [last[rows, columns].mean((0, 1)) for rows in parts for columns in parts]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    small = frozen_features.of_photograph(parameters(), photograph[:3, :200])
    assert small.shape == (9, 512) and np.isfinite(small).all() and small.std() > 0.0
