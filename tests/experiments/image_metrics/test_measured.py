"""Measurement: every item once, in batches that do not matter, kept in parts."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.image_metrics import measured as measurement

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 5, 3)).astype(np.uint8)


class Triplets:
    def __init__(self):
        self.asked = []

    def __len__(self):
        return len(IMAGES)

    def images(self, rows):
        self.asked += rows
        return tuple(IMAGES[rows.start : rows.stop, k] for k in range(3))


def mean_difference(x, y):
    return jnp.abs(x.astype(jnp.float32) - y.astype(jnp.float32)).mean()


def measured(folder, source, metric=mean_difference):
    return measurement.distances(folder, metric, source, title="differences")


def test_distances_in_batches_and_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(measurement, "_PART", 5)
    monkeypatch.setattr(measurement, "_PIXELS", 2 * 20 * 2)  # two items at once
    found = measured(tmp_path, Triplets())
    floats = IMAGES.astype(float)
    expected = np.abs(floats[:, 1:] - floats[:, :1]).mean((2, 3, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.json", "000005.json"]


def test_what_is_there_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(measurement, "_PART", 5)
    first = measured(tmp_path, Triplets())
    (tmp_path / "000005.json").unlink()
    source = Triplets()
    np.testing.assert_array_equal(measured(tmp_path, source), first)
    assert set(source.asked) == {0, 5, 6}  # the first one tells the size


def test_nan_is_refused_with_its_item(tmp_path):
    def broken(x, y):
        return jnp.where(x[0, 0, 0] == int(IMAGES[3, 0, 0, 0, 0]), jnp.nan, 1.0)

    with pytest.raises(ValueError, match="differences: distances must be finite, that of item 3"):
        measured(tmp_path, Triplets(), broken)
    assert not list(tmp_path.iterdir())
