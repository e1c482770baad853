import numpy as np
import pytest

from experiments.runs import cells


def never():
    raise AssertionError("it is there")


def test_numbers_are_computed_once(tmp_path):
    path = tmp_path / "new" / "cell.json"
    assert cells.cell(path, lambda: {"a": 1}) == cells.cell(path, never) == {"a": 1}


def test_arrays_are_computed_once_and_keep_their_order_and_precision(tmp_path):
    path = tmp_path / "new" / "cell.npz"
    given = {"b/x, y": np.ones((2, 3), np.float32), "a": np.arange(3), "empty": np.zeros(0)}
    for found in (cells.arrays(path, lambda: given), cells.arrays(path, never)):
        assert list(found) == list(given)
        for name, value in given.items():
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype == value.dtype
    assert [file.name for file in path.parent.iterdir()] == ["cell.npz"]


@pytest.mark.parametrize(("kind", "name"), [(cells.cell, "a.json"), (cells.arrays, "a.npz")])
def test_half_a_cell_is_one_error(tmp_path, kind, name):
    path = tmp_path / name
    kind(path, lambda: {"a": np.zeros(99)} if name == "a.npz" else {"a": 1})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"is damaged .*: delete it"):
        kind(path, never)
