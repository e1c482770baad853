"""LASI's parts: what a tiny ablation reports is found again, from its own distances and by hand."""

import contextlib
import functools
import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
from PIL import Image

import lasi_jax
from experiments import lasi_ablation
from experiments.data import graded_squares, photographs
from experiments.image_metrics import ablated_lasi, ablation
from experiments.image_metrics.ablated_lasi import Variant
from experiments.runs import cells as cell_files

KINDS = ("noise", "blur")
BASE = lasi_ablation.BASE._replace(neighborhood_size=2)
OPTIONS = {
    "sizes": (1, 2),
    "sides": (16,),
    "decays": (0.5,),
    "ridges": (1.0,),
    "remedies": ("prior", "shift by 2"),
    "squares": 1,
    "num_resamples": 20,
}
# The score of one that always takes the copy for closer: mean(1 - judgement) where p0 is the copy.
JUDGEMENTS = {"traditional": (0.2, 0.4, 0.0), "cnn": (1.0, 0.6, 0.0)}
COPY = {"traditional": "p0", "cnn": "p1"}
SCORE = 100.0 * np.mean([0.8, 0.6, 1.0, 0.6])  # of the first two triplets of both


@contextlib.contextmanager
def small():
    """Two photographs of two kinds of distortions, and N = 2 as the base."""
    corners = {name: photographs.bundled(name)[100:132, 90:120] for name in ("astronaut", "coffee")}
    kinds = {name: graded_squares.KINDS[name] for name in KINDS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graded_squares, "bundled", lambda: corners)
        patch.setattr(graded_squares, "KINDS", kinds)
        patch.setattr(lasi_ablation, "BASE", BASE)
        patch.setattr(lasi_ablation, "_TIMED", 1)
        yield patch


