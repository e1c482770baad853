import re
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy

from experiments.data import array_files


def arrays():
    random = np.random.default_rng(0)
    return {
        "embeddings": random.normal(size=(50, 7)).astype(np.float32),
        "ids": random.permutation(50),
        "half": random.normal(size=(3, 2, 5)).astype(np.float16),
        "nothing": np.zeros((0, 7)),
    }


def check_same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert isinstance(found[name], np.memmap) or not array.size
        assert not found[name].flags.writeable or not array.size


# --- formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    expected = arrays() | {"fortran": np.asfortranarray(arrays()["embeddings"])}
    expected |= {
        "texts": np.array(["a", "où", ""]),
        "scalar": np.array("text"),
        "big": np.ones(2, ">f4"),
    }
    save(tmp_path / "some.npz", **expected)
    check_same(array_files.read("some", tmp_path / "some.npz").arrays, expected)
    found = array_files.read("some", tmp_path / "some.npz", only=("ids", "other"))
    check_same(found.arrays, {"ids": expected["ids"]})


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, order):
    array = np.asarray(arrays()["embeddings"], order=order)
    np.save(tmp_path / "some.npy", array)
    check_same(array_files.read("some", tmp_path / "some.npy").arrays, {"embeddings": array})


def test_npy_of_the_second_version(tmp_path):
    array = arrays()["embeddings"]
    with open(tmp_path / "some.npy", "wb") as file:
        np.lib.format.write_array(file, array, version=(2, 0))
    check_same(array_files.read("some", tmp_path / "some.npy").arrays, {"embeddings": array})


def test_safetensors(tmp_path):
    expected = arrays() | {"bytes": np.arange(5, dtype=np.uint8)}
    expected["brain"] = expected["embeddings"].astype(jnp.bfloat16)
    metadata = {"model": "clip"}
    safetensors.numpy.save_file(expected, tmp_path / "some.safetensors", metadata)
    found = array_files.read("some", tmp_path / "some.safetensors")
    check_same(found.arrays, expected)
    assert found.metadata == metadata
    only = array_files.read("some", tmp_path / "some.safetensors", only=("brain",)).arrays
    check_same(only, {"brain": expected["brain"]})


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("value_type", [pyarrow.float16(), pyarrow.float32(), pyarrow.float64()])
@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
def test_parquet(tmp_path, monkeypatch, rows, value_type, kind):
    monkeypatch.setattr(array_files, "_UNPACKED_ROWS", rows)
    expected = arrays()["embeddings"].astype(value_type.to_pandas_dtype())
    texts = ["", "où", *map(str, range(48))]
    list_type = {
        "list": pyarrow.list_(value_type),
        "large_list": pyarrow.large_list(value_type),
        "fixed": pyarrow.list_(value_type, 7),
    }[kind]
    table = pyarrow.table(
        {
            "embedding": pyarrow.array(list(expected), list_type),
            "id": arrays()["ids"].astype(np.int32),
            "text": texts,
            "other": [None] * 50,
        }
    ).replace_schema_metadata({"model": "clip"})
    pyarrow.parquet.write_table(table, tmp_path / "some.parquet", row_group_size=20)
    only = ("embedding", "id", "text")
    found = array_files.read("some", tmp_path / "some.parquet", only=only)
    check_same(found.arrays, {"embedding": expected, "id": arrays()["ids"].astype(np.int32)})
    assert list(found.strings["text"]) == texts and found.metadata["model"] == "clip"


def test_strings_are_a_sequence():
    strings = array_files.Strings(
        np.frombuffer("aoùb".encode(), np.uint8), np.array([1, 1, 4, 5], np.int64)
    )
    assert list(strings) == ["a", "", "où", "b"] and len(strings) == 4
    assert strings[-1] == "b" and strings[1:3] == ["", "où"] and "où" in strings
    with pytest.raises(IndexError):
        strings[4]


