import functools
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from experiments import photograph_captions, runs
from experiments.data import frozen_features, photographs
from experiments.data.words import words_of
from experiments.photograph_captions import Config, Pairs
from lasi_jax.networks import squeezenet
from tests.experiments.made_up_pairs import coco, features, save, write

TINY = {
    "methods": ("pcmepp", "info_nce"),
    "dimension": 4,
    "width": 8,
    "seeds": (0,),
    "num_steps": 20,
    "batch_size": 8,
    "num_resamples": 100,
    "checkpoint_every": 10,
    "log_every": 10,
}


# --- splits -------------------------------------------------------------------------------------


def test_a_share_of_the_images_with_captions_is_for_testing():
    image_of = np.array([0, 0, 2, 3, 5, 6, 7, 8, 9, 9, 11])
    is_test = photograph_captions.split_images(image_of, 13, 1 / 3)
    assert is_test.shape == (13,) and is_test.sum() == 3
    assert set(np.flatnonzero(is_test)) < set(image_of)
    again = photograph_captions.split_images(image_of[::-1], 13, 1 / 3)
    np.testing.assert_array_equal(again, is_test)


@pytest.mark.parametrize(("share", "images"), [(0.1, 10), (0.9, 10), (0.5, 3)])
def test_two_images_must_be_on_either_side(share, images):
    message = f"test_share must leave two images on either side, got {share} of {images} images"
    with pytest.raises(ValueError, match=message):
        photograph_captions.split_images(np.arange(images), images, share)


def test_a_trial_has_all_captions_of_its_images():
    pairs = Pairs(
        np.arange(5.0)[:, None, None],
        np.arange(10.0, 16.0)[:, None, None],
        tuple("abcdef"),
        np.array([4, 1, 0, 1, 4, 3]),
        None,
    )
    # Image 2 has no captions.
    trial = photograph_captions.make_trial(pairs, np.array([False, True, True, False, True]))
    assert trial.images.ravel().tolist() == [1.0, 4.0]
    assert trial.captions == ("a", "b", "d", "e")
    assert trial.texts.ravel().tolist() == [10.0, 11.0, 13.0, 14.0]
    expected = [[False, True, True, False], [True, False, False, True]]
    assert trial.positives.tolist() == trial.annotated.tolist() == expected
    assert trial.truth is None


def test_features_have_captions_by_number(tmp_path):
    path = save(tmp_path / "pairs.npz", features())
    pairs, is_test = pairs_of(Config(features=path, batch_size=8, output=tmp_path / "run"))
    assert pairs.captions[:2] == ("caption 0", "caption 1") and len(pairs.captions) == 48
    assert pairs.vocabulary is None and 2 <= is_test.sum() <= 22


# --- SqueezeNet ---------------------------------------------------------------------------------


@functools.cache
def parameters():
    return squeezenet.initialize(jax.random.key(0), version="1.0")


@pytest.fixture
def photo_config(photo_folder, tmp_path, monkeypatch):
    """Options whose weights of SqueezeNet are random ones."""
    monkeypatch.setattr(squeezenet, "load", lambda _: parameters())
    return Config(
        captions=write(tmp_path / "captions.json", coco()),
        photographs=photo_folder,
        squeezenet=write(tmp_path / "weights.npz", ""),
        test_share=0.5,
        batch_size=2,
        output=tmp_path / "run",
    )


def refuse(*_):
    raise AssertionError("it is to be kept")


def pairs_of(config):
    this = photograph_captions.QUESTION.run(config, config, photograph_captions.options_of(config))
    return photograph_captions.read_pairs(config, this)


def test_photographs_become_features_once(photo_config, photo_folder, monkeypatch):
    pairs, is_test = pairs_of(photo_config)
    assert is_test.sum() == 2
    files = [photo_folder / f"{number}.png" for number in (0, 1, 3, 4)]
    expected = [
        frozen_features.of_photograph(parameters(), photographs.read(file)) for file in files
    ]
    np.testing.assert_array_equal(pairs.images, expected)
    assert pairs.image_of.tolist() == [2, 0, 1, 2, 3]
    assert pairs.captions[2] == "the dog's cat" and pairs.texts.shape == (5, 5)
    monkeypatch.setattr(photographs, "read", refuse)
    again, _ = pairs_of(photo_config)
    np.testing.assert_array_equal(again.images, pairs.images)
    with pytest.raises(ValueError, match=r"features.safetensors must be of the same photographs"):
        others = (*files[:3], photo_folder / "2.png")
        frozen_features.of_photographs(
            others,
            frozen_features.digest_of(others),
            photo_config.squeezenet,
            photo_config.output / "features.safetensors",
        )


def test_the_vocabulary_is_that_of_training(photo_config):
    pairs, is_test = pairs_of(photo_config)
    assert pairs.vocabulary is not None
    words = [
        word
        for caption, image in zip(pairs.captions, pairs.image_of, strict=True)
        if not is_test[image]
        for word in words_of(caption)
    ]
    twice = sorted({word for word in words if words.count(word) >= 2})
    assert twice and pairs.vocabulary.words[2:] == tuple(twice)


