"""Do occluded digits get wide embeddings, and does their width predict failure?

    python -m experiments.hedged_digits
    python -m experiments.hedged_digits --mnist FOLDER --tables FOLDER
    python -m experiments.hedged_digits --toy

Trains hedged instance embeddings (HIB) on N-digit MNIST: as points, as Gaussians and as
mixtures of two, each with several seeds; then verification, identification, and how well
eta, the total variance and what a deterministic embedding has in their place predict
failure. By default the digits are scikit-learn's. The same command again goes on where
the last one was stopped, to the same numbers.

On two CPU cores: about twelve minutes by default, little more than one with --toy. Expected of
2 digits under the protocol `number`: the Gaussian beats the point on corrupt images, the
AUROC of eta between corrupt and clean ones is at least 0.8, the R-AUROC of eta on corrupt
ones at least 0.7. `answers/hedged_digits.md` has what is reached.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, get_args

import jax

from experiments import runs
from experiments.data import digits, n_digit_mnist, occlusion
from experiments.data.digits import Source
from experiments.data.labelled import Corrupt, Labelled
from experiments.data.n_digit_tables import Protocol
from experiments.hedging import evaluation, numbers, page, pictures
from experiments.hedging import model as hedged_model
from experiments.hedging.model import Kind, Model
from experiments.reports import tables
from experiments.runs import training

_EVALUATION_SEED = 0
QUESTION = runs.Question(
    "experiments.hedged_digits",
    files=("mnist", "tables"),
    name=lambda config: f"hedged_digits-{config.source}_{config.num_digits}_{config.protocol}",
)
_FOLDERS = ("mnist", "tables", "datasets", "output")
_LEAST = {
    "num_steps": 1,
    "channels": 1,
    "quadruples": 1,
    "dimension": 1,
    "num_samples": 1,
    "num_queries": numbers.NUM_BINS,
    "num_pairs": numbers.NUM_BINS,
    "num_resamples": 100,
    "checkpoint_every": 1,
    "log_every": 1,
}
_TOY: dict[str, Any] = {
    "seeds": (0, 1),
    "num_steps": 800,
    "num_queries": 400,
    "num_pairs": 2000,
    "num_resamples": 100,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of hedged digits."""

    source: Source | None = None
    """Where the digits come from. Default: mnist if a folder of it is given, else sklearn."""
    mnist: Path | None = None
    """The folder of MNIST's four files. Default: downloaded, where the source is mnist."""
    tables: Path | None = None
    """The folder of google/n-digit-mnist's tables. Default: downloaded, likewise."""
    datasets: Path = Path("results/datasets")
    """Where the data set is prepared, once."""
    num_digits: int = 2
    """N, 2 or 3."""
    protocol: Protocol = "number"
    """Test numbers: those of training and others (number), or all in both (instance)."""
    embeddings: tuple[Kind, ...] = ("point", "gaussian", "mixture")
    """What images are embedded as."""
    dimension: int = 2
    """D, the dimensions of an embedding."""
    channels: tuple[int, int] = (16, 32)
    """Output channels of the two convolutions."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A training for each."""
    num_steps: int = 10_000
    """Steps of a training."""
    quadruples: int = 32
    """A batch has four times as many images, and as many pairs."""
    learning_rate: float = 5e-3
    """The rate of Adam at the start; it falls to 0 along a cosine."""
    occlusion_probability: float = 0.2
    """How probably a digit of a training image is occluded."""
    num_samples: int = 8
    """K, samples of an embedding in training and in identification."""
    bottleneck_weight: float = 1e-4
    """beta, the weight of the divergence from the standard normal distribution."""
    num_queries: int = 2000
    """At most so many queries of a test split, 20 or more."""
    num_pairs: int = 10_000
    """Pairs of queries in verification, 20 or more."""
    num_resamples: int = 1000
    """Resamples of a bootstrap interval, 100 or more."""
    checkpoint_every: int = 500
    """Steps from one checkpoint to the next."""
    log_every: int = 100
    """Steps from one line of metrics.jsonl to the next."""
    toy: bool = False
    """To see all of it quickly, too short for what is expected: of the options that are not
    given, two seeds, 800 steps, 400 queries, 2000 pairs, 100 resamples."""
    output: Path | None = None
    """The folder of the run. Default: results/hedged_digits-..., named after all options."""


def resolved(config: Config) -> Config:
    """The configuration with its defaults filled in, checked.

    Raises:
      ValueError: an option out of range, or two that contradict each other.
    """
    runs.check_least(config, _LEAST)
    runs.check_choices(config, "embeddings", get_args(Kind))
    runs.check_training(config)
    if config.num_digits not in (2, 3):
        raise ValueError(f"num_digits must be 2 or 3, got {config.num_digits}")
    if not 0.0 <= config.occlusion_probability <= 1.0:
        raise ValueError(
            f"occlusion_probability must lie in 0..1, got {config.occlusion_probability}"
        )
    if not 0.0 <= config.bottleneck_weight < float("inf"):
        raise ValueError(f"bottleneck_weight must not be negative, got {config.bottleneck_weight}")
    folders = config.mnist is not None or config.tables is not None
    if config.source == "sklearn" and folders:
        raise ValueError("source sklearn takes neither mnist nor tables, one of them is given")
    config = dataclasses.replace(
        config, source=config.source or ("mnist" if folders else "sklearn")
    )
    return runs.shortened(config, _TOY) if config.toy else config


