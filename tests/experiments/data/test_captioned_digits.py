import hashlib
import itertools
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments.data import caption_grammar, captioned_digits, digits, prepared

FIGURES = [caption_grammar.spelled(place) for place in range(len(caption_grammar.NUMBERS))]
# Numbers of 1, 2 and 3 digits, and images of them.
TABLE = {
    "train": ((10, 70, 700), (400, 1400, 4200)),
    "test_seen": ((10, 70, 150), (130, 140, 300)),
    "test_unseen": ((0, 30, 150), (0, 120, 300)),
}
SOME = slice(None, None, 37)


@pytest.fixture(scope="module")
def splits(datasets):
    return captioned_digits.load("sklearn", datasets)


def test_sizes_are_those_of_the_table(splits):
    assert {name: len(split.images) for name, split in splits.items()} == {
        "train": 6000,
        "test_seen": 570,
        "test_unseen": 420,
    }
    for name, (numbers, images) in TABLE.items():
        lengths = caption_grammar.LENGTHS[splits[name].numbers]
        assert tuple((lengths == length).sum() for length in (1, 2, 3)) == images
        lengths = caption_grammar.LENGTHS[np.unique(splits[name].numbers)]
        assert tuple((lengths == length).sum() for length in (1, 2, 3)) == numbers


def test_unseen_numbers_are_not_for_training(splits):
    train, seen, unseen = (set(splits[name].numbers.tolist()) for name in TABLE)
    assert seen < train and not unseen & train


def test_settings_are_chosen_on_numbers_and_digits_of_training_alone(datasets, splits):
    held_out = captioned_digits.load("sklearn", datasets, held_out=True)
    numbers = {name: set(split.numbers.tolist()) for name, split in held_out.items()}
    assert set.union(*numbers.values()) <= set(splits["train"].numbers.tolist())
    assert numbers["test_seen"] < numbers["train"]
    assert not numbers["test_unseen"] & numbers["train"]

    def pictures(split):
        cells = np.concatenate(np.split(split.images, 3, axis=2)[:1])
        return {cell.tobytes() for cell in cells[~split.covered[:, 0]]}

    own = {name: pictures(split) for name, split in held_out.items()}
    assert set.union(*own.values()) <= {
        image.tobytes() for image in digits.of_sklearn()["train"].images
    }
    assert not own["train"] & (own["test_seen"] | own["test_unseen"])


@pytest.mark.parametrize("name", TABLE)
def test_digits_are_the_numbers_and_of_their_pool_or_covered(splits, name):
    split = splits[name]
    pool = digits.of_sklearn()["train" if name == "train" else "test"]
    label_of = {image.tobytes(): str(n) for image, n in zip(*pool, strict=True)}
    assert split.images.dtype == np.uint8 and split.images.shape[1:] == (8, 24)
    for image, number, covered in zip(*(x[SOME] for x in split[:3]), strict=True):
        number = FIGURES[number]
        for place, picture in enumerate(np.split(image, 3, axis=1)):
            if place >= len(number):
                assert not picture.any() and not covered[place]
            elif covered[place]:
                assert (picture == 128).all()
            else:
                assert label_of[picture.tobytes()] == number[place]


def test_a_quarter_of_the_digits_is_covered(splits):
    covered = splits["train"].covered[caption_grammar.NUMBERS[splits["train"].numbers] >= 0]
    assert abs(covered.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / covered.size)


def test_pools_vary(splits):
    """Of one digit many pictures are drawn."""
    train = splits["train"]
    alone = train.images[(train.numbers == FIGURES.index("3")) & ~train.covered.any(1)]
    assert len({image.tobytes() for image in alone}) > 10


def test_captions_are_written_of_the_number_and_kept_once(splits):
    for split in splits.values():
        assert len(set(split.captions)) == len(split.captions)
        assert len({tuple(pair) for pair in split.annotations.tolist()}) == len(split.annotations)
        images, counts = np.unique(split.annotations[:, 0], return_counts=True)
        assert images.tolist() == list(range(len(split.images)))
        assert counts.max() == captioned_digits.CAPTIONS and counts.min() >= 1
        assert set(split.annotations[:, 1].tolist()) == set(range(len(split.captions)))
        assert (split.positives | ~split.annotated).all()


def showable(number, covered):
    """The numbers that look like this one under its covers."""
    pairs = zip(number, covered[: len(number)], strict=True)
    choices = ["0123456789" if hidden else figure for figure, hidden in pairs]
    return {"".join(figures) for figures in itertools.product(*choices)}


def test_what_is_known_is_what_counting_gives(splits):
    split = splits["test_seen"]
    true = [{FIGURES[n] for n in np.flatnonzero(row)} for row in split.denotations]
    written = {tuple(pair) for pair in split.annotations.tolist()}
    found = split.match_probability, split.positives, split.annotated
    for image in (0, 150, 169, 300, *np.flatnonzero(split.covered.sum(1) > 1)[:3]):
        number = FIGURES[split.numbers[image]]
        shown = showable(number, split.covered[image])
        assert {FIGURES[n] for n in np.flatnonzero(split.showings[image])} == shown
        assert split.image_ambiguity[image] == pytest.approx(np.log(len(shown)))
        for caption, meant in enumerate(true):
            expected = len(shown & meant) / len(shown), number in meant, (image, caption) in written
            assert tuple(x[image, caption] for x in found) == pytest.approx(expected)
    np.testing.assert_allclose(split.caption_ambiguity, np.log([len(meant) for meant in true]))
    for caption in range(0, len(true), 50):
        expected = caption_grammar.ambiguity(split.captions[caption])
        assert split.caption_ambiguity[caption] == pytest.approx(expected)