def test_bad_photographs_leave_nothing_behind(photo_config, photo_folder):
    photo_config.squeezenet.unlink()
    with pytest.raises(ValueError, match=r"squeezenet must be a file, .*weights.npz is none"):
        photograph_captions.run(photo_config)
    write(photo_config.squeezenet, "")
    photo = photo_folder / "4.png"
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"4.png is damaged"):
        photograph_captions.run(photo_config)
    photo.unlink()
    with pytest.raises(ValueError, match=r"photographs must hold 4.png"):
        photograph_captions.run(photo_config)
    assert not photo_config.output.exists()


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"features": None},
            "captions, photographs and squeezenet must be given, or features: "
            "--captions FILE --photographs FOLDER --squeezenet FILE, or --features FILE",
        ),
        (
            {"features": None, "captions": Path("c.json")},
            "captions, photographs and squeezenet must be",
        ),
        ({"captions": Path("c.json")}, "features must be given alone"),
        ({"test_share": 0.0}, "test_share must lie between 0 and 1, got 0.0"),
        ({"test_share": float("nan")}, "test_share must lie between 0 and 1, got nan"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"width": 6}, "width must be a positive multiple of 4, got 6"),
        ({"methods": ()}, "methods must be at least one and all different"),
        ({"batch_size": 19}, "batch_size must be at most 18, the images for training, got 19"),
        ({"test_share": 0.05}, "test_share must leave two images on either side"),
        ({"features": Path("none.npz")}, "features must be a file"),
    ],
)
def test_bad_options_leave_nothing_behind(tmp_path, options, message):
    path = save(tmp_path / "pairs.npz", features())
    config = Config(**{"features": path, "output": tmp_path / "run", **TINY, **options})
    with pytest.raises(ValueError, match=re.escape(message)):
        photograph_captions.run(config)
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.npz"]


def test_default_folders_are_named_after_the_options(tmp_path):
    for file, content in (("pairs.npz", b"one"), ("same.npz", b"one"), ("other.npz", b"two")):
        (tmp_path / file).write_bytes(content)

    def name(file="pairs.npz", **options):
        config = Config(features=tmp_path / file, **options)
        config = photograph_captions.resolved(config)
        options = photograph_captions.options_of(config)
        return photograph_captions.QUESTION.folder(config, options).name

    assert name() == name(checkpoint_every=7) and name().startswith("photograph_captions-")
    assert name() == name("same.npz") != name("other.npz")
    assert len({name(), name(toy=True), name(test_share=0.5), name(num_steps=7)}) == 4


# --- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photograph_captions")
    save(folder / "pairs.npz", features())
    return folder


def config(folder, **options):
    return Config(features=folder / "pairs.npz", output=folder / "run", **(TINY | options))


@pytest.fixture(scope="module", params=[pytest.param("whole run", marks=pytest.mark.slow)])
def content(folder):
    return photograph_captions.run(config(folder))


def check_report(folder, content, methods):
    report = folder / "report"
    assert json.loads((report / "results.json").read_text("utf-8")) == content
    text = (report / "results.md").read_text("utf-8")
    assert content["data"] in text
    assert str(folder.parent) not in text and "nan" not in text.lower()
    assert {row["method"] for row in content["performance"]} == set(methods)
    with Image.open(report / "rejection.png") as image:
        assert np.asarray(image.convert("L")).std() > 10


def test_a_run_has_its_report(folder, content):
    check_report(folder / "run", content, TINY["methods"])
    assert content["data"].startswith(
        "18 images with 36 captions for training, 6 with 12 for testing; 20 steps a training"
    )
    assert content["command"].startswith("python -m experiments.photograph_captions --methods")
    assert "--features FILE" in content["command"]
    assert not content["has_truth"] and content["splits"] == ["test"]


def test_a_complete_run_is_shown_again(folder, content, capsys):
    assert photograph_captions.run(config(folder)) == content
    assert "complete: " in capsys.readouterr().out


def test_other_options_need_another_folder(folder, content):
    del content
    with pytest.raises(ValueError, match="run has dimension = 4, now it is 3"):
        photograph_captions.run(config(folder, dimension=3))


def test_without_its_report_a_run_ends_with_the_same_numbers(folder, content):
    (folder / "run" / "report").rename(folder / "report")
    assert photograph_captions.run(config(folder)) == content
    assert (folder / "run" / "report" / "results.md").read_bytes() == (
        folder / "report" / "results.md"
    ).read_bytes()


@pytest.mark.slow
def test_photographs_with_captions(data, tmp_path):
    """A few photographs of COCO, and SqueezeNet's own weights."""
    whole = json.loads((data / "coco_mini" / "captions_train2017.json").read_text("utf-8"))
    images = whole["images"][:24]  # as many as `features` has: nothing is compiled twice
    of_images = [
        annotation
        for image in images
        for annotation in [a for a in whole["annotations"] if a["image_id"] == image["id"]][:2]
    ]
    options = TINY | {"methods": ("info_nce",), "num_steps": 5}
    config = Config(
        captions=write(tmp_path / "captions.json", {"images": images, "annotations": of_images}),
        photographs=data / "coco_mini" / "train2017",
        squeezenet=data / "squeezenet" / "squeezenet_v1.0_imagenet.npz",
        output=tmp_path / "run",
        **options,
    )
    content = photograph_captions.run(config)
    check_report(tmp_path / "run", content, ["info_nce"])
    assert content["data"].startswith("18 images with 36 captions for training, 6 with 12 for")
    assert "--captions FILE --photographs FOLDER --squeezenet FILE" in content["command"]
    kept = safetensors.numpy.load_file(tmp_path / "run" / "features.safetensors")
    assert kept["image_features"].shape == (24, 9, 512)


def test_help_fills_paragraphs_and_keeps_what_is_indented(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["photograph_captions", "--help"])
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        runs.read_options(photograph_captions.Config, "experiments.x", photograph_captions.__doc__)
    described, _, options = capsys.readouterr().out.partition("usage:")
    lines = [line for line in described.splitlines() if not line.startswith(" ")]
    assert 40 < max(map(len, lines)) <= 60
    assert "\n\n    python -m experiments.photograph_captions --features" in described
    assert "--num-steps" in options
