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
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def gaussians(batch=5, dimension=4, dtype=np.float64):
    return tuple(
        DiagonalGaussian(
            0.4 * normal(seed, batch, dimension, dtype=dtype),
            0.5 * normal(seed + 1, batch, dimension, dtype=dtype) - 2.0,
        )
        for seed in (0, 2)
    )


def brute_force(x, y, a, b, labels):
    """Every pair of samples of every pair, in NumPy."""
    x, y, loss = np.asarray(x), np.asarray(y), 0.0
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
    arguments = [
        jnp.asarray(golden(f"pcme/{name}") if "/" not in name else golden(name))
        for name in ("negative_scale", "shift")
    ]
    samples = [jnp.asarray(golden(name)) for name in ("image_samples", "text_samples")]
    value, gradient = released_with_gradient(*samples, *arguments)
    np.testing.assert_allclose(value, golden("pcme/loss_sum_two_directions"), rtol=1e-9)
    for name, mine in zip(
        ("image_samples", "text_samples", "negative_scale", "shift"), gradient, strict=True
    ):
        np.testing.assert_allclose(
            np.ravel(mine), np.ravel(golden(f"pcme/grad_{name}")), atol=1e-9, err_msg=name
        )


def test_the_exact_loss_differs_from_the_released_one_as_told():
    x, y = normal(0, 4, 3, 5), normal(1, 4, 3, 5)
    doubled = probemb.pcme_of_samples(x, y, negative_scale=6.0, shift=3.0)
    released = probemb.pcme_released(x, y, **OPTIONS)
    np.testing.assert_allclose(released, 2.0 * doubled, rtol=1e-6)
    assert abs(float(released - 2.0 * probemb.pcme_of_samples(x, y, **OPTIONS))) > 1.0


@pytest.mark.parametrize("tile", [1, 40, 10**6])
@pytest.mark.parametrize("labelled", [False, True])
def test_pcme_equals_brute_force_in_blocks_of_any_size(monkeypatch, tile, labelled):
    monkeypatch.setattr(reduction, "TILE", tile)
    monkeypatch.setattr(reduction, "_FEW_ROWS", 1)
    x, y = 0.5 * normal(0, 5, 3, 4), 0.5 * normal(1, 5, 2, 4)
    labels = np.random.default_rng(2).uniform(size=(5, 5)) if labelled else np.eye(5)
    value = probemb.pcme_of_samples(x, y, **OPTIONS, labels=labels if labelled else None)
    np.testing.assert_allclose(value, brute_force(x, y, 3.0, 1.5, labels), rtol=1e-12)


def test_float32_beside_float64():
    x, y = 0.05 * normal(0, 6, 4, 32), 0.05 * normal(1, 6, 4, 32)
    moved = [z.astype(jnp.float32) + np.float32(20.0) for z in (x, y)]
    exact = pcme_with_gradient(*(z.astype(jnp.float64) for z in moved), 15.0, 15.0)
    near = pcme_with_gradient(*moved, 15.0, 15.0)
    assert near[0].dtype == jnp.float32
    np.testing.assert_allclose(near[0], exact[0], rtol=1e-5)
    for mine, theirs in zip(near[1], exact[1], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5 * float(jnp.abs(theirs).max()))


def test_pcme_to_second_order(check_to_second_order):
    x, y = normal(0, 3, 2, 3), normal(1, 3, 2, 3)

    def loss(x, y, a, b):
        return probemb.pcme_of_samples(x, y, negative_scale=a, shift=b)

    check_to_second_order(loss, (x, y, 1.3, 0.4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [1, 3])
def test_coinciding_and_distant_samples_have_finite_gradients(dtype, batch):
    x = jnp.ones((batch, 2, 3), dtype)
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


def test_pcme_of_a_key():
    image, text = gaussians()
    one, again, other = (
        probemb.pcme(jax.random.key(seed), image, text, **OPTIONS) for seed in (0, 0, 1)
    )
    assert one == again and one != other


def test_many_samples_tend_to_the_quadrature():
    p, q = gaussians(3, 4)
    image, text = (g._replace(log_variance=jnp.full_like(g.mean, -1.0)) for g in (p, q))
    exact = probemb.pcme_quadrature(image, text, **OPTIONS)
    estimates = [
        probemb.pcme(jax.random.key(seed), image, text, num_samples=400, **OPTIONS)
        for seed in range(8)
    ]
    error = np.std(estimates, ddof=1) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - exact) < 4.0 * error
    assert error < 0.01 * exact


