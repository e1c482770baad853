"""Uncertainty for any frozen embedding: can it be trusted, and what does it cost?

    python -m experiments.probvlm_adapters
    python -m experiments.probvlm_adapters --toy
    python -m experiments.probvlm_adapters --images images.npy --texts texts.npy
    python -m experiments.probvlm_adapters --images FOLDER --methods probvlm gaussian

Takes two files of paired embeddings of a vision-language model that stays frozen
(`embedding_files` tells the formats), trains adapters that put a distribution around each
embedding, with several seeds at once, and reports whether these distributions can be trusted:
retrieval before and after, coverage before and after temperature scaling, and how well each
uncertainty (aleatoric, dropout, ensemble) tells failures, beside what cosines, changed inputs
and texts tell without any adapter. The adapters are saved, ready for `adapters.saved.load`.

By default the embeddings are those of a small dual encoder, trained on digit captions
(`digit_encoder`), where it is known how ambiguous each image and caption is. The same
command again goes on where the last one was stopped, to the same numbers.

On two CPU cores: about ten minutes by default, under two with --toy, which mostly compiles the
intervals. Expected: the total uncertainty of captions correlates with their true ambiguity
(Spearman about 0.85), more than anything that cosines tell; intervals of 90 % hold about 90 % of
the partners' coordinates. `answers/probvlm_adapters.md` has all numbers.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import runs
from experiments.adapters import evaluation, numbers, page, pictures, training
from experiments.adapters import frozen as frozen_embeddings
from experiments.adapters import saved as saved_adapters
from experiments.adapters.saved import SavedAdapter
from experiments.adapters.training import Method, Model
from experiments.captions import digit_encoder
from experiments.captions.retrieval import Known
from experiments.data import captioned_digits, embedding_files
from experiments.data.embedding_files import PairedEmbeddings, Part
from experiments.reports import tables

_EVALUATION_SEED = 0
_MOST_VALIDATION_PAIRS = 2000
_FILES = ("images", "texts", "test_images", "test_texts")
QUESTION = runs.Question("experiments.probvlm_adapters", files=_FILES)
_FOLDERS = (*_FILES, "datasets", "output")
_LEAST = {
    "hidden": 1,
    "batch_size": 1,
    "encoder_dimension": 2,
    "encoder_steps": 1,
    "num_members": 2,
    "most_test_images": 2,
    "num_resamples": 100,
    "checkpoint_every": 1,
    "log_every": 1,
}
TOY: dict[str, Any] = {
    "methods": ("probvlm", "released", "gaussian"),
    "seeds": (0,),
    "num_steps": 200,
    "encoder_steps": 300,
    "num_resamples": 100,
}
"""What `toy` puts in place of options left at their default."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the adapters' experiment."""

    images: Path | None = None
    """Embeddings of images: .npy, .npz, .safetensors or .parquet; or a folder with both sides.
    Default: those of an encoder of digit captions, trained here."""
    texts: Path | None = None
    """Embeddings of their texts, in any of these formats."""
    test_images: Path | None = None
    """Embeddings of images for testing. Default: a share of the images."""
    test_texts: Path | None = None
    """Embeddings of their texts."""
    test_share: float = 0.2
    """The share of the images that is set aside for testing, where no test is given."""
    most_test_images: int = 1000
    """So many images are tested at most, a random choice, with all their texts."""
    methods: tuple[Method, ...] = training.METHODS
    """What to train and compare; the first is the one that the report's answer is about."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """An adapter for each, all trained at once; together they are the ensemble."""
    hidden: tuple[int, ...] = (256, 256)
    """The lengths of the adapter's hidden layers."""
    dropout: float = 0.1
    """How probably a hidden unit is dropped."""
    cross_modal_weight: float = 100.0
    """lambda, of explaining the partner's embedding beside one's own; see `probemb.probvlm`."""
    num_steps: int | None = None
    """Steps of a training. Default: 1500; of few pairs 40 passes over them, 150 at least."""
    batch_size: int = 256
    """Pairs of a batch."""
    learning_rate: float = 1e-3
    """The rate of Adam at the start; it falls to 0 along a cosine."""
    validation_share: float = 0.1
    """The share of the training images that is set aside for temperatures."""
    num_members: int = 10
    """Passes with dropout."""
    encoder_dimension: int = 32
    """Of the embeddings of digit captions."""
    encoder_steps: int = 1500
    """Steps of their encoder's training."""
    num_resamples: int = 1000
    """Resamples of a bootstrap interval, 100 or more."""
    datasets: Path = Path("results/datasets")
    """Where the data set of digit captions is prepared, once."""
    checkpoint_every: int = 500
    """Steps from one checkpoint to the next."""
    log_every: int = 100
    """Steps from one line of metrics.jsonl to the next."""
    toy: bool = False
    """To see all of it quickly, too short for what is expected: of the options that are not
    given, three methods, two seeds, 200 steps, 300 of the encoder, 100 resamples."""
    output: Path | None = None
    """The folder of the run. Default: in results, named after all options."""


