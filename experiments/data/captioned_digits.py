"""Digit captions as a TFDS data set: numbers, some digits covered, with captions that denote sets.

    from experiments.data import captioned_digits
    splits = captioned_digits.load("sklearn", Path("results/datasets"))

An image shows a number of one to three digits, from the left of a canvas of three; each
digit is covered by a grey square with probability 1/4. A caption was written by someone who
saw the number uncovered, and says as much of it as they liked (`caption_grammar`). So all is
known: which captions are true of which images, how many numbers a caption denotes, how many
an image may show, and how probably a caption is true of what an image shows.

    split        images  numbers of 1, 2, 3 digits    digits from
    train         6,000  10, 70, 700                  the training pool
    test_seen       570  10, 70, 150 of those         the test pool
    test_unseen     420  none, the other 30, 150      the test pool

Those are of scikit-learn's digits; of MNIST there are five times as many training images.

Settings are chosen on another data set of the same form, `load(..., held_out=True)`: the training
pool and the numbers for training, split again. Nothing of it is of the test.
"""

import itertools
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, get_args

import numpy as np
import tensorflow_datasets as tfds

from experiments.data import caption_grammar, digits, prepared
from experiments.data.labelled import Labelled

CAPTIONS = 5
"""Of each image."""
COVERED = 0.25
"""How probably a digit is covered."""
COVER = 128
"""The grey of a cover."""
_SEED = 2026
_UNSEEN = (0, 30, 300)
"""Numbers of each length that are not for training."""
_HELD_OUT = "_held_out"
_UNSEEN_HELD_OUT = (0, 21, 210)
"""Those for training that are not for training where settings are chosen."""
_KEPT = 0.7
"""The share of the training pool that is for training there."""

# Numbers of each length, and images of each number.
_Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
SIZES: dict[digits.Source, dict[str, _Sizes]] = {
    "sklearn": {
        "train": ((10, 40), (70, 20), (700, 6)),
        "test_seen": ((10, 13), (70, 2), (150, 2)),
        "test_unseen": ((0, 0), (30, 4), (150, 2)),
    },
    "mnist": {
        "train": ((10, 200), (70, 100), (700, 30)),
        "test_seen": ((10, 13), (70, 2), (150, 2)),
        "test_unseen": ((0, 0), (30, 4), (150, 2)),
    },
}
SIZES_HELD_OUT: dict[digits.Source, dict[str, _Sizes]] = {
    "sklearn": {
        "train": ((10, 40), (49, 28), (490, 8)),
        "test_seen": ((10, 13), (49, 3), (150, 2)),
        "test_unseen": ((0, 0), (21, 6), (150, 2)),
    },
    "mnist": {
        "train": ((10, 200), (49, 140), (490, 40)),
        "test_seen": ((10, 13), (49, 3), (150, 2)),
        "test_unseen": ((0, 0), (21, 6), (150, 2)),
    },
}
"""The same where settings are chosen."""


