"""Which of some models suits new images: the one with the least uncertainty?

    python -m experiments.model_selection
    python -m experiments.model_selection --toy
    python -m experiments.model_selection --domains plain inverted occluded fonts mixed

ProbVLM's second use of uncertainty. A source is a small encoder of digit captions with ProbVLM
adapters, trained on the images of one domain (`shifted_digits`); all have equal budgets. A target
is a test of one domain, without labels: every source is asked how uncertain it is of the target's
images, and the one with the lowest mean uncertainty is picked. Is it the one that retrieves best,
and how much worse is it if not? Beside the adapters' uncertainties stand what cosines say, and
picking at random. Embeddings of different encoders need not have one scale, so that each criterion
is taken as it is and relative to what it is on the source's own test, and variances also in units
of the variance of the source's embeddings of captions. The sources to pick from are all, or all
but the one of the target's own domain, which is mostly the best.

The same command again goes on where the last one was stopped, to the same numbers.

On two CPU cores: about a quarter of an hour by default, a minute with --toy. Expected, of ProbVLM:
the lowest mean uncertainty picks the best source. Reached: as it is it does not, since the
embeddings of a source that learned little lie close together; in units of their spread it does so
for three targets in five. The entropy of the scores, without any adapter, nearly always does.
`answers/model_selection.md` has all numbers.
"""

import dataclasses
from typing import Any

import numpy as np

from experiments import runs
from experiments.adapters import (
    adapted_encoder,
    model_selection_page,
    model_selection_pictures,
    picking,
)
from experiments.adapters.adapted_encoder import AdaptedEncoder
from experiments.adapters.evaluation import OWN
from experiments.captions import digit_encoder
from experiments.captions.retrieval import Trial
from experiments.data import captioned_digits, shifted_digits
from experiments.data.shifted_digits import Shift
from experiments.reports import tables
from experiments.runs import cells as cell_files

QUESTION = runs.Question("experiments.model_selection")
_TRAIN_SEED, _TEST_SEED = 1, 2

TOY: dict[str, Any] = {
    "seeds": (0, 1),
    "domains": ("plain", "inverted", "fonts"),
    "encoder_steps": 300,
    "adapter_steps": 200,
}
"""What `toy` puts in place of options left at their default."""


@dataclasses.dataclass(frozen=True)
class Config(adapted_encoder.Options):
    """Options of model selection."""

    domains: tuple[Shift, ...] = ("plain", "inverted", "occluded", "fonts")
    """The images of a source, and of a target: each is both, three at least."""
    encoder_steps: int = 1000
    """Steps of an encoder's training."""
    toy: bool = False
    """To see all of it quickly, too short for what is expected: of the options that are not
    given, two seeds, three domains, few steps."""


def resolved(config: Config) -> Config:
    """The configuration with its defaults filled in, checked.

    Raises:
      ValueError: an option out of range.
    """
    adapted_encoder.check(config)
    runs.check_choices(config, "domains", shifted_digits.SHIFTS)
    if len(config.domains) < 3:
        raise ValueError(f"domains must be three at least, got {config.domains}")
    return runs.shortened(config, TOY) if config.toy else config


def options_of(config: Config) -> dict[str, Any]:
    """The options that numbers depend on."""
    return runs.options(config, without=("datasets", "output"))


def ask(adapted: AdaptedEncoder, trials: dict[Shift, Trial], num_members: int) -> dict[str, Any]:
    """What a source makes of every target: retrieval, and all that needs no label.

    Beside it the logarithm of the total variance of its embeddings of captions.

    Args:
      adapted: the source.
      trials: of the targets.
      num_members: passes with dropout.
    """
    encoder, found = adapted.encoder, {}
    texts = next(iter(trials.values())).captions  # the same of all targets
    captions = digit_encoder.embed_captions(encoder, texts)
    of_captions = adapted_encoder.uncertainty(
        adapted, texts, side="caption", num_members=num_members
    )[OWN]
    for target, trial in trials.items():
        outcome = adapted_encoder.outcome(encoder, trial, captions)
        measures = adapted_encoder.uncertainty(adapted, trial.images, num_members=num_members)
        measures |= outcome.uncertainty["image"]
        means = {name: float(np.mean(values)) for name, values in measures.items()}
        means[picking.BOTH] = means[OWN] + float(np.mean(of_captions))
        found[target] = {"retrieval": adapted_encoder.retrieval(outcome), "criteria": means}
    return {"targets": found, "log_spread": float(np.log(captions.var(0).sum()))}


def run(config: Config) -> dict[str, Any]:
    """Train and ask the sources that are not there yet, save the report, return its numbers."""
    asked, config = config, resolved(config)
    this = QUESTION.run(asked, config, options_of(config))
    if (content := this.earlier()) is not None:
        return content
    loaded = captioned_digits.load("sklearn", config.datasets)
    train, test = loaded["train"], loaded["test_seen"]
    data = (
        f"digit captions of scikit-learn's digits, {len(train.images):,} training images, a test "
        f"of {len(test.images):,} with {len(test.captions):,} captions; "
        f"{config.encoder_steps:,} steps of an encoder, {config.adapter_steps:,} of adapters"
    )
    this.begin(data)
    plain = adapted_encoder.trial(test)
    trials: dict[Shift, Trial] = {
        domain: plain._replace(images=shifted_digits.shifted(test, domain, seed=_TEST_SEED).images)
        for domain in config.domains
    }
    cells = []
    for seed in config.seeds:
        for domain in config.domains:

            def compute(domain: Shift = domain, seed: int = seed) -> dict[str, Any]:
                split = shifted_digits.shifted(train, domain, seed=_TRAIN_SEED)
                place = this.folder / "sources" / f"{domain}-{seed}"
                adapted = adapted_encoder.train(split, place, config, seed=seed)
                print(f"asking {domain}, seed {seed}", flush=True)
                found = ask(adapted, trials, config.num_members)
                return {"source": domain, "seed": seed, **found}

            cells.append(cell_files.cell(this.folder / "cells" / f"{domain}-{seed}.json", compute))
    content = {
        **this.head(data),
        **{name: tables.records(frame) for name, frame in picking.numbers(cells).items()},
    }
    return this.save(
        content,
        model_selection_page.markdown(content),
        lambda partial: model_selection_pictures.draw(partial / "model_selection.png", content),
    )


if __name__ == "__main__":
    QUESTION.main(__doc__, Config, run)
