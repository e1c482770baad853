import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_vjp
from scipy.special import expit

import probemb
from probemb import DiagonalGaussian, GaussianMixture
from probemb.numerics import reduction

OPTIONS = {"negative_scale": 3.0, "shift": 1.5}

# A quadrature is a large program, here for few numbers: to optimize it takes longer than to run it.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def normal(seed, *shape, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def gaussians():
    """Three images and three texts in four dimensions, as most tests have, which compile less."""
    return tuple(
        DiagonalGaussian(0.4 * normal(seed, 3, 4), 0.5 * normal(seed + 1, 3, 4) - 2.0)
        for seed in (0, 2)
    )


def brute_force(x, y, a, b, labels):
    """Every pair of samples of every pair, in NumPy."""
    loss = 0.0
    for i in range(len(x)):
        for j in range(len(y)):
            distance = np.linalg.norm(x[i][:, None] - y[j][None], axis=-1)
            p = expit(b - a * distance).mean()
            loss -= labels[i, j] * np.log(p) + (1 - labels[i, j]) * np.log(1 - p)
    return loss


@jax.jit
def released_with_gradient(x, y, a, b):
    def loss(x, y, a, b):
        return probemb.pcme_released(x, y, negative_scale=a, shift=b)

    return jax.value_and_grad(loss, (0, 1, 2, 3))(x, y, a, b)


@jax.jit
def pcme_with_gradient(x, y, a, b):
    def loss(x, y):
        return probemb.pcme_of_samples(x, y, negative_scale=a, shift=b)

    return jax.value_and_grad(loss, (0, 1))(x, y)


def test_released_pcme(golden):
    arguments = [golden(f"pcme/{name}") for name in ("negative_scale", "shift")]
    samples = [golden(name) for name in ("image_samples", "text_samples")]
    value, gradient = released_with_gradient(*samples, *arguments)
    np.testing.assert_allclose(value, golden("pcme/loss_sum_two_directions"), rtol=1e-9)
    for name, mine in zip(
        ("image_samples", "text_samples", "negative_scale", "shift"), gradient, strict=True
    ):
        np.testing.assert_allclose(
            np.ravel(mine), np.ravel(golden(f"pcme/grad_{name}")), atol=1e-9, err_msg=name
        )


def test_the_exact_loss_differs_from_the_released_one_as_told():
    x, y = normal(0, 6, 5, 16), normal(1, 6, 5, 16)
    doubled, _ = pcme_with_gradient(x, y, 6.0, 3.0)
    released, _ = released_with_gradient(x, y, np.float64(3.0), np.float64(1.5))
    np.testing.assert_allclose(released, 2.0 * doubled, rtol=1e-6)
    assert abs(released - 2.0 * pcme_with_gradient(x, y, 3.0, 1.5)[0]) > 1.0


@pytest.mark.parametrize("tile", [1, 40, 10**6])
def test_pcme_equals_brute_force_in_blocks_of_any_size(monkeypatch, tile):
    monkeypatch.setattr(reduction, "TILE", tile)
    monkeypatch.setattr(reduction, "_FEW_ROWS", 1)
    x, y = 0.5 * normal(0, 5, 3, 4), 0.5 * normal(1, 5, 2, 4)
    labels = np.random.default_rng(2).uniform(size=(5, 5))

    def losses(x, y):
        return [probemb.pcme_of_samples(x, y, **OPTIONS, labels=z) for z in (None, labels)]

    expected = [brute_force(x, y, 3.0, 1.5, z) for z in (np.eye(5), labels)]
    np.testing.assert_allclose(jax.jit(losses)(x, y), expected, rtol=1e-12)


def test_float32_beside_float64():
    x, y = 0.05 * normal(0, 6, 5, 16), 0.05 * normal(1, 6, 5, 16)
    moved = [z.astype(np.float32) + np.float32(20.0) for z in (x, y)]
    exact = pcme_with_gradient(*(z.astype(np.float64) for z in moved), 15.0, 15.0)
    near = pcme_with_gradient(*moved, 15.0, 15.0)
    assert near[0].dtype == jnp.float32
    np.testing.assert_allclose(near[0], exact[0], rtol=1e-5)
    for mine, theirs in zip(near[1], exact[1], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5 * np.abs(theirs).max())


