import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import compare_images
from experiments.data import distortions, photographs
from experiments.runs import files


@pytest.fixture
def photograph(tmp_path):
    """A corner of a real photograph as a file."""
    path = tmp_path / "original.png"
    Image.fromarray(photographs.bundled("astronaut")[:48, :40]).save(path)
    return path


def config(tmp_path, **options):
    options = {"neighborhood_size": 3, "output": tmp_path / "out", **options}
    return compare_images.Config(**options)


def test_graded_distortions_of_a_file(tmp_path, photograph, capsys):
    content = compare_images.run(config(tmp_path, reference=photograph))
    assert json.loads((tmp_path / "out" / "results.json").read_text("utf-8")) == content
    with Image.open(tmp_path / "out" / "figure.png") as figure:
        assert figure.width > 500
    values = [score["lasi"] for score in content["scores"]]
    assert len(values) == 21 and values == sorted(values) and values[0] > 0.0
    printed = capsys.readouterr().out
    assert all(score["name"] in printed for score in content["scores"])
    assert all(str(tmp_path / "out" / name) in printed for name in ("figure.png", "results.json"))


def test_candidates_of_the_user(tmp_path, photograph):
    original = photographs.read(photograph)
    copy, upside_down = tmp_path / "copy $^$.bmp", tmp_path / "turned.png"
    Image.fromarray(original).save(copy)
    Image.fromarray(original[::-1]).save(upside_down)
    content = compare_images.run(
        config(tmp_path, reference=photograph, candidates=(upside_down, copy))
    )
    best, worst = content["scores"]
    assert best["name"] == str(copy) and best["lasi"] == 0.0 and best["psnr"] is None
    assert best["ssim"] == pytest.approx(1.0) and worst["lasi"] > 0.1


def test_a_negative_is_named_under_the_table(tmp_path, photograph, capsys):
    """LASI puts it first, before a file that everybody would take for closer."""
    original = photographs.read(photograph)
    Image.fromarray(255 - original).save(tmp_path / "negative.png")
    Image.fromarray(original).save(tmp_path / "good.jpg", quality=60)
    Image.fromarray(original).save(tmp_path / "copy.png")
    for others in (("good.jpg",), ("good.jpg", "copy.png"), ()):
        candidates = tuple(tmp_path / name for name in (*others, "negative.png"))
        options = {"output": tmp_path / f"out{len(others)}"}
        content = compare_images.run(
            config(tmp_path, reference=photograph, candidates=candidates, **options)
        )
        printed = capsys.readouterr().out
        assert "LASI: lower is closer; SSIM, PSNR: higher is closer" in printed
        (note,) = content["notes"]
        assert note in printed and "negative.png" in note
        assert "LASI does not see the sign of contrast" in note
        assert ("first and SSIM and PSNR last" in note) == bool(others)
        assert "its SSIM is -0." in note


def test_metrics_that_agree_need_no_note():
    def score(name, lasi, ssim, psnr):
        return compare_images.Score(name, lasi, ssim, psnr)

    scores = [score("a", 0.1, 0.9, 30.0), score("b", 0.2, 0.8, 25.0), score("c", 0.3, 0.7, 28.0)]
    assert compare_images.notes(scores) == []
    assert compare_images.notes(scores[:1]) == []
    assert compare_images.notes([score("a", 0.1, math.nan, 30.0)] * 2) == []
    assert compare_images.notes([*scores, score("d", 0.4, -0.1, 5.0)]) == []  # LASI agrees
    (note,) = compare_images.notes([score("worst", 0.1, 0.9, 9.0), *scores[1:]])
    assert note.startswith("look at worst: LASI puts it first and PSNR last. LASI does not")
    (note,) = compare_images.notes([score("odd", 0.25, -0.1, 26.0), *scores])
    assert note.startswith("look at odd: its SSIM is -0.1000. ")


