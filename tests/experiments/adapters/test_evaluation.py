import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import probemb
from experiments.adapters import evaluation as adapter_evaluation
from experiments.adapters.evaluation import OWN
from experiments.adapters.frozen import Frozen
from experiments.adapters.training import Model
from experiments.captions.retrieval import SIDES, Outcome, Trial

DIMENSION = 4


def units(random, *shape):
    found = random.normal(size=(*shape, DIMENSION))
    return (found / np.linalg.norm(found, axis=-1, keepdims=True)).astype(np.float32)


# --- distributions ------------------------------------------------------------------------------


def moved(tree, seed, size=0.25):
    """Parameters away from their start, where all items are alike."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + size * random.normal(size=x.shape).astype(np.float32), tree)


def adapters_of(method, seeds=2, dropout=0.3):
    model = Model(method, DIMENSION, (16,), dropout, 1.0)
    keys = jax.random.split(jax.random.key(0), seeds)
    parameters = jax.jit(jax.vmap(model.initialize))(keys)
    return model, moved(jax.tree.map(np.asarray, parameters), 1)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, parameters, embedding, key=None):
    return model.adapter.apply(parameters, embedding, key=key)


def alone(parameters, seed):
    return jax.tree.map(lambda leaf: leaf[seed], parameters)


@pytest.fixture(scope="module")
def trained():
    """Adapters of two seeds, as if trained."""
    return adapters_of("probvlm")


def test_any_number_of_embeddings_has_distributions(trained):
    model, parameters = trained
    many = units(np.random.default_rng(0), 700)
    found = adapter_evaluation.distributions(model, parameters["image"], many)
    for seed in range(2):
        some = apply(model, alone(parameters["image"], seed), many[505:520])
        for one, expected in zip(found, some, strict=True):
            assert one.shape == (2, 700, DIMENSION)
            np.testing.assert_allclose(one[seed, 505:520], expected, rtol=1e-5, atol=1e-6)


def test_uncertainty_is_that_of_a_loop_over_members(trained):
    model, parameters = trained
    parameters, vectors, key = parameters["image"], units(np.random.default_rng(0), 9), 3
    temperature = np.float32([1.5, 0.5])
    found = adapter_evaluation.uncertainty(
        model, parameters, temperature, vectors, key=jax.random.key(key), num_members=4
    )
    # A mask of dropout is drawn for a part of 512; the last item fills it up.
    whole = np.concatenate([vectors, np.tile(vectors[-1:], (503, 1))])

    def moments(seed, key=None):
        p = apply(model, alone(parameters, seed), whole, key=key)
        variance = np.square(temperature[seed]) * np.asarray(p.variance, np.float64)
        return np.asarray(p.mean, np.float64)[:9], variance[:9]

    def law(members):
        """The logarithms of the traces of what is aleatoric, epistemic, and both."""
        means, variances = (np.stack(each) for each in zip(*members, strict=True))
        aleatoric, epistemic = variances.mean(0).sum(1), means.var(0).sum(1)
        return np.log(aleatoric), np.log(epistemic), np.log(aleatoric + epistemic)

    keys = jax.random.split(jax.random.key(key), 4)
    dropout = [law([moments(seed, k) for k in keys]) for seed in range(2)]
    ensemble = law([moments(seed) for seed in range(2)])
    expected = {
        "aleatoric": [np.log(moments(seed)[1].sum(1)) for seed in range(2)],
        "epistemic, dropout": [dropout[seed][1] for seed in range(2)],
        OWN: [dropout[seed][2] for seed in range(2)],
        "epistemic, ensemble": [ensemble[1]] * 2,
        "total, ensemble": [ensemble[2]] * 2,
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].shape == (9, 2)
        np.testing.assert_allclose(found[name].T, values, rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_single_seed_is_no_ensemble():
    model, parameters = adapters_of("gaussian", seeds=1, dropout=0.0)
    found = adapter_evaluation.uncertainty(
        model,
        parameters["image"],
        np.ones(1, np.float32),
        units(np.random.default_rng(0), 3),
        key=jax.random.key(0),
        num_members=2,
    )
    assert set(found) == {"aleatoric", "epistemic, dropout", OWN}
    np.testing.assert_allclose(found[OWN], found["aleatoric"], rtol=1e-5)
    assert np.isfinite(found["epistemic, dropout"]).all()


# --- widths -------------------------------------------------------------------------------------


PAIRS = 250


@jax.jit
def drawn(p, seed, key, temperature=1.0):
    """An embedding for each of the distributions of a seed, drawn from it."""
    of_seed = probemb.tempered(jax.tree.map(lambda x: x[seed], p), temperature=temperature)
    return of_seed.sample(jax.random.key(key)).astype(jnp.float32)


@pytest.mark.parametrize("method", ["probvlm", "gaussian"])
def test_what_was_drawn_from_the_distributions_has_temperature_one(method):
    model, parameters = adapters_of(method)
    vectors = units(np.random.default_rng(0), PAIRS)
    for side in SIDES:
        p = adapter_evaluation.distributions(model, parameters[side], vectors)
        for seed, temperature in ((0, 1.0), (1, 2.5)):
            target = drawn(p, seed, 4 + seed, temperature)
            pair = (vectors, target) if side == "image" else (target, vectors)
            found = adapter_evaluation.temperatures(model, parameters, *pair)
            assert found[side].shape == (2,)
            # Its standard error is about 1 / sqrt(2 coordinates), 2 %.
            assert found[side][seed] == pytest.approx(temperature, rel=0.1)
            assert abs(np.log(found[side][1 - seed] / temperature)) > 0.1


@pytest.fixture(scope="module")
def frozen(trained):
    """A trial whose captions are drawn from the first seed's distributions of their images.

    Half of all pairs match, so that R@1 tells which item is the first.
    """
    model, parameters = trained
    random = np.random.default_rng(0)
    images = units(random, PAIRS)
    p = adapter_evaluation.distributions(model, parameters["image"], images)
    caption_of = random.permutation(PAIRS)
    texts = np.empty((PAIRS, DIMENSION), np.float32)
    texts[caption_of] = drawn(p, 0, 7)
    annotated = np.zeros((PAIRS, PAIRS), bool)
    annotated[np.arange(PAIRS), caption_of] = True
    positives = annotated | (random.random(annotated.shape) < 0.5)
    trial = Trial(images, ("",) * PAIRS, texts, positives, annotated, None)
    partner = {"image": caption_of, "caption": np.argsort(caption_of)}
    return Frozen(trial, partner, {}, {}, {})


@pytest.fixture(scope="module")
def evaluation(trained, frozen):
    before = Outcome(np.ones(3), {"image": {"some": np.ones(2)}}, {}, None)
    temperature = {"image": np.float32([2.0, 1.0]), "caption": np.float32([0.5, 3.0])}
    found = adapter_evaluation.evaluate(
        *trained, frozen, before, temperature, key=jax.random.key(0), num_members=2
    )
    return before, found


def test_intervals_of_ninety_percent_hold_ninety_percent(evaluation):
    central = evaluation[1].fits["image"].central
    assert central.shape == (2, PAIRS, DIMENSION)
    shares = (central <= 0.9).mean((1, 2))
    assert abs(shares[0] - 0.9) < 4.0 * np.sqrt(0.09 / (PAIRS * DIMENSION))
    assert abs(shares[1] - 0.9) > 0.03
    assert scipy.stats.kstest(central[0].ravel(), "uniform").pvalue > 1e-3


def test_a_fit_is_of_the_partners(evaluation, trained, frozen):
    """Against SciPy, pair by pair."""
    model, parameters = trained
    trial = frozen.trial
    annotated = trial.annotated.argmax(1), trial.annotated.argmax(0)
    sides = {
        "image": (trial.images, trial.texts[annotated[0]], (2.0, 1.0)),
        "caption": (trial.texts, trial.images[annotated[1]], (0.5, 3.0)),
    }
    for side, (own, target, temperature) in sides.items():
        fit = evaluation[1].fits[side]
        assert fit.temperature.tolist() == list(temperature)
        for seed in range(2):
            p = apply(model, alone(parameters[side], seed), own)
            location, scale, shape = (np.asarray(x, np.float64) for x in p)
            found = {1.0: (fit.loss, fit.central), temperature[seed]: fit[2::2]}
            for factor, (loss, central) in found.items():
                law = scipy.stats.gennorm(shape, location, factor * scale)
                expected = -law.logpdf(target).mean(1)
                np.testing.assert_allclose(loss[seed], expected, rtol=1e-3, atol=1e-3)
                inside = np.abs(2.0 * law.cdf(target) - 1.0)
                np.testing.assert_allclose(central[seed], inside, rtol=1e-3, atol=1e-3)


def test_rankings_are_those_of_the_formulas(evaluation, trained, frozen):
    model, parameters = trained
    trial = frozen.trial
    vectors = {"image": trial.images, "caption": trial.texts}
    rankings = evaluation[1].rankings
    assert set(rankings) == set(adapter_evaluation.RANKINGS)
    match = {"image": trial.positives, "caption": trial.positives.T}
    items = np.arange(PAIRS)
    for seed in range(2):
        p = {s: apply(model, alone(parameters[s], seed), vectors[s]) for s in SIDES}
        mean = {s: np.asarray(p[s].mean, np.float64) for s in SIDES}
        unit = {s: mean[s] / np.linalg.norm(mean[s], axis=1, keepdims=True) for s in SIDES}
        trace = {s: np.asarray(p[s].variance, np.float64).sum(1) for s in SIDES}
        for side, other in (SIDES, SIDES[::-1]):
            apart = np.square(mean[side][:, None] - mean[other]).sum(2)
            scores = {
                "locations": unit[side] @ unit[other].T,
                "query's location": unit[side] @ vectors[other].T,
                "sampled distance": -(apart + trace[side][:, None] + trace[other]),
            }
            for name, of_side in scores.items():
                found = rankings[name][seed][side]["R@1"]
                expected = match[side][items, of_side.argmax(1)]
                assert (found != expected).mean() < 0.01, (name, side)  # but for rounding
            assert len({tuple(s.argmax(1).tolist()) for s in scores.values()}) == 3


def test_an_outcome_is_that_of_frozen_retrieval_with_measures(evaluation, trained, frozen):
    before, found = evaluation
    assert len(found.outcomes) == 2
    for seed, outcome in enumerate(found.outcomes):
        assert outcome.scores is before.scores and outcome.metrics is before.metrics
        for side, vectors in (("image", frozen.trial.images), ("caption", frozen.trial.texts)):
            model, parameters = trained
            p = apply(model, alone(parameters[side], seed), vectors)
            temperature = found.fits[side].temperature[seed]
            variance = np.square(temperature) * np.asarray(p.variance, np.float64)
            expected = np.log(variance.sum(1))
            measure = outcome.uncertainty[side]["aleatoric"]
            np.testing.assert_allclose(measure, expected, rtol=1e-4, atol=1e-4)


def test_directions_have_no_central_intervals():
    model, parameters = adapters_of("von_mises_fisher", seeds=1)
    own, target = units(np.random.default_rng(0), 2, 6)
    p = apply(model, alone(parameters["image"], 0), own)
    (plain, central), (tempered, central_tempered) = adapter_evaluation._fit(
        p, target, jnp.asarray(2.0, jnp.float32)
    )
    assert central is None and central_tempered is None
    for loss, factor in ((plain, 1.0), (tempered, 0.25)):
        pairs = zip(p.mean_direction, factor * p.concentration, target, strict=True)
        expected = [
            -scipy.stats.vonmises_fisher(np.asarray(m, np.float64), float(k)).logpdf(z) / DIMENSION
            for m, k, z in pairs
        ]
        np.testing.assert_allclose(loss, expected, rtol=1e-3, atol=1e-4)