def test_what_is_likely_is_as_often_true():
    """Any number, any covers, captions of other numbers: probabilities are then frequencies."""
    random = np.random.RandomState(0)
    numbers = random.randint(110, 1110, 4000)
    covered = random.random_sample((4000, 3)) < 0.5
    others = random.randint(110, 1110, 300)
    captions = {caption_grammar.describe(random, number): None for number in others}
    split = captioned_digits.Captioned(
        np.zeros((4000, 8, 24), np.uint8), numbers, covered, tuple(captions), np.zeros((0, 2), int)
    )
    probability, true = split.match_probability, split.positives
    assert not true[probability == 0.0].any() and true[probability == 1.0].all()
    edges = (0.0, 0.005, 0.05, 0.2, 0.4, 0.9999)
    for low, high in itertools.pairwise(edges):
        surprise = np.where((low < probability) & (probability < high), true - probability, 0.0)
        of_image = surprise.sum(1)  # images are independent
        assert np.count_nonzero(of_image) > 200
        assert abs(of_image.sum()) < 4.0 * np.sqrt(np.square(of_image).sum())


def test_the_data_set_is_frozen(splits):
    digest = hashlib.sha256()
    for split in splits.values():
        digest.update("\n".join(split.captions).encode())
        for values, kind in zip(
            (split.images, split.numbers, split.covered, split.annotations),
            (np.uint8, "<i8", np.uint8, "<i8"),
            strict=True,
        ):
            digest.update(values.astype(kind).tobytes())
    assert digest.hexdigest() == (
        "05c03cfbd1487227051ad71795c2c036ff6f80c51da97201a026aed7d9065092"
    )


def test_prepared_once_without_tensorflow(datasets, splits):
    code = (
        "import sys, pickle; from pathlib import Path\n"
        "from experiments.data import captioned_digits\n"
        "captioned_digits.DigitCaptions._split_generators = None  # would fail if asked again\n"
        f"splits = captioned_digits.load('sklearn', Path({str(datasets)!r}))\n"
        "assert 'tensorflow' not in sys.modules\n"
        "sys.stdout.buffer.write(pickle.dumps({k: tuple(split) for k, split in splits.items()}))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    again = pickle.loads(found.stdout)
    assert list(again) == list(splits)
    for name, split in splits.items():
        for value, expected in zip(again[name], split, strict=True):
            np.testing.assert_array_equal(value, expected)


def test_mnist_is_drawn_from_its_own_files(data, tmp_path):
    builder = captioned_digits.DigitCaptions(
        config="mnist", data_dir=tmp_path, file_format="array_record", mnist=data / "mnist"
    )
    generators = builder._split_generators(None)
    pools = digits.of_mnist(digits.find_mnist(data / "mnist"))
    assert list(generators) == list(TABLE)
    sizes = {
        split: sum(numbers * images for numbers, images in of_split)
        for split, of_split in captioned_digits.SIZES["mnist"].items()
    }
    assert sizes == {"train": 30_000, "test_seen": 570, "test_unseen": 420}
    for split, generator in generators.items():
        pool = pools["train" if split == "train" else "test"]
        for key, example in itertools.islice(generator, 3):
            assert example["image"].shape == (28, 84) and len(example["captions"]) == 5
            number = FIGURES[example["number"]]
            for place, picture in enumerate(np.split(example["image"], 3, axis=1)[: len(number)]):
                same = (pool.images == picture).all((1, 2))
                if not example["covered"][place]:
                    assert pool.labels[same].tolist() == [int(number[place])], key


def test_without_a_network_an_error_at_once(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(prepared.urllib.request, "getproxies", dict)
    monkeypatch.setattr(prepared.socket, "create_connection", refuse)
    with pytest.raises(ValueError, match=r"gave no files \(Network is unreachable\): .*--mnist"):
        captioned_digits.load("mnist", tmp_path)
    assert not list(tmp_path.rglob("*.array_record*"))


def test_bad_sources_and_folders(tmp_path):
    with pytest.raises(ValueError, match=r"source must be one of \('sklearn', 'mnist'\), got 'x'"):
        captioned_digits.load("x", tmp_path)
    with pytest.raises(ValueError, match=r"mnist must be a folder"):
        captioned_digits.load("mnist", tmp_path, mnist=tmp_path / "missing")
    assert not list(tmp_path.iterdir())


def test_captions_of_one_length_say_how_many_digits(splits):
    split = splits["test_seen"]
    told = ["number" not in caption or " of " in caption for caption in split.captions]
    np.testing.assert_array_equal(split.of_one_length, told)
    assert 0 < sum(told) < len(told)


@pytest.mark.parametrize("size", [0, 1000])
def test_a_damaged_data_set_is_named(datasets, splits, tmp_path, size):
    del splits
    shutil.copytree(datasets, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*train.array_record*"):
        path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"digit_captions.sklearn.* is damaged .*delete it"):
        captioned_digits.load("sklearn", tmp_path / "copy")
