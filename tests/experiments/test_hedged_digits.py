import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from PIL import Image

from experiments import hedged_digits, runs
from experiments.runs import checkpoints, files

TINY = {
    "num_steps": 120,
    "channels": (4, 4),
    "quadruples": 4,
    "checkpoint_every": 20,
    "log_every": 10,
    "num_queries": 150,
    "num_pairs": 200,
    "num_resamples": 100,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hedged")


def config(folder, **options):
    options = {"datasets": folder / "datasets", "output": folder / "run", **TINY, **options}
    return hedged_digits.Config(**options)


@pytest.fixture(scope="module", params=[pytest.param("whole run", marks=pytest.mark.slow)])
def content(folder):
    return hedged_digits.run(config(folder, seeds=(0, 1)))


def test_report(folder, content):
    report = folder / "run" / "report"
    assert json.loads((report / "results.json").read_text("utf-8")) == content
    text = (report / "results.md").read_text("utf-8")
    for word in ("scikit-learn's digits", "point", "gaussian", "mixture", "ensemble of points"):
        assert word in text
    pictures = {path.name for path in report.glob("*.png")}
    assert pictures == {
        "embedding.png",
        "rejection.png",
        "reliability.png",
        "uncertainty_gaussian.png",
        "uncertainty_mixture.png",
    }
    for name in pictures:
        with Image.open(report / name) as image:
            assert np.asarray(image.convert("L")).std() > 10
    cells = {(row["split"], row["condition"]) for row in content["performance"]}
    assert len(cells) == 4 and len(content["performance"]) == 16
    assert str(folder) not in text and content["command"].startswith(
        "python -m experiments.hedged_digits --channels 4 4 --seeds 0 1 --num-steps 120"
    )
    assert {row["what"] for row in content["expectations"]} >= {
        "gaussian minus point, corrupt verification (AP)",
        "R-AUROC of eta on corrupt images",
    }


def test_a_complete_run_is_shown_again(folder, content, capsys):
    assert hedged_digits.run(config(folder, seeds=(0, 1))) == content
    assert "complete: " in capsys.readouterr().out


def test_other_options_need_another_folder(folder, content):
    del content
    with pytest.raises(ValueError, match=r"the same options, .*run has dimension = 2, now it is 3"):
        hedged_digits.run(config(folder, seeds=(0, 1), dimension=3))
    other = folder / "other"
    other.mkdir()
    (other / "precious").write_text("")
    with pytest.raises(ValueError, match="output must be a new folder or a run's"):
        hedged_digits.run(config(folder, output=other))
    assert [path.name for path in other.iterdir()] == ["precious"]


def test_killed_before_its_options_were_written_a_run_can_begin(tmp_path):
    files.partial(tmp_path / "config.json").write_text("{")
    runs.check_folder(tmp_path, {})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        runs.check_folder(tmp_path, {})


def test_a_damaged_report_and_a_file_in_the_way_are_named(folder, content, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "report" / "results.md").unlink()
    with pytest.raises(ValueError, match=r"report is damaged .*delete it, and the same command"):
        hedged_digits.run(config(folder, seeds=(0, 1), output=tmp_path / "run"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"output must be a folder, .*file is a file"):
        hedged_digits.run(config(folder, output=tmp_path / "file"))


def test_toy_leaves_given_options_alone():
    toy = hedged_digits.resolved(hedged_digits.Config(toy=True, num_steps=900))
    assert toy.num_steps == 900 and toy.seeds == (0, 1) and toy.num_queries == 400


def test_how_often_it_saves_and_logs_may_change(folder, content):
    again = config(folder, seeds=(0, 1), checkpoint_every=30, log_every=7)
    assert hedged_digits.run(again) == content


def test_default_folders_are_named_after_all_options():
    def name(**options):
        given = hedged_digits.resolved(hedged_digits.Config(**options))
        return hedged_digits.QUESTION.folder(given, hedged_digits.options_of(given))

    assert name() == name() != name(seeds=(7,))
    assert name().name.startswith("hedged_digits-sklearn_2_number-")
    assert len({name(), name(toy=True), name(num_steps=7), name(protocol="instance")}) == 4


def command(folder, run):
    options = {
        "datasets": folder / "datasets",
        "output": folder / run,
        "embeddings": ("gaussian",),
        "seeds": (0,),
        **TINY,
    }
    flags = []
    for name, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        flags += [f"--{name.replace('_', '-')}", *map(str, values)]
    return [sys.executable, "-m", "experiments.hedged_digits", *flags]


def interrupted(folder, run, number, when):
    """Start a run, send it a signal when something is true, and return its code and errors."""
    with subprocess.Popen(command(folder, run), stderr=subprocess.PIPE, text=True) as process:
        while not when() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(number)
        return process.wait(), process.stderr.read()


def test_killed_it_ends_with_the_same_bits(folder, content):
    """SIGKILL in a step, SIGKILL in a save, damage, SIGTERM: the end is that of one whole run."""
    del content  # the data set is there
    of_run = folder / "killed" / "runs" / "gaussian-0"
    saved = of_run / "checkpoints"

    code, _ = interrupted(folder, "killed", signal.SIGKILL, lambda: checkpoints.steps(saved))
    first = checkpoints.steps(saved)[-1]
    assert code == -signal.SIGKILL and first < 120

    def saving():
        return any(not path.name.isdecimal() for path in saved.iterdir())

    code, _ = interrupted(folder, "killed", signal.SIGKILL, saving)
    assert code == -signal.SIGKILL

    newest = saved / str(checkpoints.steps(saved)[-1])
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    left = checkpoints.steps(saved)[:-1]

    def a_step_is_logged():
        lines = (of_run / "metrics.jsonl").read_text().splitlines()
        return any(json.loads(line)["step"] > max(left, default=0) for line in lines if "}" in line)

    (of_run / "metrics.jsonl").write_text("")
    code, errors = interrupted(folder, "killed", signal.SIGTERM, a_step_is_logged)
    assert code == 128 + signal.SIGTERM and "SIGTERM: saved step" in errors
    assert f"{newest} is damaged" in errors

    for run in ("killed", "whole"):
        subprocess.run(command(folder, run), check=True, capture_output=True)
    ends = []
    for run in ("killed", "whole"):
        of_run = folder / run / "runs" / "gaussian-0"
        last = json.loads((of_run / "metrics.jsonl").read_text().splitlines()[-1])
        report = json.loads((folder / run / "report" / "results.json").read_text())
        ends.append((load_arrays(of_run / "checkpoints" / "120"), last["loss"], report))
    (killed, killed_loss, killed_report), (whole, whole_loss, whole_report) = ends
    assert sorted(killed) == sorted(whole) and len(whole) > 20
    for name, array in whole.items():
        np.testing.assert_array_equal(killed[name], array, err_msg=name)
    assert killed_loss == whole_loss and killed_report == whole_report


def load_arrays(path):
    """Every array of a checkpoint by name, as orbax itself reads it."""
    leaves = jax.tree.leaves_with_path(ocp.load(path.resolve()))
    return {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in leaves}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"seeds": ()}, r"seeds must be at least one and all different, got \(\)"),
        ({"seeds": (1, 1)}, r"seeds must be at least one and all different"),
        ({"seeds": (-1,)}, r"seeds must lie in 0..2\^32 - 1, got -1"),
        ({"seeds": (2**32,)}, r"seeds must lie in 0..2\^32 - 1, got 4294967296"),
        ({"num_pairs": 10}, "num_pairs must be at least 20, got 10"),
        ({"num_resamples": 10}, "num_resamples must be at least 100, got 10"),
        ({"channels": (0, 4)}, "channels must be at least 1, got 0"),
        ({"occlusion_probability": 1.2}, r"occlusion_probability must lie in 0..1, got 1.2"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
        ({"bottleneck_weight": -1.0}, "bottleneck_weight must not be negative, got -1"),
        (
            {"embeddings": ("cone",)},
            "embeddings must be among point, gaussian, mixture, got 'cone'",
        ),
        ({"num_digits": 4}, "num_digits must be 2 or 3, got 4"),
        ({"source": "sklearn", "mnist": "somewhere"}, "source sklearn takes neither"),
        ({"mnist": "missing"}, "mnist must be a folder with MNIST's four files, missing is none"),
    ],
)
def test_bad_options(tmp_path, options, message):
    options = {name: hedged_digits.Path(v) if name == "mnist" else v for name, v in options.items()}
    with pytest.raises(ValueError, match=message):
        hedged_digits.run(config(tmp_path, **options))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_unknown_options_and_help():
    def call(*flags):
        environment = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(
            [sys.executable, "-m", "experiments.hedged_digits", *flags],
            capture_output=True,
            text=True,
            env=environment,
        )

    shown = call("--help")
    assert shown.returncode == 0 and "--bottleneck-weight" in shown.stdout
    unknown = call("--bottleneck", "1")
    assert unknown.returncode == 2 and "--bottleneck" in unknown.stderr
    bad = call("--num-steps", "-3")
    assert bad.returncode == 1
    assert bad.stderr.strip() == "error: num_steps must be at least 1, got -3"
