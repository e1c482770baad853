import jax
import numpy as np
import pytest

from experiments.captions import digit_encoder, digit_trials
from experiments.captions.digit_encoder import Encoder
from experiments.captions.two_towers import Model, Pictures, Words
from experiments.data import caption_grammar, captioned_digits, digits, embedding_files
from experiments.data.captioned_digits import Captioned
from experiments.runs import training
from tests.experiments.made_up_parameters import parameters_of

NUMBERS = [caption_grammar.spelled(place) for place in range(len(caption_grammar.NUMBERS))]
FIRST_ID = 1000


@pytest.fixture(scope="module")
def split():
    """150 images with two captions each; of every fifth, the first is the same."""
    random = np.random.RandomState(0)
    pool = digits.of_sklearn()["train"]
    of_digit = [pool.images[pool.labels == digit] for digit in range(10)]
    numbers = random.randint(0, 1110, 150)
    covered = np.stack([captioned_digits._covers(random, number) for number in numbers])
    images = [
        captioned_digits._picture(random, number, cover, of_digit)
        for number, cover in zip(numbers, covered, strict=True)
    ]
    written = [[caption_grammar.describe(random, number) for _ in range(2)] for number in numbers]
    for texts in written[::5]:
        texts[0] = "some number"
    captions = tuple(dict.fromkeys(text for texts in written for text in texts))
    pairs = {(k, captions.index(text)): None for k, texts in enumerate(written) for text in texts}
    return Captioned(np.stack(images), numbers, covered, captions, np.array(list(pairs)))


@pytest.fixture(scope="module")
def encoder():
    """One that has learned nothing: training is tested with `probvlm_adapters`."""
    words = len(digit_trials.VOCABULARY), caption_grammar.MOST_WORDS, 8
    model = Model("info_nce", 6, Pictures(8, 24, (3, 4)), Words(*words))
    return Encoder(model, parameters_of(model))


def test_halves_are_apart_and_all():
    one, other = digit_encoder.halves(101)
    assert (len(one), len(other)) == (50, 51)
    assert sorted([*one, *other]) == list(range(101))
    assert (np.diff(one) > 0).all() and (np.diff(other) > 0).all()
    assert 15 < (one < 50).sum() < 35  # at random
    for again, before in zip(digit_encoder.halves(101), (one, other), strict=True):
        np.testing.assert_array_equal(again, before)


def test_it_learns_from_its_half_alone(split, monkeypatch, tmp_path):
    asked = {}

    def batches(images, texts, annotations, num_steps, *, seed, batch_size):
        asked.update(annotations=annotations, texts=texts, seed=seed)

    def fit_seeds(folder, name, seeds, initialize, optimizer, step, batches, **options):
        asked.update(folder=folder, options=options)
        for seed in seeds:
            batches(seed=seed)
        return ["parameters"]

    monkeypatch.setattr(digit_encoder, "annotated_batches", batches)
    monkeypatch.setattr(training, "fit_seeds", fit_seeds)
    images = np.arange(0, 150, 2)
    found = digit_encoder.train(split, images, tmp_path, dimension=6, num_steps=3, seed=7)
    assert found.parameters == "parameters" and found.model.dimension == 6
    assert found.model.method == "info_nce" and found.model.image == Pictures(8, 24, (16, 32))
    assert asked["folder"] == tmp_path and asked["options"]["num_steps"] == 3
    expected = {(i, c) for i, c in split.annotations.tolist() if i % 2 == 0}
    assert {tuple(pair) for pair in asked["annotations"].tolist()} == expected
    np.testing.assert_array_equal(asked["texts"], digit_trials.encode(split.captions))
    assert asked["seed"] == 7


def test_embeddings_are_unit_vectors_of_each_input(split, encoder):
    images = digit_encoder.embed_images(encoder, split.images)
    captions = digit_encoder.embed_captions(encoder, split.captions)
    assert images.shape == (150, 6) and captions.shape == (len(split.captions), 6)
    some = slice(3, 7)
    by_hand = (
        jax.jit(encoder.model.embed_images)(encoder.parameters, split.images[some]),
        jax.jit(encoder.model.embed_texts)(
            encoder.parameters, digit_trials.encode(split.captions[some])
        ),
    )
    for found, expected in zip((images, captions), by_hand, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-6)
        expected = np.asarray(expected)
        unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(found[some], unit, rtol=1e-4, atol=1e-5)


# --- changed inputs -----------------------------------------------------------------------------


def shifted(image):
    """The nine pictures that lie within a pixel of a picture."""
    padded = np.pad(image, 1)
    height, width = image.shape
    return [padded[r : r + height, c : c + width] for r in range(3) for c in range(3)]


def test_a_changed_image_is_shifted_by_a_pixel_at_most(split, monkeypatch):
    monkeypatch.setattr(digit_encoder, "_NOISE", 0.0)
    changed = digit_encoder.changed_images(np.random.RandomState(0), split.images)
    assert changed.shape == split.images.shape and changed.dtype == np.uint8
    ways = set()
    for before, after in zip(split.images, changed, strict=True):
        found = [way for way, one in enumerate(shifted(before)) if np.array_equal(one, after)]
        assert found
        ways.update(found if len(found) == 1 else ())
    assert ways == set(range(9))


