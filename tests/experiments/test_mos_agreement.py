"""Metrics and opinions: the report's numbers are SciPy's, and nothing is measured twice."""

import itertools
import json
import shutil

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from PIL import Image

from experiments import mos_agreement
from experiments.data import graded_squares, photographs
from experiments.image_metrics import measured, opinions, opinions_page

SIZE = 16
PART = 120
OPTIONS = {"metrics": ("mse", "ssim"), "size": SIZE, "num_resamples": 20}
ITEMS = len(graded_squares.KINDS) * graded_squares.LEVELS  # of a square
KINDS = ("Additive Gaussian noise", "Gaussian blur")


@pytest.fixture(scope="module", autouse=True)
def small_parts(module_patch):
    module_patch.setattr(measured, "_PART", PART)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photographs of two sizes, of which one has room for hardly more than one square."""
    place = tmp_path_factory.mktemp("mos")
    (place / "photographs").mkdir()
    coffee, cat = photographs.bundled("coffee"), photographs.bundled("chelsea")
    save(place / "photographs" / "coffee.png", coffee[100:120, 150:174])
    save(place / "photographs" / "cat.png", cat[100:140, 200:217])
    return place


def config(place, **options):
    return mos_agreement.Config(
        **{
            "photographs": place / "photographs",
            "output": place / "run",
            "datasets": place / "datasets",
            **OPTIONS,
            **options,
        }
    )


@pytest.fixture(scope="module")
def content(place):
    return mos_agreement.run(config(place))


def stored(run, name, metric):
    """The distances as the parts of a run hold them."""
    parts = sorted((run / "distances" / name / metric).iterdir())
    return np.concatenate([json.loads(part.read_text())["distances"] for part in parts])[:, 0]


def mean_squares(x, y):
    return np.square((x.astype(np.float64) - y) / 255).mean((-3, -2, -1))


def test_distances_are_of_every_square_kind_and_level(place, content):
    squares = graded_squares.graded(photographs.in_folder(place / "photographs"), size=SIZE, seed=0)
    assert len(squares.references) == 8
    expected = mean_squares(squares.references[:, None, None], squares.distorted)
    found = stored(place / "run", "severity", "mse")
    np.testing.assert_allclose(found, np.ravel(expected), rtol=1e-5)
    assert f"8 squares of {SIZE} pixels" in content["data"] and content["human"] is False


def test_odd_entries_of_a_folder_are_left_out_and_named(place, tmp_path, capsys):
    folder = shutil.copytree(place / "photographs", tmp_path / "photographs")
    save(folder / "small.png", np.zeros((SIZE - 1, 40, 3)))
    (folder / "text.jpg").write_text("no image")
    (folder / "folder.png").mkdir()
    (folder / "notes.txt").write_text("")
    (folder / ".hidden.png").write_text("")
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(folder / "deep.png")
    found = mos_agreement._squares(config(place, photographs=folder))
    assert set(found.photographs) == {"cat.png", "coffee.png"}
    said = capsys.readouterr().out
    assert f"left out: small.png is 40 x {SIZE - 1}, size is {SIZE} pixels a side" in said
    assert "folder.png is not a file" in said and ".hidden" not in said
    assert "left out: 1 that are no images by name, as notes.txt" in said
    assert "text.jpg is not an image" in said and "deep.png must have 8 bits" in said
    (folder / "cat.png").unlink()
    (folder / "small.png").unlink()
    with pytest.raises(ValueError, match=r"photographs must be two at least, .* has 1"):
        mos_agreement._squares(config(place, photographs=folder))


def spearmanr(x, y):
    return scipy.stats.spearmanr(x, y)[0]


def kendalltau(x, y):
    return scipy.stats.kendalltau(x, y)[0]


def pearsonr(x, y):
    return scipy.stats.pearsonr(x, y)[0]


def tau_across(distances):
    """Kendall's tau-b of (square, level), four squares a photograph, between two photographs."""
    agreement = untied = pairs = 0
    items = list(np.ndenumerate(distances))
    for ((square, level), x), ((other, above), y) in itertools.combinations(items, 2):
        if square // 4 != other // 4:
            agreement += np.sign(x - y) * np.sign(level - above)
            untied += x != y
            pairs += level != above
    return agreement / np.sqrt(untied * pairs)


