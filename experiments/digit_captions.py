"""Which method's uncertainty is right, and at what cost in recall?

    python -m experiments.digit_captions
    python -m experiments.digit_captions --toy
    python -m experiments.digit_captions --methods pcmepp info_nce
    python -m experiments.digit_captions --mnist FOLDER

Images show numbers, some digits covered; captions say as much of a number as they like. So it is
known which captions are true of which images, and how ambiguous each of them is. Trains PCME,
PCME++ and ProLIP and their deterministic rivals InfoNCE, SigLIP, triplet and MERU under equal
budgets, each with several seeds; then retrieval in both directions, and how well every
uncertainty agrees with the true ambiguity, with failures, and with what anybody gets from
scores alone. By default the digits are scikit-learn's. The same command again goes on
where the last one was stopped, to the same numbers.

On two CPU cores: about forty minutes by default, under two with --toy, which compares ProLIP
with InfoNCE. Expected: the caption uncertainty of every probabilistic method correlates with the
true ambiguity (Spearman at least 0.7), that of the deterministic rivals less.
`answers/digit_captions.md` has what is reached: ProLIP and PCME++ do, PCME does not, and MERU's
radius does as well.
"""

import dataclasses
from pathlib import Path
from typing import Any, get_args

from experiments import runs
from experiments.captions import digit_pictures, digit_trials, pictures, training
from experiments.captions.digit_trials import Matches
from experiments.data import captioned_digits, digits
from experiments.data.digits import Source

QUESTION = runs.Question(
    "experiments.digit_captions",
    files=("mnist",),
    name=lambda config: f"digit_captions-{config.source}",
)
_FOLDERS = ("mnist", "datasets", "output")


@dataclasses.dataclass(frozen=True)
class Config(training.Training):
    """Options of digit captions."""

    source: Source | None = None
    """Where the digits come from. Default: mnist if a folder of it is given, else sklearn."""
    mnist: Path | None = None
    """The folder of MNIST's four files. Default: downloaded, where the source is mnist."""
    datasets: Path = Path("results/datasets")
    """Where the data set is prepared, once."""
    matches: Matches = "annotated"
    """What training takes for a match: a caption and the image that it was written of, as on
    COCO, or all that is true."""
    channels: tuple[int, int] = digit_trials.CHANNELS
    """Output channels of the two convolutions of the image tower."""


def resolved(config: Config) -> Config:
    """The configuration with its defaults filled in, checked.

    Raises:
      ValueError: an option out of range, or two that contradict each other.
    """
    training.check(config)
    runs.check_least(config, {"channels": 1})
    if config.matches not in get_args(Matches):
        raise ValueError(f"matches must be one of {get_args(Matches)}, got {config.matches!r}")
    if config.source == "sklearn" and config.mnist is not None:
        raise ValueError("source sklearn takes no mnist, but it is given")
    source = config.source or ("sklearn" if config.mnist is None else "mnist")
    config = dataclasses.replace(config, source=source)
    return runs.shortened(config, training.TOY) if config.toy else config


def options_of(config: Config) -> dict[str, Any]:
    """The options that numbers depend on."""
    options = runs.options(config, without=(*_FOLDERS, "checkpoint_every", "log_every"))
    return options | {"settings": training.every_settings(config)}


def run(config: Config) -> dict[str, Any]:
    """Train what is not trained yet, evaluate, save the report, and return its numbers."""
    asked, config = config, resolved(config)
    assert config.source is not None
    this = QUESTION.run(asked, config, options_of(config))
    if (content := this.earlier()) is not None:
        return content
    splits = captioned_digits.load(config.source, config.datasets, mnist=config.mnist)
    train = splits.pop("train")
    trials = {name: digit_trials.make_trial(split) for name, split in splits.items()}
    data = (
        f"digit captions of {digits.describe(config.source)}, {len(train.images):,} training "
        f"images with {captioned_digits.CAPTIONS} captions each; {config.num_steps:,} steps a "
        f"training, matches: {config.matches}"
    )
    models = {
        method: digit_trials.make_model(
            method,
            train,
            dimension=config.dimension,
            width=config.width,
            channels=config.channels,
        )
        for method in config.methods
    }
    batches = digit_trials.make_batches(
        train,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        matches=config.matches,
    )
    batches(seed=0)  # complains of what does not fit, before anything is written
    this.begin(data)
    first = next(iter(trials))

    def draw(partial: Path, parameters: dict[str, Any], outcomes: dict[str, Any]) -> None:
        of_first = trials[first], outcomes[first]
        pictures.draw(partial, *of_first)
        digit_pictures.draw(partial, *of_first, models, parameters)

    return training.compare(
        config,
        models,
        batches,
        trials,
        this,
        data,
        draw=draw,
        title="Digit captions",
    )


if __name__ == "__main__":
    QUESTION.main(__doc__, Config, run)
