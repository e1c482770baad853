import itertools
import json
import shutil

import numpy as np
import pytest

from experiments import active_learning, runs
from experiments.adapters import active_learning_numbers, choosing
from experiments.adapters.active_learning_page import verdict
from experiments.adapters.choosing import (
    EPISTEMIC,
    RANDOM,
    START,
    STRATEGIES,
    UNCERTAIN,
    WHOLE,
    order,
)
from experiments.adapters.evaluation import OWN
from experiments.data import captioned_digits
from experiments.reports import tables
from tests.experiments.few_digits import some_of_every_split

OPTIONS = {
    "seeds": (3,),
    "shifts": ("inverted",),
    "budgets": (4, 9),
    "dimension": 4,
    "hidden": (4,),
    "encoder_steps": 2,
    "adapter_steps": 2,
    "num_members": 2,
    "tuning_steps": 2,
    "tuning_batch": 8,
}
MEASURES = {
    OWN: np.array([0.2, 0.9, -1.0, 0.9, 0.5]),
    EPISTEMIC: np.array([5.0, 1.0, 4.0, 2.0, 3.0]),
    "minus best cosine": -np.array([0.1, 0.2, 0.0, 0.4, 0.3]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, datasets, module_patch):
    splits = some_of_every_split(datasets)
    module_patch.setattr(captioned_digits, "load", lambda *_: splits)
    return tmp_path_factory.mktemp("active_learning")


def config(folder, **options):
    options = {"datasets": folder / "datasets", "output": folder / "run", **OPTIONS, **options}
    return active_learning.Config(**options)


@pytest.fixture(scope="module", params=[pytest.param("whole run", marks=pytest.mark.slow)])
def content(folder):
    return active_learning.run(config(folder))


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("most uncertain", [1, 3, 4, 0, 2]),
        ("least uncertain", [2, 0, 4, 1, 3]),
        ("most epistemic", [0, 2, 4, 3, 1]),
        ("least cosine", [2, 0, 1, 4, 3]),
    ],
)
def test_images_are_chosen_by_what_the_strategy_says(strategy, expected):
    assert order(strategy, MEASURES, seed=0).tolist() == expected


def test_random_choices_are_a_function_of_the_seed_alone():
    one, same, other = (
        order("random", {OWN: values}, seed=seed)
        for values, seed in ((MEASURES[OWN], 3), (-MEASURES[OWN], 3), (MEASURES[OWN], 4))
    )
    assert one.tolist() == same.tolist() != other.tolist()
    assert sorted(one) == list(range(5))


def test_what_is_chosen_is_described():
    split = captioned_digits.Captioned(
        np.array([[[1]], [[2]], [[3]]], np.uint8),
        np.array([120, 120, 7]),
        np.array([[True, False, False], [False] * 3, [False] * 3]),
        ("some number",),
        np.zeros((0, 2), np.int64),
    )
    before = np.array([[[1]], [[9]], [[9]]], np.uint8)
    found = choosing.describe(split, before, np.array([0, 1]))
    expected = {"ambiguity": np.log(10) / 2, "numbers": 0.5, "shifted": 0.5}
    assert found == pytest.approx(expected)


def test_some_of_a_split_keeps_who_wrote_what(folder):
    split = captioned_digits.load("sklearn", folder)["test_seen"]
    some = active_learning.some_of(split, np.array([7, 3]))
    np.testing.assert_array_equal(some.images, split.images[[7, 3]])
    kept = np.array([split.captions.index(caption) for caption in some.captions])
    assert kept.tolist() == np.flatnonzero(split.annotated[[7, 3]].any(0)).tolist()
    np.testing.assert_array_equal(some.annotated, split.annotated[[7, 3]][:, kept])
    np.testing.assert_array_equal(some.positives, split.positives[[7, 3]][:, kept])


def test_a_run_leaves_a_report_with_a_picture(folder, content):
    report = folder / "run" / "report"
    assert json.loads((report / "results.json").read_text()) == content
    names = {path.name for path in report.iterdir()}
    assert names == {"active_learning.png", "results.json", "results.md"}
    assert (report / "active_learning.png").stat().st_size > 10_000
    text = (report / "results.md").read_text()
    assert content["command"] in text and "answer" not in content
    assert str(folder) not in text


def test_all_have_equal_budgets_and_none_changes_the_start(folder, content):
    rows = [(row["strategy"], row["budget"]) for row in content["curves"]]
    wanted = [*itertools.product(STRATEGIES, (4, 9))]
    assert rows == [(START, 0), *wanted, (WHOLE, 100)]
    cells = [json.loads(path.read_text()) for path in (folder / "run" / "cells").iterdir()]
    assert len(cells) == len(rows)
    picked = {(row["strategy"], row["budget"]): row["numbers"] for row in content["chosen"]}
    for (_, budget), shares in picked.items():  # a share of so many images, no more and no less
        counts = np.asarray(shares["seeds"]) * budget
        np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
    start = next(row for row in content["curves"] if row["strategy"] == START)
    assert all(
        row["plain"]["seeds"] != start["plain"]["seeds"]
        for row in content["curves"]
        if row["strategy"] != START
    )