def test_taus_are_those_of_their_definition(place, content):
    (found,) = content["sets"]
    levels = range(graded_squares.LEVELS)
    for row in found["rows"]:
        distances = stored(place / "run", "severity", row["metric"])
        by_kind = distances.reshape(8, len(graded_squares.KINDS), graded_squares.LEVELS).swapaxes(
            0, 1
        )
        within, across = [], []
        for kind, squares in zip(graded_squares.KINDS, by_kind, strict=True):
            taus = [kendalltau(levels, of_square) for of_square in squares]
            within.append(np.nan_to_num(taus).mean())
            across.append(tau_across(squares))
            expected = {"within": within[-1], "across": across[-1]}
            assert row["kinds"][kind] == pytest.approx(expected)
        for which, values in (("within", within), ("across", across)):
            assert row[which]["mean"] == pytest.approx(np.mean(values))
            assert row[which]["low"] is None  # of two photographs there is no interval
    best, other = sorted(found["rows"], key=lambda row: row["less_than_best"] is not None)
    assert best["metric"] == found["best"] and best["less_than_best"] is None
    less = best["across"]["mean"] - other["across"]["mean"]
    assert other["less_than_best"]["mean"] == pytest.approx(less) and less > 0


def test_a_run_leaves_a_report_that_claims_no_human_agreement(place, content):
    report = place / "run" / "report"
    assert json.loads((report / "results.json").read_text()) == content
    names = {path.name for path in report.iterdir()}
    assert names == {"severity.png", "results.json", "results.md"}
    assert (report / "severity.png").stat().st_size > 10_000
    text = (report / "results.md").read_text()
    assert "**This is no human agreement.** Nobody was asked" in text
    assert "# Metrics and severity" in text and "opinion" not in text
    row = content["sets"][0]["rows"][1]
    assert f"| SSIM | {row['within']['mean']:.3f} | " in text
    assert f"`{content['command']}`" in text and str(place) not in text
    assert content["command"].endswith("--photographs FOLDER --size 16")


def test_stopped_in_between_only_what_is_missing_is_measured(place, content, tmp_path, monkeypatch):
    run = shutil.copytree(place / "run", tmp_path / "run")
    shutil.rmtree(run / "report")
    for missing in ("000120", "000360"):
        (run / "distances" / "severity" / "mse" / f"{missing}.json").unlink()
    asked, images = set(), graded_squares.Squares.images

    def counted(self, rows):
        asked.update(rows)
        return images(self, rows)

    monkeypatch.setattr(graded_squares.Squares, "images", counted)
    assert mos_agreement.run(config(place, output=run)) == content
    assert asked - {0} == {*range(120, 240), *range(360, 480)}  # the first one tells the size
    assert len(asked) == 1 + 8 * ITEMS // 2


def test_the_same_command_shows_it_again_and_another_is_refused(place, content, capsys):
    assert mos_agreement.run(config(place)) == content
    assert "complete: " in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"has seed = 0, now it is 1"):
        mos_agreement.run(config(place, seed=1))


def graded():
    """Distances (reference, kind, level) that are the levels."""
    shape = (4, len(graded_squares.KINDS), graded_squares.LEVELS)
    return np.broadcast_to(np.arange(graded_squares.LEVELS, dtype=float), shape)


def test_intervals_of_references_that_are_all_alike_have_no_width():
    found = opinions.of_severity(
        {"up": graded(), "down": -graded(), "flat": 0 * graded()},
        np.arange(4),
        num_resamples=50,
        seed=0,
    ).content()
    assert found["best"] == "up"
    for row, tau in zip(found["rows"], (1.0, -1.0, 0.0), strict=True):
        same = dict.fromkeys(("mean", "low", "high"), pytest.approx(tau))
        assert row["within"] == row["across"] == row["share"] == same  # tied as levels are
        assert row["attainable"] == pytest.approx(1.0)  # a flat metric's own ties are no excuse
        assert row["kinds"]["hue"] == {"within": pytest.approx(tau), "across": pytest.approx(tau)}
        if tau < 1.0:
            less = dict.fromkeys(same, pytest.approx(1.0 - tau))
            assert row["less_than_best"] == less


def test_resamples_of_a_single_photograph_are_left_out():
    """Of four photographs, one in 64 is."""
    distances = graded() + np.random.default_rng(0).normal(size=graded().shape)
    options = {"num_resamples": 500, "seed": 0}
    (row,) = opinions.of_severity({"mse": distances}, np.arange(4), **options).content()["rows"]
    assert row["attainable"] == pytest.approx(np.sqrt(0.8))
    assert row["share"]["mean"] == pytest.approx(row["across"]["mean"] / np.sqrt(0.8))
    for which in ("within", "across", "share"):
        assert row[which]["low"] < row[which]["mean"] < row[which]["high"]


