import json
import os
import re
import shutil
import signal
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import probvlm_adapters, runs
from experiments.adapters import saved as saved_adapters
from experiments.adapters import training
from experiments.captions import digit_encoder, numbers
from experiments.data import captioned_digits, embedding_files
from experiments.data.captioned_digits import Captioned
from experiments.probvlm_adapters import Config
from experiments.reports import estimates
from experiments.reports.tables import find
from experiments.runs import checkpoints

METHODS = ("pfe", "von_mises_fisher")
STEPS = 20
TINY = {
    "methods": METHODS,
    "seeds": (0, 1),
    "hidden": (8,),
    "num_steps": STEPS,
    "batch_size": 16,
    "num_members": 2,
    "num_resamples": 100,
    "checkpoint_every": 10,
    "log_every": 10,
}


def vectors(number, seed=0, noise=0.7):
    """Images and their texts (item, 8), of any length."""
    random = np.random.default_rng(seed)
    images = random.normal(size=(number, 8))
    texts = images / np.linalg.norm(images, axis=1, keepdims=True)
    texts = texts + noise * random.normal(size=images.shape)
    return images.astype(np.float32), 3.0 * texts.astype(np.float32)


def save(folder, images, texts, *names):
    for name, array in zip(names or ("images", "texts"), (images, texts), strict=True):
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("adapters"), *vectors(40))


def config(folder, **options):
    files = {"images": folder / "images.npy", "texts": folder / "texts.npy"}
    return Config(**{**files, "output": folder / "run", **TINY, **options})


@pytest.fixture(scope="module", params=[pytest.param("whole run", marks=pytest.mark.slow)])
def content(folder):
    return probvlm_adapters.run(config(folder))


# --- a run --------------------------------------------------------------------------------------


