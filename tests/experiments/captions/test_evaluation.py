import numpy as np
import pytest

from experiments.captions import evaluation
from experiments.captions.methods import METHODS
from experiments.captions.two_towers import Features, Model
from tests.experiments.made_up_parameters import parameters_of


@pytest.fixture(scope="module")
def trial(known_trial):
    """With features in place of pictures and words, whose towers are small."""
    random = np.random.default_rng(0)
    images, texts = (random.normal(size=(6, 3, n)).astype(np.float32) for n in (6, 7))
    return known_trial._replace(images=images, texts=texts)


@pytest.mark.parametrize("method", ["pcme", "meru"])
def test_an_outcome_has_every_measure(method, trial):
    model = Model(method, 5, Features(6, 8), Features(7, 8))
    parameters = parameters_of(model)
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
            outcome.uncertainty["image"]["total variance"],
            np.exp(images.log_variance).sum(1),
            rtol=1e-5,
        )
        assert ((outcome.uncertainty["image"]["eta"] > 0) & (outcome.probability < 1).all()).all()
    assert outcome.implication.shape == trial.truth.implied.shape
    assert np.isfinite(outcome.implication).all()


def test_embeddings_do_not_depend_on_how_many_are_asked_for(trial):
    model = Model("siglip", 5, Features(6, 8), Features(7, 8))
    parameters = parameters_of(model)
    many = np.tile(trial.images, (60, 1, 1))
    found = np.asarray(evaluation.embed_images(model, parameters, many))
    one = np.asarray(evaluation.embed_images(model, parameters, trial.images[:1]))
    np.testing.assert_allclose(found[::6], np.tile(one, (60, 1)), rtol=1e-5, atol=1e-6)