def write_tid(folder, references=4, levels=4):
    """Noise and less contrast in small images, and opinions that fall with the level."""
    rng = np.random.default_rng(0)
    (folder / "reference_images").mkdir(parents=True)
    (folder / "distorted_images").mkdir()
    lines = []
    for k in range(1, references + 1):
        image = rng.integers(40, 210, (6, 5, 3)).repeat(3, 0).repeat(4, 1)
        save(folder / "reference_images" / f"I{k:02d}.BMP", image)
        for kind, level in itertools.product((1, 8), range(1, levels + 1)):
            strength = 0.15 * level + 0.05 * k
            noise = rng.normal(0, 60 * strength, image.shape)
            flatter = strength * (image.mean((0, 1)) - image)
            name = f"i{k:02d}_{kind:02d}_{level}.bmp"
            save(folder / "distorted_images" / name, image + (noise if kind == 1 else flatter))
            lines.append(f"{7 - 1.2 * level + rng.normal(0, 0.3):.5f} {name}")
    (folder / "mos_with_names.txt").write_text("\n".join(lines))


def save(path, image):
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path)


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def judged(place):
    write_tid(place / "tid")
    return mos_agreement.run(judged_config(place))


def judged_config(place, **options):
    options = {"photographs": None, "tid2013": place / "tid", "output": place / "judged"} | options
    return config(place, **options)


@pytest.fixture(scope="module")
def read(place, judged):
    """Reference, kind and opinion from the published file, and the distances of MSE by hand."""
    del judged
    lines = (place / "tid" / "mos_with_names.txt").read_text().split("\n")
    found = []
    for opinion, name in map(str.split, lines):
        reference = pixels(place / "tid" / "reference_images" / f"I{name[1:3]}.BMP")
        distorted = pixels(place / "tid" / "distorted_images" / name)
        distance = mean_squares(reference, distorted)
        found.append((int(name[1:3]), int(name[4:6]), float(opinion), distance))
    return [np.array(column) for column in zip(*found, strict=True)]


def test_correlations_with_opinions_are_scipys(place, judged, read):
    _, kind, opinion, mse = read
    np.testing.assert_allclose(stored(place / "judged", "tid2013", "mse"), mse, rtol=1e-5)
    (found,) = judged["sets"]
    assert found["set"] == "tid2013" and judged["human"] is True
    for row in found["rows"]:
        distance = stored(place / "judged", "tid2013", row["metric"])
        expected = {
            "srcc": spearmanr(-distance, opinion),
            "krcc": kendalltau(-distance, opinion),
            "logistic4": plcc(distance, opinion),
        }
        assert {name: row[name]["mean"] for name in expected} == pytest.approx(expected, abs=1e-4)
        assert pearsonr(-distance, opinion) < row["logistic5"]["mean"] <= 1
        for statistic in (*expected, "logistic5"):
            assert row[statistic]["low"] <= row[statistic]["mean"] <= row[statistic]["high"]
        of_kinds = [spearmanr(-distance[kind == k], opinion[kind == k]) for k in (1, 8)]
        assert row["kinds"] == pytest.approx(dict(zip(KINDS, of_kinds, strict=True)))


def plcc(distance, opinion):
    """Pearson's correlation after SciPy's own fit of the four parameters."""

    def curve(x, low, high, center, scale):
        return low + (high - low) * scipy.special.expit((x - center) / scale)

    x = (distance - distance.mean()) / distance.std()
    start = opinion.max(), opinion.min(), 0.0, 1.0
    fit, _ = scipy.optimize.curve_fit(curve, x, opinion, start, maxfev=20_000)
    return pearsonr(curve(x, *fit), opinion)


def test_a_judged_set_is_reported_beside_what_was_published(place, judged):
    report = place / "judged" / "report"
    assert {path.name for path in report.iterdir()} == {"tid2013.png", "results.json", "results.md"}
    assert (report / "tid2013.png").stat().st_size > 10_000
    text = (report / "results.md").read_text()
    assert "# Agreement of metrics with opinions" in text and "## TID2013" in text
    assert "no human agreement" not in text and "TID2013 (32 images)" in text
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    published = {row[1]: row[6] for row in rows if len(row) == 9}
    assert published["SSIM"] == "0.72" and published["MSE"] == ""
    assert published["FSIMc, published"] == "0.85" and "ssim, published" not in published
    srcc = {row[1]: row[2] for row in rows if len(row) == 9}
    mse, _ = judged["sets"][0]["rows"]
    assert srcc["MSE"].startswith(f"{mse['srcc']['mean']:.3f} [")


