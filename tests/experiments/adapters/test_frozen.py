import numpy as np
import pytest

from experiments.adapters import frozen as frozen_embeddings
from experiments.captions.retrieval import SIDES, Truth
from experiments.data import embedding_files
from experiments.data.embedding_files import Embeddings, PairedEmbeddings, Part

DIMENSION = 4


def side(vectors, ids, *, normalized=False, augmented=None, texts=None):
    norms = np.linalg.norm(vectors, axis=1)
    ends = float(norms.min()), float(norms.max())
    return Embeddings(vectors, np.asarray(ids), True, None, normalized, ends, augmented, texts)


def units(random, *shape):
    found = random.normal(size=(*shape, DIMENSION))
    return (found / np.linalg.norm(found, axis=-1, keepdims=True)).astype(np.float32)


# --- a part becomes a trial ---------------------------------------------------------------------


IMAGES = np.array([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 4]], np.float32)
# The texts c and e say the same of two images; a is of an image that is not in the part.
TEXTS = np.array(
    [[1, 1, 1, 1], [0, 3, 4, 0], [8, 0, 0, 6], [0, 3, 4, 0], [0, 0, 5, 0], [0, 6, 8, 0]], np.float32
)
IMAGE_OF = np.array([1, 3, 0, 2, 2, 3])
AUGMENTED = np.random.default_rng(0).normal(size=(6, 3, DIMENSION)).astype(np.float32)
PAIRED = PairedEmbeddings(
    side(IMAGES, [70, 60, 50, 40]),
    side(TEXTS, [40, 40, 70, 50, 50, 40], augmented=AUGMENTED, texts=list("acdefg")),
    IMAGE_OF,
)
PART = Part(np.array([0, 2, 3]), np.array([1, 2, 3, 4, 5]))
NOTHING = (np.zeros(0, np.uint64), np.zeros(0, np.uint64))  # that training knows


def test_texts_that_are_the_same_are_one():
    frozen = frozen_embeddings.freeze(PAIRED, PART, NOTHING)
    trial = frozen.trial
    np.testing.assert_array_equal(trial.images, np.eye(4)[[0, 2, 3]])
    # c, e and g are one direction: it is the first of them, and true of both their images.
    of = {"c": [0, 0.6, 0.8, 0], "d": [0.8, 0, 0, 0.6], "f": [0, 0, 1, 0]}
    whose = {"c": [False, True, True], "d": [True, False, False], "f": [False, True, False]}
    assert sorted(trial.captions) == sorted(of)
    np.testing.assert_allclose(trial.texts, [of[caption] for caption in trial.captions], rtol=1e-6)
    assert trial.annotated.T.tolist() == [whose[caption] for caption in trial.captions]
    assert trial.positives is trial.annotated and trial.truth is None
    image, caption = (frozen.partner[side] for side in ("image", "caption"))
    assert trial.annotated[np.arange(3), image].all() and image.shape == (3,)
    assert trial.annotated[caption, np.arange(3)].all() and caption.shape == (3,)
    assert not any(known.any() for known in frozen.known_before.values())
    rows = ["acdefg".index(caption) for caption in trial.captions]
    norms = np.linalg.norm(AUGMENTED[rows], axis=2, keepdims=True)
    assert set(frozen.augmented) == {"caption"}
    np.testing.assert_allclose(frozen.augmented["caption"], AUGMENTED[rows] / norms, rtol=1e-5)
    assert frozen.norms["image"].tolist() == [2.0, 2.0, 4.0]
    expected = {"c": 5.0, "d": 10.0, "f": 5.0}
    assert frozen.norms["caption"].tolist() == [expected[caption] for caption in trial.captions]


def test_what_is_not_in_the_files_is_not_in_the_trial():
    texts = side(TEXTS / np.linalg.norm(TEXTS, axis=1, keepdims=True), IMAGE_OF, normalized=True)
    frozen = frozen_embeddings.freeze(PAIRED._replace(texts=texts), PART, NOTHING)
    assert frozen.augmented == {} and set(frozen.norms) == {"image"}
    assert sorted(frozen.trial.captions) == ["text 1", "text 2", "text 4"]


def test_what_is_known_is_asked_by_ids_and_words():
    asked = {}

    def known(ids, captions):
        asked.update(ids=ids.tolist(), captions=captions)
        return np.ones((3, 3), bool), "truth"

    trial = frozen_embeddings.freeze(PAIRED, PART, NOTHING, known).trial
    assert asked == {"ids": [70, 50, 40], "captions": trial.captions}
    assert trial.positives.all() and not trial.annotated.all() and trial.truth == "truth"


