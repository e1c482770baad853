"""Two alternatives: scores by hand, of a folder of BAPPS and of what others have measured."""

import functools
import gzip
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import two_afc
from experiments.data import bapps
from experiments.image_metrics import choices, choices_page, named
from experiments.image_metrics.choices import ALL, SUBSETS
from experiments.runs import cells
from lasi_jax import agreement

# How far p0 and p1 are from the reference, and the share that prefers p1, of each triplet.
TRIPLETS = (((4, 9), 0.2), ((8, 3), 0.6), ((5, 5), 1.0), ((2, 7), 1.0))
SCORES = (0.8, 0.6, 0.5, 0.0)  # of any distance that grows with them
# How far the two of a pair are from each other, and the share that sees no difference.
PAIRS = ((3, 1.0), (6, 0.0), (9, 1.0))
PRECISION = 0.5 * 1 + 0.5 * 2 / 3
HEADER = "subset,d0,d1,human_prefers_p1\n"
ROWS = "extra,0.1,0.3,0.25\nextra,0.4,0.3,1\nmine,2,2,0.5\nextra,0.2,0.2,0.75\nmine,-1,0,0\n"


def patch(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (bapps.SIDE, bapps.SIDE), (level, level, level)).save(path)


def judgement(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array([value], np.float32))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The same triplets in every subset, but for the order of the last two, and pairs in two."""
    root = tmp_path_factory.mktemp("two_afc") / "bapps"
    for k, subset in enumerate(SUBSETS):
        place = root / "2afc" / "val" / subset
        for item, ((first, second), share) in enumerate(TRIPLETS):
            patch(place / "ref" / f"{item}.png", 100 + k)
            patch(place / "p0" / f"{item}.png", 100 + k + first)
            patch(place / "p1" / f"{item}.png", 100 + k - second)
            judgement(place / "judge" / f"{item}.npy", share)
    for k, subset in enumerate(("traditional", "cnn")):
        place = root / "jnd" / "val" / subset
        for item, (apart, share) in enumerate(PAIRS):
            patch(place / "p0" / f"{item}.png", 50 + k)
            patch(place / "p1" / f"{item}.png", 50 + k + apart)
            judgement(place / "same" / f"{item}.npy", share * (1 - k))  # of cnn nobody sees none
    return root


def config(root, **options):
    options = {"metrics": ("mse",), "num_resamples": 20, **options}
    options.setdefault("output", root.parent / "run")
    return two_afc.Config(bapps=root, datasets=root.parent / "datasets", **options)


@pytest.fixture(scope="module")
def theirs(root):
    """What others have measured, compressed."""
    path = root.parent / "theirs.csv.gz"
    path.write_bytes(gzip.compress((HEADER + ROWS).encode()))
    return path


@pytest.fixture(scope="module")
def content(root, theirs):
    return two_afc.run(config(root, distances=(theirs,), metrics=("mse", "psnr")))


def means(row):
    return {subset: value["mean"] for subset, value in row["subsets"].items() if value}


def test_scores_are_those_by_hand(content):
    of = {row["metric"]: row for row in content["two_afc"]}
    for name in ("mse", "psnr"):
        expected = dict.fromkeys((*SUBSETS, ALL), 100 * np.mean(SCORES))
        assert means(of[name]) == pytest.approx(expected)
        for interval in of[name]["subsets"].values():
            assert 0.0 <= interval["low"] <= interval["mean"] <= interval["high"] <= 80.0
    assert means(of["theirs"]) == pytest.approx(
        {"extra": 100 * (0.75 + 1.0 + 0.5) / 3, "mine": 100 * (0.5 + 1.0) / 2}
    )
    ceiling = 100 * np.mean([p**2 + (1 - p) ** 2 for _, p in TRIPLETS])
    assert content["human"]["color"]["mean"] == pytest.approx(ceiling)


def test_just_noticeable_differences_are_those_by_hand(content):
    for row in content["jnd"]:
        assert means(row) == pytest.approx({"traditional": 100 * PRECISION})
        assert row["subsets"]["cnn"] is None
    assert [row["metric"] for row in content["jnd"]] == ["mse", "psnr"]


def test_a_run_leaves_a_report(root, content):
    report = root.parent / "run" / "report"
    assert json.loads((report / "results.json").read_text()) == content
    assert {path.name for path in report.iterdir()} == {"two_afc.png", "results.json", "results.md"}
    assert (report / "two_afc.png").stat().st_size > 10_000
    text = (report / "results.md").read_text()
    assert f"`{content['command']}`" in text and str(root.parent) not in text
    assert "--bapps FOLDER --distances FILE" in content["command"]
    assert "triplets: traditional 4, " in text and "; pairs: traditional 3, cnn 3;" in text
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    rows = {line[1]: line for line in lines if line[1:]}
    lpips = ["73.9", "83.4", "71.5", "61.2", "65.3", "63.2", "69.8"]
    assert rows["LPIPS (AlexNet), published"][2:9] == lpips
    assert rows["theirs, as given"][2] == "" and rows["theirs, as given"][9].startswith("75.0 [")
    assert "undefined" in rows["PSNR"][3]  # of just noticeable differences, the last table


def test_stopped_in_between_only_what_is_missing_is_measured(
    root, theirs, content, tmp_path, monkeypatch
):
    run = shutil.copytree(root.parent / "run", tmp_path / "run")
    shutil.rmtree(run / "report")
    shutil.rmtree(run / "distances" / "jnd" / "cnn" / "mse")
    (run / "distances" / "2afc" / "color" / "psnr" / "000000.json").unlink()
    measured, cell = [], cells.cell

    def counted(path, compute):
        measured.extend([] if path.exists() else [path.relative_to(run / "distances").as_posix()])
        return cell(path, compute)

    monkeypatch.setattr(cells, "cell", counted)
    again = config(root, distances=(theirs,), metrics=("mse", "psnr"), output=run)
    assert two_afc.run(again) == content
    assert measured == ["2afc/color/psnr/000000.json", "jnd/cnn/mse/000000.json"]


def test_the_same_command_shows_it_again_and_other_distances_are_told_apart(
    root, theirs, content, tmp_path, capsys
):
    moved = Path(shutil.copy(theirs, tmp_path))
    for path in (theirs, moved):
        assert two_afc.run(config(root, distances=(path,), metrics=("mse", "psnr"))) == content
        assert "complete: " in capsys.readouterr().out
    moved.write_bytes(gzip.compress((HEADER + ROWS.replace("0.75", "0.5")).encode()))
    with pytest.raises(ValueError, match=r"the same options, .* has distances = "):
        two_afc.run(config(root, distances=(moved,), metrics=("mse", "psnr")))


def test_a_metric_is_one_row_of_the_table(root, tmp_path, monkeypatch):
    """The greatest difference of two values."""

    def greatest(x, y):
        return abs(x.astype("float32") - y.astype("float32")).max()

    row = named.Metric("greatest", "Greatest", "of a test", lambda n, network: greatest)
    monkeypatch.setitem(named.METRICS, "greatest", row)
    found = two_afc.run(config(root, metrics=("greatest",), output=tmp_path / "run"))
    (judged,) = found["two_afc"]
    assert judged["metric"] == "greatest" and found["titles"] == {"greatest": "Greatest"}
    assert means(judged) == pytest.approx(dict.fromkeys((*SUBSETS, ALL), 100 * np.mean(SCORES)))
    assert "| Greatest | " in (tmp_path / "run" / "report" / "results.md").read_text()


def test_only_the_first_of_each_subset(root, tmp_path):
    """So few of six subsets that resamples lack one."""
    found = two_afc.run(config(root, limit=2, output=tmp_path / "run"))
    (row,) = found["two_afc"]
    assert means(row) == pytest.approx(dict.fromkeys((*SUBSETS, ALL), 70.0))
    assert means(found["jnd"][0]) == pytest.approx({"traditional": 100.0})
    assert {value["low"] for name, value in row["subsets"].items() if name != ALL} == {None}
    assert row["subsets"][ALL]["low"] < 70.0 < row["subsets"][ALL]["high"]
    assert all(f"{what}: traditional 2, " in found["data"] for what in ("triplets", "pairs"))


def test_only_just_noticeable_differences(root, tmp_path):
    """Without triplets; the folder may hold either kind."""
    shutil.copytree(root / "jnd", tmp_path / "bapps" / "jnd")
    found = two_afc.run(config(tmp_path / "bapps"))
    assert found["two_afc"] == []
    assert found["data"] == "BAPPS, validation pairs: traditional 3, cnn 3"
    assert means(found["jnd"][0]) == pytest.approx({"traditional": 100 * PRECISION})


def test_a_mean_over_subsets_weighs_them_alike():
    by_subset = {
        "cnn": (np.zeros(9), np.ones(9), np.full(9, 0.25)),
        "color": (np.zeros(2), np.ones(2), np.array([0.5, 0.0])),
    }

    def mean(d0, d1, preference):
        return float(np.where(d0 < d1, 1 - preference, preference).mean())

    interval = functools.partial(agreement.bootstrap_interval, jax.random.key(0), num_resamples=200)
    found = choices.mean_of_subsets(by_subset, mean, interval)
    assert found["mean"] == pytest.approx(100 * (0.75 + 0.75) / 2)
    # cnn is always 0.75, and color 0.5, 0.75 or 1, where it is drawn at all
    assert found["low"] == pytest.approx(62.5) and found["high"] == pytest.approx(87.5)


def run_csv(tmp_path, content, name="theirs.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    options = {"num_resamples": 5, "output": tmp_path / "run", **options}
    return two_afc.run(two_afc.Config(distances=(path,), **options))


def test_distances_of_others_alone(tmp_path):
    """In a spreadsheet's encoding, with a column more and another order."""
    lines = [
        "file,human_prefers_p1,d1,d0,subset",
        'a.png,"0.25",3,1,cnn',
        "b.png,1.0,3e-1,.4,cnn",
        "c.png,0,1,2,cnn",
    ]
    found = run_csv(tmp_path, "\ufeff" + "\r\n".join(lines), "LPIPS v0.1.csv", limit=2)
    (row,) = found["two_afc"]
    assert row["metric"] == "LPIPS v0.1" and found["titles"]["LPIPS v0.1"] == "LPIPS v0.1, as given"
    assert means(row) == pytest.approx({"cnn": 100 * (0.75 + 1.0) / 2})
    assert found["human"]["cnn"]["mean"] == pytest.approx(100 * (0.625 + 1.0) / 2)
    assert found["jnd"] == [] and found["data"] == "BAPPS, validation triplets: cnn 2"