def test_the_same_seed_gives_the_same_scores(photograph):
    image = photographs.read(photograph)
    first, second, other = (distortions.graded(image, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["noise σ 0.06"], other["noise σ 0.06"])


def test_small_images_have_no_ssim(tmp_path):
    path = tmp_path / "tiny.png"
    Image.fromarray(photographs.bundled("coffee")[:8, :9]).save(path)
    content = compare_images.run(config(tmp_path, reference=path))
    assert all(score["ssim"] is None for score in content["scores"])


@pytest.mark.parametrize("kind", distortions.GRADES, ids=lambda kind: kind.__name__)
def test_levels_are_graded(kind):
    image = photographs.bundled("astronaut")[100:164, 200:264]
    _, levels = distortions.GRADES[kind]
    errors = [
        np.abs(kind(image, level, np.random.default_rng(0)).astype(float) - image).mean()
        for level in levels
    ]
    assert 0.0 < errors[0] < errors[1] < errors[2]
    assert kind(image, levels[0], np.random.default_rng(0)).dtype == np.uint8


def test_output_is_never_overwritten(tmp_path, photograph, monkeypatch):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"output must be a new folder.*out exists"):
        compare_images.run(config(tmp_path, reference=photograph))
    monkeypatch.chdir(tmp_path)
    assert files.free_folder("name") == Path("results/name")
    Path("results/name").mkdir(parents=True)
    assert files.free_folder("name") == Path("results/name-2")


def test_nothing_half_written(tmp_path):
    with pytest.raises(RuntimeError), files.new_folder(tmp_path / "out") as folder:
        (folder / "part").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", math.nan)


def test_exif_orientation_is_applied(tmp_path, photograph):
    upright = photographs.read(photograph)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter
    path = tmp_path / "turned.png"
    Image.fromarray(np.rot90(upright)).save(path, exif=exif)
    np.testing.assert_array_equal(photographs.read(path), upright)


def test_opaque_alpha_is_dropped_and_grey_becomes_rgb(tmp_path, photograph):
    upright = photographs.read(photograph)
    Image.fromarray(upright).convert("RGBA").save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(photographs.read(tmp_path / "opaque.png"), upright)
    Image.fromarray(upright[..., 0]).save(tmp_path / "grey.png")
    grey = photographs.read(tmp_path / "grey.png")
    np.testing.assert_array_equal(grey, np.repeat(upright[..., :1], 3, axis=-1))


def write_bad(path: Path, kind: str) -> None:
    image = Image.fromarray(photographs.bundled("coffee")[:20, :20])
    if kind == "text":
        path.write_text("no image")
    elif kind == "cut":
        image.save(path)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "transparent":
        image.putalpha(100)
        image.save(path)
    elif kind == "deep":
        Image.fromarray(np.zeros((20, 20), np.uint16)).save(path)
    elif kind == "frames":
        image.save(path, save_all=True, append_images=[image.rotate(90)])
    elif kind == "size":
        image.save(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "bad.png is not a file"),
        ("text", "bad.png is not an image"),
        ("cut", "bad.png is damaged"),
        ("transparent", "bad.png must be opaque, 100.0%"),
        ("deep", "bad.png must have 8 bits a channel, its mode is I;16"),
        ("frames", "bad.png must hold one frame, it has 2"),
        ("size", "bad.png must have the reference's size 40 x 48, it is 20 x 20"),
    ],
)
def test_bad_files(tmp_path, photograph, kind, message):
    bad = tmp_path / "bad.png"
    write_bad(bad, kind)
    with pytest.raises(ValueError, match=message):
        compare_images.run(config(tmp_path, reference=photograph, candidates=(bad,)))
    assert not (tmp_path / "out").exists()


def test_candidates_without_a_reference(tmp_path, photograph):
    with pytest.raises(ValueError, match="candidates need a reference"):
        compare_images.run(config(tmp_path, candidates=(photograph,)))
    with pytest.raises(ValueError, match=r"original.png is given twice"):
        compare_images.run(
            config(tmp_path, reference=photograph, candidates=(photograph, photograph))
        )
