"""Which settings does each method of digit captions want? Chosen on held-out digits and numbers.

    python -m experiments.caption_settings
    python -m experiments.caption_settings --toy
    python -m experiments.caption_settings --methods pcme triplet

Every method has the same budget, seven trainings with one seed: five weights of what it adds to
its loss at the rate 1e-3 and two more rates at the best of them, or seven rates where it adds
nothing. And the same rule: of what queries with captions, the greatest sum of R-Precision and of
Spearman's correlation of the method's own uncertainty with the true ambiguity, a mean of seen and
unseen numbers. The digits and numbers are those for training, split again
(`captioned_digits.load`): the test of `digit_captions` has no part in it.

What is chosen belongs into `captions.methods`, the defaults of `digit_captions` and
`photograph_captions`. A shorter training than theirs tells little: at 1,500 steps retrieval has
hardly begun. The same command again goes on where the last one was stopped. On two CPU cores:
about an hour and a half by default.
"""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runs
from experiments.captions import digit_trials, evaluation
from experiments.captions import training as caption_training
from experiments.captions.methods import METHODS, Settings
from experiments.captions.retrieval import Outcome, Trial
from experiments.captions.training import Training
from experiments.data import captioned_digits
from experiments.data.captioned_digits import Captioned
from experiments.reports.tables import table
from experiments.runs import cells, files, training
from probemb import calibration

QUESTION = runs.Question("experiments.caption_settings")
_RATE = 1e-3
_WEIGHTS: dict[str, tuple[float, ...]] = {
    "bottleneck": (1e-4, 1e-3, 5e-3, 2e-2, 8e-2),
    "margin": (0.05, 0.1, 0.2, 0.4, 0.8),
    "entailment": (0.0, 0.05, 0.2, 0.8, 3.2),
}
"""Of what a method weighs."""
_OTHER_RATES = (5e-4, 2e-3)
_RATES = (2.5e-4, 5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3, 4e-3)
"""Of methods without a weight."""
_JUDGED = ("R-Precision", "Spearman")
_OF_TRAINING = ("dimension", "width", "batch_size", "num_samples")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the choice of settings; all others are those of digit captions."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Whose settings to choose."""
    num_steps: int = 4000
    """Steps of a training."""
    seed: int = 100
    """Of all trainings; those of digit captions have other ones."""
    datasets: Path = Path("results/datasets")
    """Where the data set is prepared, once."""
    toy: bool = False
    """To see all of it quickly, too short to choose by: pcmepp alone, 20 steps."""
    output: Path | None = None
    """The folder of the run. Default: in results, named after all options."""


_TOY: dict[str, Any] = {"methods": ("pcmepp",), "num_steps": 20}


def resolved(config: Config) -> Config:
    """The configuration with its defaults filled in, checked.

    Raises:
      ValueError: an option out of range.
    """
    config = runs.shortened(config, _TOY) if config.toy else config
    caption_training.check(_trainings(config))
    return config


def _trainings(config: Config) -> Training:
    return Training(methods=config.methods, seeds=(config.seed,), num_steps=config.num_steps)


def _options(config: Config) -> dict[str, Any]:
    """All that numbers depend on: the options, what is tried, and the defaults of trainings."""
    given, of_training = runs.options(config, without=("datasets", "output")), _trainings(config)
    given |= {name: getattr(of_training, name) for name in _OF_TRAINING}
    given |= {"channels": digit_trials.CHANNELS, "matches": "annotated"}
    given["trials"] = {method: trials(method, []) for method in config.methods}
    return files.plain(given | {"other rates": _OTHER_RATES})


def trials(method: str, found: list[dict[str, Any]]) -> list[Settings]:
    """What is to be tried next of a method, given what was: weights first, then rates."""
    weights = _WEIGHTS.get(METHODS[method].weighs)
    if weights is None:
        return [] if found else [Settings(rate) for rate in _RATES]
    if not found:
        return [Settings(_RATE, weight) for weight in weights]
    if len(found) > len(weights):
        return []
    return [Settings(rate, best(found)["weight"]) for rate in _OTHER_RATES]


