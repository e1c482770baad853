import itertools
import json
import shutil

import numpy as np
import pytest

from experiments import digit_captions, runs
from experiments.captions import digit_trials, evaluation
from experiments.data import captioned_digits
from experiments.uncertainty.baselines import BASELINES, Baseline

OPTIONS = {
    "methods": ("pcmepp", "triplet"),
    "seeds": (0, 1),
    "dimension": 4,
    "channels": (2, 3),
    "width": 8,
    "num_steps": 4,
    "batch_size": 8,
    "num_resamples": 100,
    "checkpoint_every": 2,
    "log_every": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, datasets):
    folder = tmp_path_factory.mktemp("digit_captions")
    (folder / "datasets").symlink_to(datasets)
    return folder


def config(folder, **options):
    options = {"datasets": folder / "datasets", "output": folder / "run", **OPTIONS, **options}
    return digit_captions.Config(**options)


@pytest.fixture(scope="module")
def with_a_baseline():
    """One more row of the table of baselines: the worst score of a query."""
    patch = pytest.MonkeyPatch()
    patch.setitem(BASELINES, "worst score", Baseline(lambda scores: scores.min(1), ("scores",)))
    yield
    patch.undo()


@pytest.fixture(scope="module", params=[pytest.param("whole run", marks=pytest.mark.slow)])
def content(folder, with_a_baseline):
    return digit_captions.run(config(folder))


def test_a_run_leaves_a_report_with_pictures(folder, content):
    report = folder / "run" / "report"
    assert json.loads((report / "results.json").read_text()) == content
    names = {path.name for path in report.iterdir()}
    pictures = {
        *("ambiguity.png", "image_ambiguity.png", "rejection.png", "reliability.png"),
        *("nearest.png", "inclusion.png"),
    }
    assert names == pictures | {"results.json", "results.md"}
    assert all((report / name).stat().st_size > 10_000 for name in pictures)
    assert content["splits"] == ["test_seen", "test_unseen"]
    assert {row["method"] for row in content["performance"]} == {
        "pcmepp",
        "triplet",
        "known probability",
    }
    text = (report / "results.md").read_text()
    assert content["command"] in text
    assert str(folder) not in text


def test_a_baseline_of_one_row_is_in_the_report(content):
    rows = [row for row in content["uncertainty"] if row["measure"] == "worst score"]
    found = [(row["method"], row["split"], row["side"]) for row in rows]
    methods, sides = OPTIONS["methods"], ("image", "caption")
    assert set(found) == set(itertools.product(methods, content["splits"], sides))


def test_the_same_command_shows_it_again(folder, content, capsys):
    assert digit_captions.run(config(folder)) == content
    assert "complete: " in capsys.readouterr().out


def test_stopped_in_between_it_ends_with_the_same_numbers(folder, content, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "report")
    assert not (tmp_path / "run" / "outcomes").exists()
    for run in (tmp_path / "run" / "runs").iterdir():
        shutil.rmtree(run / "checkpoints" / "4")
    again = digit_captions.run(config(folder, output=tmp_path / "run"))
    # Only what is measured may differ, and nothing here is.
    assert again == content


def test_other_options_are_another_run(folder, content):
    with pytest.raises(ValueError, match=r"has dimension = 4, now it is 5"):
        digit_captions.run(config(folder, dimension=5))

    def name(**options):
        given = digit_captions.resolved(digit_captions.Config(**options))
        return digit_captions.QUESTION.folder(given, digit_captions.options_of(given))

    assert name() == name(checkpoint_every=7) != name(matches="all")
    assert name(toy=True).name.startswith("digit_captions-sklearn-toy-")


def test_the_command_hides_where_things_lie(tmp_path):
    given = digit_captions.Config(mnist=tmp_path, methods=("pcme", "meru"), output=tmp_path)
    command = runs.command("m", given, files=("mnist",), hidden=("output",))
    assert command == "python -m m --methods pcme meru --mnist FOLDER"


def test_a_trial_holds_what_the_split_knows(folder, content):
    split = captioned_digits.load("sklearn", folder / "datasets")["test_unseen"]
    trial = digit_trials.make_trial(split)
    np.testing.assert_array_equal(trial.positives, split.positives)
    assert trial.truth.ambiguity["caption"].shape == (len(split.captions),)
    narrow, wide = (split.denotations[ids] for ids in (trial.truth.narrow, trial.truth.wide))
    np.testing.assert_array_equal((narrow & ~wide).sum(1) == 0, trial.truth.implied)
    assert (trial.texts[:, -1] == 0).any() and trial.texts.max() < len(digit_trials.VOCABULARY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ()}, "methods must be at least one and all different"),
        ({"methods": ("x",)}, "methods must be among .*got 'x'"),
        ({"matches": "none"}, "matches must be one of .*got 'none'"),
        ({"dimension": 1}, "dimension must be at least 2, got 1"),
        ({"seeds": (1, 1)}, "seeds must be at least one and all different"),
        ({"seeds": (-1,)}, r"seeds must lie in 0..2\^32 - 1, got -1"),
        ({"channels": (0, 3)}, "channels must be at least 1, got 0"),
        ({"width": 6}, "width must be a positive multiple of 4, got 6"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"batch_size": 6001}, r"batch_size must lie in 2..6000"),
        ({"num_resamples": 99}, "num_resamples must be at least 100, got 99"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
        ({"bottleneck_weight": -1.0}, "bottleneck_weight must not be negative, got -1"),
        ({"source": "sklearn", "mnist": "here"}, "source sklearn takes no mnist"),
        ({"mnist": "nowhere"}, "mnist must be a folder"),
    ],
)
def test_bad_options_are_one_error_before_any_work(folder, tmp_path, options, message):
    if "mnist" in options:
        options = {**options, "mnist": tmp_path / options["mnist"]}
    with pytest.raises(ValueError, match=message):
        digit_captions.run(config(folder, output=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_what_was_evaluated_is_not_evaluated_again(folder, content, tmp_path, monkeypatch):
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "report")
    asked, whole = [], evaluation.evaluate

    def stopped(*of):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(of)
        return whole(*of)

    again = config(folder, output=tmp_path / "run")
    monkeypatch.setattr(evaluation, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        digit_captions.run(again)
    assert len(list((tmp_path / "run" / "outcomes").iterdir())) == 3
    monkeypatch.setattr(evaluation, "evaluate", lambda *of: asked.append(of) or whole(*of))
    assert digit_captions.run(again) == content
    assert len(asked) == 8  # two methods, two seeds, two splits
