"""BAPPS: what is in the published folder comes out, and what does not fit is named."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.data import bapps
from experiments.data import prepared as data_sets

PARTS = {"2afc": ("ref", "p0", "p1"), "jnd": ("p0", "p1")}
JUDGED = {"2afc": "judge", "jnd": "same"}
JUDGEMENTS = {"traditional": (0.8, 0.0, 0.4), "cnn": (1.0, 0.2), "frameinterp": (0.6, 0.6)}


def patch(kind, subset, part, item):
    """A patch (64, 64, 3) that no other is."""
    seed = [*kind.encode(), *subset.encode(), *part.encode(), item]
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)


def write(root, kind, subset, judgements):
    place = root / kind / "val" / subset
    for part in (*PARTS[kind], JUDGED[kind]):
        (place / part).mkdir(parents=True)
    for item, judgement in enumerate(judgements):
        for part in PARTS[kind]:
            image = Image.fromarray(patch(kind, subset, part, item))
            image.save(place / part / f"{item:06d}.png")
        judged = np.array([judgement], np.float32)
        np.save(place / JUDGED[kind] / f"{item:06d}.npy", judged)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A clone of the repository: `dataset` in it holds both kinds; some subsets are not there."""
    root = tmp_path_factory.mktemp("repository")
    for subset, judgements in JUDGEMENTS.items():
        write(root / "dataset", "2afc", subset, judgements)
    for subset in ("traditional", "cnn"):
        write(root / "dataset", "jnd", subset, JUDGEMENTS[subset])
    return root


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def subsets(root, datasets):
    return {kind: bapps.load(root, datasets, kind=kind) for kind in PARTS}


@pytest.fixture
def small(tmp_path):
    """A folder with one small subset, to be damaged, and no prepared data sets."""
    write(tmp_path / "bapps", "2afc", "cnn", (0.2, 0.4))
    return tmp_path / "bapps"


def prepared(folder):
    return sorted(path.parent for path in folder.rglob("dataset_info.json"))


@pytest.mark.parametrize("kind", PARTS)
def test_patches_and_judgements_are_those_of_the_files(subsets, kind):
    assert list(subsets[kind]) == list(JUDGEMENTS)[: {"2afc": 3, "jnd": 2}[kind]]
    for subset, source in subsets[kind].items():
        judgements = JUDGEMENTS[subset]
        assert len(source) == len(judgements)
        np.testing.assert_array_equal(source.judgements, np.float32(judgements))
        assert source.judgements.dtype == np.float64
        images = source.images(range(1, len(source)))
        assert len(images) == len(PARTS[kind])
        for part, found in zip(PARTS[kind], images, strict=True):
            expected = [patch(kind, subset, part, item) for item in range(1, len(source))]
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, expected)


def test_judgements_in_parts(subsets, monkeypatch):
    monkeypatch.setattr(data_sets, "_ROWS", 2)
    examples = subsets["2afc"]["traditional"]._examples
    np.testing.assert_array_equal(examples.column("judge"), np.float32([0.8, 0.0, 0.4]))


