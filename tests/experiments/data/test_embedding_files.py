import json
import re
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy

from experiments.data import embedding_files
from experiments.data.embedding_files import PairedEmbeddings, Part

IDS = np.array([30, 10, 50, 20, 40])
TEXT_IDS = np.array([10, 10, 40, 30, 50, 20, 10])
IMAGE_OF = [1, 1, 4, 0, 2, 3, 1]


def unit(number, dimension=6, seed=0):
    found = np.random.default_rng(seed).normal(size=(number, dimension))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def save(path, embeddings, ids=None, metadata=None, texts=None, augmented=None):
    """A side in the format that its path names, written without the module under test."""
    arrays = {"embeddings": embeddings, "ids": ids, "augmented": augmented}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    metadata = {name: str(value) for name, value in (metadata or {}).items()}
    if path.suffix == ".npy":
        np.save(path, embeddings)
    elif path.suffix == ".npz":
        arrays |= {} if texts is None else {"texts": np.array(texts)}
        arrays |= {"metadata": np.array(json.dumps(metadata))} if metadata else {}
        np.savez_compressed(path, **arrays)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, path, metadata)
    else:
        columns = {"embedding": list(embeddings), "id": ids, "text": texts}
        columns = {name: column for name, column in columns.items() if column is not None}
        table = pyarrow.table(columns).replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(table, path)
    return path


def pair(folder, suffix=".npz", *, images=None, texts=None):
    """Paths of five images and their seven texts, each with what is to be different."""
    options = {"embeddings": unit(5), "ids": IDS} | (images or {})
    one = save(folder / f"images{suffix}", **options)
    options = {"embeddings": unit(7, seed=1), "ids": TEXT_IDS} | (texts or {})
    return one, save(folder / f"texts{suffix}", **options)


# --- reading ------------------------------------------------------------------------------------


def test_the_other_byte_order_is_taken_and_written_right(tmp_path):
    images = {"embeddings": unit(5).astype(">f4"), "ids": IDS.astype(">i8")}
    one, other = pair(tmp_path, images=images, texts={"ids": TEXT_IDS.astype(">u2")})
    found = embedding_files.read(one, other)
    assert found.image_of.tolist() == IMAGE_OF and found.images.ids.dtype == np.int64
    vectors = embedding_files.rows(found.images.vectors, np.arange(5))
    np.testing.assert_allclose(vectors, unit(5), rtol=1e-6)
    path = tmp_path / "written.safetensors"
    embedding_files.write(path, unit(5).astype(">f4"), IDS.astype(">i8"))
    again = embedding_files.read_side(path, name="images")
    np.testing.assert_array_equal(again.vectors, unit(5))
    np.testing.assert_array_equal(again.ids, IDS)


def test_large_ids_of_either_sign_are_not_compared_in_float64():
    ids, named = np.array([2**53, 2**53 + 1], np.uint64), np.array([2**53 + 1, 2**53])
    checked = [embedding_files.checked_ids("ids", x, 2) for x in (ids, named)]
    assert embedding_files.places(*checked, names=("a", "b")).tolist() == [1, 0]


def test_a_mark_of_the_byte_order_in_metadata_is_taken(tmp_path):
    np.save(tmp_path / "image_embeddings.npy", unit(5))
    np.save(tmp_path / "text_embeddings.npy", unit(5, seed=1))
    (tmp_path / "metadata.json").write_text('{"model": "clip"}', "utf-8-sig")
    assert embedding_files.read_folder(tmp_path).images.model == "clip"
    marked = np.array("\ufeff" + '{"model": "clip"}')
    np.savez(tmp_path / "side.npz", embeddings=unit(5), metadata=marked)
    assert embedding_files.read_side(tmp_path / "side.npz", name="images").model == "clip"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_one_image_has_many_texts(tmp_path, suffix):
    metadata = {"model": "clip", "normalized": "true"}
    texts = {"metadata": metadata}
    if suffix != ".safetensors":
        texts["texts"] = list("abcdefg")
    found = embedding_files.read(
        *pair(tmp_path, suffix, images={"metadata": metadata}, texts=texts)
    )
    np.testing.assert_array_equal(found.images.vectors, unit(5))
    np.testing.assert_array_equal(found.texts.vectors, unit(7, seed=1))
    for side in found[:2]:
        assert isinstance(side.vectors, np.memmap) and side.has_ids and side.normalized
        assert side.model == "clip" and side.augmented is None and side.ids.dtype == np.int64
        np.testing.assert_allclose(side.norms, 1.0, atol=1e-6)
    assert found.image_of.tolist() == IMAGE_OF and found.images.ids.tolist() == IDS.tolist()
    assert found.images.texts is None
    assert suffix == ".safetensors" or list(found.texts.texts) == list("abcdefg")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