def options_of(config: Config) -> dict[str, Any]:
    """The options that numbers depend on."""
    return runs.options(config, without=(*_FOLDERS, "checkpoint_every", "log_every"))


def occluded(config: Config) -> Corrupt:
    """What damages images: squares on their digits."""
    return functools.partial(occlusion.occlude, num_digits=config.num_digits)


def train(config: Config, model: Model, split: Labelled, folder: Path) -> list[dict[str, Any]]:
    """The parameters of a model for each seed, gone on with where training was stopped."""
    optimizer, step = training.with_adam(
        hedged_model.train_step,
        model,
        config.learning_rate,
        config.num_steps,
        num_samples=config.num_samples,
        bottleneck_weight=config.bottleneck_weight,
    )
    batches = functools.partial(
        hedged_model.batches,
        split,
        config.num_steps,
        quadruples=config.quadruples,
        corrupt=occluded(config),
        probability=config.occlusion_probability,
    )
    return training.fit_seeds(
        folder / "runs",
        model.kind,
        config.seeds,
        model.initialize,
        optimizer,
        step,
        batches,
        num_steps=config.num_steps,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
    )


def run(config: Config) -> dict[str, Any]:
    """Train what is not trained yet, evaluate, save the report, and return its numbers."""
    asked, config = config, resolved(config)
    assert config.source is not None
    this = QUESTION.run(asked, config, options_of(config))
    if (content := this.earlier()) is not None:
        return content
    splits = n_digit_mnist.load(
        config.source,
        config.num_digits,
        config.protocol,
        config.datasets,
        mnist=config.mnist,
        tables=config.tables,
    )
    train_split = splits.pop("train")
    trials = make_trials(config, splits)
    data = (
        f"{digits.describe(config.source)}, {config.num_digits} digits, protocol "
        f"{config.protocol}, {len(train_split.labels):,} training images; {config.num_steps:,} "
        "steps a training"
    )
    this.begin(data)
    height, width = train_split.images.shape[1:3]
    shape = height, width, config.channels, train_split.image_channels
    models = {kind: Model(kind, config.dimension, *shape) for kind in config.embeddings}
    parameters = {
        kind: train(config, model, train_split, this.folder) for kind, model in models.items()
    }
    outcomes = evaluate(config, models, parameters, trials)
    found = numbers.numbers(
        outcomes,
        trials,
        key=jax.random.key(_EVALUATION_SEED),
        num_resamples=config.num_resamples,
    )
    content = {
        **this.head(data),
        "splits": list(splits),
        **{name: tables.records(frame) for name, frame in found.items()},
    }

    def spelled(number: int) -> str:
        return f"{number:0{config.num_digits}}"

    def draw(partial: Path) -> None:
        pictures.draw(partial, models, parameters, trials, outcomes, spelled)

    return this.save(content, page.markdown(content), draw)


def make_trials(
    config: Config, splits: dict[str, Labelled]
) -> dict[numbers.Cell, evaluation.Trial]:
    """The trials of every test split, clean and corrupt; the same for every seed."""
    return {
        (split, condition): trial
        for split, images in splits.items()
        for condition, trial in evaluation.trials(
            images,
            corrupt=occluded(config),
            num_queries=config.num_queries,
            num_pairs=config.num_pairs,
            seed=_EVALUATION_SEED,
        ).items()
    }


def evaluate(
    config: Config,
    models: dict[str, Model],
    parameters: dict[str, list[Any]],
    trials: dict[numbers.Cell, evaluation.Trial],
) -> dict[numbers.Cell, numbers.Outcomes]:
    """What every model makes of every trial, and the ensemble of the points."""
    outcomes = {}
    key = jax.random.key(_EVALUATION_SEED)
    for cell, trial in trials.items():
        print(f"evaluating on {', '.join(cell)}", flush=True)
        outcomes[cell] = {
            kind: [
                evaluation.evaluate(model, trained, trial, num_samples=config.num_samples, key=key)
                for trained in parameters[kind]
            ]
            for kind, model in models.items()
        }
        if "point" in models and len(config.seeds) > 1:
            together = evaluation.ensemble(outcomes[cell]["point"], trial)
            outcomes[cell]["ensemble of points"] = [together]
        for each in outcomes[cell].values():  # the matrices are large, and no longer needed
            each[:] = [outcome._replace(match_to_gallery=None) for outcome in each]
    return outcomes


if __name__ == "__main__":
    QUESTION.main(__doc__, Config, run)
