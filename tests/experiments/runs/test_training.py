import json
import os
import signal

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.runs import checkpoints, training

OPTIMIZER = optax.adam(0.05)


def train_step(state, batch):
    """Least squares on noisy targets, with noise from the key of the step."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
    inputs, targets = batch

    def loss(parameters):
        noise = 0.1 * jax.random.normal(key, targets.shape, jnp.float32)
        return jnp.mean(jnp.square(inputs @ parameters["w"] - targets - noise))

    value, gradient = jax.value_and_grad(loss)(state.parameters)
    updates, moments = OPTIMIZER.update(gradient, state.optimizer)
    parameters = optax.apply_updates(state.parameters, updates)
    state = state._replace(step=state.step + 1, parameters=parameters, optimizer=moments)
    return state, {"loss": value}


def draw(_, random):
    inputs = random.normal(size=(16, 3)).astype(np.float32)
    return inputs, inputs @ np.array([1, -2, 3], np.float32)


def batches(change=lambda step, batch: batch):
    def with_change(step, random):
        return change(step, draw(step, random))

    return grain.MapDataset.range(60).seed(5).random_map(with_change)


def fit(folder, data=None, num_steps=60, **options):
    state = training.begin(jax.random.key(3), {"w": jnp.zeros(3, jnp.float32)}, OPTIMIZER)
    options = {"checkpoint_every": 10, "log_every": 5, "label": "test", **options}
    return training.fit(
        folder, state, train_step, data or batches(), num_steps=num_steps, **options
    )


def stop_at(step, number):
    """Batches that send this process a signal when they are asked for one of them."""

    def change(index, batch):
        if index == step:
            os.kill(os.getpid(), number)
        return batch

    return batches(change)


def log(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def test_it_learns_and_logs(tmp_path, capsys):
    state = fit(tmp_path)
    np.testing.assert_allclose(state.parameters["w"], [1, -2, 3], atol=0.8)
    lines = log(tmp_path)
    assert [line["step"] for line in lines] == list(range(5, 61, 5))
    assert lines[-1]["loss"] < 0.2 * lines[0]["loss"]
    assert all(0.0 <= line["share_waiting_for_data"] <= 1.0 for line in lines)
    assert all(line["steps_per_second"] > 0.0 for line in lines)
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert checkpoints.steps(tmp_path / "checkpoints") == [40, 50, 60]
    assert "60/60" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_a_signal_it_goes_on_to_the_same_bits(tmp_path, number, code, capsys):
    whole = fit(tmp_path / "whole")
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        fit(tmp_path / "halves", stop_at(33, number))
    assert stopped.value.code == code
    saved = checkpoints.steps(tmp_path / "halves" / "checkpoints")[-1]
    assert 0 < saved < 60
    assert f"saved step {saved} of test; the same command goes on" in capsys.readouterr().err
    halves = fit(tmp_path / "halves")
    chex.assert_trees_all_equal(whole, halves)
    losses = [line["loss"] for line in log(tmp_path / "whole") if line["step"] > saved + 5]
    again = [line["loss"] for line in log(tmp_path / "halves") if line["step"] > saved + 5]
    assert losses == again
    assert signal.getsignal(number) == before


def test_a_signal_while_a_line_is_logged_waits_for_the_next_step(tmp_path, monkeypatch, capsys):
    write = training._Log.write

    def write_and_stop(self, step, values):
        write(self, step, values)
        if step == 25:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training._Log, "write", write_and_stop)
    with pytest.raises(SystemExit):
        fit(tmp_path)
    assert checkpoints.steps(tmp_path / "checkpoints") == [10, 20, 26]
    assert "SIGTERM: saved step 26" in capsys.readouterr().err


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    fit(tmp_path, num_steps=30)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 35, "loss": 9.0}\n{"step": 40, "lo')
    fit(tmp_path)
    steps = [line["step"] for line in log(tmp_path)]
    assert steps == list(range(5, 61, 5))


def test_a_complete_run_is_not_run_again(tmp_path):
    first = fit(tmp_path)
    before = (tmp_path / "metrics.jsonl").stat().st_mtime_ns
    chex.assert_trees_all_equal(fit(tmp_path), first)
    assert (tmp_path / "metrics.jsonl").stat().st_mtime_ns == before


def test_one_compilation_serves_all_runs_of_a_step(tmp_path):
    traced = chex.assert_max_traces(train_step, n=1)
    for seed in range(2):
        state = training.begin(jax.random.key(seed), {"w": jnp.zeros(3, jnp.float32)}, OPTIMIZER)
        options = {"num_steps": 4, "checkpoint_every": 4, "log_every": 2, "label": "test"}
        training.fit(tmp_path / str(seed), state, traced, batches(), **options)


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(tmp_path):
    def poison(step, batch):
        return (batch[0], batch[1] * np.float32("nan")) if step == 42 else batch

    with pytest.raises(ValueError, match=r"test, step 45: loss must be finite, got nan"):
        fit(tmp_path, batches(poison))
    step, saved = checkpoints.load_newest(
        tmp_path / "checkpoints",
        {
            "state": training.begin(jax.random.key(3), {"w": jnp.zeros(3, jnp.float32)}, OPTIMIZER),
            "data": {"next_index": np.asarray(0)},
        },
    )
    assert step == 40
    chex.assert_tree_all_finite(saved["state"].parameters)


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    def spoil(state, batch):
        state, metrics = train_step(state, batch)
        w = jnp.where(state.step == 20, jnp.nan, state.parameters["w"])
        return state._replace(parameters={"w": w}), metrics

    state = training.begin(jax.random.key(3), {"w": jnp.zeros(3, jnp.float32)}, OPTIMIZER)
    options = {"num_steps": 60, "checkpoint_every": 10, "log_every": 5, "label": "test"}
    with pytest.raises(ValueError, match=r"test, step 20: parameters\['w'\] must be finite"):
        training.fit(tmp_path, state, spoil, batches(), **options)
    assert checkpoints.steps(tmp_path / "checkpoints") == [10]


def test_checkpoints_of_another_model(tmp_path):
    fit(tmp_path, num_steps=10)
    state = training.begin(jax.random.key(3), {"w": jnp.zeros(4, jnp.float32)}, OPTIMIZER)
    with pytest.raises(ValueError, match="is of another model"):
        training.fit(
            tmp_path,
            state,
            train_step,
            batches(),
            num_steps=60,
            checkpoint_every=10,
            log_every=5,
            label="test",
        )