def test_a_file_may_be_named_as_the_ceiling_is(tmp_path):
    run_csv(tmp_path, TWICE, "human.csv")
    text = (tmp_path / "run" / "report" / "results.md").read_text()
    assert "| human ceiling | 68.0" in text and "| human, as given | 80.0" in text


TWICE = HEADER + 2 * "cnn,0.1,0.3,0.2\n"
COMPRESSED = gzip.compress((HEADER + 99 * ROWS).encode(), mtime=0)
FORM = r"theirs\.csv(\.gz)? must be a CSV file with columns subset, d0, d1, human_prefers_p1: "
RULE = FORM + "d0 and d1 must be finite numbers and human_prefers_p1 one from 0 to 1, "
MISTAKES = {
    "empty": ("", FORM + "columns subset, d0, d1, human_prefers_p1 are missing"),
    "a column is missing": ("subset,d0,d1\ncnn,1,2\n", FORM + "columns human_prefers_p1 are miss"),
    "a column twice": (HEADER[:-1] + ",d0\ncnn,1,2,0,3\n", FORM + "columns d0 are there twice"),
    "text": (TWICE + "cnn,far,0.3,0.2\n", RULE + r"line 4 has \['far', '0\.3', '0\.2'\]"),
    "NaN": (TWICE + "cnn,0.1,nan,0.2\n", RULE + r"line 4 has \['0\.1', 'nan', '0\.2'\]"),
    "infinity": (TWICE + "cnn,inf,1,0.2\n", RULE + r"line 4 has \['inf', '1', '0\.2'\]"),
    "preference 1.5": (
        TWICE + "cnn,0.1,0.3,1.5\n",
        RULE + r"line 4 has \['0\.1', '0\.3', '1\.5'\]",
    ),
    "a short line": (TWICE + "cnn,0.1\n", RULE + r"line 4 has \['0\.1', '', ''\]"),
    "no subset": (TWICE + ",1,2,0\n", FORM + "subset must have a name, line 4 has none"),
    "the mean as a subset": (TWICE + "all,1,2,0\n", FORM + "subset must not be 'all', .* line 4"),
    "no triplets": (HEADER, r"theirs\.csv must hold at least two triplets of each subset, .* \{\}"),
    "one triplet": (TWICE + "color,1,2,0\n", r"two triplets of each .* \{'cnn': 2, 'color': 1\}"),
    "an open quote": (TWICE + '"' + 200_000 * "x", FORM + "field larger than field limit"),
    "no text": (b"\xff\xfe\x00", FORM + ".*can't decode"),
    "truncated": (COMPRESSED[:-20], FORM + "Compressed file ended"),
    "damaged": (COMPRESSED[:40] + b"\xff" * 20 + COMPRESSED[60:], FORM + "Error -3 while decompr"),
    "not compressed": ((TWICE).encode(), FORM + "Not a gzipped file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_files_are_named(tmp_path, mistake):
    content, message = MISTAKES[mistake]
    is_compressed = mistake in ("truncated", "damaged", "not compressed")
    with pytest.raises(ValueError, match=message):
        run_csv(tmp_path, content, "theirs.csv.gz" if is_compressed else "theirs.csv")
    assert not (tmp_path / "run").exists()


def test_bad_options(root, theirs, tmp_path):
    mistakes = {
        r"name the folder of BAPPS with --bapps: download the validation set .*_valonly\.sh": {},
        r"distances must be CSV files, .*none\.csv is no file": {"distances": ("none.csv",)},
        r"distances must be files of different names, got \['a', 'a'\]": {
            "distances": ("a.csv", "b/a.csv.gz")
        },
        r"distances must be files named otherwise than the metrics of BAPPS, got .*mse\.csv": {
            "bapps": root,
            "distances": (tmp_path / "mse.csv",),
        },
        "limit must be at least 2, got 1": {"distances": (theirs,), "limit": 1},
        "num_resamples must be at least 1, got 0": {"num_resamples": 0},
        r"seed must lie in 0\.\.2\^32 - 1, got -1": {"seed": -1},
        "metrics must be among mse, .*; got 'fsim'": {"bapps": root, "metrics": ("fsim",)},
        r"heads need the weights .*, got .*lpips\.npz": {"bapps": root, "heads": "lpips.npz"},
        r"bapps must be a folder that holds one of 2afc/val/.*, .*none is none; download the": {
            "bapps": tmp_path / "none"
        },
    }
    for message, options in mistakes.items():
        options = {"metrics": ("mse",), "output": tmp_path / "run", **options}
        options["distances"] = tuple(map(tmp_path.joinpath, options.get("distances", ())))
        with pytest.raises(ValueError, match=message):
            two_afc.run(two_afc.Config(**options))


def test_released_votes_and_distances(data, tmp_path):
    """All 36,344 triplets, with the distances of LPIPS's AlexNet as others computed them."""
    path = data / "bapps_votes" / "lpips_alex.csv.gz"
    found = two_afc.run(two_afc.Config(distances=(path,), num_resamples=2, output=tmp_path / "run"))
    (row,) = found["two_afc"]
    published = (77.48, 82.87, 71.19, 61.04, 65.23, 62.43)
    expected = dict(zip(SUBSETS, published, strict=True)) | {ALL: np.mean(published)}
    assert means(row) == pytest.approx(expected, abs=0.006)
    ceiling = {name: value["mean"] for name, value in found["human"].items()}
    human = dict(zip((*SUBSETS, ALL), choices_page.PUBLISHED["human"], strict=True))
    assert ceiling.pop("deblur") == pytest.approx(human.pop("deblur"), abs=1.1)
    assert ceiling == pytest.approx(human, abs=0.25)
    assert "traditional 4,720" in found["data"]


def test_other_triplets_under_the_name_of_a_subset_are_refused(root, tmp_path):
    path = tmp_path / "other.csv"
    path.write_text(HEADER + ROWS.replace("extra", "cnn"))
    message = "those of cnn differ: BAPPS has 4, other 3, or other choices"
    with pytest.raises(ValueError, match=message):
        two_afc.run(config(root, distances=(path,), output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_metrics_without_images_are_refused(theirs, tmp_path):
    options = {"distances": (theirs,), "output": tmp_path / "run", "metrics": ("ssim",)}
    with pytest.raises(ValueError, match=r"metrics need images: add --bapps FOLDER, got \('ssim',"):
        two_afc.run(two_afc.Config(**options))
    assert not (tmp_path / "run").exists()
