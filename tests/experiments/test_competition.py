"""The competition of two metrics: four images, whose numbers NumPy and scikit-image find again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from skimage.metrics import structural_similarity

from experiments import competition, runs
from experiments.data import photographs
from experiments.image_metrics.extremes import SIDES

SIZE = 16
OPTIONS = {"first": "mse", "second": "ssim", "size": SIZE, "num_steps": 4, "seed": 3}


def mse(x, y):
    return np.mean(np.square(x - y))


def one_less_ssim(x, y):
    """Of all windows that lie inside, in double precision."""
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    similarity = structural_similarity(x, y, data_range=1.0, channel_axis=-1, **gaussian)
    return np.subtract(1.0, similarity)


METRICS = {"first": mse, "second": one_less_ssim}


def roles(side):
    """The metric that moves, the one that is held, and the sign of the way."""
    role, direction = side.split("_")
    other = "second" if role == "first" else "first"
    return METRICS[role], METRICS[other], {"least": -1.0, "greatest": 1.0}[direction]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a user's own photograph."""
    folder = tmp_path_factory.mktemp("competition")
    corner = photographs.bundled("astronaut")[40:66, 200:221]
    Image.fromarray(corner).save(folder / "my photograph.png")
    return folder


def config(folder, **options):
    own = {"reference": folder / "my photograph.png", "output": folder / "run"}
    return competition.Config(**{**own, **OPTIONS, **options})


@pytest.fixture(scope="module")
def content(folder):
    return competition.run(config(folder))


@pytest.fixture(scope="module")
def images(folder, content):
    """The images as they are, in double precision."""
    del content
    floats = load_file(folder / "run" / "report" / "images.safetensors")
    assert {image.dtype for image in floats.values()} == {np.dtype(np.float32)}
    return {name: image.astype(np.float64) for name, image in floats.items()}


@pytest.fixture
def walked(monkeypatch):
    """The images that are walked to."""
    names, extreme = [], competition._extreme
    monkeypatch.setattr(
        competition, "_extreme", lambda *args: names.append(args[3]) or extreme(*args)
    )
    return names


def test_a_run_leaves_a_report_with_pictures(folder, content, images):
    report = folder / "run" / "report"
    assert json.loads((report / "results.json").read_text("utf-8")) == content
    assert set(images) == {"reference", "start", *SIDES} and set(content["sides"]) == set(SIDES)
    pictures = {f"{name}.png" for name in (*images, "competition")}
    others = {"images.safetensors", "results.json", "results.md"}
    assert {path.name for path in report.iterdir()} == pictures | others
    assert (report / "competition.png").stat().st_size > 10_000
    text = (report / "results.md").read_text("utf-8")
    assert content["command"] in text and "my photograph.png, 16 pixels a side" in text
    assert str(folder) not in text + json.dumps(content)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(SIDES)
    assert rows[2].startswith("| MSE least | 1 - SSIM at ")


def test_pictures_are_the_images_as_seen(folder, images):
    for name, image in images.items():
        assert image.shape == (SIZE, SIZE, 3) and 0.0 <= image.min() and image.max() <= 1.0
        seen = photographs.read(folder / "run" / "report" / f"{name}.png")
        np.testing.assert_array_equal(seen, np.round(255.0 * image))
    corner = photographs.read(folder / "my photograph.png")
    np.testing.assert_array_equal(np.round(255.0 * images["reference"]), corner[5:21, 2:18])


@pytest.mark.parametrize("side", SIDES)
def test_the_level_is_kept_and_the_other_metric_moves(content, images, side):
    found, (moved, held, sign) = content["sides"][side], roles(side)
    level = held(images["reference"], images["start"])
    np.testing.assert_allclose(found["level"], level, rtol=1e-5)
    assert abs(held(images["reference"], images[side]) / level - 1.0) < 1e-4
    assert found["level_error"] == np.abs(np.divide(found["held"], found["level"]) - 1.0).max()
    assert found["level_error"] < 1e-4
    for name, image in (("start", images["start"]), ("end", images[side])):
        np.testing.assert_allclose(found[name], moved(images["reference"], image), rtol=1e-5)
    values = np.array(found["moved"])
    assert values.shape == (OPTIONS["num_steps"] + 1,) == np.shape(found["held"])
    assert (values[0], values[-1]) == (found["start"], found["end"])
    assert (sign * np.diff(values) >= 0.0).all() and sign * (values[-1] - values[0]) > 0.0