@jit
def log_expected(p, q):
    return probemb.log_expected_match_probability(p, q, **OPTIONS)


@pytest.mark.parametrize("labelled", [False, True])
def test_the_quadrature_of_a_batch_is_that_of_its_pairs(labelled):
    image, text = gaussians(3, 4)
    labels = jnp.asarray(np.random.default_rng(2).uniform(size=(3, 3))) if labelled else None
    value = jit(lambda p, q: probemb.pcme_quadrature(p, q, **OPTIONS, labels=labels))(image, text)
    expected = 0.0
    for i in range(3):
        for j in range(3):
            p, q = (jax.tree.map(lambda x, k=k: x[k], g) for k, g in ((i, image), (j, text)))
            yes, no = log_expected(p, q)
            m = float(i == j) if labels is None else labels[i, j]
            expected -= m * yes + (1.0 - m) * no
    np.testing.assert_allclose(value, expected, rtol=1e-10)


@jit
def quadrature_with_gradient(image, text, a, b):
    def loss(image, text, a, b):
        return probemb.pcme_quadrature(image, text, negative_scale=a, shift=b)

    return jax.value_and_grad(loss, (0, 1, 2, 3))(image, text, a, b)


def test_the_quadrature_has_right_gradients():
    def with_pull_back(*arguments):
        value, gradient = quadrature_with_gradient(*arguments)
        return value, lambda cotangent: jax.tree.map(lambda slope: cotangent * slope, gradient)

    def value(*arguments):
        return quadrature_with_gradient(*arguments)[0]

    check_vjp(value, with_pull_back, (*gaussians(2, 3), 1.3, 0.4), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("log_variance", [-30.0, 0.0, 30.0])
def test_the_quadrature_is_finite_at_the_edges(dtype, log_variance):
    mean = jnp.asarray(np.eye(2, 3), dtype)
    p = DiagonalGaussian(mean, jnp.full((2, 3), log_variance, dtype))
    chex.assert_tree_all_finite(quadrature_with_gradient(p, p, dtype(15.0), dtype(5.0)))


def nearly_equal(length, log_variance, moved):
    """Three images and three texts in 16 dimensions, in float32."""
    mean = np.random.default_rng(0).normal(size=(3, 16))
    mean *= length / np.linalg.norm(mean, axis=1, keepdims=True)
    return np.float32(mean), np.float32(mean * (1.0 + moved)), np.full((3, 16), log_variance)


def test_the_quadrature_of_nearly_equal_pairs_keeps_float32s_digits():
    mean, log_variance = np.zeros((3, 16), np.float32), np.full((3, 16), -35.0)
    mean[:, :2], log_variance[:, :2] = [[0.6, 0.8], [0.8, -0.6], [1.0, 0.0]], -20.0
    cases = [(mean, mean, log_variance)]
    cases += [nearly_equal(1.0, -25.0, 0.0), nearly_equal(80.0, -15.0, 1e-5)]
    for image, text, log_variance in cases:
        near, exact = (
            quadrature_with_gradient(
                *(
                    DiagonalGaussian(jnp.asarray(x, dtype), jnp.asarray(log_variance, dtype))
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
    key = jax.random.key(3)

    def loss(match, beta):
        return probemb.soft_contrastive(
            key, p, q, match, **OPTIONS, num_samples=50, bottleneck_weight=beta
        )

    yes, no = (np.exp(-float(loss(match, 0.0))) for match in (1, 0))
    assert yes + no == pytest.approx(1.0, abs=1e-12)
    exact = probemb.expected_match_probability(p, q, **OPTIONS)
    assert yes == pytest.approx(float(exact), abs=0.05)
    soft = -0.3 * np.log(yes) - 0.7 * np.log(no)
    assert float(loss(0.3, 0.0)) == pytest.approx(soft, abs=1e-12)
    divergence = probemb.kl_to_standard_normal(p) + probemb.kl_to_standard_normal(q)
    assert float(loss(1, 0.1) - loss(1, 0.0)) == pytest.approx(0.1 * float(divergence))


def test_soft_contrastive_quadrature_is_the_limit():
    p, q = (DiagonalGaussian(g.mean[0], jnp.full(4, -1.0)) for g in gaussians())
    exact = probemb.soft_contrastive_quadrature(p, q, 1, **OPTIONS)
    many = probemb.soft_contrastive(jax.random.key(0), p, q, 1, **OPTIONS, num_samples=1500)
    assert float(many) == pytest.approx(float(exact), abs=0.02)


def test_a_mixture_learns_its_weights():
    near = DiagonalGaussian(jnp.asarray([[0.0, 0.0], [5.0, 5.0]]), jnp.full((2, 2), -4.0))
    target = DiagonalGaussian(jnp.zeros(2), jnp.full(2, -4.0))

    @jax.jit
    @jax.grad
    def gradient(logits, match):
        p = GaussianMixture(logits, near)
        return probemb.soft_contrastive(
            jax.random.key(0), p, target, match, **OPTIONS, bottleneck_weight=0.0
        )

    for match, sign in ((1, -1.0), (0, 1.0)):
        slope = gradient(jnp.zeros(2), match)
        assert sign * float(slope[0]) > 0.01 and abs(float(slope.sum())) < 1e-9


@pytest.mark.parametrize("mixture", [False, True])
def test_soft_contrastive_to_second_order(mixture, check_to_second_order):
    p = DiagonalGaussian(0.5 * normal(0, 2, 3), 0.3 * normal(1, 2, 3))
    if mixture:
        p, q = (GaussianMixture(jnp.asarray([0.2, s]), p) for s in (0.1, -0.4))
    else:
        p, q = (jax.tree.map(lambda x, k=k: x[k], p) for k in (0, 1))

    def loss(p, q, a, b):
        return probemb.soft_contrastive(
            jax.random.key(0), p, q, 1, negative_scale=a, shift=b, num_samples=2
        )

    check_to_second_order(loss, (p, q, 1.3, 0.4))


X = jnp.zeros((2, 3, 4))
P = DiagonalGaussian(jnp.zeros((2, 4)), jnp.zeros((2, 4)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: probemb.pcme_of_samples(X[0], X, **OPTIONS), ValueError, "image_samples must"),
        (lambda: probemb.pcme_of_samples(X, X[:1], **OPTIONS), ValueError, "of one batch"),
        (lambda: probemb.pcme_of_samples(X, X[..., :3], **OPTIONS), ValueError, "one dimension"),
        (lambda: probemb.pcme_of_samples(X[:0], X[:0], **OPTIONS), ValueError, "not be empty"),
        (lambda: probemb.pcme_of_samples(X.at[1, 2, 3].set(jnp.nan), X, **OPTIONS), ValueError,
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
    value, gradient = loss(jnp.asarray(x))
    # The same sample twice is the same average; with one alone a product of matrices is special.
    twice, of_both = loss(jnp.asarray(np.repeat(x, 2, axis=1)))
    np.testing.assert_allclose(value, twice, rtol=1e-10)
    np.testing.assert_allclose(gradient[:, 0], of_both.sum(1), rtol=1e-8, atol=1e-10)
