import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import probemb
from probemb import DiagonalGaussian
from probemb.numerics import reduction


def random_pair(batch=6, dimension=4, dtype=np.float64):
    image, noise = np.random.default_rng(0).normal(size=(2, batch, dimension))
    means = (mean.astype(dtype) for mean in (image, image + noise))
    return tuple(DiagonalGaussian(mean, np.zeros_like(mean)) for mean in means)


def cosines(image, text):
    x, y = (p.mean / np.linalg.norm(p.mean, axis=1, keepdims=True) for p in (image, text))
    return x @ y.T


@pytest.fixture(params=[1, 18, 10**6])
def blocks(monkeypatch, request):
    monkeypatch.setattr(reduction, "TILE", request.param)
    monkeypatch.setattr(reduction, "_FEW_ROWS", 1)


LOSSES = {
    "info_nce": lambda p, q, s, y=None: probemb.info_nce(p, q, logit_scale=s, labels=y),
    "triplet": lambda p, q, s, y=None: probemb.triplet(p, q, margin=s, labels=y),
}


@jax.jit
def with_gradients(p, q, s, labels=None):
    return {
        name: jax.value_and_grad(loss, (0, 1, 2))(p, q, s, labels) for name, loss in LOSSES.items()
    }


def test_info_nce_is_two_cross_entropies(blocks):
    image, text = random_pair()
    soft = np.random.default_rng(1).uniform(size=(6, 6))

    def losses(image, text):
        return [probemb.info_nce(image, text, logit_scale=7.0, labels=y) for y in (None, soft)]

    def expected(labels):
        logits = 7.0 * cosines(image, text)
        return sum(
            -np.sum(log_softmax(one, axis=1) * y / y.sum(1, keepdims=True)) / 12
            for one, y in ((logits, labels), (logits.T, labels.T))
        )

    values = jax.jit(losses)(image, text)
    np.testing.assert_allclose(values, [expected(np.eye(6)), expected(soft)], rtol=1e-12)


def test_info_nce_of_an_item_without_a_match_counts_the_others():
    image, text = random_pair()
    labels = np.diag([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    logits = 7.0 * cosines(image, text)
    kept = sum(-np.diagonal(log_softmax(one, axis=1))[:5].sum() for one in (logits, logits.T))
    value, _ = with_gradients(image, text, np.float64(7.0), labels)["info_nce"]
    np.testing.assert_allclose(value, kept / 12, rtol=1e-12)


def test_triplet_takes_the_hardest_negatives(blocks):
    image, text = random_pair()
    soft = 0.6 * np.eye(6) + 0.4 * np.eye(6)[[1, 0, 3, 2, 4, 5]]

    def losses(image, text):
        return [probemb.triplet(image, text, margin=0.3, labels=y) for y in (None, soft)]

    def expected(labels):
        similarity, value = cosines(image, text), 0.0
        for s, y in ((similarity, labels), (similarity.T, labels.T)):
            for i in range(6):
                hardest = max(s[i, j] for j in range(6) if y[i, j] == 0)
                value += max(0.0, 0.3 + hardest - s[i, np.argmax(y[i])])
        return value

    values = jax.jit(losses)(image, text)
    np.testing.assert_allclose(values, [expected(np.eye(6)), expected(soft)], rtol=1e-12)


def test_triplet_counts_no_item_without_a_positive():
    def of(margin, labels):
        return with_gradients(*random_pair(), np.float64(margin), labels)["triplet"]

    assert of(1.0, np.zeros((6, 6)))[0] == 0.0
    labels = np.diag([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    (value, (slope, *_)), (less, (same, *_)) = of(5.0, labels), of(4.0, labels)
    np.testing.assert_allclose(slope.mean, same.mean, rtol=0.0, atol=1e-12)
    assert float(value) - float(less) == pytest.approx(10.0)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_lengths_near_the_ends_of_the_floats_do_not_count(scale):
    image, text = random_pair(dtype=np.float32)
    scaled = image._replace(mean=image.mean * np.float32(scale))
    value, expected = (
        with_gradients(one, text, np.float32(5.0))["info_nce"][0] for one in (scaled, image)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_to_second_order(loss, check_to_second_order):
    check_to_second_order(loss, (*random_pair(4, 3), 0.7))


@pytest.mark.parametrize("name", LOSSES)
def test_variances_and_lengths_do_not_count(name):
    image, text = random_pair()
    other = DiagonalGaussian(3.0 * image.mean, image.log_variance + 1.0)
    value, same = (with_gradients(p, text, np.float64(0.7))[name][0] for p in (image, other))
    np.testing.assert_allclose(same, value, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_and_zero_means_have_finite_gradients(dtype, batch, value):
    p = DiagonalGaussian(np.full((batch, 4), value, dtype), np.zeros((batch, 4), dtype))
    chex.assert_tree_all_finite(with_gradients(p, p, dtype(0.2)))


@pytest.mark.parametrize("name", LOSSES)
def test_float32_beside_float64(name):
    image, text = random_pair(dtype=np.float32)
    value, _ = with_gradients(image, text, np.float32(0.7))[name]
    assert value.dtype == jnp.float32
    wide = jax.tree.map(np.float64, (image, text))
    exact, _ = with_gradients(*wide, np.float64(0.7))[name]
    np.testing.assert_allclose(value, exact, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_jit_beside_eager(loss):
    arguments = (*random_pair(dtype=np.float32), np.float32(0.7))
    np.testing.assert_allclose(jax.jit(loss)(*arguments), loss(*arguments), rtol=1e-5)


P = DiagonalGaussian(np.zeros((2, 3)), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probemb.info_nce(P, P, logit_scale=0.0), "logit_scale must be positive, got 0"),
        (lambda: probemb.triplet(P, P, margin=-0.1), "margin must not be negative, got -0.1"),
        (lambda: probemb.triplet(P, P, labels=np.eye(3)), "labels must have shape"),
        (lambda: probemb.info_nce(P, P, logit_scale=1.0, labels=np.full((2, 2), np.nan)),
         "labels must lie in 0..1"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