def resolved(config: Config) -> Config:
    """The configuration with its defaults filled in, checked.

    Raises:
      ValueError: an option out of range, missing, or two that contradict each other.
    """
    runs.check_least(config, _LEAST)
    runs.check_choices(config, "methods", training.METHODS)
    runs.check_training(config)
    if config.num_steps is not None and config.num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {config.num_steps}")
    if not config.hidden:
        raise ValueError("hidden must be one length at least, got none")
    if not 0.0 <= config.dropout < 1.0:
        raise ValueError(f"dropout must lie in 0..1, below 1, got {config.dropout}")
    if not 0.0 <= config.cross_modal_weight < float("inf"):
        raise ValueError(
            f"cross_modal_weight must not be negative, got {config.cross_modal_weight}"
        )
    for name in ("test_share", "validation_share"):
        if not 0.0 < getattr(config, name) < 1.0:
            raise ValueError(f"{name} must lie between 0 and 1, got {getattr(config, name)}")
    for images, texts in (("images", "texts"), ("test_images", "test_texts")):
        given, partner = getattr(config, images), getattr(config, texts)
        if given is None and partner is not None:
            raise ValueError(f"{texts} must come with {images}, which is not given")
        if given is not None and partner is None and not given.is_dir():
            raise ValueError(f"{images} must come with {texts}, or be a folder, got {given}")
        if given is not None and partner is not None and given.is_dir():
            raise ValueError(f"{images} must be a file where {texts} is given, {given} is a folder")
    if config.test_images is not None and config.images is None:
        raise ValueError("test_images must come with images, which are not given")
    needless = ["test_share"] if config.test_images is not None or config.images is None else []
    needless += ["encoder_dimension", "encoder_steps"] if config.images is not None else []
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in needless:
        if getattr(config, name) != defaults[name]:
            raise ValueError(f"{name} must be left out here, nothing asks for it")
    return runs.shortened(config, TOY) if config.toy else config


def options_of(config: Config) -> dict[str, Any]:
    """The options that numbers depend on; of the files what they hold, not where they lie."""
    options = runs.options(config, without=(*_FOLDERS, "checkpoint_every", "log_every"))
    for name in _FILES:
        path = getattr(config, name)
        if path is not None:
            options[f"{name}_sha256"] = embedding_files.digest(path, name=name)
    return options


# --- embeddings -------------------------------------------------------------------------------


def export_digits(config: Config, folder: Path) -> tuple[Config, Known]:
    """Train an encoder of digit captions, write its embeddings, and what is known of the test.

    Returns the configuration with the files that were written.
    """
    splits = captioned_digits.load("sklearn", config.datasets)
    train, test = splits["train"], splits["test_seen"]
    of_encoder, of_adapters = digit_encoder.halves(len(train.images))
    first_id = len(train.images)  # ids of the test are none of training's
    paths = {name: folder / "embeddings" / f"{name}.safetensors" for name in _FILES}
    if not all(path.is_file() for path in paths.values()):
        encoder = digit_encoder.train(
            train,
            of_encoder,
            folder / "runs",
            dimension=config.encoder_dimension,
            num_steps=config.encoder_steps,
        )
        files = paths["images"], paths["texts"]
        digit_encoder.export(encoder, train, of_adapters, files)
        digit_encoder.export(
            encoder,
            test,
            np.arange(len(test.images)),
            (paths["test_images"], paths["test_texts"]),
            first_id=first_id,
            augmentations=digit_encoder.AUGMENTATIONS,
        )
    return dataclasses.replace(config, **paths), digit_encoder.known(test, first_id=first_id)


def read(config: Config) -> tuple[PairedEmbeddings, Part, PairedEmbeddings, Part]:
    """Pairs with the part to train on, and pairs with the part to test on.

    Raises:
      ValueError: files that do not hold what they should, or a test with training in it.
    """
    assert config.images is not None
    paired = embedding_files.read(config.images, config.texts)
    if config.test_images is None:
        whole = embedding_files.whole(paired)
        part, test_part = embedding_files.split(paired, whole, config.test_share)
        test = paired
    else:
        names = "test_images", "test_texts"
        test = embedding_files.read(config.test_images, config.test_texts, names=names)
        embedding_files.check_apart(paired, test)
        part, test_part = embedding_files.whole(paired), embedding_files.whole(test)
    return paired, part, test, embedding_files.at_most(test, test_part, config.most_test_images)