def test_without_ids_a_row_belongs_to_its_row(tmp_path, suffix):
    images = {"embeddings": 3.0 * unit(7), "ids": None}
    found = embedding_files.read(*pair(tmp_path, suffix, images=images, texts=images))
    assert found.image_of.tolist() == found.images.ids.tolist() == list(range(7))
    assert not (found.images.has_ids or found.texts.normalized) and found.images.model is None
    np.testing.assert_allclose(found.images.norms, 3.0, rtol=1e-6)


def test_formats_may_differ(tmp_path):
    images, _ = pair(tmp_path, ".npz")
    _, texts = pair(tmp_path, ".parquet")
    assert embedding_files.read(images, texts).image_of.tolist() == IMAGE_OF


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_any_precision(tmp_path, dtype):
    path = save(tmp_path / "images.safetensors", unit(50, 64).astype(dtype))
    found = embedding_files.read_side(path, name="images")
    assert found.normalized and found.vectors.dtype == dtype
    rows = embedding_files.rows(found.vectors, np.array([3, 3, 1]))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(rows, unit(50, 64)[[3, 3, 1]], atol=3e-3)


def test_rows_are_normalised_without_overflow():
    vectors = np.array([[[3.0, 4.0], [0.0, 1e-30]], [[1e30, 0.0], [0.0, -2.0]]], np.float32)
    expected = np.array([[[1.0, 0.0], [0.0, -1.0]], [[0.6, 0.8], [0.0, 1.0]]], np.float32)
    np.testing.assert_allclose(embedding_files.rows(vectors, np.array([1, 0])), expected)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_augmented(tmp_path, suffix):
    augmented = unit(15).reshape(5, 3, 6)
    path, _ = pair(tmp_path, suffix, images={"augmented": augmented})
    found = embedding_files.read_side(path, name="images")
    np.testing.assert_array_equal(found.augmented, augmented)


@pytest.mark.parametrize("ids", [False, True])
def test_a_folder_has_both_sides(tmp_path, ids):
    np.save(tmp_path / "image_embeddings.npy", 2.0 * unit(5))
    np.save(tmp_path / "text_embeddings.npy", 2.0 * unit(7 if ids else 5))
    if ids:
        np.save(tmp_path / "image_ids.npy", IDS)
        np.save(tmp_path / "text_ids.npy", TEXT_IDS)
    (tmp_path / "metadata.json").write_text('{"model": "clip", "normalized": false}')
    found = embedding_files.read(tmp_path)
    assert found.image_of.tolist() == (IMAGE_OF if ids else list(range(5)))
    assert found.images.model == found.texts.model == "clip" and not found.images.normalized
    digest = embedding_files.digest(tmp_path, name="images")
    np.save(tmp_path / "text_embeddings.npy", 3.0 * unit(7 if ids else 5))
    assert digest != embedding_files.digest(tmp_path, name="images")


def test_embeddings_of_clip(data):
    found = embedding_files.read(data / "clip_pairs")
    assert found.images.vectors.shape == found.texts.vectors.shape == (99, 512)
    assert not found.images.normalized and found.images.norms[0] > 10.0
    images = embedding_files.rows(found.images.vectors, np.arange(99))
    texts = embedding_files.rows(found.texts.vectors, np.arange(99))
    recall = np.mean((texts @ images.T).argmax(1) == found.image_of)
    assert abs(recall - 0.859) < 1e-3


