"""Which images are worth a caption: the most uncertain, or any?

    python -m experiments.active_learning
    python -m experiments.active_learning --toy
    python -m experiments.active_learning --shifts inverted --budgets 32 64 128 256

ProbVLM's first use of uncertainty. A small encoder of digit captions stays as it was trained, on
plain digits, with ProbVLM adapters around its embeddings; then images shift (`shifted_digits`).
Of a pool of shifted images without captions some are chosen, at equal budgets, to be given theirs:

    strategy            images are chosen
    random              at random
    most uncertain      by the adapter's total uncertainty with dropout, the greatest first
    most epistemic      by the part of it that passes with dropout disagree about
    least uncertain     by the total, the least first
    least cosine        by their best cosine with any caption of the adapters' training, the least

From the same start the image side of the encoder is tuned on what was chosen, for the same number
of steps: half of each batch are chosen images, half plain ones of its first training, so that it
does not forget these. Then retrieval on a shifted test, whose numbers the training knows. The same
command again goes on where the last one was stopped, to the same numbers.

On two CPU cores: about a quarter of an hour by default, a minute and a half with --toy. Expected,
of ProbVLM: the most uncertain images teach more than random ones. Reached: on inverted images and
other fonts they teach less, on others as much (R-Precision 0.016 lower in the mean); the part that
members disagree about does no better than random choices. `answers/active_learning.md` has all
numbers.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from tqdm import tqdm

from experiments import runs
from experiments.adapters import (
    active_learning_numbers,
    active_learning_page,
    active_learning_pictures,
    adapted_encoder,
    choosing,
    tuning,
)
from experiments.adapters.adapted_encoder import AdaptedEncoder
from experiments.adapters.choosing import START, STRATEGIES, WHOLE
from experiments.captions import digit_encoder, digit_trials
from experiments.captions.batches import annotated_batches
from experiments.captions.retrieval import Trial
from experiments.data import captioned_digits, shifted_digits
from experiments.data.captioned_digits import Captioned
from experiments.data.shifted_digits import Shift
from experiments.reports import tables
from experiments.runs import cells as cell_files
from experiments.uncertainty.baselines import Evidence, measured

QUESTION = runs.Question("experiments.active_learning")
_POOL_SEED, _TEST_SEED = 1, 2
TOY: dict[str, Any] = {
    "seeds": (0, 1),
    "shifts": ("inverted", "mixed"),
    "budgets": (32, 128),
    "encoder_steps": 500,
    "adapter_steps": 200,
    "tuning_steps": 50,
}
"""What `toy` puts in place of options left at their default."""


@dataclasses.dataclass(frozen=True)
class Config(adapted_encoder.Options):
    """Options of active learning."""

    shifts: tuple[Shift, ...] = ("inverted", "occluded", "fonts", "mixed")
    """How the images of pool and test differ from those of training."""
    budgets: tuple[int, ...] = (32, 128, 512)
    """So many images of the pool are given captions."""
    tuning_steps: int = 150
    """Steps of a fine-tuning."""
    tuning_rate: float = 3e-3
    """The rate of its Adam at the start; it falls to 0 along a cosine."""
    tuning_batch: int = 64
    """Images of its batches, half of them chosen; even."""
    toy: bool = False
    """To see all of it quickly, too short for what is expected: of the options that are not
    given, two seeds, two shifts, two budgets, few steps."""


def resolved(config: Config) -> Config:
    """The configuration with its defaults filled in, checked.

    Raises:
      ValueError: an option out of range.
    """
    adapted_encoder.check(config)
    runs.check_choices(config, "shifts", shifted_digits.SHIFTS)
    runs.check_choices(config, "budgets")
    runs.check_least(config, {"tuning_steps": 1, "tuning_batch": 4})
    if config.tuning_batch % 2:
        raise ValueError(f"tuning_batch must be even, got {config.tuning_batch}")
    if not 0.0 < config.tuning_rate < float("inf"):
        raise ValueError(f"tuning_rate must be positive, got {config.tuning_rate}")
    least = config.tuning_batch // 2
    for budget in config.budgets:
        if budget < least:
            raise ValueError(
                f"budgets must be at least {least}, half of tuning_batch, got {budget}"
            )
    return runs.shortened(config, TOY) if config.toy else config


def options_of(config: Config) -> dict[str, Any]:
    """The options that numbers depend on."""
    return runs.options(config, without=("datasets", "output"))


# --- tuning -----------------------------------------------------------------------------------


def batches(
    config: Config, split: Captioned, words: np.ndarray, images: np.ndarray, *, seed: int
) -> grain.MapDataset:
    """Halves of the batches of a tuning.

    Args:
      config: of the tuning.
      split: of images and captions.
      words: the captions in numbers (caption, length).
      images: which of them.
      seed: batch k is a function of it, of k and of the images.
    """
    return annotated_batches(
        split.images,
        words,
        split.annotations[np.isin(split.annotations[:, 0], images)],
        config.tuning_steps,
        seed=seed,
        batch_size=config.tuning_batch // 2,
    )


# --- cells ------------------------------------------------------------------------------------


class Source(NamedTuple):
    """What all cells of a seed begin with.

    Attributes:
      adapted: the encoder with its adapters.
      known: embeddings (caption, dimension) of the captions that the adapters were trained on.
      tested: embeddings (caption, dimension) of the captions of the test.
      plain: halves of batches of plain images.
      seed: of all.
    """

    adapted: AdaptedEncoder
    known: np.ndarray
    tested: np.ndarray
    plain: grain.MapDataset
    seed: int


class Field(NamedTuple):
    """Where images shift.

    Attributes:
      shift: how.
      pool: shifted images, with the captions that those who are chosen get.
      before: the images of the pool before they shifted.
      words: captions of the pool (caption, length) in numbers.
      trials: "shifted" and "plain", the test in either form.
    """

    shift: Shift
    pool: Captioned
    before: np.ndarray
    words: np.ndarray
    trials: dict[str, Trial]


def fill(config: Config, folder: Path, source: Source, field: Field) -> list[dict[str, Any]]:
    """The cells of a seed and a shift; those that are in the folder are not computed again."""
    number = len(field.pool.images)

    @functools.cache
    def orders() -> dict[str, np.ndarray]:
        """Not asked for where all cells are there."""
        images = field.pool.images
        adapted = source.adapted
        cosines = adapted_encoder.cosines(adapted.encoder, images, source.known)
        measures = {
            **adapted_encoder.uncertainty(adapted, images, num_members=config.num_members),
            **measured(Evidence(cosines=cosines)),
        }
        every = {each: choosing.order(each, measures, seed=source.seed) for each in STRATEGIES}
        return {START: np.arange(0), WHOLE: np.arange(number), **every}

    cells = []
    wanted = [(strategy, budget) for strategy in STRATEGIES for budget in config.budgets]
    bar = tqdm(
        [(START, 0), *wanted, (WHOLE, number)],
        desc=f"{field.shift}, seed {source.seed}",
        unit="cell",
        mininterval=10,
    )
    for strategy, budget in bar:
        what = {"shift": field.shift, "strategy": strategy, "budget": budget, "seed": source.seed}
        name = f"{field.shift}-{strategy.replace(' ', '_')}-{budget}-{source.seed}.json"

        def compute(what: dict = what) -> dict[str, Any]:
            chosen = orders()[what["strategy"]][: what["budget"]]
            return {**what, **_cell(config, source, field, chosen)}

        cells.append(cell_files.cell(folder / name, compute))
    return cells


def _cell(config: Config, source: Source, field: Field, chosen: np.ndarray) -> dict[str, Any]:
    """Retrieval on both tests after tuning on what was chosen, and what that was."""
    encoder = source.adapted.encoder
    if len(chosen):
        new = batches(config, field.pool, field.words, chosen, seed=source.seed)
        encoder = tuning.tune(
            encoder,
            new,
            source.plain,
            num_steps=config.tuning_steps,
            learning_rate=config.tuning_rate,
        )
    outcomes = {
        name: adapted_encoder.outcome(encoder, trial, source.tested)
        for name, trial in field.trials.items()
    }
    return {
        **{name: adapted_encoder.retrieval(found) for name, found in outcomes.items()},
        "chosen": choosing.describe(field.pool, field.before, chosen) if len(chosen) else None,
    }


# --- the run ----------------------------------------------------------------------------------


def some_of(split: Captioned, images: np.ndarray) -> Captioned:
    """A split of some images (image), with the captions that were written of them."""
    place = np.full(len(split.images), -1)
    place[images] = np.arange(len(images))
    image, caption = split.annotations[place[split.annotations[:, 0]] >= 0].T
    kept, number = np.unique(caption, return_inverse=True)
    return split._replace(
        images=split.images[images],
        numbers=split.numbers[images],
        covered=split.covered[images],
        captions=tuple(split.captions[k] for k in kept),
        annotations=np.stack([place[image], number], 1),
    )


def run(config: Config) -> dict[str, Any]:
    """Train, choose and tune what is not there yet, save the report, return its numbers."""
    asked, config = config, resolved(config)
    this = QUESTION.run(asked, config, options_of(config))
    if (content := this.earlier()) is not None:
        return content
    loaded = captioned_digits.load("sklearn", config.datasets)
    train, test = loaded["train"], loaded["test_seen"]
    of_encoder, of_adapters, left = adapted_encoder.parts(len(train.images))
    if max(config.budgets) > len(left):
        raise ValueError(
            f"budgets must be at most {len(left)}, the images of the pool, "
            f"got {max(config.budgets)}"
        )
    plain = some_of(train, left)
    data = (
        f"digit captions of scikit-learn's digits, a pool of {len(left):,} images, a test of "
        f"{len(test.images):,} with {len(test.captions):,} captions; {config.encoder_steps:,} "
        f"steps of the encoder, {config.adapter_steps:,} of the adapters, "
        f"{config.tuning_steps:,} of a tuning"
    )
    this.begin(data)
    trial = adapted_encoder.trial(test)
    fields, words = [], digit_trials.encode(plain.captions)
    for shift in config.shifts:
        pool = shifted_digits.shifted(plain, shift, seed=_POOL_SEED)
        images = shifted_digits.shifted(test, shift, seed=_TEST_SEED).images
        trials = {"shifted": trial._replace(images=images), "plain": trial}
        fields.append(Field(shift, pool, plain.images, words, trials))
    cells = []
    for seed in config.seeds:
        adapted = adapted_encoder.train(
            train, this.folder / "encoders" / str(seed), config, seed=seed
        )
        known, tested = (
            digit_encoder.embed_captions(adapted.encoder, captions)
            for captions in (some_of(train, of_adapters).captions, test.captions)
        )
        old = batches(config, train, digit_trials.encode(train.captions), of_encoder, seed=seed)
        source = Source(adapted, known, tested, old, seed)
        for field in fields:
            cells += fill(config, this.folder / "cells", source, field)
    found = active_learning_numbers.numbers(cells)
    content = {
        **this.head(data),
        **{name: tables.records(frame) for name, frame in found.items()},
    }
    return this.save(
        content,
        active_learning_page.markdown(content),
        lambda partial: active_learning_pictures.draw(partial / "active_learning.png", content),
    )


if __name__ == "__main__":
    QUESTION.main(__doc__, Config, run)