def test_prepared_once_without_tensorflow(subsets, root, datasets, tmp_path):
    """Also after the folder was moved, and without its subfolder `dataset`."""
    del subsets
    moved = shutil.copytree(root / "dataset", tmp_path / "moved")  # keeps times
    code = (
        "import sys; from pathlib import Path; from experiments.data import bapps\n"
        "bapps.Bapps._split_generators = None  # would fail if asked again\n"
        f"subsets = bapps.load(Path({str(moved)!r}), Path({str(datasets)!r}), kind='2afc')\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print(subsets['cnn'].images(range(2))[2].sum(), subsets['cnn'].judgements[0])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    total = sum(int(patch("2afc", "cnn", "p1", item).sum()) for item in range(2))
    assert found.stdout == f"{total} 1.0\n" and found.stderr == ""


def test_builders_own_images_are_the_same(root, datasets, subsets):
    """Whoever opens the data set with TFDS alone sees the same."""
    del subsets
    folder = next(path for path in prepared(datasets) if path.parent.name == "jnd")
    builder = bapps.Bapps(
        config="jnd",
        data_dir=folder.parents[2],
        file_format="array_record",
        folder=root,
    )
    example = builder.as_data_source(split="cnn")[1]
    np.testing.assert_array_equal(example["p1"], patch("jnd", "cnn", "p1", 1))
    assert example["same"] == np.float32(0.2)


def test_other_files_are_prepared_anew_and_what_was_interrupted_again(small, tmp_path, monkeypatch):
    datasets = tmp_path / "datasets"
    calls = []

    def interrupted(path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 0.5

    with monkeypatch.context() as context:
        context.setattr(bapps, "_judgement", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bapps.load(small, datasets, kind="2afc")
    assert not prepared(datasets)
    (place,) = datasets.glob("*/bapps/2afc")
    (place / "incomplete.ABCDEF_1.0.0").mkdir()  # as a process leaves it that is killed
    first = bapps.load(small, datasets, kind="2afc")["cnn"]
    np.testing.assert_array_equal(first.judgements, np.float32([0.2, 0.4]))
    assert [path.name for path in place.iterdir()] == ["1.0.0"]

    path = small / "2afc/val/cnn/judge/000001.npy"
    size, time = path.stat().st_size, path.stat().st_mtime_ns
    np.save(path, np.array([1.0], np.float32))
    os.utime(path, ns=(time, time + 2_000_000_000))
    assert path.stat().st_size == size
    second = bapps.load(small, datasets, kind="2afc")["cnn"]
    np.testing.assert_array_equal(second.judgements, np.float32([0.2, 1.0]))
    assert len(prepared(datasets)) == 2


def test_a_damaged_data_set_is_named(subsets, root, datasets, tmp_path):
    del subsets
    copy = shutil.copytree(datasets, tmp_path / "copy")
    for path in copy.rglob("*cnn.array_record*"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"jnd.* is damaged .*delete it"):
        bapps.load(root, copy, kind="jnd")["cnn"].images(range(2))


def test_what_is_there(root, small, tmp_path):
    assert bapps.present(root) == ("2afc", "jnd")
    assert bapps.present(root / "dataset") == ("2afc", "jnd")
    assert bapps.present(small) == ("2afc",)
    nothing = r"holds one of 2afc/val/traditional; .*; jnd/val/cnn, .*get_dataset_valonly\.sh"
    with pytest.raises(ValueError, match=nothing):
        bapps.present(tmp_path / "missing")
    with pytest.raises(
        ValueError, match=r"holds one of jnd/val/traditional; jnd/val/cnn, .*1\.3 GB"
    ):
        bapps.load(small, tmp_path / "datasets", kind="jnd")
    with pytest.raises(ValueError, match=r"kind must be one of \('2afc', 'jnd'\), got 'mos'"):
        bapps.load(root, tmp_path / "datasets", kind="mos")


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def of_size(width, height):
    return lambda path: Image.new("RGB", (width, height)).save(path)


FIRST = "p0/000001.png"
JUDGE = "judge/000001.npy"
MISTAKES = {
    "no judgements": ("judge", remove, r"cnn/judge is missing: ref, p0, p1, judge must hold"),
    "one judgement less": (JUDGE, remove, r"cnn/judge/000001\.npy is missing: .*same names"),
    "one patch less": (FIRST, remove, r"cnn/p0/000001\.png is missing: .*same names"),
    "one patch more": ("p1/000007.png", of_size(64, 64), r"cnn/ref/000007\.png is missing"),
    "no image": (FIRST, lambda path: path.write_bytes(b"x" * 99), r"p0/000001\.png is not an im"),
    "half an image": (
        FIRST,
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        r"p0/000001\.png is damaged",
    ),
    "a large patch": (FIRST, of_size(80, 64), r"000001\.png must be 64 x 64 pixels, it is 80 x 64"),
    "pickled": (
        JUDGE,
        lambda path: np.save(path, np.array([None]), allow_pickle=True),
        r"judge/000001\.npy must be a NumPy file of one number: .*allow_pickle",
    ),
    "no array": (JUDGE, lambda path: path.write_bytes(b""), r"000001\.npy must be a NumPy file"),
    "out of range": (JUDGE, lambda path: np.save(path, [1.5]), r"from 0 to 1, it holds \[1\.5\]"),
    "NaN": (JUDGE, lambda path: np.save(path, [np.nan]), r"from 0 to 1, it holds \[nan\]"),
    "two values": (JUDGE, lambda path: np.save(path, [0.0, 1.0]), r"one number .* \[0\.0, 1\.0\]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(small, tmp_path, mistake):
    name, make, message = MISTAKES[mistake]
    make(small / "2afc/val/cnn" / name)
    with pytest.raises(ValueError, match=message):
        bapps.load(small, tmp_path / "datasets", kind="2afc")
    assert not prepared(tmp_path / "datasets")


def test_an_empty_subset(small, tmp_path):
    for path in (small / "2afc/val/cnn").rglob("*.*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"val/cnn must hold images, it has none"):
        bapps.load(small, tmp_path / "datasets", kind="2afc")


def test_other_files_are_passed_over_and_other_pixels_are_converted(small, tmp_path):
    """A palette is shown as it looks; what systems leave in folders counts for nothing."""
    place = small / "2afc/val/cnn"
    (place / "p0/._000000.png").write_bytes(b"left by a system")
    (place / "ref/Thumbs.db").write_bytes(b"left by a system")
    grey = np.arange(4096, dtype=np.uint16).reshape(64, 64).astype(np.uint8)
    Image.fromarray(grey).convert("P").save(place / "p1/000001.png")
    source = bapps.load(small, tmp_path / "datasets", kind="2afc")["cnn"]
    np.testing.assert_array_equal(source.images(range(1, 2))[2][0], np.stack([grey] * 3, -1))
