import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import probemb
from probemb import DiagonalGaussian
from probemb.numerics import reduction


def gaussians_of(golden):
    return tuple(
        DiagonalGaussian(golden(f"{name}_mean"), golden(f"{name}_log_var"))
        for name in ("image", "text")
    )


def random_pair(batch=6, dimension=4, dtype=np.float64):
    generator = np.random.default_rng(0)
    image, noise, *log_variances = generator.normal(size=(4, batch, dimension))
    means = image, image + 0.7 * noise
    return tuple(
        DiagonalGaussian((0.5 * mean).astype(dtype), (0.4 * v - 2.0).astype(dtype))
        for mean, v in zip(means, log_variances, strict=True)
    )


def assert_gradients(golden, prefix, gradient, scalars):
    (image, text), rest = gradient[:2], gradient[2:]
    mine = {
        "image_mean": image.mean,
        "image_log_var": image.log_variance,
        "text_mean": text.mean,
        "text_log_var": text.log_variance,
        **dict(zip(scalars, rest, strict=True)),
    }
    for name, value in mine.items():
        expected = golden(f"{prefix}/grad_{name}")
        np.testing.assert_allclose(np.ravel(value), np.ravel(expected), atol=1e-9, err_msg=name)


@jax.jit
def pcmepp_with_gradient(image, text, a, b, alpha, beta):
    def loss(image, text, a, b):
        return probemb.pcmepp(
            image, text, negative_scale=a, shift=b, pseudo_positive_weight=alpha, kl_weight=beta
        )

    return jax.value_and_grad(loss, (0, 1, 2, 3))(image, text, a, b)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (0.1, 0.0001)])
def test_released_pcmepp(golden, alpha, beta):
    prefix = f"pcmepp_alpha{alpha}_beta{beta}"
    scalars = [golden(f"{prefix}/{name}") for name in ("negative_scale", "shift")]
    value, gradient = pcmepp_with_gradient(*gaussians_of(golden), *scalars, alpha, beta)
    np.testing.assert_allclose(value, golden(f"{prefix}/loss"), rtol=1e-9)
    assert_gradients(golden, prefix, gradient, ("negative_scale", "shift"))


@jax.jit
def prolip_with_gradient(image, text, scale, bias):
    def loss(image, text, scale, bias):
        return probemb.prolip(image, text, logit_scale=scale, logit_bias=bias)

    return jax.value_and_grad(loss, (0, 1, 2, 3))(image, text, scale, bias)


def test_released_prolip(golden):
    scalars = [golden(f"prolip/{name}") for name in ("logit_scale", "logit_bias")]
    value, gradient = prolip_with_gradient(*gaussians_of(golden), *scalars)
    np.testing.assert_allclose(value, golden("prolip/ppcl"), rtol=1e-9)
    assert_gradients(golden, "prolip", gradient, ("logit_scale", "logit_bias"))


def pcmepp_by_definition(image, text, a, b, labels, alpha, beta, slack=0.0):
    """Pair by pair; a pseudo-positive takes the label of its row's (or column's) positive."""
    size = len(labels)
    logits = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            apart = np.sum((image.mean[i] - text.mean[j]) ** 2)
            spread = np.exp(image.log_variance[i]) + np.exp(text.log_variance[j])
            logits[i, j] = b - a * (apart + spread.sum())
    by_row, by_column = labels.copy(), labels.copy()
    for k in range(size):
        row, column = np.argmax(labels[k]), np.argmax(labels[:, k])
        by_row[k, logits[k] >= logits[k, row] - slack] = labels[k, row]
        by_column[logits[:, k] >= logits[column, k] - slack, k] = labels[column, k]

    def cross_entropy(y):
        return np.mean(np.logaddexp(0.0, logits) - y * logits)

    divergence = sum(np.exp(p.log_variance) + p.mean**2 - 1 - p.log_variance for p in (image, text))
    pseudo = cross_entropy(by_row) + cross_entropy(by_column)
    assert (by_row != labels).any() and (by_column != labels).any()
    return 2 * cross_entropy(labels) + alpha * pseudo + beta * 0.5 * np.mean(divergence)


@pytest.mark.parametrize("tile", [1, 16, 10**6])
def test_pcmepp_equals_its_definition_in_blocks_of_any_size(monkeypatch, tile):
    monkeypatch.setattr(reduction, "TILE", tile)
    monkeypatch.setattr(reduction, "_FEW_ROWS", 1)
    image, text = random_pair()
    soft = 0.6 * np.eye(6) + 0.4 * np.eye(6)[[1, 2, 0, 3, 5, 4]]
    options = {"pseudo_positive_weight": 0.3, "kl_weight": 0.01}

    def losses(image, text):
        return [
            probemb.pcmepp(image, text, negative_scale=3.0, shift=1.0, labels=labels, **options)
            for labels in (None, soft)
        ]

    expected = [
        pcmepp_by_definition(image, text, 3.0, 1.0, labels, 0.3, 0.01)
        for labels in (np.eye(6), soft)
    ]
    np.testing.assert_allclose(jax.jit(losses)(image, text), expected, rtol=1e-12)


