import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import probemb
from experiments.adapters import evaluation as adapter_evaluation
from experiments.adapters.evaluation import OWN, Frozen
from experiments.adapters.training import Model
from experiments.captions.evaluation import SIDES, Outcome, Trial, Truth
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
    frozen = adapter_evaluation.freeze(PAIRED, PART, NOTHING)
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
    frozen = adapter_evaluation.freeze(PAIRED._replace(texts=texts), PART, NOTHING)
    assert frozen.augmented == {} and set(frozen.norms) == {"image"}
    assert sorted(frozen.trial.captions) == ["text 1", "text 2", "text 4"]


def test_what_is_known_is_asked_by_ids_and_words():
    asked = {}

    def known(ids, captions):
        asked.update(ids=ids.tolist(), captions=captions)
        return np.ones((3, 3), bool), "truth"

    trial = adapter_evaluation.freeze(PAIRED, PART, NOTHING, known).trial
    assert asked == {"ids": [70, 50, 40], "captions": trial.captions}
    assert trial.positives.all() and not trial.annotated.all() and trial.truth == "truth"


def test_what_training_has_too_is_marked():
    """The second image of the part, and the caption d; another norm is another vector."""
    images, texts = IMAGES[[2]], np.stack([TEXTS[2], 2.0 * TEXTS[4]])
    trained_on = embedding_files.keys("images", images), embedding_files.keys("texts", texts)
    frozen = adapter_evaluation.freeze(PAIRED, PART, trained_on)
    assert frozen.known_before["image"].tolist() == [False, True, False]
    expected = [caption == "d" for caption in frozen.trial.captions]
    assert frozen.known_before["caption"].tolist() == expected


# --- without an adapter -------------------------------------------------------------------------


def test_frozen_retrieval_and_what_cosines_say():
    frozen = adapter_evaluation.freeze(PAIRED, PART, NOTHING)
    before = adapter_evaluation.frozen_outcome(frozen, 7.0)
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
    assert adapter_evaluation.fit_logit_scale(image, text) == pytest.approx(best, rel=1e-5)


# --- distributions ------------------------------------------------------------------------------


def moved(tree, seed, size=0.25):
    """Parameters away from their start, where all items are alike."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + size * random.normal(size=x.shape).astype(np.float32), tree)


def adapters_of(method, seeds=2, dropout=0.3):
    model = Model(method, DIMENSION, (16,), dropout, 1.0)
    parameters = jax.vmap(model.initialize)(jax.random.split(jax.random.key(0), seeds))
    return model, moved(parameters, 1)


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
        some = model.adapter.apply(alone(parameters["image"], seed), many[505:520])
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
    apply = jax.jit(model.adapter.apply)

    def moments(seed, key=None):
        p = apply(alone(parameters, seed), whole, key=key)
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


PAIRS = 500


def drawn(p, seed, key, temperature=1.0):
    """An embedding for each of the distributions of a seed, drawn from it."""
    of_seed = probemb.tempered(jax.tree.map(lambda x: x[seed], p), temperature=temperature)
    return np.asarray(of_seed.sample(jax.random.key(key)), np.float32)


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
            p = model.adapter.apply(alone(parameters[side], seed), own)
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
        p = {s: model.adapter.apply(alone(parameters[s], seed), vectors[s]) for s in SIDES}
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
            p = model.adapter.apply(alone(parameters[side], seed), vectors)
            temperature = found.fits[side].temperature[seed]
            variance = np.square(temperature) * np.asarray(p.variance, np.float64)
            expected = np.log(variance.sum(1))
            measure = outcome.uncertainty[side]["aleatoric"]
            np.testing.assert_allclose(measure, expected, rtol=1e-4, atol=1e-4)


def test_directions_have_no_central_intervals():
    model, parameters = adapters_of("von_mises_fisher", seeds=1)
    own, target = units(np.random.default_rng(0), 2, 6)
    p = model.adapter.apply(alone(parameters["image"], 0), own)
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


def test_measures_of_a_trial_with_truth_are_the_same():
    """Truth changes what is right, not what is measured."""
    nothing = np.zeros(0, int)
    truth = Truth({}, np.ones((3, 3)), nothing, nothing, nothing, nothing)
    known = adapter_evaluation.freeze(
        PAIRED, PART, NOTHING, lambda *_: (np.ones((3, 3), bool), truth)
    )
    with_truth = adapter_evaluation.frozen_outcome(known, 7.0)
    without = adapter_evaluation.frozen_outcome(
        adapter_evaluation.freeze(PAIRED, PART, NOTHING), 7.0
    )
    assert with_truth.metrics["image"]["R@1"].tolist() == [1.0, 1.0, 1.0]
    assert with_truth.metrics["image"]["annotated R@1"].tolist() == [1.0, 1.0, 0.0]
    for side in SIDES:
        for name, values in without.uncertainty[side].items():
            np.testing.assert_array_equal(with_truth.uncertainty[side][name], values)
