"""The training loop: resumable to the bit, with progress, logs and checkpoints.

A run is a folder. Started again, it goes on from its newest whole checkpoint and ends
with the numbers of a run that was never stopped, wherever the same program gives the
same numbers twice, as on a CPU: the checkpoint holds parameters,
optimizer, step, key and data position; a batch is a function of seed and position, the key
of a step one of the run's key and the step.
"""

import functools
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import optax
import tensorboardX
from tqdm import tqdm

from experiments.runs import checkpoints


class TrainState(NamedTuple):
    """What a step of training takes and returns.

    Attributes:
      step: steps taken so far, a scalar int32.
      key_data: of the random key of the run (`jax.random.key_data`); that of a step is
        folded from it and the step.
      parameters: a tree of arrays.
      optimizer: the state of the optimizer.
    """

    step: jax.Array
    key_data: jax.Array
    parameters: Any
    optimizer: optax.OptState


TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


def begin(key: jax.Array, parameters: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, with the key of the run."""
    return TrainState(
        jax.numpy.zeros((), jax.numpy.int32),
        jax.random.key_data(key),
        parameters,
        optimizer.init(parameters),
    )


def take_step(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    loss: Callable[[Any, jax.Array], jax.Array],
) -> tuple[TrainState, jax.Array]:
    """One step along the gradient of a loss (parameters, key of the step): pure.

    Returns the next state, and the loss before the step.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
    value, gradient = jax.value_and_grad(loss)(state.parameters, key)
    updates, moments = optimizer.update(gradient, state.optimizer, state.parameters)
    parameters = optax.apply_updates(state.parameters, updates)
    return state._replace(step=state.step + 1, parameters=parameters, optimizer=moments), value


@functools.cache
def with_adam(
    train_step: Callable[..., Any], model: Any, learning_rate: float, num_steps: int, **options: Any
) -> tuple[optax.GradientTransformation, TrainStep]:
    """Adam, whose rate falls to 0 along a cosine, and the step that takes it.

    The same for the same options: trainings of one form share the compiled step.

    Args:
      train_step: (model, optimizer, state, batch, **options) -> (state, metrics), pure.
      model: hashable, as all options are.
      learning_rate: at the start.
      num_steps: of the training.
      options: of `train_step`.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    return optimizer, functools.partial(train_step, model, optimizer, **options)


class _Log:
    """metrics.jsonl and TensorBoard of a run, cut back to the step that it goes on from."""

    def __init__(self, folder: Path, step: int):
        path = folder / "metrics.jsonl"
        kept = [line for line in _whole_lines(path) if line["step"] <= step]
        temporary = path.with_suffix(".partial")
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in kept), "utf-8")
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")
        self._board = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._board.close()

    def flush(self) -> None:
        self._board.flush()  # the file is, line by line

    def write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def _whole_lines(path: Path) -> list[dict]:
    """The lines of a JSON lines file, but for a last one that was cut."""
    lines = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class _Signals:
    """Turns SIGTERM and SIGINT into a flag, so that a step is never cut in half."""

    def __enter__(self):
        self.received: int | None = None
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number, _):
        self.received = number

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)


class NotFiniteError(ValueError):
    """A training whose loss or parameters are infinite or NaN; no checkpoint holds them."""


def _finite_means(window: list[dict[str, Any]], where: str) -> dict[str, float]:
    """The means of metrics over some steps."""
    values = {name: float(np.mean([step[name] for step in window])) for name in window[-1]}
    for name, value in values.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{where}: {name} must be finite, got {value}; all checkpoints are from before"
            )
    return values


def fit_seeds(
    folder: Path,
    name: str,
    seeds: Sequence[int],
    initialize: Callable[[jax.Array], Any],
    optimizer: optax.GradientTransformation,
    train_step: TrainStep,
    batches: Callable[..., grain.MapDataset],
    **options: int,
) -> list[Any]:
    """The parameters of a training for each seed, gone on with where it was stopped.

    Args:
      folder: of all runs.
      name: of the model; a run is the folder <name>-<seed>.
      seeds: of parameters, steps and batches.
      initialize: a key -> parameters.
      optimizer: of `train_step`.
      train_step: as of `fit`.
      batches: of a seed, by keyword.
      options: as of `fit`.
    """
    trained = []
    for seed in seeds:
        of_parameters, of_training = jax.random.split(jax.random.key(seed))
        state = fit(
            folder / f"{name}-{seed}",
            begin(of_training, initialize(of_parameters), optimizer),
            train_step,
            batches(seed=seed),
            label=f"{name}, seed {seed}",
            **options,
        )
        trained.append(state.parameters)
    return trained


def fit(
    folder: Path,
    state: TrainState,
    train_step: TrainStep,
    batches: grain.MapDataset,
    *,
    num_steps: int,
    checkpoint_every: int,
    log_every: int,
    label: str,
) -> TrainState:
    """Train up to `num_steps`, from the newest checkpoint in `folder` if there is one.

    Args:
      folder: of the run: `checkpoints`, `metrics.jsonl`, `tensorboard`.
      state: the state to begin with; where there is a checkpoint, only its form counts.
      train_step: pure, (state, batch) -> (state, metrics), with a metric "loss". It is compiled
        here, once for all runs that share the function.
      batches: a batch for each step, the same whenever it is asked for again.
      num_steps: how many steps a whole run has.
      checkpoint_every: steps from one checkpoint to the next; the last step has one too.
      log_every: steps from one line of the log to the next, a mean over them; a checkpoint
        has a line too, so that nothing is saved that is not finite.
      label: what the progress bar says.

    Raises:
      NotFiniteError: a loss or parameters that are not finite.
      ValueError: checkpoints of another model.
      SystemExit: on SIGTERM and SIGINT, when a checkpoint has been saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / "checkpoints"
    iterator = iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1)))
    form = {"state": state, "data": {"next_index": np.asarray(0)}}
    found = checkpoints.load_newest(saved, form)
    if found is not None:
        state, data = found[1]["state"], found[1]["data"]
        iterator.set_state({"next_index": int(data["next_index"])})
    step = begun = int(state.step)
    if step >= num_steps:
        return state

    def save() -> None:
        for path, leaf in jax.tree.leaves_with_path(state.parameters):
            if not np.isfinite(leaf).all():
                name = jax.tree_util.keystr(path)
                raise NotFiniteError(
                    f"{label}, step {step}: parameters{name} must be finite; all checkpoints are "
                    "from before"
                )
        log.flush()  # what the checkpoint counts as done is on the disk
        position = {"next_index": np.asarray(iterator.get_state()["next_index"])}
        checkpoints.save(saved, step, {"state": state, "data": position})

    train_step = jax.jit(train_step)
    window: list[dict[str, Any]] = []
    waited, started = 0.0, time.perf_counter()
    watched = sys.stderr.isatty()
    bar = tqdm(
        total=num_steps, initial=step, desc=label, unit="step", mininterval=0.1 if watched else 10
    )
    with _Signals() as signals, _Log(folder, step) as log, bar:
        while step < num_steps:
            asked = time.perf_counter()
            batch = next(iterator)
            if not window or window[-1]["loss"].is_ready():  # else nothing waits for the batch
                waited += time.perf_counter() - asked
            if window:
                jax.block_until_ready(window[-1])  # at most one step is under way
            state, metrics = train_step(state, batch)
            window.append(metrics)
            step += 1
            bar.update()
            stopped_by = signals.received  # read once: what follows belongs together
            last = step == num_steps or stopped_by is not None
            if last or step % log_every == 0 or step % checkpoint_every == 0:
                values = _finite_means(window, f"{label}, step {step}")
                window = []
                seconds = time.perf_counter() - started
                values["steps_per_second"] = (step - begun) / seconds
                values["share_waiting_for_data"] = waited / seconds
                log.write(step, values)
                status = f"loss {values['loss']:.4f}, waiting for data {waited / seconds:.1%}"
                bar.set_postfix_str(status, refresh=watched)
            if last or step % checkpoint_every == 0:
                save()
            if stopped_by is not None:
                name = signal.Signals(stopped_by).name
                message = f"{name}: saved step {step} of {label}; the same command goes on"
                bar.write(message, file=sys.stderr)
                sys.exit(128 + stopped_by)
    return state