def strict(path):
    """JSON without NaN and infinity."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text("utf-8"), parse_constant=refuse)


def check_report(folder, content, methods):
    report = folder / "report"
    names = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()}
    adapters = {f"adapters/{method}.safetensors" for method in methods}
    assert names == {"results.json", "results.md", "adapters.png"} | adapters
    assert strict(report / "results.json") == content
    text = (report / "results.md").read_text("utf-8")
    assert content["data"] in text and content["command"] in text and "answer" not in content
    assert str(folder.parent) not in text and "nan" not in text.lower()
    with Image.open(report / "adapters.png") as image:
        assert np.asarray(image.convert("L")).std() > 10


def test_a_run_leaves_a_report_with_adapters(folder, content):
    check_report(folder / "run", content, METHODS)
    assert content["command"].startswith("python -m experiments.probvlm_adapters --images FILE")
    assert "--methods pfe von_mises_fisher" in content["command"]
    assert "datasets" not in content["command"] and "output" not in content["command"]
    assert strict(folder / "run" / "config.json") == content["config"]
    norms = np.linalg.norm(vectors(40)[0], axis=1)
    assert content["data"] == (
        f"embeddings of dimension 8 with norms of {norms.min():.3g} to {norms.max():.3g}, here "
        "made 1: 29 images with 29 texts for training, 3 with 3 for temperatures, 8 with 8 for "
        "testing; 20 steps"
    )
    assert {row["method"] for row in content["fits"]} == set(METHODS)
    assert not content["has_truth"]


def test_retrieval_is_that_of_cosines(folder, content):
    """Of embeddings that have any length, by NumPy."""
    paired = embedding_files.read(folder / "images.npy", folder / "texts.npy")
    _, part = embedding_files.split(paired, embedding_files.whole(paired), 0.2)
    images, texts = (
        x[part.images] / np.linalg.norm(x[part.images], axis=1)[:, None] for x in vectors(40)
    )
    cosines = images @ texts.T
    for side, of_side in (("image", cosines), ("caption", cosines.T)):
        right = of_side.argmax(1) == np.arange(8)
        row = find(content["retrieval"], method="frozen", side=side)
        assert row["R@1"]["mean"] == pytest.approx(right.mean())
        assert content["failures"][side] == (~right).sum()
        assert 0 < right.sum() < 8  # else nothing could be told apart
        norm = find(content["uncertainty"], method="frozen", measure="minus norm", side=side)
        assert norm["r_auroc"] is not None


def test_adapters_are_ready_for_use(folder, content):
    for method in METHODS:
        path = folder / "run" / "report" / "adapters" / f"{method}.safetensors"
        saved = saved_adapters.load(path)
        assert saved.embeddings is None and saved.adapter.hidden == (8,)
        for side, of_side in zip(("image", "caption"), vectors(40), strict=True):
            unit = embedding_files.rows(of_side, np.arange(5))
            p = saved.distributions(side, unit)
            assert p[0].shape == (2, 5, 8) and np.isfinite(p[0]).all()
            fit = find(content["fits"], method=method, side=side)
            assert fit["temperature"]["seeds"] == saved.temperature[side].tolist()
            if method == "pfe":
                np.testing.assert_allclose(p.mean, np.broadcast_to(unit, (2, 5, 8)), rtol=1e-6)


def test_the_same_command_shows_it_again(folder, content, capsys, monkeypatch):
    monkeypatch.setattr(training, "train", None)
    assert probvlm_adapters.run(config(folder)) == content
    assert probvlm_adapters.run(config(folder, checkpoint_every=7, log_every=3)) == content
    out = capsys.readouterr().out
    assert "complete: " in out and content["data"] in out


def test_other_options_and_other_files_are_another_run(folder, content, tmp_path):
    del content
    with pytest.raises(ValueError, match=r"has dropout = 0.1, now it is 0.2"):
        probvlm_adapters.run(config(folder, dropout=0.2))
    save(tmp_path, *vectors(40, noise=0.4))
    with pytest.raises(ValueError, match=r"has texts_sha256 = .*, now it is"):
        probvlm_adapters.run(config(tmp_path, output=folder / "run"))
    shutil.copy(folder / "images.npy", tmp_path / "moved.npy")
    images = tmp_path / "moved.npy"
    found = probvlm_adapters.run(config(folder, images=images))  # where it lies does not matter
    assert found["config"]["images_sha256"]


def same_adapters(one, other, methods):
    """Whether the adapters of two reports are the same to the bit."""
    for method in methods:
        found, expected = (
            saved_adapters.load(folder / "report" / "adapters" / f"{method}.safetensors")
            for folder in (one, other)
        )
        assert found.adapter == expected.adapter
        for trees in ("parameters", "temperature"):
            jax.tree.map(
                np.testing.assert_array_equal, getattr(found, trees), getattr(expected, trees)
            )


def test_stopped_in_between_it_ends_with_the_same_bits(folder, content, tmp_path, monkeypatch):
    """In another folder, one method of two: by a signal, then what a kill leaves behind."""
    again = tmp_path / "run"
    other = config(folder, output=again, methods=("pfe",))
    batches = training.batches

    def stopping(*arguments, **options):
        def stop(batch):
            os.kill(os.getpid(), signal.SIGTERM)
            return batch

        return batches(*arguments, **options).map(stop)

    with monkeypatch.context() as patch:
        patch.setattr(training, "batches", stopping)
        with pytest.raises(SystemExit) as stopped:
            probvlm_adapters.run(other)
    assert stopped.value.code == 128 + signal.SIGTERM
    saved = again / "runs" / "pfe" / "checkpoints"
    (step,) = checkpoints.steps(saved)
    assert 0 < step < STEPS and not (again / "report").exists()

    ends = [probvlm_adapters.run(other)]
    texts = [(again / "report" / "results.md").read_bytes()]
    same_adapters(again, folder / "run", ("pfe",))
    # Killed after step 10, and once more while the report was written.
    shutil.rmtree(saved / str(STEPS))
    (again / "report").rename(again / ".report-begun")
    (again / ".report-begun" / "results.json").unlink()
    ends.append(probvlm_adapters.run(other))
    texts.append((again / "report" / "results.md").read_bytes())
    same_adapters(again, folder / "run", ("pfe",))

    assert ends[0] == ends[1] and texts[0] == texts[1]
    for part in ("retrieval", "fits", "uncertainty"):
        expected, found = (
            [row for row in numbers[part] if row["method"] in ("pfe", "frozen")]
            for numbers in (content, ends[0])
        )
        assert found == expected and found
    assert ends[0]["logit_scale"] == content["logit_scale"]


# --- tests of their own -------------------------------------------------------------------------


@pytest.mark.slow
def test_test_files_are_tested_and_nothing_else(tmp_path):
    save(tmp_path, *vectors(30))
    save(tmp_path, *vectors(12, seed=1), "test_images", "test_texts")
    given = {name: tmp_path / f"{name}.npy" for name in ("test_images", "test_texts")}
    found = probvlm_adapters.run(
        config(tmp_path, **given, methods=("pfe",), most_test_images=8, num_steps=None)
    )
    assert found["data"].endswith(
        "27 images with 27 texts for training, 3 with 3 for temperatures, 8 with 8 for testing; "
        "150 steps"
    )
    assert "--test-images FILE --test-texts FILE" in found["command"]


def test_training_in_a_test_is_refused(folder, tmp_path):
    images, texts = vectors(12, seed=1)
    images[5] = vectors(40)[0][7]
    save(tmp_path, images, texts, "test_images", "test_texts")
    given = {name: tmp_path / f"{name}.npy" for name in ("test_images", "test_texts")}
    with pytest.raises(ValueError, match=r"test images must be none of training's, 1 are"):
        probvlm_adapters.run(config(folder, output=tmp_path / "run", **given))
    images[5] += 1.0
    texts[2] = vectors(40)[1][3]
    save(tmp_path, images, texts, "test_images", "test_texts")
    with pytest.raises(ValueError, match=r"test texts must be none of training's.* row 2 is row 3"):
        probvlm_adapters.run(config(folder, output=tmp_path / "run", **given))
    assert not (tmp_path / "run").exists()


def test_ids_in_training_and_test_are_refused(tmp_path):
    for name, ids in (("", np.arange(20)), ("test_", 19 + np.arange(6))):
        both = vectors(len(ids), seed=len(ids))
        for side, array in zip(("images", "texts"), both, strict=True):
            embedding_files.write(tmp_path / f"{name}{side}.safetensors", array, ids)
    names = ("images", "texts", "test_images", "test_texts")
    given = {name: tmp_path / f"{name}.safetensors" for name in names}
    with pytest.raises(ValueError, match=r"ids of test images must be none .* 1 are, such as 19"):
        probvlm_adapters.run(config(tmp_path, **given))
    assert not (tmp_path / "run").exists()


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ()}, "methods must be at least one and all different"),
        ({"methods": ("pfe", "pfe")}, "methods must be at least one and all different"),
        ({"methods": ("x",)}, "methods must be among probvlm, released, "),
        ({"seeds": ()}, "seeds must be at least one and all different"),
        ({"seeds": (-1,)}, "seeds must lie in 0..2^32 - 1, got -1"),
        ({"seeds": (2**32,)}, "seeds must lie in 0..2^32 - 1, got 4294967296"),
        ({"hidden": ()}, "hidden must be one length at least, got none"),
        ({"hidden": (8, 0)}, "hidden must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must lie in 0..1, below 1, got 1.0"),
        ({"dropout": float("nan")}, "dropout must lie in 0..1, below 1, got nan"),
        ({"cross_modal_weight": -1.0}, "cross_modal_weight must not be negative, got -1.0"),
        ({"cross_modal_weight": float("inf")}, "cross_modal_weight must not be negative, got inf"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"num_members": 1}, "num_members must be at least 2, got 1"),
        ({"num_resamples": 99}, "num_resamples must be at least 100, got 99"),
        ({"most_test_images": 1}, "most_test_images must be at least 2, got 1"),
        ({"encoder_dimension": 1}, "encoder_dimension must be at least 2, got 1"),
        ({"encoder_steps": 0}, "encoder_steps must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"log_every": 0}, "log_every must be at least 1, got 0"),
        ({"test_share": 0.0}, "test_share must lie between 0 and 1, got 0.0"),
        ({"test_share": 0.01}, "test_share must leave two images on either side"),
        ({"validation_share": 1.0}, "validation_share must lie between 0 and 1, got 1.0"),
        ({"validation_share": 0.01}, "validation_share must leave two images on either side"),
        ({"images": None}, "texts must come with images, which is not given"),
        ({"texts": None}, "images must come with texts, or be a folder"),
        ({"images": "."}, "images must be a file where texts is given"),
        ({"images": None, "texts": None, "test_images": "images.npy"}, "test_images must come wi"),
        ({"test_texts": "texts.npy"}, "test_texts must come with test_images"),
        (
            {"images": None, "texts": None, "test_images": "."},
            "test_images must come with images, which are not given",
        ),
        ({"images": "none.npy"}, "images must be a file"),
        ({"images": ".", "texts": None}, "image_embeddings.npy must be a file"),
        ({"texts": "bad.npy"}, "texts must be a whole file of plain arrays"),
        ({"texts": "wide.npy"}, "images and texts must have one dimension, got 8 and 9"),
        ({"texts": "long.npy"}, "must be equally many where they have no ids, got 40 and 41"),
        ({"texts": "nan.npy"}, "texts must be finite, got nan in row 3"),
    ],
)
def test_bad_options_leave_nothing_behind(folder, tmp_path, options, message):
    save(tmp_path, *vectors(40))
    (tmp_path / "bad.npy").write_bytes((tmp_path / "texts.npy").read_bytes()[:300])
    texts = vectors(41)[1]
    np.save(tmp_path / "long.npy", texts)
    np.save(tmp_path / "wide.npy", np.ones((40, 9), np.float32) * 2.0)
    texts[3, 0] = np.nan
    np.save(tmp_path / "nan.npy", texts[:40])
    before = sorted(tmp_path.iterdir())
    options = {n: tmp_path / v if isinstance(v, str) else v for n, v in options.items()}
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        probvlm_adapters.run(config(tmp_path, **options))
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
    del folder


def test_the_command_line(tmp_path, monkeypatch):
    """One line for an error, and all options by name."""

    def call(*flags):
        monkeypatch.setattr(sys, "argv", ["probvlm_adapters", *map(str, flags)])
        with pytest.raises(SystemExit) as error:
            runs.main("experiments.probvlm_adapters", "", Config, probvlm_adapters.run)
        return error.value.code

    output = tmp_path / "run"
    found = call("--images", tmp_path / "none.npy", "--texts", "t.npy", "--output", output)
    assert found == f"error: images must be a file, {tmp_path / 'none.npy'} is none"
    found = call("--seeds", 1, 1, "--hidden", 8, 8, "--output", output)
    assert found == "error: seeds must be at least one and all different, got (1, 1)"
    assert not output.exists()


def test_a_folder_that_is_something_else(folder, tmp_path):
    (tmp_path / "precious").write_text("")
    with pytest.raises(ValueError, match="output must be a new folder or a run's"):
        probvlm_adapters.run(config(folder, output=tmp_path))
    with pytest.raises(ValueError, match=r"output must be a folder, .*precious is a file"):
        probvlm_adapters.run(config(folder, output=tmp_path / "precious"))
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_default_folders_are_named_after_options_and_files(folder, tmp_path):
    save(tmp_path, *vectors(40))

    def name(folder=folder, **options):
        given = probvlm_adapters.resolved(config(folder, output=None, **options))
        return probvlm_adapters.QUESTION.folder(given, probvlm_adapters.options_of(given)).name

    assert name() == name(checkpoint_every=7) == name(tmp_path)
    save(tmp_path, *vectors(40, seed=1))
    assert name(tmp_path) != name() != name(seeds=(3,))
    assert name().startswith("probvlm_adapters-") and "toy" not in name()
    assert name(toy=True).startswith("probvlm_adapters-toy-")


def test_toy_leaves_given_options_alone():
    toy = probvlm_adapters.resolved(Config(toy=True, num_resamples=300, seeds=(7,)))
    assert toy.num_steps == 200 and toy.methods == ("probvlm", "released", "gaussian")
    assert toy.num_resamples == 300 and toy.seeds == (7,)


def test_steps_are_passes_over_few_pairs():
    found = [probvlm_adapters.steps_of(pairs, 256) for pairs in (29, 960, 6400, 9600, 10**7)]
    assert found == [150, 150, 1000, 1500, 1500]


def test_of_many_pairs_some_are_chosen(folder, monkeypatch):
    paired = embedding_files.read(folder / "images.npy", folder / "texts.npy")
    whole = embedding_files.whole(paired)
    unit = [embedding_files.rows(x, np.arange(40)) for x in vectors(40)]
    for found, expected in zip(probvlm_adapters._pairs(paired, whole), unit, strict=True):
        np.testing.assert_array_equal(found, expected)
    monkeypatch.setattr(probvlm_adapters, "_MOST_VALIDATION_PAIRS", 5)
    image, text = probvlm_adapters._pairs(paired, whole)
    places = [(image @ x.T).argmax(1) for x in unit[:1]] + [(text @ unit[1].T).argmax(1)]
    np.testing.assert_array_equal(*places)
    assert len(set(places[0].tolist())) == 5


# --- data ---------------------------------------------------------------------------------------


@pytest.fixture
def no_bootstrap(monkeypatch):
    """Scores of uncertainty are made up: they take a minute to compile, and are tested above."""
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    monkeypatch.setattr(estimates, "over_items", lambda *_, **__: interval)
    monkeypatch.setattr(numbers, "_binned", lambda *_: None)


def some(split, number):
    """Images from all of a split, with their captions."""
    images = np.linspace(0, len(split.images) - 1, number).astype(int)
    place = {image: k for k, image in enumerate(images.tolist())}
    pairs = [(place[i], c) for i, c in split.annotations.tolist() if i in place]
    captions = {c: k for k, c in enumerate(dict.fromkeys(c for _, c in pairs))}
    return Captioned(
        split.images[images],
        split.numbers[images],
        split.covered[images],
        tuple(split.captions[c] for c in captions),
        np.array([(i, captions[c]) for i, c in pairs]),
    )


@pytest.mark.slow
def test_digit_captions_by_default(tmp_path, monkeypatch, no_bootstrap):
    """An encoder of a few steps; what is true and how ambiguous it is comes from the captions."""
    load = captioned_digits.load

    def few(source, folder):
        splits = load(source, folder)
        return {"train": some(splits["train"], 200), "test_seen": some(splits["test_seen"], 30)}

    monkeypatch.setattr(captioned_digits, "load", few)
    options = {"images": None, "texts": None, "encoder_dimension": 8, "encoder_steps": 5}
    given = config(tmp_path, datasets=tmp_path / "datasets", methods=("pfe",), **options)
    content = probvlm_adapters.run(given)
    check_report(tmp_path / "run", content, ("pfe",))
    assert content["has_truth"]
    assert content["data"].startswith(
        f"embeddings ({digit_encoder.MODEL}) of dimension 8 of norm 1: 90 images with "
    )
    assert ", 10 with " in content["data"] and ", 30 with " in content["data"]
    assert {row["score"] for row in content["comparisons"]} == {"spearman"}
    for side in ("image", "caption"):
        measures = {
            row["measure"]
            for row in content["uncertainty"]
            if row["method"] == "frozen" and row["side"] == side and row["spearman"]
        }
        assert {"TTDA", "minus best cosine"} <= measures and "minus norm" not in measures
    saved = saved_adapters.load(tmp_path / "run" / "report" / "adapters" / "pfe.safetensors")
    assert saved.embeddings == digit_encoder.MODEL
    files = tmp_path / "run" / "embeddings"
    train, test = (
        embedding_files.read(
            files / f"{name}images.safetensors", files / f"{name}texts.safetensors"
        )
        for name in ("", "test_")
    )
    _, of_adapters = digit_encoder.halves(200)
    assert train.images.ids.tolist() == of_adapters.tolist()
    assert test.images.ids.tolist() == list(range(200, 230))
    assert test.images.augmented.shape == (30, digit_encoder.AUGMENTATIONS, 8)
    assert train.images.augmented is None

    assert checkpoints.steps(tmp_path / "run" / "runs" / "encoder-0" / "checkpoints") == [5]

    # Its embeddings are there: the encoder is not trained again.
    monkeypatch.setattr(digit_encoder, "train", None)
    again, known = probvlm_adapters.export_digits(given, tmp_path / "run")
    assert again.test_texts == files / "test_texts.safetensors"
    assert known(np.array([200]), test.texts.texts[:1])[0].shape == (1, 1)


@pytest.mark.slow
def test_embeddings_of_clip(data, tmp_path, no_bootstrap):
    """One seed, no dropout."""
    given = Config(
        images=data / "clip_pairs",
        output=tmp_path / "run",
        **TINY | {"methods": ("probvlm",), "seeds": (0,), "num_steps": 3, "dropout": 0.0},
    )
    content = probvlm_adapters.run(given)
    check_report(tmp_path / "run", content, ("probvlm",))
    assert "of dimension 512 with norms of" in content["data"]
    assert "71 images with 71 texts for training, 8 with 8 for temp" in content["data"]
    assert "20 with 20 for testing" in content["data"]
    assert "--images FOLDER" in content["command"]
    row = find(content["retrieval"], method="frozen", side="caption")
    assert row["R@1"]["mean"] > 0.8
    measures = {row["measure"] for row in content["uncertainty"] if row["method"] == "probvlm"}
    assert "total, dropout" in measures and "total, ensemble" not in measures  # of one seed
