"""Do occluded digits get wide embeddings, and does their width predict failure?

    python -m experiments.hedged_digits
    python -m experiments.hedged_digits --mnist FOLDER --tables FOLDER
    python -m experiments.hedged_digits --toy

Trains hedged instance embeddings (HIB) on N-digit MNIST: as points, as Gaussians and as
mixtures of two, each with several seeds; then verification, identification, and how well
eta, the total variance and what a deterministic embedding has in their place predict
failure. By default the digits are scikit-learn's. The same command again goes on where
the last one was stopped, to the same numbers.

On two CPU cores: about eleven minutes by default, about a minute with --toy. Expected of
2 digits under the protocol `number`: the Gaussian beats the point on corrupt images, the
AUROC of eta between corrupt and clean ones is at least 0.8, the R-AUROC of eta on corrupt
ones at least 0.7. `hedged_digits.md` has what is reached.
"""

import dataclasses
import functools
import hashlib
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import flax
import jax
import optax
import tyro

from experiments import (
    digits,
    hedged_embedding,
    hedged_evaluation,
    hedged_pictures,
    hedged_report,
    n_digit_mnist,
    results,
    training,
)
from experiments.digits import Source
from experiments.hedged_embedding import Kind, Model
from experiments.number_tables import Protocol

_EVALUATION_SEED = 0
_FOLDERS = ("mnist", "tables", "datasets", "output")
_LEAST = {
    "num_steps": 1,
    "quadruples": 1,
    "dimension": 1,
    "num_samples": 1,
    "num_queries": hedged_report.NUM_BINS,
    "num_pairs": hedged_report.NUM_BINS,
    "num_resamples": 100,
    "checkpoint_every": 1,
    "log_every": 1,
}
_TOY: dict[str, Any] = {
    "seeds": (0, 1),
    "num_steps": 250,
    "num_queries": 400,
    "num_pairs": 2000,
    "num_resamples": 100,
}
_CONFIG = "config.json"


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
    given, two seeds, 250 steps, 400 queries, 2000 pairs, 100 resamples."""
    output: Path | None = None
    """The folder of the run. Default: results/hedged_digits-..., named after all options."""


def resolved(config: Config) -> Config:
    """The configuration with its defaults filled in, checked.

    Raises:
      ValueError: an option out of range, or two that contradict each other.
    """
    for name, least in _LEAST.items():
        if getattr(config, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")
    for channels in config.channels:
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
    for seed in config.seeds:
        if not 0 <= seed < 2**32:
            raise ValueError(f"seeds must lie in 0..2^32 - 1, got {seed}")
    for name in ("embeddings", "seeds"):
        values = getattr(config, name)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} must be at least one and all different, got {values}")
    if config.num_digits not in (2, 3):
        raise ValueError(f"num_digits must be 2 or 3, got {config.num_digits}")
    if not 0.0 <= config.occlusion_probability <= 1.0:
        raise ValueError(
            f"occlusion_probability must lie in 0..1, got {config.occlusion_probability}"
        )
    if not 0.0 < config.learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be positive, got {config.learning_rate}")
    if not 0.0 <= config.bottleneck_weight < float("inf"):
        raise ValueError(f"bottleneck_weight must not be negative, got {config.bottleneck_weight}")
    folders = config.mnist is not None or config.tables is not None
    if config.source == "sklearn" and folders:
        raise ValueError("source sklearn takes neither mnist nor tables, one of them is given")
    config = dataclasses.replace(
        config, source=config.source or ("mnist" if folders else "sklearn")
    )
    if config.toy:
        left = {name: _TOY[name] for name in _TOY if getattr(config, name) == getattr(Config, name)}
        config = dataclasses.replace(config, **left)
    return config


def run_folder(config: Config) -> Path:
    """Where a configuration lives: a folder of its own unless one is named."""
    if config.output is not None:
        return config.output
    digest = hashlib.sha256(json.dumps(_options(config)).encode()).hexdigest()[:8]
    name = f"{config.source}_{config.num_digits}_{config.protocol}"
    return Path("results") / f"hedged_digits-{name}{'-toy' * config.toy}-{digest}"


def _options(config: Config) -> dict[str, Any]:
    """All options that numbers depend on."""
    options = results.plain(dataclasses.asdict(config))
    for name in (*_FOLDERS, "checkpoint_every", "log_every"):
        del options[name]
    return options


def command(config: Config) -> str:
    """The command of a configuration, with FOLDER for where files lie on this machine."""
    words = ["python", "-m", "experiments.hedged_digits"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default or field.name in ("datasets", "output"):
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if field.name in _FOLDERS:
            words.append("FOLDER")
        elif not isinstance(value, bool):
            words += map(str, value if isinstance(value, tuple) else [value])
    return shlex.join(words)


def check_folder(folder: Path, config: Config) -> None:
    """Refuse a folder that holds something else, or a run with other options.

    Raises:
      ValueError: it does.
    """
    path = folder / _CONFIG
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output must be a folder, {folder} is a file")
    if path.exists():
        try:
            before = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        now = _options(config)
        for name in now:
            if before.get(name) != now[name]:
                raise ValueError(
                    f"output must be a new folder or a run with the same options, {folder} has "
                    f"{name} = {before.get(name)!r}, now it is {now[name]!r}"
                )
    elif folder.exists() and any(other != results.partial(path) for other in folder.iterdir()):
        raise ValueError(f"output must be a new folder or a run's, {folder} is neither")


def train(
    config: Config, model: Model, numbers: n_digit_mnist.Numbers, folder: Path
) -> list[dict[str, Any]]:
    """The parameters of a model for each seed, gone on with where training was stopped."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_steps))
    step = functools.partial(
        hedged_embedding.train_step,
        model,
        optimizer,
        num_samples=config.num_samples,
        bottleneck_weight=config.bottleneck_weight,
    )
    trained = []
    for seed in config.seeds:
        of_parameters, of_training = jax.random.split(jax.random.key(seed))
        state = training.fit(
            folder / "runs" / f"{model.kind}-{seed}",
            training.begin(of_training, model.initialize(of_parameters), optimizer),
            step,
            hedged_embedding.batches(
                numbers,
                config.num_steps,
                seed=seed,
                quadruples=config.quadruples,
                num_digits=config.num_digits,
                occlusion_probability=config.occlusion_probability,
            ),
            num_steps=config.num_steps,
            checkpoint_every=config.checkpoint_every,
            log_every=config.log_every,
            label=f"{model.kind}, seed {seed}",
        )
        trained.append(state.parameters)
    return trained