# --- what is refused ----------------------------------------------------------------------------


def with_row(row, value, number=5):
    array = 2.0 * unit(number)
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            {"embeddings": np.ones(3, np.float32)},
            "images must be floats (item, dimension), not empty, got (3,) float32",
        ),
        ({"embeddings": np.ones((5, 6), int)}, "not empty, got (5, 6) int64"),
        ({"embeddings": np.ones((5, 6), complex)}, "not empty, got (5, 6) complex128"),
        ({"embeddings": np.ones((0, 6)), "ids": None}, "not empty, got (0, 6) float64"),
        ({"ids": IDS[1:]}, "ids of images must be 5 integers, got (4,) int64"),
        ({"ids": IDS.astype(float)}, "ids of images must be 5 integers, got (5,) float64"),
        ({"ids": np.array([1, 2, 3, 2, 4])}, "ids of images must be all different, got 2 twice"),
        ({"ids": IDS + 1}, "ids of texts must be among ids of images, got 10"),
        (
            {"ids": None},
            "images and texts must both have ids or neither, texts has some and images",
        ),
        ({"embeddings": with_row(3, np.nan)}, "images must be finite, got nan in row 3"),
        ({"embeddings": with_row((4, 2), -np.inf)}, "images must be finite, got -inf in row 4"),
        (
            {"embeddings": np.full((5, 6), 1e200)},
            "images must be finite, got a norm of inf in row 0",
        ),
        ({"embeddings": with_row(2, 0.0)}, "images must not be zero vectors, row 2 is one"),
        (
            {"embeddings": with_row(1, unit(1)[0])},
            "images must be normalised in all rows or in none, row 1 has norm 1 and row 0 has",
        ),
        ({"embeddings": 2.0 * unit(5)}, "images and texts must both be normalised or neither"),
        ({"embeddings": unit(5, 4)}, "images and texts must have one dimension, got 4 and 6"),
        (
            {"metadata": {"normalized": "false"}},
            "images must not be normalised where the metadata has normalized = false, the norms "
            "lie in 1..1",
        ),
        (
            {"metadata": {"normalized": "true"}, "embeddings": 2.0 * unit(5)},
            "images must be normalised where the metadata has normalized = true, the norms lie in "
            "2..2",
        ),
        (
            {"metadata": {"normalized": "L2"}},
            "normalized of images must be true or false, got 'L2'",
        ),
        ({"metadata": {"model": "siglip"}}, "must be of one model, got siglip and clip"),
        ({"texts": ["a"]}, "texts of images must be 5, got 1"),
        ({"texts": [1, 2, 3, 4, 5]}, "texts of images must be strings, got (5,) int64"),
        (
            {"augmented": np.ones((5, 6))},
            "augmented of images must be floats (5, augmentation, 6), not empty, got (5, 6)",
        ),
        ({"augmented": np.ones((5, 0, 6))}, "not empty, got (5, 0, 6) float64"),
        ({"augmented": np.ones((4, 2, 6))}, "not empty, got (4, 2, 6) float64"),
        (
            {
                "augmented": np.array([1.0, np.nan])[[[0], [0], [0], [1], [0]]][..., None]
                + np.ones(6)
            },
            "augmented 0 of images must be finite, got nan in row 3",
        ),
    ],
)
@pytest.mark.parametrize("block", [2**25, 8 * 6 * 2])  # all at once; two rows
def test_bad_sides(tmp_path, monkeypatch, images, message, block):
    monkeypatch.setattr(embedding_files, "_BLOCK_BYTES", block)
    paths = pair(tmp_path, images=images, texts={"metadata": {"model": "clip"}})
    with pytest.raises(ValueError, match=re.escape(message)):
        embedding_files.read(*paths)


def test_counts_must_match_without_ids(tmp_path):
    paths = pair(tmp_path, ".npy")
    with pytest.raises(ValueError, match=r"must be equally many .* no ids, got 5 and 7$"):
        embedding_files.read(*paths)
    with pytest.raises(ValueError, match="test_images and test_texts must be equally many"):
        embedding_files.read(*paths, names=("test_images", "test_texts"))