class Captioned(NamedTuple):
    """A split: images, the different captions among theirs, and who wrote which of whom.

    Attributes:
      images: (image, side, 3 * side) uint8.
      numbers: the place (image) of the number shown among `caption_grammar.NUMBERS`.
      covered: which digits (image, 3) are covered.
      captions: (caption) texts, each once.
      annotations: (pair, 2): the image, and the caption that was written of it.
    """

    images: np.ndarray
    numbers: np.ndarray
    covered: np.ndarray
    captions: tuple[str, ...]
    annotations: np.ndarray

    @property
    def denotations(self) -> np.ndarray:
        """The numbers (caption, 1110) that each caption denotes, boolean."""
        return np.stack([caption_grammar.denotation(caption) for caption in self.captions])

    @property
    def showings(self) -> np.ndarray:
        """The numbers (image, 1110) that each image may show, given its covers, boolean."""
        shown = caption_grammar.NUMBERS[self.numbers]
        same = (caption_grammar.NUMBERS == shown[:, None]) | (
            self.covered[:, None] & (caption_grammar.NUMBERS >= 0)
        )
        return same.all(2)

    @property
    def positives(self) -> np.ndarray:
        """Which captions are true of which images' numbers: boolean (image, caption)."""
        return self.denotations[:, self.numbers].T

    @property
    def annotated(self) -> np.ndarray:
        """Which captions were written of which images: boolean (image, caption)."""
        pairs = np.zeros((len(self.images), len(self.captions)), bool)
        pairs[tuple(self.annotations.T)] = True
        return pairs

    @property
    def match_probability(self) -> np.ndarray:
        """How probably each caption is true of what each image shows: (image, caption).

        All numbers that an image may show are equally probable. Whoever sees the image, but not
        what is covered, and knows nothing of the split, cannot know more.
        """
        shown = self.showings.astype(np.float64)
        return shown @ self.denotations.T / shown.sum(1, keepdims=True)

    @property
    def of_one_length(self) -> np.ndarray:
        """Whether a caption (caption) holds of numbers of one length alone."""
        lengths = [caption_grammar.LENGTHS[held] for held in self.denotations]
        return np.array([each.min() == each.max() for each in lengths])

    @property
    def image_ambiguity(self) -> np.ndarray:
        """The logarithm (image) of how many numbers an image may show, in nats."""
        return np.log(self.showings.sum(1))

    @property
    def caption_ambiguity(self) -> np.ndarray:
        """The logarithm (caption) of how many numbers a caption denotes, in nats."""
        return np.array([caption_grammar.ambiguity(caption) for caption in self.captions])


class DigitCaptions(tfds.core.GeneratorBasedBuilder):
    """Digit captions; the configurations are "sklearn" and "mnist", each also "_held_out".

    Args:
      mnist: a folder with MNIST's four files. Default: downloaded.
      kwargs: as of every TFDS builder; `file_format="array_record"` needs no TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=source + part, description=f"the digits of {source}")
        for source in SIZES
        for part in ("", _HELD_OUT)
    ]

    def __init__(self, *, mnist: Path | None = None, **kwargs):
        super().__init__(**kwargs)
        self._mnist = mnist

    @property
    def _source(self) -> digits.Source:
        assert self.builder_config is not None
        name = self.builder_config.name.removesuffix(_HELD_OUT)
        return next(source for source in SIZES if source == name)

    def _info(self) -> tfds.core.DatasetInfo:
        side = digits.SIDE[self._source]
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(
                        shape=(side, caption_grammar.LONGEST * side),
                        dtype=np.uint8,
                        encoding=tfds.features.Encoding.ZLIB,
                    ),
                    "number": tfds.features.Scalar(np.int64),
                    "covered": tfds.features.Tensor(
                        shape=(caption_grammar.LONGEST,), dtype=np.bool_
                    ),
                    "captions": tfds.features.Sequence(tfds.features.Text(), length=CAPTIONS),
                }
            ),
            disable_shuffling=True,  # training shuffles
        )

    def _split_generators(self, dl_manager):
        if self._source == "sklearn":
            pools = digits.of_sklearn()
        else:
            pools = digits.of_mnist(prepared.mnist_files(dl_manager, self._mnist))
        random = np.random.RandomState(_SEED)
        every = [np.flatnonzero(length == caption_grammar.LENGTHS) for length in (1, 2, 3)]
        train, other = _numbers(random, every, _UNSEEN)
        sizes_of = SIZES[self._source]
        assert self.builder_config is not None
        if self.builder_config.name.endswith(_HELD_OUT):
            pools = _split_pool(pools["train"])
            train, other = _numbers(random, train, _UNSEEN_HELD_OUT)
            sizes_of = SIZES_HELD_OUT[self._source]
        return {
            split: self._generate_examples(
                np.random.RandomState(_SEED + place),
                pools["train" if split == "train" else "test"],
                other if split == "test_unseen" else train,
                sizes,
            )
            for place, (split, sizes) in enumerate(sizes_of.items(), 1)
        }

    def _generate_examples(self, random, pool: Labelled, numbers, sizes: _Sizes):
        of_digit = [pool.images[pool.labels == digit] for digit in range(10)]
        key = 0
        for of_length, (count, images_of_each) in zip(numbers, sizes, strict=True):
            for number in of_length[:count].repeat(images_of_each):
                covered = _covers(random, number)
                yield (
                    key,
                    {
                        "image": _picture(random, number, covered, of_digit),
                        "number": int(number),
                        "covered": covered,
                        "captions": [
                            caption_grammar.describe(random, number) for _ in range(CAPTIONS)
                        ],
                    },
                )
                key += 1


def _numbers(
    random: np.random.RandomState, numbers: list[np.ndarray], num_unseen: tuple[int, ...]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The numbers of each length for training, and the others, both in random order."""
    train, other = [], []
    for of_length, unseen in zip(numbers, num_unseen, strict=True):
        order = random.permutation(of_length)
        train.append(order[unseen:])
        other.append(order[:unseen])
    return train, other


