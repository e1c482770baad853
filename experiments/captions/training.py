"""Training and evaluation of methods on images and captions, whatever the images are."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from tqdm import tqdm

from experiments import runs
from experiments.captions import evaluation, numbers, page, retrieval, two_towers
from experiments.captions.methods import METHODS, Settings
from experiments.captions.numbers import Outcomes
from experiments.captions.retrieval import Trial
from experiments.captions.two_towers import Model
from experiments.runs import cells, training

_BOOTSTRAP_SEED = 0
_LEAST = {
    "dimension": 2,
    "num_steps": 1,
    "batch_size": 2,
    "num_samples": 1,
    "num_resamples": 100,
    "checkpoint_every": 1,
    "log_every": 1,
}


@dataclasses.dataclass(frozen=True)
class Training:
    """Options of a training on images and captions, whatever the images are."""

    methods: tuple[str, ...] = tuple(METHODS)
    """What to train and compare."""
    dimension: int = 32
    """D, the dimensions of an embedding."""
    width: int = 64
    """Of the text tower, and of those of features; a multiple of 4."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A training for each."""
    num_steps: int = 4000
    """Steps of a training."""
    batch_size: int = 64
    """Images of a batch, each with one caption."""
    learning_rate: float | None = None
    """The rate of Adam at the start; it falls to 0 along a cosine. Default: each method's own
    (`captions.methods`)."""
    num_samples: int = 4
    """Samples of an embedding in PCME's loss."""
    bottleneck_weight: float | None = None
    """beta, of the divergence of a Gaussian from the standard normal one, in nats. Default: each
    method's own (`captions.methods`)."""
    num_resamples: int = 1000
    """Resamples of a bootstrap interval, 100 or more."""
    checkpoint_every: int = 500
    """Steps from one checkpoint to the next."""
    log_every: int = 100
    """Steps from one line of metrics.jsonl to the next."""
    toy: bool = False
    """To see all of it quickly, too short for what is expected: of the options that are not
    given, ProLIP and InfoNCE, one seed, 1,000 steps, 100 resamples."""
    output: Path | None = None
    """The folder of the run. Default: in results, named after all options."""


TOY: dict[str, Any] = {
    "methods": ("prolip", "info_nce"),
    "seeds": (0,),
    "num_steps": 1000,
    "num_resamples": 100,
}
"""What `toy` puts in place of options left at their default."""


def check(options: Training) -> None:
    """Refuse options that nothing can be trained with.

    Raises:
      ValueError: an option is out of range.
    """
    runs.check_least(options, _LEAST)
    runs.check_choices(options, "methods", METHODS)
    runs.check_training(options)
    weight = options.bottleneck_weight
    if weight is not None and not 0.0 <= weight < float("inf"):
        raise ValueError(f"bottleneck_weight must not be negative, got {weight}")
    if options.width < 4 or options.width % 4:
        raise ValueError(f"width must be a positive multiple of 4, got {options.width}")


def settings_of(options: Training, method: str) -> Settings:
    """What a method is trained with: its own settings, but for what the options say."""
    settings = METHODS[method].settings
    if options.learning_rate is not None:
        settings = settings._replace(learning_rate=options.learning_rate)
    if options.bottleneck_weight is not None and METHODS[method].weighs == "bottleneck":
        settings = settings._replace(weight=options.bottleneck_weight)
    return settings


def every_settings(options: Training) -> dict[str, list[float]]:
    """What every method is trained with, as JSON has it."""
    return {method: list(settings_of(options, method)) for method in options.methods}


def train(
    options: Training,
    settings: Settings,
    model: Model,
    batches: Callable[..., grain.MapDataset],
    folder: Path,
) -> list[dict[str, Any]]:
    """The parameters of a model for each seed, gone on with where training was stopped.

    Args:
      options: of the experiment.
      settings: of the method.
      model: the model.
      batches: of a seed, by keyword.
      folder: of the run.
    """
    optimizer, step = training.with_adam(
        two_towers.train_step,
        model,
        settings.learning_rate,
        options.num_steps,
        num_samples=options.num_samples,
        weight=settings.weight,
    )
    return training.fit_seeds(
        folder / "runs",
        model.method,
        options.seeds,
        model.initialize,
        optimizer,
        step,
        batches,
        num_steps=options.num_steps,
        checkpoint_every=options.checkpoint_every,
        log_every=options.log_every,
    )


def evaluate(
    models: dict[str, Model],
    parameters: dict[str, list[Any]],
    trials: dict[str, Trial],
    folder: Path,
) -> dict[str, Outcomes]:
    """What every model makes of every trial; what is in the folder is not asked again.

    Args:
      models: by method.
      parameters: of each seed, by method.
      trials: by split.
      folder: of the outcomes, a file each.
    """
    outcomes: dict[str, Outcomes] = {split: {method: [] for method in models} for split in trials}
    wanted = [(split, method) for split in trials for method in models]
    number = len(trials) * sum(map(len, parameters.values()))
    bar = tqdm(total=number, desc="evaluating", unit="model", mininterval=10)
    with bar:
        for split, method in wanted:
            for place, trained in enumerate(parameters[method]):
                bar.set_postfix_str(f"{method} on {split}")

                def ask(method=method, trained=trained, split=split) -> dict[str, np.ndarray]:
                    found = evaluation.evaluate(models[method], trained, trials[split])
                    return retrieval.arrays_of(found)

                file = folder / f"{split}-{method}-{place}.npz"
                outcomes[split][method].append(retrieval.outcome_of(cells.arrays(file, ask)))
                bar.update()
    return outcomes


def compare(
    options: Training,
    models: dict[str, Model],
    batches: Callable[..., grain.MapDataset],
    trials: dict[str, Trial],
    this: runs.Run,
    data: str,
    *,
    draw: Callable[[Path, dict[str, list[Any]], dict[str, Outcomes]], None],
    title: str,
) -> dict[str, Any]:
    """Train what is not trained yet, evaluate, save the report, and return its numbers.

    Args:
      options: of the experiment.
      models: by method.
      batches: of a seed, by keyword.
      trials: by split.
      this: the run, which has begun.
      data: of what it is.
      draw: saves pictures in a folder, given parameters by method and outcomes by split.
      title: of the report.
    """
    parameters = {
        method: train(options, settings_of(options, model.method), model, batches, this.folder)
        for method, model in models.items()
    }
    asked = this.folder / "outcomes"
    outcomes = evaluate(models, parameters, trials, asked)
    content = numbers.content(
        outcomes,
        trials,
        key=jax.random.key(_BOOTSTRAP_SEED),
        num_resamples=options.num_resamples,
        **this.head(data),
    )
    text = page.markdown(content, title)
    this.save(content, text, lambda partial: draw(partial, parameters, outcomes))
    shutil.rmtree(asked)  # the report holds what is to be known of them
    return content