@pytest.mark.parametrize(("suffix", "what"), [(".npz", "an array"), (".parquet", "a column")])
def test_no_embeddings(tmp_path, suffix, what):
    path = tmp_path / f"images{suffix}"
    if suffix == ".npz":
        np.savez(path, features=np.ones((2, 2)))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"features": [[1.0]]}), path)
    with pytest.raises(ValueError, match=rf"^images must hold {what} embedding.*has none$"):
        embedding_files.read(path, path)


@pytest.mark.parametrize("metadata", ["{", "[]", "3"])
def test_bad_metadata(tmp_path, metadata):
    np.savez(tmp_path / "images.npz", embeddings=unit(5), metadata=np.array(metadata))
    with pytest.raises(ValueError, match="metadata of images must be"):
        embedding_files.read_side(tmp_path / "images.npz", name="images")
    for side in ("image", "text"):
        np.save(tmp_path / f"{side}_embeddings.npy", unit(5))
    (tmp_path / "metadata.json").write_text(metadata)
    with pytest.raises(ValueError, match=f"metadata of {re.escape(str(tmp_path))} must be"):
        embedding_files.read(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(ValueError, match=r"^images must be a folder where no texts are given"):
        embedding_files.read(tmp_path / "none")
    with pytest.raises(ValueError, match=r"^image_embeddings.npy must be a file, .* is none$"):
        embedding_files.read(tmp_path)
    with pytest.raises(ValueError, match=r"^images must be a file, .*none.npy is none$"):
        embedding_files.read(tmp_path / "none.npy", tmp_path / "none.npy")
    with pytest.raises(ValueError, match=r"^texts must be a file, .*none.npy is none$"):
        embedding_files.digest(tmp_path / "none.npy", name="texts")


@pytest.mark.parametrize(
    "strings",
    [
        {"text_bytes": np.zeros(3, np.uint8), "text_ends": np.array([1, 2])},
        {"text_bytes": np.zeros(3, np.uint8), "text_ends": np.array([4, 3])},
        {"text_bytes": np.zeros(3, np.int8), "text_ends": np.array([1, 3])},
        {"text_bytes": np.zeros(3, np.uint8), "text_ends": np.array([1.0, 3.0])},
    ],
)
def test_bad_texts(tmp_path, strings):
    arrays = {"embeddings": unit(2), **strings}
    safetensors.numpy.save_file(arrays, tmp_path / "texts.safetensors")
    with pytest.raises(ValueError, match="text_bytes of texts must be bytes, and text_ends where"):
        embedding_files.read_side(tmp_path / "texts.safetensors", name="texts")


def test_norms_that_vary_around_one_are_not_mixed(tmp_path):
    scales = np.linspace(0.5, 1.5, 101)[:, None].astype(np.float32)
    path = save(tmp_path / "images.npy", scales * unit(101))
    assert not embedding_files.read_side(path, name="images").normalized


# --- larger than memory -------------------------------------------------------------------------


def test_large_files_are_checked_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_files, "_BLOCK_BYTES", 2**18)
    large = np.ones((2**14, 256), np.float32)  # 16 MiB
    large[:, 0] = np.arange(2**14)
    np.save(tmp_path / "images.npy", large)
    tracemalloc.start()
    found = embedding_files.read(tmp_path / "images.npy", tmp_path / "images.npy")
    train, test = embedding_files.split(found, embedding_files.whole(found), 0.1)
    rows = embedding_files.rows(found.images.vectors, test.images[:10])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found.images.vectors, np.memmap) and rows.shape == (10, 256)
    assert len(train.images) + len(test.images) == 2**14
    assert peak < 4 * 2**20


# --- parts --------------------------------------------------------------------------------------


def paired(number, texts_of_each=1, *, seed=0, ids=None, images=None):
    """Pairs in memory, whose ids are row numbers unless some are given."""
    images = unit(number, seed=seed) if images is None else images
    texts = unit(number * texts_of_each, seed=seed + 100)
    image_of = np.arange(number).repeat(texts_of_each)
    names = np.arange(number) if ids is None else np.asarray(ids)
    sides = (
        embedding_files.Embeddings(
            vectors, side_ids, ids is not None, None, True, (1.0, 1.0), None, None
        )
        for vectors, side_ids in ((images, names), (texts, names[image_of]))
    )
    return PairedEmbeddings(*sides, image_of)


