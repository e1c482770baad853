import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import compare_images
from experiments.data import distortions, photographs
from experiments.image_metrics import comparison, named
from experiments.runs import files


@pytest.fixture
def photograph(tmp_path):
    """A corner of a real photograph as a file."""
    path = tmp_path / "original.png"
    Image.fromarray(photographs.bundled("astronaut")[:48, :40]).save(path)
    return path


def config(tmp_path, **options):
    options = {"output": tmp_path / "out", **options}
    if "metrics" not in options:
        options.setdefault("neighborhood_size", 3)
    return compare_images.Config(**options)


def test_graded_distortions_of_a_file(tmp_path, photograph, capsys):
    content = compare_images.run(config(tmp_path, reference=photograph))
    out = tmp_path / "out"
    assert json.loads((out / "results.json").read_text("utf-8")) == content
    with Image.open(out / "figure.png") as figure:
        assert figure.width > 500
    scores = {score["name"]: score["lasi_3"] for score in content["scores"]}
    values = list(scores.values())
    assert len(values) == 21 and values == sorted(values) and values[0] > 0.0
    printed = capsys.readouterr().out
    assert all(name in printed for name in scores) and str(tmp_path) not in json.dumps(
        content["scores"]
    )
    assert all(str(out / name) in printed for name in ("figure.png", "results.json", "maps.npz"))
    maps, pictures = np.load(out / "maps.npz"), sorted((out / "maps").iterdir())
    assert set(maps) == set(scores) and len(pictures) == 21
    assert pictures[0].name == f"01 {content['scores'][0]['name']}.png"
    for name, pixels in maps.items():
        assert pixels.shape == (48, 40) and float(pixels.mean()) == scores[name]
    with Image.open(pictures[0]) as picture:
        assert picture.size == (40, 48)


def test_candidates_of_the_user(tmp_path, photograph):
    original = photographs.read(photograph)
    copy, upside_down = tmp_path / "copy $^$.bmp", tmp_path / "turned.png"
    Image.fromarray(original).save(copy)
    Image.fromarray(original[::-1]).save(upside_down)
    content = compare_images.run(
        config(tmp_path, reference=photograph, candidates=(upside_down, copy))
    )
    best, worst = content["scores"]
    assert best["name"] == copy.name and best["lasi_3"] == 0.0 and best["psnr"] is None
    assert best["ssim"] == pytest.approx(1.0) and worst["lasi_3"] > 0.1


def test_identical_files_rank_equal_by_every_metric(tmp_path, photograph, capsys):
    """One in another folder by the same name; the picture shows the name of any alphabet."""
    (tmp_path / "other").mkdir()
    copies = [tmp_path / name for name in ("1.png", "2.png", "写真.png", "other/2.png")]
    for copy in copies:
        Image.fromarray(photographs.read(photograph)).save(copy)
    flipped = tmp_path / "flipped.png"
    Image.fromarray(photographs.read(photograph)[:, ::-1]).save(flipped)
    compare_images.run(config(tmp_path, reference=photograph, candidates=(flipped, *copies)))
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if ".png  " in line]
    ranks = {name: (a, b, c) for name, _, a, _, b, _, c in rows}
    folder = tmp_path.name
    names = ("1.png", f"{folder}/2.png", "写真.png", "other/2.png")
    assert ranks == {**dict.fromkeys(names, ("1",) * 3), "flipped.png": ("5",) * 3}
    assert str(tmp_path) + "/1.png" not in printed