def config(folder, **options):
    return lasi_ablation.Config(**{"output": folder / "run", **OPTIONS, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lasi_ablation")


@pytest.fixture(scope="module", params=[pytest.param("whole run", marks=pytest.mark.slow)])
def content(folder):
    with small():
        return lasi_ablation.run(config(folder))


@pytest.fixture(scope="module")
def pairs(folder):
    """References and distortions (20, 16, 16, 3), in the order of the distances."""
    with small():
        found = lasi_ablation.graded(config(folder))[16]
    return found.images(range(len(found)))


def variant_of(row):
    return Variant(*(row[name] for name in Variant._fields))


def measured(folder, variant, side=16):
    """The distances that a run has kept."""
    place = folder / "run" / "variants" / lasi_ablation.name_of(variant, side)
    return np.array(json.loads((place / "severity" / "000000.json").read_text())["distances"])[:, 0]


def cells(folder):
    """The cells of the report's table, and what its lines say."""
    text = (folder / "run" / "report" / "results.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return rows[0], rows[2:], text


@pytest.mark.parametrize("options", [{}, {"toy": True}, OPTIONS], ids=["default", "toy", "tiny"])
def test_the_plan_has_each_variant_once_and_the_base(options):
    chosen = lasi_ablation.resolved(lasi_ablation.Config(**options))
    plan, side = lasi_ablation.plan(chosen), lasi_ablation.base_side(chosen)
    assert len(set(plan)) == len(plan)
    assert (lasi_ablation.BASE, side) in plan
    assert lasi_ablation.BASE == Variant(10, "causal", 0.8, 80 / 127.5)
    for n in chosen.sizes:
        assert (Variant(n, "two-sided"), side) in plan
        assert all((Variant(n, "causal"), s) in plan for s in chosen.sides)
    assert {v.decay for v, _ in plan} == {0.8, *chosen.decays}
    assert {v.ridge for v, _ in plan} == {80 / 127.5, *chosen.ridges}
    assert {v.remedy for v, _ in plan} == {"none", *chosen.remedies}


def test_the_plan_has_what_is_given_twice_once():
    once = lasi_ablation.Config(decays=(0.5,), ridges=(1.0,))
    twice = lasi_ablation.Config(decays=(0.8, 0.5, 0.5), ridges=(80 / 127.5, 1.0))
    assert lasi_ablation.plan(twice) == lasi_ablation.plan(once)


def test_variants_next_to_each_other_have_folders_of_their_own():
    near = lasi_ablation.Config(decays=(0.8 + 1e-9,), ridges=(0.6275, 0.62745))
    plan = lasi_ablation.plan(near)
    assert len({lasi_ablation.name_of(*each) for each in plan}) == len(plan)


def test_the_base_side_is_the_nearest_to_64():
    for sides, expected in (((32, 64, 96), 64), ((32, 48), 48), ((128,), 128), ((16, 90, 70), 70)):
        assert lasi_ablation.base_side(lasi_ablation.Config(sides=sides)) == expected


def test_a_toy_run_leaves_what_is_given():
    toy = lasi_ablation.resolved(lasi_ablation.Config(toy=True, sides=(24,)))
    assert (toy.sizes, toy.sides, toy.squares) == ((1, 10), (24,), 1)


def test_a_run_leaves_a_report_with_a_picture(folder, content):
    report = folder / "run" / "report"
    assert json.loads((report / "results.json").read_text("utf-8")) == content
    names = {path.name for path in report.iterdir()}
    assert names == {"lasi_ablation.png", "results.json", "results.md"}
    assert (report / "lasi_ablation.png").stat().st_size > 10_000
    assert "2 squares of scikit-image's photographs, 20 distortions; 8 variants" in content["data"]
    header, _, text = cells(folder)
    assert content["command"] in text and str(folder) not in text
    assert "2AFC" not in header


def test_the_table_has_a_row_a_variant_and_the_base_in_bold(folder, content):
    _, rows, _ = cells(folder)
    bold = [row for row in rows if row[0].startswith("**")]
    base = ["**2**", "**causal**", "**0.8**", "**0.627**", "**none**", "**16**"]
    assert [row[:6] for row in bold] == [base]
    assert content["base"] == {**BASE._asdict(), "side": 16}
    expected = [
        ("1", "causal", "0.8", "0.627", "none"),
        ("**2**", "**causal**", "**0.8**", "**0.627**", "**none**"),
        ("1", "two-sided", "0.8", "0.627", "none"),
        ("2", "two-sided", "0.8", "0.627", "none"),
        ("2", "causal", "0.5", "0.627", "none"),
        ("2", "causal", "0.8", "1", "none"),
        ("2", "causal", "0.8", "0.627", "prior"),
        ("2", "causal", "0.8", "0.627", "shift by 2"),
    ]
    assert [tuple(row[:5]) for row in rows] == expected
    assert [row["neighborhood_size"] for row in content["rows"]] == [1, 2, 1, 2, 2, 2, 2, 2]


def test_noise_at_middle_grey_and_likeness(folder, content):
    by_remedy = {row["remedy"]: row for row in content["rows"] if variant_of(row)[:4] == BASE[:4]}
    released, *remedied = (by_remedy[name] for name in ("none", "prior", "shift by 2"))
    assert released["noise_at_128"] > 10.0 * released["noise_at_64"] > 0.0
    assert all(row["noise_at_128"] < 2.0 * row["noise_at_64"] for row in remedied)
    assert released["likeness"] == pytest.approx(1.0)
    for row in content["rows"]:
        of_both = (measured(folder, variant) for variant in (variant_of(row), BASE))
        assert row["likeness"] == pytest.approx(scipy.stats.spearmanr(*of_both).statistic)
    assert ablation.likeness(np.ones(3), np.arange(3.0)) is None


def test_pairs_are_a_reference_and_each_kind_at_each_level(pairs):
    references, distorted = (images.astype(float) for images in pairs)
    assert distorted.shape == (2 * len(KINDS) * graded_squares.LEVELS, 16, 16, 3)
    assert (references[:10] == references[0]).all() and (references[10:] == references[10]).all()
    error = np.square(distorted - references).mean((1, 2, 3)).reshape(-1, graded_squares.LEVELS)
    assert (error[:, -1] > error[:, 0]).all() and (error > 0.0).all()


def test_lower_resolutions_are_of_the_same_squares():
    with small():
        found = lasi_ablation.graded(lasi_ablation.Config(sides=(16, 24), squares=2))
    assert {side: of.references.shape for side, of in found.items()} == {
        side: (4, side, side, 3) for side in (16, 24)
    }
    assert len(found[16]) == len(found[24]) == 4 * len(KINDS) * graded_squares.LEVELS
    mean = {side: of.references.mean((1, 2, 3)) for side, of in found.items()}
    np.testing.assert_allclose(mean[16], mean[24], atol=4.0)
    corner = photographs.bundled("astronaut")[100:132, 90:120]
    np.testing.assert_array_equal(found[24].references[0], corner[:24, :24])


def test_causal_distances_are_lasis(folder, content, pairs):
    """The base is the package's default but for N; the others are from code of their own."""
    lasi = functools.partial(lasi_jax.distance, neighborhood_size=BASE.neighborhood_size)
    expected = jax.jit(jax.vmap(lasi))(*pairs)
    np.testing.assert_allclose(measured(folder, BASE), expected, atol=1e-6)
    for variant in map(variant_of, content["rows"]):
        first = measured(folder, variant)[:3]
        for found, x, y in zip(first, *pairs, strict=False):
            other = ablated_lasi.measure(x, y, variant=variant).distance
            np.testing.assert_allclose(found, other, atol=1e-6)


def test_tau_is_scipys(folder, content):
    levels = np.arange(graded_squares.LEVELS)
    for row in content["rows"]:
        distances = measured(folder, variant_of(row)).reshape(-1, graded_squares.LEVELS)
        taus = [scipy.stats.kendalltau(of, levels)[0] for of in distances]
        taus = np.nan_to_num(taus)  # distances that are all equal order nothing
        assert row["within"]["mean"] == pytest.approx(np.mean(taus))
        assert row["within"]["low"] is None  # of two photographs there is no interval
        assert -1.0 <= row["across"]["mean"] <= 1.0


def test_least_squares_gets_better_with_n_and_times_are_positive(content):
    for kind in ("causal", "two-sided"):
        one, two = [row for row in content["rows"] if row["neighborhood"] == kind][:2]
        assert 0.0 < two["loss"] < one["loss"]
        assert 0.0 < two["prediction_error"] < one["prediction_error"]
    for row in content["rows"]:
        assert row["milliseconds"] > 0.0 and row["times_base"] > 0.0


def test_stopped_in_between_it_measures_what_is_missing(folder, content, tmp_path):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(run / "report")
    place = run / "variants" / lasi_ablation.name_of(Variant(1, "two-sided"), 16)
    shutil.rmtree(place / "severity")
    (place / "regression.json").unlink()
    computed, cell = [], cell_files.cell

    def counted(path, compute):
        computed.extend([] if path.exists() else [path])
        return cell(path, compute)

    with small() as patch:
        patch.setattr(cell_files, "cell", counted)
        assert lasi_ablation.run(config(folder, output=run)) == content
    assert computed == [place / "severity" / "000000.json", place / "regression.json"]


def test_the_same_command_shows_it_again(folder, content, capsys):
    with small():
        assert lasi_ablation.run(config(folder)) == content
        assert "complete: " in capsys.readouterr().out
        with pytest.raises(ValueError, match=r"has squares = 1, now it is 2"):
            lasi_ablation.run(config(folder, squares=2))


def write_bapps(root):
    """As BAPPS was published: one of both patches is the reference, the other one is noise."""
    rng = np.random.default_rng(0)
    for subset, judgements in JUDGEMENTS.items():
        place = root / "2afc" / "val" / subset
        for part in ("ref", "p0", "p1", "judge"):
            (place / part).mkdir(parents=True)
        for item, judgement in enumerate(judgements):
            reference = np.full((64, 64, 3), 90 + item, np.uint8)
            noise = rng.integers(0, 256, reference.shape, np.uint8)
            for part in ("ref", "p0", "p1"):
                image = reference if part in ("ref", COPY[subset]) else noise
                Image.fromarray(image).save(place / part / f"{item:06d}.png")
            np.save(place / "judge" / f"{item:06d}.npy", np.array([judgement], np.float32))


@pytest.mark.slow
def test_bapps_gives_a_column(tmp_path):
    """At whatever side the images of the order are: the patches have their own."""
    write_bapps(tmp_path / "bapps")
    options = {"sizes": (2,), "decays": (), "ridges": (), "remedies": (), "limit": 2}
    options |= {"bapps": tmp_path / "bapps", "datasets": tmp_path / "datasets"}
    with small():
        content = lasi_ablation.run(config(tmp_path, **options))
    header, rows, text = cells(tmp_path)
    column = header.index("2AFC")
    assert len(rows) == 2 and all(row[column].startswith(f"{SCORE:.1f} [") for row in rows)
    assert "BAPPS, at most 2 triplets of each of 2 subsets, 64 pixels a side" in text
    assert str(tmp_path) not in text
    for row in content["rows"]:
        assert row["two_afc"]["mean"] == pytest.approx(SCORE)
        place = tmp_path / "run" / "variants" / lasi_ablation.name_of(variant_of(row), 16)
        parts = {path.parent.name: json.loads(path.read_text()) for path in place.glob("2afc/*/*")}
        assert {name: np.shape(part["distances"]) for name, part in parts.items()} == {
            "traditional": (2, 2),
            "cnn": (2, 2),
        }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (0, 1)}, "sizes must be at least 1, got 0"),
        ({"sizes": (1, 25)}, "sizes must be at most 24, got 25"),
        ({"sizes": ()}, "sizes must be at least one and all different"),
        ({"sizes": (2, 2)}, "sizes must be at least one and all different"),
        ({"sides": (15,)}, "sides must be at least 16, got 15"),
        ({"sides": (16, 16)}, "sides must be at least one and all different"),
        ({"sides": (40,)}, "photographs must be at least size = 40 pixels a side"),
        ({"decays": (0.5, 1.0)}, "decays must lie between 0 and 1, got 1.0"),
        ({"decays": (0.0,)}, "decays must lie between 0 and 1, got 0.0"),
        ({"decays": (math.nan,)}, "decays must lie between 0 and 1, got nan"),
        ({"remedies": ("hope",)}, "remedies must be among none, prior, .* got 'hope'"),
        ({"ridges": (0.0,)}, "ridges must be positive, got 0.0"),
        ({"ridges": (math.inf,)}, "ridges must be positive, got inf"),
        ({"ridges": (math.nan,)}, "ridges must be positive, got nan"),
        ({"squares": 0}, "squares must be at least 1, got 0"),
        ({"squares": 5}, "squares must be at most 4, got 5"),
        ({"limit": 1}, "limit must be at least 2, got 1"),
        ({"num_resamples": 0}, "num_resamples must be at least 1, got 0"),
        ({"seed": -1}, "seed must lie in 0"),
        ({"bapps": Path("nowhere")}, "bapps must be a folder that holds"),
    ],
)
def test_bad_options_are_one_error_before_any_work(tmp_path, options, message):
    with small(), pytest.raises(ValueError, match=message):
        lasi_ablation.run(config(tmp_path, **options))
    assert not (tmp_path / "run").exists()