def test_texts_go_where_their_image_goes():
    pairs = paired(20, 3)
    train, test = embedding_files.split(pairs, embedding_files.whole(pairs), 0.25)
    assert len(test.images) == 5 and len(train.images) == 15
    assert sorted([*train.images, *test.images]) == list(range(20))
    for part in (train, test):
        assert set(pairs.image_of[part.texts]) == set(part.images)
        assert len(part.texts) == 3 * len(part.images)
    again = embedding_files.split(pairs, embedding_files.whole(pairs), 0.25, seed=0)
    np.testing.assert_array_equal(again[1].images, test.images)
    other = embedding_files.split(pairs, embedding_files.whole(pairs), 0.25, seed=1)
    assert set(other[1].images) != set(test.images)


@pytest.mark.parametrize("seed", range(5))
def test_equal_images_stay_together(seed):
    images = unit(10)[np.arange(30) % 10]
    pairs = paired(30, images=images)
    train, test = embedding_files.split(pairs, embedding_files.whole(pairs), 0.3, seed=seed)
    assert len(test.images) == 9
    assert not set(train.images % 10) & set(test.images % 10)


def test_images_without_texts_are_in_no_part():
    pairs = paired(20)._replace(image_of=np.arange(20) // 2)
    train, test = embedding_files.split(pairs, embedding_files.whole(pairs), 0.5)
    assert sorted([*train.images, *test.images]) == list(range(10))
    whole = embedding_files.whole(pairs)
    assert isinstance(whole, Part) and whole.images.tolist() == list(range(10))
    assert whole.texts.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("share", "number", "message"),
    [
        (0.0, 10, "test_share must lie between 0 and 1, got 0.0"),
        (np.nan, 10, "test_share must lie between 0 and 1, got nan"),
        (0.1, 10, "test_share must leave two images on either side, got 0.1 of 10 images"),
        (0.9, 10, "test_share must leave two images on either side, got 0.9 of 10 images"),
    ],
)
def test_bad_shares(share, number, message):
    with pytest.raises(ValueError, match=message):
        pairs = paired(number)
        embedding_files.split(pairs, embedding_files.whole(pairs), share)


def test_different_tests_are_apart():
    embedding_files.check_apart(paired(10), paired(10, seed=1))
    # Ids tell that what looks the same is not.
    embedding_files.check_apart(paired(10, ids=range(10)), paired(10, ids=range(10, 20)))


def test_leakage_is_refused(monkeypatch):
    monkeypatch.setattr(embedding_files, "_BLOCK_BYTES", 8 * 6 * 3)
    message = "ids of test images must be none of training's, 2 are, such as 8"
    with pytest.raises(ValueError, match=message):
        train = paired(10, ids=range(10))
        embedding_files.check_apart(train, paired(10, seed=1, ids=range(8, 18)))
    images = unit(10, seed=1)
    images[7] = unit(10)[4]
    message = "test images must be none of training's, 1 are, value for value: row 7 is row 4 of tr"
    for ids in (None, range(100, 110)):
        with pytest.raises(ValueError, match=message):
            embedding_files.check_apart(paired(10), paired(10, seed=1, images=images, ids=ids))
    texts = paired(10, seed=1)
    texts = texts._replace(texts=texts.texts._replace(vectors=paired(10).texts.vectors))
    with pytest.raises(ValueError, match="test texts must be none of training's, 10 are"):
        embedding_files.check_apart(paired(10), texts)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_leakage_shows_in_another_precision(dtype):
    images = unit(10).astype(np.float16)
    test = paired(10, seed=1, images=images.astype(dtype))
    with pytest.raises(ValueError, match="test images must be none of training's, 10 are"):
        embedding_files.check_apart(paired(10, images=images), test)