def run(config: Config) -> dict[str, Any]:
    """Train what is not trained yet, evaluate, save the report, and return its numbers."""
    started = time.perf_counter()
    asked_for, config = command(config), resolved(config)
    assert config.source is not None
    folder = run_folder(config)
    check_folder(folder, config)
    report = folder / "report"
    if report.exists():
        return shown_again(report)
    numbers = n_digit_mnist.load(
        config.source,
        config.num_digits,
        config.protocol,
        config.datasets,
        mnist=config.mnist,
        tables=config.tables,
    )
    train_split = numbers.pop("train")
    trials = make_trials(config, numbers)
    folder.mkdir(parents=True, exist_ok=True)
    results.replace_text(folder / _CONFIG, json.dumps(_options(config), indent=2) + "\n")
    data = (
        f"{digits.describe(config.source)}, {config.num_digits} digits, protocol "
        f"{config.protocol}, {len(train_split.numbers):,} training images; {config.num_steps:,} "
        "steps a training"
    )
    print(f"{data}\nin {folder}", flush=True)
    height, width = train_split.images.shape[1:]
    models = {
        kind: Model(kind, config.dimension, height, width, config.channels)
        for kind in config.embeddings
    }
    parameters = {kind: train(config, model, train_split, folder) for kind, model in models.items()}
    outcomes = evaluate(config, models, parameters, trials)
    key = jax.random.key(_EVALUATION_SEED)
    content: dict[str, Any] = {
        "command": asked_for,
        "config": _options(config),
        "data": data,
        "splits": list(numbers),
        "versions": {"jax": jax.__version__, "flax": flax.__version__},
        "backend": jax.default_backend(),
        "performance": hedged_report.performance(outcomes, trials),
        "uncertainty": hedged_report.uncertainty(
            outcomes, trials, key=key, num_resamples=config.num_resamples
        ),
        "separation": hedged_report.separation(outcomes),
    }
    content["expectations"] = hedged_report.expectations(content)
    with results.new_folder(report) as partial:
        results.write_json(partial / "results.json", content)
        results.replace_text(partial / "results.md", hedged_report.markdown(content))
        hedged_pictures.draw(partial, models, parameters, trials, outcomes)
    print(f"\n{hedged_report.markdown(content)}")
    print(f"saved {report}; this call took {time.perf_counter() - started:.0f} s")
    return content


def shown_again(report: Path) -> dict[str, Any]:
    """Print the report of a complete run, and return its numbers."""
    try:
        text = (report / "results.md").read_text("utf-8")
        content = json.loads((report / "results.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{report} is damaged ({error}): delete it, and the same command writes it anew"
        ) from None
    print(f"{text}\ncomplete: {report} holds this and the pictures")
    print(f"to start over, delete {report.parent}")
    return content


def make_trials(
    config: Config, splits: dict[str, n_digit_mnist.Numbers]
) -> dict[hedged_report.Cell, hedged_evaluation.Trial]:
    """The trials of every test split, clean and corrupt; the same for every seed."""
    return {
        (split, condition): trial
        for split, numbers in splits.items()
        for condition, trial in hedged_evaluation.trials(
            numbers,
            num_digits=config.num_digits,
            num_queries=config.num_queries,
            num_pairs=config.num_pairs,
            seed=_EVALUATION_SEED,
        ).items()
    }


def evaluate(
    config: Config,
    models: dict[str, Model],
    parameters: dict[str, list[Any]],
    trials: dict[hedged_report.Cell, hedged_evaluation.Trial],
) -> dict[hedged_report.Cell, hedged_report.Outcomes]:
    """What every model makes of every trial, and the ensemble of the points."""
    outcomes = {}
    key = jax.random.key(_EVALUATION_SEED)
    for cell, trial in trials.items():
        print(f"evaluating on {', '.join(cell)}", flush=True)
        outcomes[cell] = {
            kind: [
                hedged_evaluation.evaluate(
                    model, trained, trial, num_samples=config.num_samples, key=key
                )
                for trained in parameters[kind]
            ]
            for kind, model in models.items()
        }
        if "point" in models and len(config.seeds) > 1:
            together = hedged_evaluation.ensemble(outcomes[cell]["point"], trial)
            outcomes[cell]["ensemble of points"] = [together]
        for each in outcomes[cell].values():  # the matrices are large, and no longer needed
            each[:] = [outcome._replace(match_to_gallery=None) for outcome in each]
    return outcomes


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        run(tyro.cli(Config, prog="python -m experiments.hedged_digits", description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