def test_a_metric_is_one_row_of_the_table(tmp_path, photograph, monkeypatch, capsys):
    """Made from a number in its name; it orders the table and its maps are saved."""

    def brightness(power, network):
        del network
        return lambda x, y: abs(x.mean() - y.mean()) ** power

    display = named.Display(lambda distance: -distance, 1, higher_is_closer=True)
    row = named.Metric("bright_N", "Brightness {n}", "of a test", brightness, display=display)
    monkeypatch.setitem(named.METRICS, row.name, row)
    monkeypatch.setattr(comparison, "_SLOW", 1)
    options = {"reference": photograph, "metrics": ("bright_2", "lasi_3+mse")}
    content = compare_images.run(config(tmp_path, **options))
    values = [score["bright_2"] for score in content["scores"]]
    assert (
        values == sorted(values, reverse=True) and content["titles"]["bright_2"] == "Brightness 2"
    )
    printed = capsys.readouterr().out
    assert "bright_N (N at least 1)" in named.known() and "Brightness 2" in printed
    slow = "so many neighbours take minutes to compile"
    assert f"LASI, N = 3 with MSE: {slow}" in printed and f"Brightness 2: {slow}" not in printed
    assert not (tmp_path / "out" / "maps").exists()  # neither has any
    with pytest.raises(
        ValueError, match=r"metrics must be among mse, .*bright_N.*; got 'bright_0'"
    ):
        compare_images.run(config(tmp_path, metrics=("bright_0",), output=tmp_path / "other"))
    with pytest.raises(ValueError, match=r"neighborhood_size is of the default metrics: .*lasi_7"):
        compare_images.run(config(tmp_path, metrics=("mse",), neighborhood_size=7))


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
        heads, closer, *_ = (
            line.split("  ")
            for line in capsys.readouterr().out.splitlines()
            if "SSIM" in line or "closer" in line or "look at" in line
        )
        assert [cell.strip() for cell in heads if cell.strip()] == ["LASI, N = 3", "SSIM", "PSNR"]
        found = [cell.strip() for cell in closer if "closer" in cell]
        assert found == ["lower is closer", "higher is closer", "higher is closer"]
        (note,) = content["notes"]
        assert "negative.png" in note
        assert "LASI does not see the sign of contrast" in note
        assert ("first and SSIM and PSNR last" in note) == bool(others)
        assert "its SSIM is -0." in note


def test_metrics_that_agree_need_no_note():
    titles = {"lasi_10": "LASI, N = 10", "ssim": "SSIM", "psnr": "PSNR"}

    def notes(rows):
        return comparison.notes(pd.DataFrame.from_dict(rows, "index", columns=list(titles)), titles)

    scores = {"a": (0.1, 0.9, 30.0), "b": (0.2, 0.8, 25.0), "c": (0.3, 0.7, 28.0)}
    assert notes(scores) == []
    assert notes({"a": scores["a"]}) == []
    assert notes({"a": (0.1, math.nan, 30.0), "b": (0.1, math.nan, 30.0)}) == []
    assert notes({"a": (math.nan, math.nan, 30.0), "b": (math.nan, math.nan, 20.0)}) == []
    assert notes({**scores, "d": (0.4, -0.1, 5.0)}) == []  # LASI agrees
    (note,) = notes({"worst": (0.1, 0.9, 9.0), "b": scores["b"], "c": scores["c"]})
    assert note.startswith("look at worst: LASI puts it first and PSNR last. LASI does not")
    (note,) = notes({"odd": (0.25, -0.1, 26.0), **scores})
    assert note.startswith("look at odd: its SSIM is -0.1000. ")


def test_the_same_seed_gives_the_same_scores(photograph):
    image = photographs.read(photograph)
    first, second, other = (distortions.graded(image, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["noise σ 0.06"], other["noise σ 0.06"])


def test_small_images_have_no_ssim(tmp_path, capsys):
    path = tmp_path / "tiny.png"
    Image.fromarray(photographs.bundled("coffee")[:8, :9]).save(path)
    content = compare_images.run(config(tmp_path, reference=path))
    assert all(score["ssim"] is None for score in content["scores"])
    assert "metric 'ssim' on 8 x 9 pixels: x and y must have at least 11" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"metric 'ssim' on 8 x 9 pixels"):
        options = {"metrics": ("ssim",), "output": tmp_path / "other"}
        compare_images.run(config(tmp_path, reference=path, **options))


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
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(comparison, "compare", None)  # nothing is compared before
    with pytest.raises(
        ValueError, match=r"output must be a place for a new folder, got .*file/out"
    ):
        compare_images.run(config(tmp_path, reference=photograph, output=tmp_path / "file" / "out"))
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
