import itertools
import json
import shutil

import numpy as np
import pytest

from experiments import model_selection
from experiments.adapters import picking
from experiments.adapters.adapted_encoder import METRICS
from experiments.adapters.evaluation import OWN
from experiments.adapters.model_selection_page import verdict
from experiments.adapters.picking import (
    ALL,
    BOTH,
    OTHERS,
    PER_SPREAD,
    PLAIN,
    RANDOM,
    RELATIVE,
    RIVALS,
)
from experiments.data import captioned_digits
from experiments.reports import tables
from tests.experiments.few_digits import some_of_every_split

OPTIONS = {
    "seeds": (3,),
    "domains": ("plain", "inverted", "fonts"),
    "dimension": 4,
    "hidden": (4,),
    "encoder_steps": 2,
    "adapter_steps": 1,
    "num_members": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, datasets, module_patch):
    splits = some_of_every_split(datasets)
    module_patch.setattr(captioned_digits, "load", lambda *_: splits)
    return tmp_path_factory.mktemp("model_selection")


def config(folder, **options):
    options = {"datasets": folder / "datasets", "output": folder / "run", **OPTIONS, **options}
    return model_selection.Config(**options)


@pytest.fixture(scope="module", params=[pytest.param("whole run", marks=pytest.mark.slow)])
def content(folder):
    return model_selection.run(config(folder))


def test_a_run_leaves_a_report_with_a_picture(folder, content):
    report = folder / "run" / "report"
    assert json.loads((report / "results.json").read_text()) == content
    names = {path.name for path in report.iterdir()}
    assert names == {"model_selection.png", "results.json", "results.md"}
    assert (report / "model_selection.png").stat().st_size > 10_000
    text = (report / "results.md").read_text()
    assert content["command"] in text and "answer" not in content
    assert str(folder) not in text
    criteria = {row["criterion"] for row in content["selection"]}
    assert {RANDOM, OWN, BOTH, *RIVALS} <= criteria
    assert len(content["levels"]) == 9


def test_captions_add_a_constant_of_the_source(folder, content):
    for path in (folder / "run" / "cells").iterdir():
        targets = json.loads(path.read_text())["targets"].values()
        added = [found["criteria"][BOTH] - found["criteria"][OWN] for found in targets]
        np.testing.assert_allclose(added, added[0], rtol=1e-5)


def test_stopped_in_between_it_ends_with_the_same_numbers(folder, content, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "report")
    (tmp_path / "run" / "cells" / "fonts-3.json").unlink()
    shutil.rmtree(tmp_path / "run" / "sources" / "fonts-3" / "runs" / "probvlm")
    assert model_selection.run(config(folder, output=tmp_path / "run")) == content


def test_the_same_command_shows_it_again(folder, content, capsys):
    assert model_selection.run(config(folder)) == content
    assert "complete: " in capsys.readouterr().out


def recalls(values):
    return dict.fromkeys(METRICS, np.asarray(values, float)[None])


RECALL = [[0.9, 0.2, 0.3], [0.1, 0.8, 0.5], [0.4, 0.3, 0.7]]  # source, target


def test_the_lowest_criterion_is_picked_and_its_regret_counted():
    uncertainty = -np.array([RECALL])
    right = picking.picks(uncertainty, recalls(RECALL), ALL)
    assert right["hit"] == [1.0] and right["kendall"] == [1.0] == right["spearman"]
    assert right["regret of R-Precision"] == [0.0]
    wrong = picking.picks(-uncertainty, recalls(RECALL), ALL)
    assert wrong["hit"] == [0.0] and wrong["kendall"] == [-1.0]
    # picked: sources 1, 0, 0
    assert wrong["regret of R-Precision"] == pytest.approx([(0.8 + 0.6 + 0.4) / 3])


def test_without_the_own_source_others_compete():
    constant = np.array([[[1.0] * 3, [2.0] * 3, [0.0] * 3]])  # source 2 is always the lowest
    found = picking.picks(constant, recalls(RECALL), OTHERS)
    # targets 0, 1, 2 have the best others 2, 2, 1; target 2 is left with 0, its second
    assert found["hit"] == pytest.approx([2 / 3])
    assert found["regret of R-Precision"] == pytest.approx([(0.5 - 0.3) / 3])


def test_at_random_the_regret_is_an_expectation():
    found = picking.picks(None, recalls(RECALL), ALL)
    best, mean = np.max(RECALL, 0), np.mean(RECALL, 0)
    assert found["hit"] == pytest.approx([1 / 3])
    assert found["regret of R-Precision"] == pytest.approx([np.mean(best - mean)])