def test_pcme_to_second_order(check_to_second_order):
    x, y = normal(0, 3, 2, 3), normal(1, 3, 2, 3)

    def loss(x, y, a, b):
        return probemb.pcme_of_samples(x, y, negative_scale=a, shift=b)

    check_to_second_order(loss, (x, y, 1.3, 0.4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [1, 6])
def test_coinciding_and_distant_samples_have_finite_gradients(dtype, batch):
    x = np.ones((batch, 5, 16), dtype)
    for y in (x, x + dtype(1e4)):
        chex.assert_tree_all_finite(pcme_with_gradient(x, y, 20.0, 5.0))


@pytest.mark.slow
def test_jit_eager_and_vmap_agree():
    x, y = normal(0, 2, 4, 3, 5), normal(1, 2, 4, 3, 5)

    def loss(x, y):
        return probemb.pcme_of_samples(x, y, **OPTIONS)

    eager = jnp.stack([loss(*pair) for pair in zip(x, y, strict=True)])
    np.testing.assert_allclose(jax.vmap(loss)(x, y), eager, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(x, y), eager, rtol=1e-12)


@jax.jit
def pcme_of_a_key(key, image, text):
    return probemb.pcme(key, image, text, num_samples=150, **OPTIONS)


def test_pcme_of_a_key():
    one, again, other = (pcme_of_a_key(jax.random.key(k), *gaussians()) for k in (0, 0, 1))
    assert one == again and one != other


@jit
def quadrature_with_gradient(image, text, a, b):
    def loss(image, text, a, b):
        return probemb.pcme_quadrature(image, text, negative_scale=a, shift=b)

    return jax.value_and_grad(loss, (0, 1, 2, 3))(image, text, a, b)


@jit
def soft_quadrature(p, q, match):
    return probemb.soft_contrastive_quadrature(p, q, match, **OPTIONS, bottleneck_weight=0.0)


@jit
def soft_contrastive(key, p, q, match, bottleneck_weight):
    return probemb.soft_contrastive(
        key, p, q, match, **OPTIONS, num_samples=500, bottleneck_weight=bottleneck_weight
    )


def test_many_samples_tend_to_the_quadrature():
    image, text = (g._replace(log_variance=np.full((3, 4), -1.0)) for g in gaussians())
    exact, _ = quadrature_with_gradient(image, text, *map(np.float64, OPTIONS.values()))
    estimates = [pcme_of_a_key(jax.random.key(seed), image, text) for seed in range(8)]
    error = np.std(estimates, ddof=1) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - exact) < 4.0 * error
    assert error < 0.01 * exact


@pytest.mark.parametrize("labelled", [False, True])
def test_the_quadrature_of_a_batch_is_that_of_its_pairs(labelled):
    image, text = gaussians()
    labels = np.random.default_rng(2).uniform(size=(3, 3)) if labelled else np.eye(3)
    if labelled:
        value = jit(functools.partial(probemb.pcme_quadrature, **OPTIONS, labels=labels))(
            image, text
        )
    else:
        value, _ = quadrature_with_gradient(image, text, *map(np.float64, OPTIONS.values()))
    expected = 0.0
    for i in range(3):
        for j in range(3):
            p, q = (jax.tree.map(lambda x, k=k: x[k], g) for k, g in ((i, image), (j, text)))
            expected += soft_quadrature(p, q, float(labels[i, j]))
    np.testing.assert_allclose(value, expected, rtol=1e-10)