def test_of_few_references_there_is_no_interval():
    judged, rng = made_up()
    distances = {"ssim": rng.normal(size=24), "mse": rng.normal(size=24)}
    few = judged._replace(reference=np.arange(24) % 3)
    found = opinions.of_opinions(distances, few, ("a", "b", "c"), num_resamples=5, seed=0)
    for row in found.content()["rows"]:
        for statistic in ("srcc", "krcc", "logistic4", "logistic5"):
            assert row[statistic]["low"] is row[statistic]["high"] is None


def made_up(count=24):
    rng = np.random.default_rng(1)
    opinion = rng.normal(size=count)
    reference, kind = np.arange(count) % 4, np.arange(count) % 3 + 1
    opinion[kind == 2] = 0.5  # of this kind nothing can be said
    return opinions.Opinions(opinion, kind, reference), rng


def test_a_kind_without_differences_has_no_correlation(tmp_path):
    judged, rng = made_up()
    distances = {
        name: -judged.opinion + width * rng.normal(size=24)
        for name, width in (("deep", 0.1), ("ssim", 3.0))
    }
    found = opinions.of_opinions(
        distances, judged, ("one", "two", "three"), num_resamples=5, seed=0
    )
    deep, ssim = found.content()["rows"]
    assert found.best == "deep" and deep["less_than_best"] is None
    less = deep["srcc"]["mean"] - ssim["srcc"]["mean"]
    assert ssim["less_than_best"]["mean"] == pytest.approx(less)
    assert list(deep["kinds"]) == ["one", "two", "three"] and deep["kinds"]["two"] is None
    titles = {"deep": "LPIPS (VGG16)", "ssim": "SSIM"}
    content = {
        "human": True,
        "command": "",
        "data": "",
        "versions": {"jax": ""},
        "backend": "",
        "config": {"num_resamples": 5},
        "titles": titles,
        "sets": [{"set": "kadid10k", "title": "KADID-10k", **found.content()}],
    }
    text = opinions_page.markdown(content, {"KADID-10k": found})
    assert "\n| two |  |  |\n" in text
    assert "| KRCC | PLCC, logistic4 | PLCC, logistic5 |" in text
    (lpips,) = (line for line in text.splitlines() if line.startswith("| LPIPS (VGG16)"))
    assert lpips.endswith("| 0.72 |  |")  # and no row that repeats it
    opinions_page.draw_opinions(tmp_path / "a.png", "", found, titles, distances, judged)
    assert (tmp_path / "a.png").stat().st_size > 10_000


BAD_OPTIONS = {
    "small squares": ({"size": 15}, "size must be at least 16, got 15"),
    "a seed beyond": ({"seed": 2**32}, r"seed must lie in 0\.\.2\^32 - 1, got 4294967296"),
    "no resamples": ({"num_resamples": 0}, "num_resamples must be at least 1, got 0"),
    "both": ({"tid2013": "tid"}, r"photographs are distorted only where no judged set is named"),
    "unknown": ({"metrics": ("vmaf",)}, r"metrics must be among mse, psnr, .*; got 'vmaf'"),
    "no network": ({"metrics": ("deep",)}, r"metric 'deep' needs a network: .*--weights"),
    "large squares": ({"size": 30}, r"at least size = 30 pixels a side, got one of 17 x 40"),
    "no photographs": ({"photographs": "none"}, r"photographs must be in a folder, .*none is none"),
    "no TID2013": (
        {"photographs": None, "tid2013": "none"},
        r"tid2013 must be a folder that holds reference_images, .*; download TID2013 \(tid2013\.",
    ),
    "no KADID-10k": (
        {"photographs": None, "kadid10k": "none"},
        r"kadid10k must be a folder that holds images, .*; download KADID-10k \(kadid10k\.zip\)",
    ),
}


@pytest.mark.parametrize("mistake", BAD_OPTIONS)
def test_mistakes_are_named_before_anything_is_written(place, tmp_path, mistake):
    options, message = BAD_OPTIONS[mistake]
    options = {
        name: place / value if isinstance(value, str) else value for name, value in options.items()
    }
    with pytest.raises(ValueError, match=message):
        mos_agreement.run(config(place, output=tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()