@pytest.mark.parametrize("side", SIDES)
def test_in_whole_steps_the_level_is_kept_less_well(content, images, side):
    found, (moved, held, _) = content["sides"][side], roles(side)
    image = np.round(255.0 * images[side]) / 255.0
    np.testing.assert_allclose(
        found["rounded"]["end"], moved(images["reference"], image), rtol=1e-5
    )
    error = held(images["reference"], image) / held(images["reference"], images["start"]) - 1.0
    np.testing.assert_allclose(found["rounded"]["level_error"], abs(error), atol=1e-5)


def test_stopped_in_between_it_walks_to_what_is_missing(folder, content, tmp_path, walked):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(run / "report")
    (run / "cells" / "second_least.json").unlink()
    (run / "second_least.safetensors").unlink()
    assert competition.run(config(folder, output=run)) == content
    assert walked == ["second_least"]
    again, before = (load_file(f / "report" / "images.safetensors") for f in (run, folder / "run"))
    for name, image in before.items():
        np.testing.assert_array_equal(again[name], image)


def test_the_same_command_shows_it_again(folder, content, walked, capsys):
    assert competition.run(config(folder)) == content
    assert "complete: " in capsys.readouterr().out and not walked


def test_another_photograph_of_the_same_name_is_another_run(folder, content, tmp_path, walked):
    del content
    other = photographs.read(folder / "my photograph.png")[::-1]
    Image.fromarray(other).save(tmp_path / "my photograph.png")
    with pytest.raises(ValueError, match=r"a run with the same options, .* has reference = "):
        competition.run(config(folder, reference=tmp_path / "my photograph.png"))
    assert not walked


def test_a_seed_gives_the_same_start():
    given = competition.Config(photograph="coffee", size=32, noise=0.1, seed=1)
    reference, start = competition.begun(given)
    middle = photographs.bundled("coffee")[184:216, 284:316]
    np.testing.assert_allclose(reference, middle / 255.0, atol=1e-7)
    np.testing.assert_array_equal(competition.begun(given)[1], start)
    other = competition.begun(competition.Config(photograph="coffee", size=32, noise=0.1, seed=2))
    np.testing.assert_array_equal(other[0], reference)
    assert (other[1] != start).mean() > 0.9
    inside = (start > 0.0) & (start < 1.0)
    assert np.std((start - reference)[inside]) == pytest.approx(0.1, rel=0.1)
    assert start.dtype == reference.dtype == np.float32 and 0.0 <= start.min() <= start.max() <= 1.0


def test_the_second_metric_is_deep_where_weights_are_given():
    assert competition.resolved(competition.Config()).second == "ms_ssim"
    weights = Path("alexnet.safetensors")
    assert competition.resolved(competition.Config(weights=weights)).second == "deep"
    assert competition.resolved(competition.Config(second="mse", weights=weights)).second == "mse"


def test_other_options_are_another_run():
    def name(**options):
        given = competition.resolved(competition.Config(**options))
        return runs.folder_of("competition", runs.options(given, without=("output",)))

    assert name() == name(second="ms_ssim") != name(second="ssim")
    assert name() == name(output=Path("elsewhere")) != name(seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": "vgg"}, "metrics must be among .*got 'vgg'"),
        ({"second": "lasi_0"}, "metrics must be among .*got 'lasi_0'"),
        ({"first": "ssim"}, "first and second must be different metrics, got ssim twice"),
        ({"first": "ms_ssim", "second": None}, "must be different metrics, got ms_ssim twice"),
        ({"first": "psnr"}, "psnr has no zero and cannot be held, take mse"),
        ({"second": "psnr"}, "psnr has no zero and cannot be held, take mse"),
        ({"second": "deep"}, "metric 'deep' needs a network: .*--weights"),
        ({"second": "ssim+deep"}, r"metric 'ssim\+deep' needs a network"),
        ({"heads": Path("lpips.npz")}, "heads"),
        ({"size": 22}, "size must fit into the original, got 22 for one of 21 x 26"),
        ({"size": 15}, "size must be at least 16, got 15"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"noise": 0.0}, "noise must lie between 0 and 1, got 0.0"),
        ({"noise": 1.0}, "noise must lie between 0 and 1, got 1.0"),
        ({"noise": float("nan")}, "noise must lie between 0 and 1, got nan"),
        ({"reference": Path("nowhere.png")}, "nowhere.png is not a file"),
    ],
)
def test_bad_options_are_one_error_before_any_work(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        competition.run(config(folder, output=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_noise_that_changes_nothing_is_told(folder, tmp_path):
    with pytest.raises(ValueError, match=r"noise must move both metrics .* got 1e-12 with a level"):
        competition.run(config(folder, output=tmp_path / "run", noise=1e-12))