def test_a_changed_image_is_noisy():
    grey = np.full((200, 10, 10), 128, np.uint8)
    inside = digit_encoder.changed_images(np.random.RandomState(0), grey)[:, 1:-1, 1:-1]
    assert abs(inside.std() - 16.0) < 0.5 and abs(inside.mean() - 128.0) < 1.0
    ends = np.stack([np.zeros((10, 10), np.uint8), np.full((10, 10), 255, np.uint8)])
    dark, bright = digit_encoder.changed_images(np.random.RandomState(0), ends)
    assert dark.max() < 80 and bright[1:-1, 1:-1].min() > 175  # clipped, not wrapped


def test_a_changed_caption_lacks_some_words_but_never_all():
    captions = ("a four, something, then a two", "seven") * 500
    changed = digit_encoder.changed_captions(np.random.RandomState(0), captions)
    assert len(changed) == 1000 and set(changed[1::2]) == {"seven"}
    words = captions[0].split()
    for caption in changed[::2]:
        left = iter(words)
        assert caption and all(word in left for word in caption.split())  # in their order
    lengths = np.array([len(caption.split()) for caption in changed[::2]])
    # One of six words stays for sure, each of the others with 85 %.
    assert abs(lengths.mean() - (1 + 5 * 0.85)) < 0.15 and lengths.min() < 4
    again = digit_encoder.changed_captions(np.random.RandomState(0), captions)
    assert again == changed


# --- files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(split, encoder, tmp_path_factory):
    """Some images with their captions, and what they are."""
    folder = tmp_path_factory.mktemp("embeddings") / "new"
    paths = folder / "images.safetensors", folder / "texts.safetensors"
    chosen = np.array([2, 5, 10, 75, 149])
    digit_encoder.export(encoder, split, chosen, paths, first_id=FIRST_ID, augmentations=3)
    return paths, chosen


def test_files_hold_images_and_all_their_captions(split, encoder, files):
    paths, chosen = files
    found = embedding_files.read(*paths)
    assert found.images.model == found.texts.model == digit_encoder.MODEL
    assert found.images.normalized and found.texts.normalized
    assert found.images.ids.tolist() == (FIRST_ID + chosen).tolist()
    images = digit_encoder.embed_images(encoder, split.images)
    captions = digit_encoder.embed_captions(encoder, split.captions)
    np.testing.assert_allclose(found.images.vectors, images[chosen], rtol=1e-5, atol=1e-6)
    written = [(i, c) for i, c in split.annotations.tolist() if i in chosen]
    assert len(written) > len(chosen)
    pairs = zip(found.texts.ids.tolist(), found.texts.texts, strict=True)
    assert list(pairs) == [(FIRST_ID + i, split.captions[c]) for i, c in written]
    expected = captions[[c for _, c in written]]
    np.testing.assert_allclose(found.texts.vectors, expected, rtol=1e-5, atol=1e-6)
    assert list(found.texts.texts).count("some number") == 3
    for side, number in ((found.images, 5), (found.texts, len(written))):
        assert side.augmented.shape == (number, 3, 6)
        spread = np.asarray(side.augmented).var(1).sum(1)
        assert (spread > 0).mean() > 0.5
        # A changed input is nearer to its own than to any other, on the whole.
        near = np.einsum("ntd,nd->n", side.augmented, side.vectors) / 3
        far = np.einsum("ntd,nd->n", side.augmented, np.roll(side.vectors, 1, 0)) / 3
        assert near.mean() > far.mean()


def test_without_changes_there_are_none(split, encoder, files, tmp_path):
    paths = tmp_path / "images.safetensors", tmp_path / "texts.safetensors"
    digit_encoder.export(encoder, split, files[1], paths)
    found = embedding_files.read(*paths)
    assert found.images.augmented is None and found.texts.augmented is None
    assert found.images.ids.tolist() == files[1].tolist()


# --- what is known ------------------------------------------------------------------------------


def test_what_is_known_is_that_of_the_captions():
    """Numbers and captions by hand."""
    numbers = np.array([NUMBERS.index(n) for n in ("482", "40", "7")])
    covered = np.array([[False, True, False], [False, False, False], [True, False, False]])
    captions = ("four eight two", "a four, something, then a two", "an even number", "seven")
    split = Captioned(
        np.zeros((3, 8, 24), np.uint8), numbers, covered, captions, np.zeros((0, 2), int)
    )
    asked = ("seven", "a four, something, then a two", "an even number")
    ids = FIRST_ID + np.array([2, 0])
    positives, truth = digit_encoder.known(split, first_id=FIRST_ID)(ids, asked)
    assert positives.tolist() == [[True, False, False], [False, True, True]]
    # A covered digit may be any of ten: half of them are even.
    np.testing.assert_allclose(truth.match_probability, [[0.1, 0, 0.5], [0, 1, 1]])
    np.testing.assert_allclose(truth.ambiguity["image"], np.log([10, 10]))
    np.testing.assert_allclose(truth.ambiguity["caption"], np.log([1, 10, 555]))
    assert truth.of_one_length.tolist() == [True, True, False]
    assert len(truth.narrow) == len(truth.wide) == len(truth.implied) == 0