def test_test_and_training_must_be_alike():
    train, test = paired(10), paired(10, seed=1)
    named = [
        pairs._replace(images=pairs.images._replace(model=model))
        for pairs, model in ((train, "clip"), (test, "siglip"))
    ]
    with pytest.raises(ValueError, match="images and test images must be of one model, got clip"):
        embedding_files.check_apart(*named)
    raw = test._replace(images=test.images._replace(normalized=False))
    with pytest.raises(ValueError, match="images and test images must both be normalised or neit"):
        embedding_files.check_apart(train, raw)
    with pytest.raises(ValueError, match="images and test images must have one dimension"):
        embedding_files.check_apart(train, paired(10, images=unit(10, 4)))


# --- writing ------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "images.safetensors"
    augmented = unit(10, seed=3).reshape(5, 2, 6)
    embedding_files.write(path, unit(5), IDS, model="clip", texts=["a", "où", "", "b", "cc"])
    found = embedding_files.read_side(path, name="images")
    np.testing.assert_array_equal(found.vectors, unit(5))
    assert found.model == "clip" and found.normalized and found.ids.tolist() == IDS.tolist()
    assert list(found.texts) == ["a", "où", "", "b", "cc"]
    # Another takes its place; the one that is mapped stays what it was.
    others = {"log_variance": np.ones(5)}
    embedding_files.write(path, 2.0 * unit(5).T.copy().T, augmented=augmented, others=others)
    again = embedding_files.read_side(path, name="images")
    np.testing.assert_array_equal(again.vectors, 2.0 * unit(5))
    np.testing.assert_array_equal(again.augmented, augmented)
    assert again.model is None and not again.normalized and not again.has_ids
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["log_variance"], np.ones(5))
    np.testing.assert_array_equal(found.vectors, unit(5))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "embeddings", "message"),
    [
        ("images.npz", unit(5), "path must be .safetensors, got images.npz"),
        ("images.safetensors", with_row(2, np.nan), "embeddings must be finite, got nan in row 2"),
        ("images.safetensors", unit(4), "ids of embeddings must be 4 integers"),
    ],
)
def test_what_would_be_refused_is_not_written(tmp_path, name, embeddings, message):
    with pytest.raises(ValueError, match=message):
        embedding_files.write(tmp_path / name, embeddings, IDS)
    assert not list(tmp_path.iterdir())


def test_a_digest_is_of_what_a_file_holds(tmp_path):
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    digests = [embedding_files.digest(tmp_path / name, name="images") for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0].startswith("7692c3ad3540bb80")


def test_a_part_is_split_again_and_cut():
    pairs = paired(30)
    train, test = embedding_files.split(pairs, embedding_files.whole(pairs), 0.2)
    part, validation = embedding_files.split(pairs, train, 0.25, name="validation_share")
    assert len(validation.images) == 6 and len(part.images) == 18
    assert set(part.images) | set(validation.images) == set(train.images)
    for some in (part, validation):
        assert set(pairs.image_of[some.texts]) == set(some.images)
    assert not set(test.texts) & (set(part.texts) | set(validation.texts))
    few = embedding_files.at_most(pairs, train, 5)
    assert len(few.images) == 5 and set(few.images) <= set(train.images)
    assert set(pairs.image_of[few.texts]) == set(few.images)
    assert embedding_files.at_most(pairs, train, 24) is train


def test_ids_that_would_be_lost_are_refused(tmp_path):
    """Text for ids in a .parquet, and a .parquet's name for them elsewhere."""
    vectors = np.eye(4, dtype=np.float32)
    table = pyarrow.table({"embedding": list(vectors), "id": ["d", "c", "b", "a"]})
    pyarrow.parquet.write_table(table, tmp_path / "images.parquet")
    np.savez(tmp_path / "images.npz", embeddings=vectors, id=np.arange(4))
    for name, message in (
        ("images.parquet", "ids of images must be integers, column id of .* has text"),
        ("images.npz", "images must call it ids, .* has id"),
    ):
        with pytest.raises(ValueError, match=message):
            embedding_files.read_side(tmp_path / name, name="images")