def best(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The trial with the greatest sum, the first among equals."""
    return max(found, key=lambda row: -math.inf if row["sum"] is None else row["sum"])


def judge(outcome: Outcome, trial: Trial, method: str) -> dict[str, float]:
    """How well captions find images, and how right their own uncertainty is."""
    assert trial.truth is not None
    own = outcome.uncertainty["caption"][METHODS[method].judged_by].astype(np.float64)
    ambiguity = trial.truth.ambiguity["caption"]
    varied = own.min() < own.max()
    return {
        "R-Precision": float(outcome.metrics["caption"]["R-Precision"].mean()),
        "Spearman": float(calibration.spearman(own, ambiguity)) if varied else 0.0,
    }


def _try(
    options: Training,
    method: str,
    settings: Settings,
    splits: dict[str, Captioned],
    held_out: dict[str, Trial],
    folder: Path,
) -> dict[str, Any]:
    """Train once, and judge on every held-out split."""
    model = digit_trials.make_model(
        method,
        splits["train"],
        dimension=options.dimension,
        width=options.width,
        channels=digit_trials.CHANNELS,
    )
    batches = digit_trials.make_batches(
        splits["train"], num_steps=options.num_steps, batch_size=options.batch_size
    )
    try:
        (parameters,) = caption_training.train(options, settings, model, batches, folder)
    except training.NotFiniteError as error:
        print(error, flush=True)
        return {"method": method, **settings._asdict(), **dict.fromkeys((*_JUDGED, "sum"))}
    judged = {
        split: judge(evaluation.evaluate(model, parameters, trial), trial, method)
        for split, trial in held_out.items()
    }
    means = {name: float(np.mean([each[name] for each in judged.values()])) for name in _JUDGED}
    return {"method": method, **settings._asdict(), **means, "sum": sum(means.values())}


def _text(content: dict[str, Any]) -> str:
    rows = [
        [
            row["method"],
            f"{row['learning_rate']:g}",
            f"{row['weight']:g}" if METHODS[row["method"]].weighs else "",
            *("" if row[name] is None else f"{row[name]:.3f}" for name in (*_JUDGED, "sum")),
            "chosen" if row in content["chosen"] else "",
        ]
        for row in content["trials"]
    ]
    return (
        "\n\n".join(
            [
                "# Settings of digit captions: what was tried",
                f"`{content['command']}`",
                f"Data: {content['data']}. {content['config']['num_steps']:,} steps a training, "
                f"seed {content['config']['seed']}. Chosen is the greatest sum of R-Precision and "
                "of Spearman's correlation of a method's own uncertainty with the true ambiguity, "
                "of queries that are captions, a mean of seen and unseen numbers. The weight is "
                "that of the bottleneck (pcme, pcmepp, prolip), the margin (triplet) or the weight "
                "of entailment (meru).",
                table(["method", "rate", "weight", *_JUDGED, "sum", ""], rows),
            ]
        )
        + "\n"
    )


def run(config: Config) -> dict[str, Any]:
    """Train what is not trained yet, judge, save the report, and return its numbers."""
    asked, config = config, resolved(config)
    this = QUESTION.run(asked, config, _options(config))
    if (content := this.earlier()) is not None:
        return content
    splits = captioned_digits.load("sklearn", config.datasets, held_out=True)
    held_out = {
        split: digit_trials.make_trial(splits[split]) for split in ("test_seen", "test_unseen")
    }
    options = _trainings(config)
    this.begin()
    every: list[dict[str, Any]] = []
    for method in config.methods:
        found: list[dict[str, Any]] = []
        while following := trials(method, found):
            for settings in following:
                place = this.folder / f"{method}-{settings.learning_rate:g}-{settings.weight:g}"
                attempt = functools.partial(
                    _try, options, method, settings, splits, held_out, place
                )
                found.append(cells.cell(place / "judged.json", attempt))
        every += found
    content = {
        **this.head("scikit-learn's digits, those for training, split again"),
        "trials": every,
        "chosen": [
            best([row for row in every if row["method"] == method]) for method in config.methods
        ],
    }
    return this.save(content, _text(content))


if __name__ == "__main__":
    QUESTION.main(__doc__, Config, run)