def test_the_quadrature_has_right_gradients():
    def with_pull_back(*arguments):
        value, gradient = quadrature_with_gradient(*arguments)
        return value, lambda cotangent: jax.tree.map(lambda slope: cotangent * slope, gradient)

    def value(*arguments):
        return quadrature_with_gradient(*arguments)[0]

    arguments = (*gaussians(), np.float64(1.3), np.float64(0.4))
    check_vjp(value, with_pull_back, arguments, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("log_variance", [-30.0, 0.0, 30.0])
def test_the_quadrature_is_finite_at_the_edges(dtype, log_variance):
    p = DiagonalGaussian(np.eye(3, 4, dtype=dtype), np.full((3, 4), log_variance, dtype))
    chex.assert_tree_all_finite(quadrature_with_gradient(p, p, dtype(15.0), dtype(5.0)))


def nearly_equal(length, log_variance, moved):
    """Three images and three texts in float32."""
    mean = normal(0, 3, 4)
    mean *= length / np.linalg.norm(mean, axis=1, keepdims=True)
    return np.float32(mean), np.float32(mean * (1.0 + moved)), np.full((3, 4), log_variance)


def test_the_quadrature_of_nearly_equal_pairs_keeps_float32s_digits():
    mean, log_variance = np.zeros((3, 4), np.float32), np.full((3, 4), -35.0)
    mean[:, :2], log_variance[:, :2] = [[0.6, 0.8], [0.8, -0.6], [1.0, 0.0]], -20.0
    cases = [(mean, mean, log_variance)]
    cases += [nearly_equal(1.0, -25.0, 0.0), nearly_equal(80.0, -15.0, 1e-5)]
    for image, text, log_variance in cases:
        near, exact = (
            quadrature_with_gradient(
                *(
                    DiagonalGaussian(x.astype(dtype), log_variance.astype(dtype))
                    for x in (image, text)
                ),
                dtype(15.0),
                dtype(15.0),
            )
            for dtype in (np.float32, np.float64)
        )
        if image is mean:
            np.testing.assert_allclose(exact[0], 14.579, atol=5e-4)
        np.testing.assert_allclose(near[0], exact[0], rtol=1e-5, atol=1e-5)
        for mine, theirs in zip(*map(jax.tree.leaves, (near[1], exact[1])), strict=True):
            # Beside 15, the slope of a logit.
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def test_soft_contrastive_is_its_definition():
    p, q = (jax.tree.map(lambda x: x[0], g) for g in gaussians())
    loss = functools.partial(soft_contrastive, jax.random.key(3), p, q)
    yes, no = (np.exp(-float(loss(match, 0.0))) for match in (1.0, 0.0))
    assert yes + no == pytest.approx(1.0, abs=1e-12)
    assert yes == pytest.approx(np.exp(-float(soft_quadrature(p, q, 1.0))), abs=0.05)
    soft = -0.3 * np.log(yes) - 0.7 * np.log(no)
    assert float(loss(0.3, 0.0)) == pytest.approx(soft, abs=1e-12)
    divergence = sum(
        0.5 * np.sum(np.exp(g.log_variance) + g.mean**2 - 1.0 - g.log_variance) for g in (p, q)
    )
    assert float(loss(1.0, 0.1) - loss(1.0, 0.0)) == pytest.approx(0.1 * divergence)


def test_soft_contrastive_quadrature_is_the_limit():
    p, q = (DiagonalGaussian(g.mean[0], np.full(4, -1.0)) for g in gaussians())
    many = soft_contrastive(jax.random.key(0), p, q, 1.0, 0.0)
    assert float(many) == pytest.approx(float(soft_quadrature(p, q, 1.0)), abs=0.02)


def test_a_mixture_learns_its_weights():
    near = DiagonalGaussian(np.array([[0.0, 0.0], [5.0, 5.0]]), np.full((2, 2), -4.0))
    target = DiagonalGaussian(np.zeros(2), np.full(2, -4.0))

    @jax.jit
    @jax.grad
    def gradient(logits, match):
        p = GaussianMixture(logits, near)
        return probemb.soft_contrastive(
            jax.random.key(0), p, target, match, **OPTIONS, bottleneck_weight=0.0
        )

    for match, sign in ((1, -1.0), (0, 1.0)):
        slope = np.asarray(gradient(np.zeros(2), match))
        assert sign * slope[0] > 0.01 and abs(slope.sum()) < 1e-9


@pytest.mark.parametrize(
    "kinds",
    [
        ("mixture", "gaussian"),
        pytest.param(("gaussian", "gaussian"), marks=pytest.mark.slow),
        pytest.param(("mixture", "mixture"), marks=pytest.mark.slow),
    ],
)
def test_soft_contrastive_to_second_order(kinds, check_to_second_order):
    components = DiagonalGaussian(0.5 * normal(0, 2, 3), 0.3 * normal(1, 2, 3))
    p, q = (
        GaussianMixture(np.array([0.2, log_weight]), components)
        if kind == "mixture"
        else jax.tree.map(lambda x, k=k: x[k], components)
        for k, (kind, log_weight) in enumerate(zip(kinds, (0.1, -0.4), strict=True))
    )

    def loss(p, q, a, b):
        return probemb.soft_contrastive(
            jax.random.key(0), p, q, 1, negative_scale=a, shift=b, num_samples=2
        )

    check_to_second_order(loss, (p, q, 1.3, 0.4))


X, WITH_NAN = np.zeros((2, 2, 3, 4))
WITH_NAN[1, 2, 3] = np.nan
P = DiagonalGaussian(np.zeros((2, 4)), np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: probemb.pcme_of_samples(X[0], X, **OPTIONS), ValueError, "image_samples must"),
        (lambda: probemb.pcme_of_samples(X, X[:1], **OPTIONS), ValueError, "of one batch"),
        (lambda: probemb.pcme_of_samples(X, X[..., :3], **OPTIONS), ValueError, "one dimension"),
        (lambda: probemb.pcme_of_samples(X[:0], X[:0], **OPTIONS), ValueError, "not be empty"),
        (lambda: probemb.pcme_of_samples(WITH_NAN, X, **OPTIONS), ValueError,
         r"image_samples must be finite, got nan at index \(1, 2, 3\)"),
        (lambda: probemb.pcme_of_samples(X.astype(int), X, **OPTIONS), TypeError, "floating"),
        (lambda: probemb.pcme_of_samples(X, X, negative_scale=-1.0, shift=0.0), ValueError,
         "negative_scale must be positive, got -1"),
        (lambda: probemb.pcme_of_samples(X, X, **OPTIONS, labels=np.eye(3)), ValueError,
         r"labels must have shape \(image, text\) = \(2, 2\), got \(3, 3\)"),
        (lambda: probemb.pcme_of_samples(X, X, **OPTIONS, labels=2 * np.eye(2)), ValueError,
         r"labels must lie in 0..1, got values from 0 to 2"),
        (lambda: probemb.pcme(0, P, P, **OPTIONS), TypeError, "key must be"),
        (lambda: probemb.pcme(jax.random.key(0), P, P, **OPTIONS, num_samples=0), ValueError,
         "num_samples must be at least 1, got 0"),
        (lambda: probemb.pcme(jax.random.key(0), P.mean, P, **OPTIONS), TypeError,
         "image must be a DiagonalGaussian"),
        (lambda: probemb.soft_contrastive(jax.random.key(0), P, P, 1, **OPTIONS), ValueError,
         "p must be a single distribution"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_one_sample_of_an_input_in_float64():
    x = np.random.default_rng(0).normal(size=(8, 1, 16))
    options = {"negative_scale": 1.0, "shift": 1.0}
    # As users compile it: not optimized, a distance of 0 is rounded to one of 1e-8.
    optimized = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
    loss = jax.jit(
        jax.value_and_grad(lambda x: probemb.pcme_of_samples(x, x, **options)),
        compiler_options=optimized,
    )
    value, gradient = loss(x)
    np.testing.assert_allclose(value, brute_force(x, x, 1.0, 1.0, np.eye(8)), rtol=1e-10)
    apart = x - x[:, 0]
    distance = np.linalg.norm(apart, axis=2)
    of_logit = expit(1.0 - distance) - np.eye(8)
    expected = -2.0 * np.sum((of_logit / (distance + np.eye(8)))[..., None] * apart, axis=1)
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-8, atol=1e-10)