def test_relative_criteria_do_not_know_the_scale_of_a_source():
    random = np.random.default_rng(0)
    values, scale = random.normal(size=(2, 3, 3)), random.normal(size=(2, 3, 1))
    found = picking.relative(values + scale)
    np.testing.assert_allclose(found, picking.relative(values), atol=1e-12)
    np.testing.assert_allclose(np.diagonal(found, axis1=1, axis2=2), 0.0)


def made_up(sign, scale, seeds=(0, 1, 2)):
    """Cells where total uncertainty is sign * recall, on a scale of its own in every source."""
    names = "a", "b", "c"
    cells = []
    for seed, source in itertools.product(seeds, range(3)):
        targets = {}
        for target, name in enumerate(names):
            recall = RECALL[source][target] + 0.001 * seed
            criteria = {RIVALS[0]: 1.0 - recall, RIVALS[1]: recall, RIVALS[2]: 0.5}
            criteria[OWN] = sign * recall + scale * source
            criteria[BOTH] = 2.0 * criteria[OWN]
            targets[name] = {"retrieval": dict.fromkeys(METRICS, recall), "criteria": criteria}
        spread = scale * source
        cells.append(
            {"source": names[source], "seed": seed, "targets": targets, "log_spread": spread}
        )
    return {name: tables.records(frame) for name, frame in picking.numbers(cells).items()}


def row(content, criterion, form, candidates):
    return next(
        r
        for r in content["selection"]
        if (r["criterion"], r["form"], r["candidates"]) == (criterion, form, candidates)
    )


def scale(content, criterion, form):
    return tables.find(content["scales"], criterion=criterion, form=form)


def test_uncertainty_that_follows_recall_picks_the_best():
    content = made_up(-1.0, 0.0)
    found = row(content, OWN, PLAIN, ALL)
    assert found["hit"]["mean"] == 1.0 and found["hit"]["low"] >= 0.9
    assert verdict(found["saved"]) == "better than at random"
    of = scale(content, OWN, PLAIN)
    assert 2.0 * of["between sources"]["mean"] < of["rise"]["mean"]  # sources can be compared
    assert row(content, RIVALS[0], PLAIN, OTHERS)["regret of R-Precision"]["mean"] == 0.0


def test_uncertainty_against_recall_picks_the_worst():
    saved = row(made_up(1.0, 0.0), OWN, PLAIN, ALL)["saved"]
    assert saved["high"] < 0.0 and verdict(saved) == "worse than at random"


def test_scales_can_hide_it():
    content = made_up(-1.0, 10.0)
    found = row(content, OWN, PLAIN, ALL)
    assert found["hit"]["mean"] == pytest.approx(1 / 3)
    assert verdict(found["saved"]) == "no better than at random, within the interval"
    for criterion, form in itertools.product((OWN, BOTH), (RELATIVE, PER_SPREAD)):
        assert row(content, criterion, form, ALL)["hit"]["mean"] == 1.0
    of = scale(content, OWN, PLAIN)
    assert of["between seeds"] == pytest.approx(0.001)
    assert of["between sources"]["mean"] == pytest.approx(10.0, abs=0.2)
    assert 2.0 * of["between sources"]["mean"] > of["rise"]["mean"]


def test_one_seed_says_nothing():
    found = made_up(-1.0, 0.0, seeds=(0,))
    saved = row(found, OWN, PLAIN, ALL)["saved"]
    assert verdict(saved) == "too few seeds, which say nothing of chance"
    assert scale(found, OWN, PLAIN)["between seeds"] is None


def test_other_options_are_another_run(folder, content):
    with pytest.raises(ValueError, match=r"has adapter_steps = 1, now it is 3"):
        model_selection.run(config(folder, adapter_steps=3))

    def name(**options):
        given = model_selection.Config(**options)
        return model_selection.QUESTION.folder(given, model_selection.options_of(given)).name

    assert name() == name(datasets="elsewhere") != name(seeds=(0,))
    assert name(toy=True).startswith("model_selection-toy-")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ("plain", "plain", "fonts")}, "domains must be .*all different"),
        ({"domains": ("plain", "x", "fonts")}, "domains must be among .*got 'x'"),
        ({"domains": ("plain", "fonts")}, "domains must be three at least"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
        ({"adapter_steps": 0}, "adapter_steps must be at least 1, got 0"),
        ({"method": "pfe"}, "method must be one of .*got 'pfe'"),
        ({"hidden": (0,)}, "hidden must be at least 1, got 0"),
        ({"seeds": (-1,)}, r"seeds must lie in 0..2\^32 - 1, got -1"),
    ],
)
def test_bad_options_are_one_error_before_any_work(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        model_selection.run(config(folder, output=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()