def test_what_training_has_too_is_marked():
    """The second image of the part, and the caption d; another norm is another vector."""
    images, texts = IMAGES[[2]], np.stack([TEXTS[2], 2.0 * TEXTS[4]])
    trained_on = embedding_files.keys("images", images), embedding_files.keys("texts", texts)
    frozen = frozen_embeddings.freeze(PAIRED, PART, trained_on)
    assert frozen.known_before["image"].tolist() == [False, True, False]
    expected = [caption == "d" for caption in frozen.trial.captions]
    assert frozen.known_before["caption"].tolist() == expected


# --- without an adapter -------------------------------------------------------------------------


def test_frozen_retrieval_and_what_cosines_say():
    frozen = frozen_embeddings.freeze(PAIRED, PART, NOTHING)
    before = frozen_embeddings.outcome(frozen, 7.0)
    order = [frozen.trial.captions.index(caption) for caption in "cdf"]
    # Rows: the first, third and fourth direction; columns: c, d and f.
    cosines = np.array([[0, 0.8, 0], [0.8, 0, 1], [0, 0.6, 0]])
    np.testing.assert_allclose(before.scores[:, order], cosines, atol=1e-6)
    # The fourth image finds d, which is the first one's; all captions find one of theirs.
    assert before.metrics["image"]["R@1"].tolist() == [1.0, 1.0, 0.0]
    assert before.metrics["caption"]["annotated R@1"].tolist() == [1.0, 1.0, 1.0]
    assert before.metrics["image"]["R@5"].tolist() == [1.0, 1.0, 1.0]
    assert before.metrics["image"]["R-Precision"].tolist() == [1.0, 1.0, 0.0]
    for side, of_side in (("image", cosines), ("caption", cosines.T)):
        share = np.exp(7.0 * of_side) / np.exp(7.0 * of_side).sum(1, keepdims=True)
        ranked = np.sort(of_side, 1)
        expected = {
            "minus best cosine": -ranked[:, -1],
            "minus margin": ranked[:, -2] - ranked[:, -1],
            "entropy over items": -(share * np.log(share)).sum(1),
        }
        if side == "caption":
            expected["TTDA"] = [
                sum(np.var(frozen.augmented["caption"][row][:, k]) for k in range(DIMENSION))
                for row in order
            ]
            expected["minus norm"] = [-5.0, -10.0, -5.0]
        else:
            expected["minus norm"] = [-2.0, -2.0, -4.0]
        found = before.uncertainty[side]
        assert set(found) == set(expected)
        for name, values in expected.items():
            in_order = found[name][order] if side == "caption" else found[name]
            np.testing.assert_allclose(in_order, values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_scale_of_cosines_is_the_likeliest():
    random = np.random.default_rng(1)
    image, text = units(random, 30), units(random, 30)
    text = text + 1.5 * image
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    cosines = image.astype(np.float64) @ text.T

    def loss(scale):
        logits = scale * cosines
        rows, columns = (np.log(np.exp(logits).sum(axis)) for axis in (1, 0))
        return np.mean(rows + columns - 2.0 * np.diag(logits))

    scales = np.geomspace(1.0, 300.0, 60)
    best = scales[np.argmin([loss(scale) for scale in scales])]
    assert 1.0 < best < 100.0
    assert frozen_embeddings.fit_logit_scale(image, text) == pytest.approx(best, rel=1e-5)


def test_measures_of_a_trial_with_truth_are_the_same():
    """Truth changes what is right, not what is measured."""
    nothing = np.zeros(0, int)
    truth = Truth({}, np.ones((3, 3)), nothing, nothing, nothing, nothing)
    known = frozen_embeddings.freeze(
        PAIRED, PART, NOTHING, lambda *_: (np.ones((3, 3), bool), truth)
    )
    with_truth = frozen_embeddings.outcome(known, 7.0)
    without = frozen_embeddings.outcome(frozen_embeddings.freeze(PAIRED, PART, NOTHING), 7.0)
    assert with_truth.metrics["image"]["R@1"].tolist() == [1.0, 1.0, 1.0]
    assert with_truth.metrics["image"]["annotated R@1"].tolist() == [1.0, 1.0, 0.0]
    for side in SIDES:
        for name, values in without.uncertainty[side].items():
            np.testing.assert_array_equal(with_truth.uncertainty[side][name], values)