# --- larger than memory -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".npz compressed", ".safetensors", ".parquet"])
def test_nothing_is_loaded(tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    large = np.zeros((2**14, 256), np.float32)  # 16 MiB
    path = tmp_path / f"large{suffix.split()[0]}"
    if suffix == ".npy":
        np.save(path, large)
    elif path.suffix == ".npz":
        (np.savez if suffix == ".npz" else np.savez_compressed)(path, embedding=large)
    elif suffix == ".safetensors":
        safetensors.numpy.save_file({"embedding": large}, path)
    else:
        values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(large.ravel()), 256)
        pyarrow.parquet.write_table(pyarrow.table({"embedding": values}), path, row_group_size=1024)
    monkeypatch.setattr(array_files, "_UNPACKED_BYTES", 2**16)
    monkeypatch.setattr(array_files, "_UNPACKED_ROWS", 64)
    allocated = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    (found,) = array_files.read("large", path).arrays.values()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found, np.memmap) and found.shape == large.shape
    assert peak < 2**21 and pyarrow.total_allocated_bytes() <= allocated
    assert not list((tmp_path / "temporary").iterdir())
    np.testing.assert_array_equal(found[[3, -1]], large[[3, -1]])


# --- bad files ----------------------------------------------------------------------------------


def save(path):
    expected = {"embeddings": arrays()["embeddings"], "ids": arrays()["ids"]}
    if path.name == "stored.npz":
        np.savez(path, **expected)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **expected)
    elif path.suffix == ".npy":
        np.save(path, expected["embeddings"])
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(expected, path)
    else:
        table = pyarrow.table({"embedding": list(expected["embeddings"])})
        pyarrow.parquet.write_table(table, path)
    return path


FILES = ("some.npy", "some.npz", "stored.npz", "some.safetensors", "some.parquet")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [lambda x: x[:300], lambda x: x[:-30], lambda x: b""])
def test_cut_files(tmp_path, name, damage):
    path = save(tmp_path / name)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ValueError, match=rf"^some must be a whole file of plain arrays, .*{name}: "
    ):
        array_files.read("some", path)


@pytest.mark.parametrize("name", ["some.npz", "stored.npz"])
def test_a_checksum_that_differs(tmp_path, name):
    path = save(tmp_path / name)
    content = bytearray(path.read_bytes())
    content[700] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match="some must be a whole file of plain arrays"):
        array_files.read("some", path)


def test_no_file_and_other_formats(tmp_path):
    with pytest.raises(ValueError, match=r"^some must be a file, .*none.npz is none$"):
        array_files.read("some", tmp_path / "none.npz")
    (tmp_path / "some.pt").write_bytes(b"")
    message = r"^some must be .npy, .npz, .safetensors or .parquet, got some.pt$"
    with pytest.raises(ValueError, match=message):
        array_files.read("some", tmp_path / "some.pt")
    with pytest.raises(ValueError, match=r"^some must be .npy, got some.pt$"):
        array_files.read("some", tmp_path / "some.pt", suffixes=(".npy",))


def test_pickle_is_refused(tmp_path):
    np.save(tmp_path / "some.npy", np.array([{}]))
    np.savez(tmp_path / "some.npz", embeddings=np.array([{}]))
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
            array_files.read("some", path)


def test_a_member_that_claims_more_than_it_has(tmp_path):
    np.save(tmp_path / "one.npy", np.ones((10, 10)))
    content = (tmp_path / "one.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "some.npz", "w") as archive:
        archive.writestr("ids.npy", content.replace(b"(10, 10)", b"(99, 10)"))
        archive.writestr("other.npy", content * 20)
    with pytest.raises(ValueError, match=r"too few for \(99, 10\) float64"):
        array_files.read("some", tmp_path / "some.npz", only=("ids",))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1.0, 2.0], [1.0]], "lists of one length, row 0 has 2 numbers and row 1 has 1"),
        ([[1.0], None, [2.0]], "column some has nothing in row 1"),
        ([[1.0, 2.0], [3.0, None]], "column some has lists with nothing in row 1"),
        (["a", None], "column some has nothing in row 1"),
        ([["a"], ["b"]], "column some must be numbers or lists of numbers"),
        ([True, False], "column some must be numbers or lists of numbers"),
    ],
)
def test_bad_columns(tmp_path, monkeypatch, column, message):
    monkeypatch.setattr(array_files, "_UNPACKED_ROWS", 1)
    pyarrow.parquet.write_table(pyarrow.table({"some": column}), tmp_path / "some.parquet")
    with pytest.raises(ValueError, match=re.escape(message)):
        array_files.read("some", tmp_path / "some.parquet")


def test_a_full_disk_is_told_as_such(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left on device"):
        array_files.read("some", save(tmp_path / "some.npz"))