def test_stopped_in_between_it_ends_with_the_same_numbers(folder, content, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "report")
    shutil.rmtree(tmp_path / "run" / "encoders" / "3" / "runs" / "probvlm")
    for path in (tmp_path / "run" / "cells").glob("*-9-3.json"):
        path.unlink()
    assert active_learning.run(config(folder, output=tmp_path / "run")) == content


def test_a_damaged_cell_is_named(folder, content, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "report")
    (tmp_path / "run" / "cells" / "inverted-random-4-3.json").write_text("{")
    with pytest.raises(ValueError, match=r"inverted-random-4-3.json is damaged .*delete it"):
        active_learning.run(config(folder, output=tmp_path / "run"))


def test_the_same_command_shows_it_again(folder, content, capsys):
    assert active_learning.run(config(folder)) == content
    assert "complete: " in capsys.readouterr().out


def made_up(advantage, seeds=(0, 1, 2)):
    """Cells where the most uncertain are so much better than random ones, all else alike."""
    cells = []
    wanted = [(START, 0), *itertools.product(STRATEGIES, (4, 9)), (WHOLE, 20)]
    for seed, shift, (strategy, budget) in itertools.product(seeds, ("a", "b"), wanted):
        value = 0.3 + 0.01 * seed + 0.001 * budget
        value += (advantage + 0.001 * seed) * (strategy == UNCERTAIN)
        of = dict.fromkeys(active_learning_numbers.NAMES, value)
        chosen = {"ambiguity": 1.0, "numbers": 0.5, "shifted": 1.0}
        cells.append(
            {
                "shift": shift,
                "strategy": strategy,
                "budget": budget,
                "seed": seed,
                "shifted": of,
                "plain": of,
                "chosen": chosen if budget else None,
            }
        )
    found = active_learning_numbers.numbers(cells)
    return {name: tables.records(frame) for name, frame in found.items()}


@pytest.mark.parametrize(
    ("advantage", "said"),
    [
        (0.05, "better"),
        (-0.05, "worse"),
        (-0.001, "no difference within the interval"),
    ],
)
def test_the_verdict_follows_from_the_numbers(advantage, said):
    content = made_up(advantage)
    row = next(r for r in content["summary"] if r["strategy"] == UNCERTAIN)
    difference = row["difference of R-Precision"]
    assert difference["mean"] == pytest.approx(advantage + 0.001) and verdict(difference) == said
    random = next(r for r in content["summary"] if r["strategy"] == RANDOM)
    assert random["R-Precision"]["mean"] == pytest.approx(0.31 + 0.0065)


def test_one_seed_says_nothing():
    row = next(r for r in made_up(0.05, seeds=(0,))["summary"] if r["strategy"] == UNCERTAIN)
    said = "of too few seeds, which say nothing of chance"
    assert verdict(row["difference of R-Precision"]) == said


def test_other_options_are_another_run(folder, content):
    with pytest.raises(ValueError, match=r"has tuning_steps = 2, now it is 3"):
        active_learning.run(config(folder, tuning_steps=3))

    def name(**options):
        given = active_learning.Config(**options)
        return active_learning.QUESTION.folder(given, active_learning.options_of(given)).name

    assert name() == name(datasets="elsewhere") != name(budgets=(32,))
    assert name(toy=True).startswith("active_learning-toy-")


def test_the_command_hides_where_things_lie(tmp_path):
    given = active_learning.Config(shifts=("fonts", "mixed"), datasets=tmp_path, output=tmp_path)
    command = runs.command("m", given, files=(), hidden=("datasets", "output"))
    assert command == "python -m m --shifts fonts mixed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shifts": ()}, "shifts must be at least one and all different"),
        ({"shifts": ("x",)}, "shifts must be among .*got 'x'"),
        ({"budgets": (9, 9)}, "budgets must be at least one and all different"),
        ({"budgets": (3,)}, "budgets must be at least 4, half of tuning_batch, got 3"),
        ({"budgets": (101,)}, "budgets must be at most 100, the images of the pool, got 101"),
        ({"tuning_batch": 7}, "tuning_batch must be even, got 7"),
        ({"tuning_rate": 0.0}, "tuning_rate must be positive, got 0.0"),
        ({"tuning_steps": 0}, "tuning_steps must be at least 1, got 0"),
        ({"seeds": (1, 1)}, "seeds must be at least one and all different"),
        ({"hidden": ()}, "hidden must be one length at least, got none"),
        ({"dimension": 1}, "dimension must be at least 2, got 1"),
        ({"num_members": 1}, "num_members must be at least 2, got 1"),
        ({"encoder_steps": 0}, "encoder_steps must be at least 1, got 0"),
    ],
)
def test_bad_options_are_one_error_before_any_work(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        active_learning.run(config(folder, output=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()