def steps_of(pairs: int, batch_size: int) -> int:
    """How many steps a training has where nobody says."""
    return min(1500, max(150, 40 * pairs // batch_size))


def _pairs(paired: PairedEmbeddings, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (pair, dimension) of images and texts, a random choice if they are many."""
    texts = part.texts
    if len(texts) > _MOST_VALIDATION_PAIRS:
        random = np.random.default_rng(_EVALUATION_SEED)
        texts = random.choice(texts, _MOST_VALIDATION_PAIRS, replace=False)
    return (
        embedding_files.rows(paired.images.vectors, paired.image_of[texts]),
        embedding_files.rows(paired.texts.vectors, texts),
    )


def _describe(paired: PairedEmbeddings, part: Part, validation: Part, test: Part) -> str:
    images = paired.images
    scale = (
        "of norm 1"
        if images.normalized
        else (f"with norms of {images.norms[0]:.3g} to {images.norms[1]:.3g}, here made 1")
    )
    return (
        f"embeddings {f'({images.model}) ' if images.model else ''}of dimension "
        f"{images.vectors.shape[1]} {scale}: {len(part.images):,} images with "
        f"{len(part.texts):,} texts for training, {len(validation.images):,} with "
        f"{len(validation.texts):,} for temperatures, {len(test.images):,} with "
        f"{len(test.texts):,} for testing"
    )


# --- the run ----------------------------------------------------------------------------------


def run(config: Config) -> dict[str, Any]:
    """Train what is not trained yet, evaluate, save the report, and return its numbers."""
    asked, config = config, resolved(config)
    this = QUESTION.run(asked, config, options_of(config))
    if (content := this.earlier()) is not None:
        return content
    known = None
    if config.images is None:
        this.begin()
        config, known = export_digits(config, this.folder)
    paired, part, test, test_part = read(config)
    part, validation = embedding_files.split(
        paired, part, config.validation_share, name="validation_share"
    )
    num_steps = config.num_steps or steps_of(len(part.texts), config.batch_size)
    pairs = _pairs(paired, validation)
    one_each = validation._replace(
        texts=validation.texts[np.unique(paired.image_of[validation.texts], return_index=True)[1]]
    )
    logit_scale = frozen_embeddings.fit_logit_scale(*_pairs(paired, one_each))
    trained_on = (
        embedding_files.keys("images", paired.images.vectors)[part.images],
        embedding_files.keys("texts", paired.texts.vectors)[part.texts],
    )
    frozen = frozen_embeddings.freeze(test, test_part, trained_on, known)
    before = frozen_embeddings.outcome(frozen, logit_scale)
    data = f"{_describe(paired, part, validation, test_part)}; {num_steps:,} steps"
    this.begin(data)
    models = {
        method: Model(
            method,
            paired.images.vectors.shape[1],
            config.hidden,
            config.dropout,
            config.cross_modal_weight,
        )
        for method in config.methods
    }
    parameters = {
        method: training.train(
            model,
            paired,
            part,
            this.folder,
            seeds=config.seeds,
            num_steps=num_steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            checkpoint_every=config.checkpoint_every,
            log_every=config.log_every,
        )
        for method, model in models.items()
    }
    temperatures = {
        method: evaluation.temperatures(model, parameters[method], *pairs)
        for method, model in models.items()
    }
    key = jax.random.key(_EVALUATION_SEED)
    evaluations = {}
    for method, model in models.items():
        print(f"evaluating {method}", flush=True)
        evaluations[method] = evaluation.evaluate(
            model,
            parameters[method],
            frozen,
            before,
            temperatures[method],
            key=key,
            num_members=config.num_members,
        )
    print("intervals", flush=True)
    found = numbers.numbers(
        frozen, before, evaluations, key=key, num_resamples=config.num_resamples
    )
    content = {
        **this.head(data),
        "logit_scale": logit_scale,
        "has_truth": frozen.trial.truth is not None,
        "failures": numbers.failures(before),
        **{name: tables.records(frame) for name, frame in found.items()},
    }

    def draw(partial: Path) -> None:
        pictures.draw(partial / "adapters.png", frozen, before, evaluations)
        (partial / "adapters").mkdir()
        for method, model in models.items():
            saved = SavedAdapter(
                model.adapter, parameters[method], temperatures[method], paired.images.model
            )
            saved_adapters.save(partial / "adapters" / f"{method}.safetensors", saved)

    return this.save(content, page.markdown(content), draw)


if __name__ == "__main__":
    QUESTION.main(__doc__, Config, run)
