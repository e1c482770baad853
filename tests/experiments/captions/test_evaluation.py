import jax
import numpy as np
import pytest

from experiments.captions import evaluation
from experiments.captions.methods import METHODS
from experiments.captions.two_towers import Model, Pictures, Words


@pytest.mark.parametrize("method", ["pcme", "meru"])
def test_an_outcome_has_every_measure(method, known_trial):
    model = Model(method, 5, Pictures(8, 24, (2, 3)), Words(9, 4, 8))
    parameters = model.initialize(jax.random.key(0))
    outcome = evaluation.evaluate(model, parameters, known_trial)
    images = evaluation.embed_images(model, parameters, known_trial.images)
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
    assert outcome.implication.shape == known_trial.truth.implied.shape
    assert np.isfinite(outcome.implication).all()


def test_embeddings_do_not_depend_on_how_many_are_asked_for(known_trial):
    model = Model("siglip", 5, Pictures(8, 24, (2, 3)), Words(9, 4, 8))
    parameters = model.initialize(jax.random.key(0))
    many = np.tile(known_trial.images, (60, 1, 1))
    found = np.asarray(evaluation.embed_images(model, parameters, many))
    one = np.asarray(evaluation.embed_images(model, parameters, known_trial.images[:1]))
    np.testing.assert_allclose(found[::6], np.tile(one, (60, 1)), rtol=1e-5, atol=1e-6)