@pytest.mark.parametrize("labelled", [False, True])
def test_prolip_and_siglip_are_cross_entropies_of_their_logits(labelled):
    image, text = random_pair()
    labels = np.random.default_rng(1).uniform(size=(6, 6)) if labelled else None
    y = np.eye(6) if labels is None else labels

    @jax.jit
    def losses(image, text):
        options = {"logit_scale": 7.0, "logit_bias": -2.0, "labels": labels}
        return probemb.prolip(image, text, **options), probemb.siglip(image, text, **options)

    def expected(logits):
        return np.sum(np.logaddexp(0.0, logits) - y * logits) / 6

    of_image, of_text = (np.exp(p.log_variance).sum(1) for p in (image, text))
    traces = of_image[:, None] + of_text
    logits = 7.0 * (image.mean @ text.mean.T - 0.5 * traces) - 2.0
    prolip, siglip = losses(image, text)
    np.testing.assert_allclose(prolip, expected(logits), rtol=1e-12)
    x, z = (p.mean / np.linalg.norm(p.mean, axis=1, keepdims=True) for p in (image, text))
    np.testing.assert_allclose(siglip, expected(7.0 * x @ z.T - 2.0), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_duplicates_of_a_positive_are_pseudo_positives(dtype):
    image, text = (jax.tree.map(lambda x: np.repeat(x, 2, axis=0), p) for p in random_pair(16, 24))
    cast = jax.tree.map(dtype, (image, text))
    value, _ = pcmepp_with_gradient(*cast, dtype(3.0), dtype(3.0), 1.0, 0.0)
    expected = pcmepp_by_definition(image, text, 3.0, 3.0, np.eye(32), 1.0, 0.0, slack=1e-9)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


LOSSES = {
    "pcmepp": lambda p, q, s: probemb.pcmepp(p, q, negative_scale=s, shift=s),
    "prolip": lambda p, q, s: probemb.prolip(p, q, logit_scale=s, logit_bias=-s),
    "siglip": lambda p, q, s: probemb.siglip(p, q, logit_scale=s, logit_bias=-s),
}


@jax.jit
def with_gradients(p, q, s):
    return {name: jax.value_and_grad(loss, (0, 1, 2))(p, q, s) for name, loss in LOSSES.items()}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_to_second_order(loss, check_to_second_order):
    check_to_second_order(loss, (*random_pair(4, 3), 2.0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("log_variance", [-30.0, 30.0])
@pytest.mark.parametrize("batch", [1, 6])
def test_finite_at_the_edges(dtype, log_variance, batch):
    p = DiagonalGaussian(np.zeros((batch, 4), dtype), np.full((batch, 4), log_variance, dtype))
    chex.assert_tree_all_finite(with_gradients(p, p, dtype(5.0)))


@pytest.mark.parametrize("name", LOSSES)
def test_float32_beside_float64(name):
    image, text = random_pair(dtype=np.float32)
    wide = jax.tree.map(np.float64, (image, text))
    value, _ = with_gradients(image, text, np.float32(5.0))[name]
    assert value.dtype == jnp.float32
    exact, _ = with_gradients(*wide, np.float64(5.0))[name]
    np.testing.assert_allclose(value, exact, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_jit_beside_eager(loss):
    arguments = (*random_pair(dtype=np.float32), np.float32(5.0))
    np.testing.assert_allclose(jax.jit(loss)(*arguments), loss(*arguments), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_the_batch_does_not_matter(name):
    pair = random_pair()
    turned = jax.tree.map(lambda x: x[::-1], pair)
    value, other = (with_gradients(*two, np.float64(3.0))[name][0] for two in (pair, turned))
    np.testing.assert_allclose(other, value, rtol=1e-12)


P = DiagonalGaussian(np.zeros((2, 3)), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LOSSES["pcmepp"](P, P, 0.0), ValueError, "negative_scale must be positive, got 0"),
        (lambda: LOSSES["prolip"](P, P, -1.0), ValueError, "logit_scale must be positive, got -1"),
        (lambda: LOSSES["siglip"](P, P, np.ones(2)), ValueError, "logit_scale must be a scalar"),
        (lambda: LOSSES["prolip"](P, jax.tree.map(lambda x: x[:1], P), 1.0), ValueError,
         "of one batch and one dimension"),
        (lambda: LOSSES["prolip"](P, P._replace(log_variance=np.full((2, 3), np.inf)), 1.0),
         ValueError, r"text.log_variance must be finite, got inf at index \(0, 0\)"),
        (lambda: LOSSES["siglip"](P, P.mean, 1.0), TypeError, "text must be a DiagonalGaussian"),
        (lambda: probemb.pcmepp(P, P, negative_scale=1.0, shift=0.0, kl_weight=-1.0), ValueError,
         "kl_weight must not be negative, got -1"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