def _split_pool(pool: Labelled) -> dict[str, Labelled]:
    """The training pool as two, in the order that it has, which is random."""
    cut = round(_KEPT * len(pool.images))
    return {
        "train": Labelled(pool.images[:cut], pool.labels[:cut]),
        "test": Labelled(pool.images[cut:], pool.labels[cut:]),
    }


def _covers(random: np.random.RandomState, number: int) -> np.ndarray:
    covered = random.random_sample(caption_grammar.LONGEST) < COVERED
    return covered & (caption_grammar.NUMBERS[number] >= 0)


def _picture(random, number: int, covered: np.ndarray, of_digit: list[np.ndarray]) -> np.ndarray:
    """The digits side by side, each a random one of its kind, or a grey square."""
    side = of_digit[0].shape[1]
    image = np.zeros((side, caption_grammar.LONGEST * side), np.uint8)
    length = caption_grammar.LENGTHS[number]
    for place, digit in enumerate(caption_grammar.NUMBERS[number, :length]):
        drawn = of_digit[digit][random.randint(len(of_digit[digit]))]
        image[:, place * side : (place + 1) * side] = COVER if covered[place] else drawn
    return image


def load(
    source: digits.Source, folder: Path, *, mnist: Path | None = None, held_out: bool = False
) -> dict[str, Captioned]:
    """All splits in memory, prepared in `folder` if they are not there yet.

    Args:
      source: "sklearn" or "mnist".
      folder: where TFDS keeps what it prepares.
      mnist: a folder with MNIST's four files. Default: downloaded, where the source is mnist.
      held_out: the data set on which settings are chosen, which holds nothing of the test.

    Raises:
      ValueError: an unknown source, files missing or damaged, no network.
    """
    if source not in SIZES:
        raise ValueError(f"source must be one of {get_args(digits.Source)}, got {source!r}")
    if mnist is not None:
        digits.find_mnist(mnist)
    builder = DigitCaptions(
        config=source + _HELD_OUT * held_out,
        data_dir=folder.resolve(),
        file_format="array_record",
        mnist=mnist,
    )
    return {split: _split(examples) for split, examples in prepared.prepared(builder).items()}


def _split(examples: list[dict[str, Any]]) -> Captioned:
    written = [[text.decode() for text in example["captions"]] for example in examples]
    place = {text: k for k, text in enumerate(dict.fromkeys(itertools.chain(*written)))}
    pairs = {(image, place[text]): None for image, texts in enumerate(written) for text in texts}
    return Captioned(
        np.stack([example["image"] for example in examples]),
        np.array([example["number"] for example in examples]),
        np.stack([example["covered"] for example in examples]),
        tuple(place),
        np.array(list(pairs), np.int64),
    )
