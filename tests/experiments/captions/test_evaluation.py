import jax
import numpy as np
import pytest

from experiments.captions import evaluation
from experiments.captions.evaluation import Trial, Truth
from experiments.captions.methods import METHODS
from experiments.captions.two_towers import Model, Pictures, Words
from experiments.data import caption_grammar

CAPTIONS = (
    "four eight two",
    "a four, something, then a two",
    "three digits beginning with four",
    "an even number",
    "some number",
    "seven",
)


@pytest.fixture(scope="module")
def trial():
    """Six images whose numbers are known, one of them covered."""
    random = np.random.default_rng(0)
    numbers = [482, 402, 499, 112, 7, 482]
    place = [list(map(caption_grammar.spelled, range(1110))).index(str(n)) for n in numbers]
    denotations = np.stack([caption_grammar.denotation(caption) for caption in CAPTIONS])
    positives = denotations[:, place].T
    shown = np.zeros((6, 1110))
    shown[np.arange(6), place] = 1.0
    shown[5, [place[0], place[1]]] = 0.5
    ambiguity = {"image": np.log([1, 1, 1, 1, 1, 2.0]), "caption": np.log(denotations.sum(1))}
    pairs = evaluation.pairs_of_captions(denotations, seed=0)
    return Trial(
        random.integers(0, 256, (6, 8, 24)).astype(np.uint8),
        CAPTIONS,
        random.integers(1, 9, (6, 4)).astype(np.int32),
        positives,
        np.eye(6, dtype=bool) & positives | (positives & (positives.cumsum(1) == 1)),
        Truth(ambiguity, shown @ denotations.T, *pairs, np.arange(6) < 3),
    )


def test_pairs_of_captions_are_nested_or_neither_implies_the_other():
    denotations = np.stack([caption_grammar.denotation(caption) for caption in CAPTIONS])
    narrow, wide, implied = evaluation.pairs_of_captions(denotations, seed=0)
    sets = [set(np.flatnonzero(row)) for row in denotations]
    nested = {(i, j) for i in range(6) for j in range(6) if sets[i] < sets[j]}
    neither = {
        (i, j) for i in range(6) for j in range(6) if sets[i] - sets[j] and sets[j] - sets[i]
    }
    pairs = list(zip(narrow.tolist(), wide.tolist(), strict=True))
    assert set(pairs[: len(pairs) // 2]) <= nested and set(pairs[len(pairs) // 2 :]) <= neither
    assert len(set(pairs)) == len(pairs) == 2 * min(len(nested), len(neither))
    assert implied.tolist() == [True] * (len(pairs) // 2) + [False] * (len(pairs) // 2)


def test_metrics_of_both_sides(trial):
    scores = trial.positives.astype(np.float32)
    found = evaluation.metrics(scores, trial)
    for side in ("image", "caption"):
        for name in ("R@1", "R-Precision", "mAP@R"):
            np.testing.assert_allclose(found[side][name], 1.0, err_msg=name)
    # Where several captions are true and one was written, chance picks among the true ones.
    np.testing.assert_allclose(
        found["image"]["annotated R@1"],
        trial.annotated.sum(1) / trial.positives.sum(1),
        rtol=1e-5,
    )


def test_the_ceiling_knows_all_but_what_is_covered(trial):
    found = evaluation.ceiling(trial)
    np.testing.assert_allclose(found["image"]["R-Precision"][:5], 1.0)
    # It may be 482 or 402: four captions are sure to be true, the fifth is as likely as not.
    assert trial.positives[5].sum() == 5
    np.testing.assert_allclose(found["image"]["R-Precision"][5], 1.0)
    assert evaluation.ceiling(trial._replace(truth=None)) is None


@pytest.mark.parametrize("method", ["pcme", "meru"])
def test_an_outcome_has_every_measure(method, trial):
    model = Model(method, 5, Pictures(8, 24, (2, 3)), Words(9, 4, 8))
    parameters = model.initialize(jax.random.key(0))
    outcome = evaluation.evaluate(model, parameters, trial)
    images = evaluation.embed_images(model, parameters, trial.images)
    for side in ("image", "caption"):
        scores = outcome.scores if side == "image" else outcome.scores.T
        measures = outcome.uncertainty[side]
        ranked = np.sort(scores, 1)
        np.testing.assert_allclose(measures["minus best score"], -ranked[:, -1], rtol=1e-5)
        np.testing.assert_allclose(
            measures["minus margin"], ranked[:, -2] - ranked[:, -1], rtol=1e-4, atol=1e-5
        )
        share = np.exp(scores - ranked[:, -1:])
        share /= share.sum(1, keepdims=True)
        np.testing.assert_allclose(
            measures["entropy over items"], -(share * np.log(share)).sum(1), rtol=1e-3, atol=1e-5
        )
        assert METHODS[method].judged_by in measures
    if method == "meru":
        np.testing.assert_allclose(
            outcome.uncertainty["image"]["minus radius"],
            -np.linalg.norm(images, axis=1),
            rtol=1e-5,
        )
    else:
        np.testing.assert_allclose(
            outcome.uncertainty["image"]["total variance"], images.variance.sum(1), rtol=1e-5
        )
        assert ((outcome.uncertainty["image"]["eta"] > 0) & (outcome.probability < 1).all()).all()
    assert outcome.implication.shape == trial.truth.implied.shape
    assert np.isfinite(outcome.implication).all()


def test_embeddings_do_not_depend_on_how_many_are_asked_for(trial):
    model = Model("siglip", 5, Pictures(8, 24, (2, 3)), Words(9, 4, 8))
    parameters = model.initialize(jax.random.key(0))
    many = np.tile(trial.images, (60, 1, 1))
    found = np.asarray(evaluation.embed_images(model, parameters, many))
    one = np.asarray(evaluation.embed_images(model, parameters, trial.images[:1]))
    np.testing.assert_allclose(found[::6], np.tile(one, (60, 1)), rtol=1e-5, atol=1e-6)


def test_words_are_counted():
    assert evaluation.minus_words(CAPTIONS).tolist() == [-3, -6, -5, -3, -2, -1]
