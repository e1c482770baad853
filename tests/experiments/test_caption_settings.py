import json
import shutil

import numpy as np
import pytest

from experiments import caption_settings
from experiments.captions import digit_trials
from experiments.captions import training as caption_training
from experiments.captions.methods import METHODS, Settings
from experiments.captions.retrieval import Outcome
from experiments.captions.training import Training, settings_of
from experiments.data import captioned_digits
from experiments.runs import training

trials = caption_settings.trials
SMALL = {"dimension": 4, "width": 8, "batch_size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, datasets):
    folder = tmp_path_factory.mktemp("caption_settings")
    (folder / "datasets").symlink_to(datasets)
    return folder


@pytest.fixture(scope="module")
def config(folder):
    """Three trials of one small model."""
    patch = pytest.MonkeyPatch()
    patch.setattr(caption_settings, "Training", lambda **options: Training(**SMALL, **options))
    patch.setattr(digit_trials, "CHANNELS", (2, 3))
    few = [Settings(rate) for rate in (1e-3, 2e-3, 4e-3)]
    patch.setattr(caption_settings, "trials", lambda _, found: [] if found else few)
    yield caption_settings.Config(
        methods=("siglip",), num_steps=3, datasets=folder / "datasets", output=folder / "run"
    )
    patch.undo()


@pytest.fixture(scope="module", params=[pytest.param("whole run", marks=pytest.mark.slow)])
def content(config):
    return caption_settings.run(config)


def test_every_trial_is_judged_and_the_best_is_chosen(folder, content):
    assert [row["learning_rate"] for row in content["trials"]] == [1e-3, 2e-3, 4e-3]
    for row in content["trials"]:
        assert row["sum"] == pytest.approx(row["R-Precision"] + row["Spearman"])
    (chosen,) = content["chosen"]
    assert chosen["sum"] == max(row["sum"] for row in content["trials"])
    text = (folder / "run" / "report" / "results.md").read_text()
    assert text.count("chosen |") == 1 and content["command"] in text and str(folder) not in text


def test_stopped_in_between_it_ends_with_the_same_numbers(config, content):
    shutil.rmtree(config.output / "report")
    (config.output / "siglip-0.002-0" / "judged.json").unlink()
    assert caption_settings.run(config) == content
    assert json.loads((config.output / "report" / "results.json").read_text()) == content


def test_a_training_that_diverges_is_a_trial_like_others(config, content, monkeypatch):
    def diverge(options, settings, *rest):
        if settings.learning_rate == 2e-3:
            raise training.NotFiniteError("siglip, step 3: loss must be finite, got nan")
        return whole(options, settings, *rest)

    whole = caption_training.train
    monkeypatch.setattr(caption_training, "train", diverge)
    shutil.rmtree(config.output / "report")
    (config.output / "siglip-0.002-0" / "judged.json").unlink()
    found = caption_settings.run(config)
    (config.output / "siglip-0.002-0" / "judged.json").unlink()
    assert [row["sum"] is None for row in found["trials"]] == [False, True, False]
    assert found["chosen"][0] in (content["trials"][0], content["trials"][2])


def test_weights_come_first_and_rates_of_the_best_then():
    tried, found = [], []
    while following := trials("pcme", found):
        tried += following
        found += [{**s._asdict(), "sum": -abs(np.log(s.weight / 0.005))} for s in following]
    assert [s.weight for s in tried] == [1e-4, 1e-3, 5e-3, 2e-2, 8e-2, 5e-3, 5e-3]
    assert [s.learning_rate for s in tried] == [1e-3] * 5 + [5e-4, 2e-3]


def test_every_method_has_the_same_budget():
    for method in METHODS:
        found = []
        while following := trials(method, found):
            found += [{**settings._asdict(), "sum": 0.0} for settings in following]
        assert len(found) == len({(row["learning_rate"], row["weight"]) for row in found}) == 7


def test_defaults_are_among_what_was_tried():
    for name, method in METHODS.items():
        settings, weights = method.settings, caption_settings._WEIGHTS.get(method.weighs, (0.0,))
        rates = {1e-3, *caption_settings._OTHER_RATES, *caption_settings._RATES}
        assert settings.weight in weights and settings.learning_rate in rates, name


def test_an_uncertainty_that_never_varies_counts_as_none(folder, config):
    splits = captioned_digits.load("sklearn", folder / "datasets", held_out=True)
    trial = digit_trials.make_trial(splits["test_unseen"])

    same = np.zeros(len(trial.captions))
    outcome = Outcome(
        np.zeros((len(trial.images), len(trial.captions))),
        {"caption": {"R-Precision": same + 0.25}},
        {"caption": {"minus best score": same}},
        None,
    )
    judged = caption_settings.judge(outcome, trial, "siglip")
    assert judged == {"R-Precision": 0.25, "Spearman": 0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ()}, "methods must be at least one and all different"),
        ({"methods": ("x",)}, "methods must be among"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"seed": -1}, "seeds must lie in"),
    ],
)
def test_bad_options_are_one_error_before_any_work(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        caption_settings.run(caption_settings.Config(output=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_settings_override_only_where_they_are_given():
    given = Training(bottleneck_weight=0.5)
    assert settings_of(given, "pcme") == METHODS["pcme"].settings._replace(weight=0.5)
    assert settings_of(given, "triplet") == METHODS["triplet"].settings
    given = Training(learning_rate=0.1)
    assert settings_of(given, "siglip") == Settings(0.1)


def test_weights_are_told_of_methods_that_have_one(content):
    row = content["trials"][0]
    rows = [{**row, "method": method, "weight": 0.125} for method in ("pcmepp", "siglip")]
    text = caption_settings._text({**content, "trials": rows})
    assert "| pcmepp | 0.001 | 0.125 |" in text and "| siglip | 0.001 |  |" in text
