import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import probemb
from probemb import DiagonalGaussian
from probemb.numerics import reduction


def random_pair(batch=6, dimension=4, dtype=np.float64):
    image, noise = np.random.default_rng(0).normal(size=(2, batch, dimension))
    means = (jnp.asarray(mean, dtype) for mean in (image, image + noise))
    return tuple(DiagonalGaussian(mean, jnp.zeros_like(mean)) for mean in means)


def cosines(image, text):
    x, y = (p.mean / jnp.linalg.norm(p.mean, axis=1, keepdims=True) for p in (image, text))
    return x @ y.T


@pytest.fixture(params=[1, 18, 10**6])
def blocks(monkeypatch, request):
    monkeypatch.setattr(reduction, "TILE", request.param)
    monkeypatch.setattr(reduction, "_FEW_ROWS", 1)


@pytest.mark.parametrize("labelled", [False, True])
def test_info_nce_is_two_cross_entropies(blocks, labelled):
    image, text = random_pair()
    labels = np.random.default_rng(1).uniform(size=(6, 6)) if labelled else np.eye(6)
    logits = 7.0 * cosines(image, text)
    expected = sum(
        optax.softmax_cross_entropy(one, y / y.sum(1, keepdims=True)).mean() / 2
        for one, y in ((logits, labels), (logits.T, labels.T))
    )
    value = probemb.info_nce(image, text, logit_scale=7.0, labels=labels if labelled else None)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_info_nce_of_an_item_without_a_match_counts_the_others():
    image, text = random_pair(3)
    labels = np.diag([1.0, 1.0, 0.0])
    logits = 7.0 * cosines(image, text)
    kept = optax.softmax_cross_entropy(logits, labels)[:2].sum()
    kept += optax.softmax_cross_entropy(logits.T, labels)[:2].sum()
    value = probemb.info_nce(image, text, logit_scale=7.0, labels=labels)
    np.testing.assert_allclose(value, kept / 6, rtol=1e-12)


@pytest.mark.parametrize("labelled", [False, True])
def test_triplet_takes_the_hardest_negatives(blocks, labelled):
    image, text = random_pair()
    partner = np.array([1, 0, 3, 2, 4, 5])
    labels = np.asarray(probemb.soft_labels(partner, 0.4), float) if labelled else np.eye(6)
    similarity, expected = np.asarray(cosines(image, text)), 0.0
    for s, y in ((similarity, labels), (similarity.T, labels.T)):
        for i in range(6):
            hardest = max(s[i, j] for j in range(6) if y[i, j] == 0)
            expected += max(0.0, 0.3 + hardest - s[i, np.argmax(y[i])])
    value = probemb.triplet(image, text, margin=0.3, labels=labels if labelled else None)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_triplet_counts_no_item_without_a_positive():
    image, text = random_pair(4)
    assert probemb.triplet(image, text, margin=1.0, labels=np.zeros((4, 4))) == 0.0
    labels = np.diag([1.0, 1.0, 1.0, 0.0])
    slope = jax.jit(
        jax.grad(
            lambda p: (
                probemb.triplet(p, text, margin=5.0, labels=labels)
                - probemb.triplet(p, text, margin=4.0, labels=labels)
            )
        )
    )(image)
    assert np.abs(np.asarray(slope.mean)).max() < 1e-12
    value = probemb.triplet(image, text, margin=5.0, labels=labels)
    assert float(value) - float(
        probemb.triplet(image, text, margin=4.0, labels=labels)
    ) == pytest.approx(6.0)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_lengths_near_the_ends_of_the_floats_do_not_count(scale):
    image, text = random_pair(dtype=np.float32)
    scaled = image._replace(mean=image.mean * np.float32(scale))
    value = probemb.info_nce(scaled, text, logit_scale=5.0)
    np.testing.assert_allclose(value, probemb.info_nce(image, text, logit_scale=5.0), rtol=1e-5)


LOSSES = {
    "info_nce": lambda p, q, s: probemb.info_nce(p, q, logit_scale=s),
    "triplet": lambda p, q, s: probemb.triplet(p, q, margin=s),
}
with_gradients = {
    name: jax.jit(jax.value_and_grad(loss, (0, 1, 2))) for name, loss in LOSSES.items()
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_to_second_order(loss, check_to_second_order):
    check_to_second_order(loss, (*random_pair(4, 3), 0.7))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_variances_and_lengths_do_not_count(loss):
    image, text = random_pair()
    other = DiagonalGaussian(3.0 * image.mean, image.log_variance + 1.0)
    np.testing.assert_allclose(loss(other, text, 0.7), loss(image, text, 0.7), rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_and_zero_means_have_finite_gradients(name, dtype, batch, value):
    p = DiagonalGaussian(jnp.full((batch, 2), value, dtype), jnp.zeros((batch, 2), dtype))
    chex.assert_tree_all_finite(with_gradients[name](p, p, dtype(0.2)))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_float32_beside_float64_and_jit_beside_eager(loss):
    image, text = random_pair(dtype=np.float32)
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), (image, text))
    value = loss(image, text, np.float32(0.7))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, loss(*wide, 0.7), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(image, text, np.float32(0.7)), value, rtol=1e-5)


P = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))


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
