import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import probemb
from probemb import heads

FEATURES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8)), jnp.float32)


def make(kind, seed=0):
    rngs = nnx.Rngs(seed)
    if kind == "mixture":
        return heads.MixtureHead(8, 5, num_components=2, rngs=rngs)
    return {"point": heads.PointHead, "gaussian": heads.GaussianHead}[kind](8, 5, rngs=rngs)


def test_a_gaussian_is_two_linear_layers():
    head = make("gaussian")
    p = head(FEATURES)
    assert isinstance(p, probemb.DiagonalGaussian)
    for layer, field in ((head.mean, p.mean), (head.log_variance, p.log_variance)):
        kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
        expected = np.asarray(FEATURES) @ kernel + bias
        np.testing.assert_allclose(field, expected, rtol=1e-5)


def test_the_components_of_a_mixture_differ():
    p = make("mixture")(FEATURES)
    assert isinstance(p, probemb.GaussianMixture)
    chex.assert_shape(p.logits, (3, 2))
    chex.assert_shape(p.components.mean, (3, 2, 5))
    mean = np.asarray(p.components.mean)
    assert not np.allclose(mean[:, 0], mean[:, 1])
    mean, variance = jax.eval_shape(lambda p: (p.mean, p.variance), p)
    assert mean.shape == variance.shape == (3, 5)


@pytest.mark.parametrize("kind", ["point", "gaussian", "mixture"])
def test_used_as_a_function(kind):
    """A graph and a plain tree of parameters: jit, vmap and grad need nothing else."""
    graph, state = nnx.split(make(kind))
    parameters = nnx.to_pure_dict(state)

    def apply(parameters, features):
        return nnx.merge(graph, parameters)(features)

    eager = apply(parameters, FEATURES)
    chex.assert_trees_all_close(jax.jit(apply)(parameters, FEATURES), eager, rtol=1e-6)
    mapped = jax.jit(jax.vmap(apply, (None, 0)))(parameters, FEATURES)
    chex.assert_trees_all_close(mapped, eager, rtol=1e-5)

    def loss(parameters):
        return sum(
            jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(apply(parameters, FEATURES))
        )

    gradient = jax.jit(jax.grad(loss))(parameters)
    chex.assert_tree_all_finite(gradient)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_bad_lengths():
    with pytest.raises(ValueError, match="dimension must be at least 1, got 0"):
        heads.PointHead(8, 0, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"num_features must be an integer, got 8.0"):
        heads.GaussianHead(8.0, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_components must be at least 1, got 0"):
        heads.MixtureHead(8, 2, num_components=0, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("kind", ["point", "gaussian", "mixture"])
def test_bad_features(kind):
    with pytest.raises(ValueError, match=r"features must have shape \(\.\.\., 8\), got \(3, 7\)"):
        make(kind)(FEATURES[:, :7])
    with pytest.raises(ValueError, match=r"features must have shape"):
        make(kind)(jnp.float32(1.0))


def test_a_seed_is_a_head():
    first, again, other = (make("gaussian", seed)(FEATURES) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert not np.allclose(first.mean, other.mean)


# --- heads that look at local features ---------------------------------------------------------

LOCAL = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5, 6)), jnp.float32)
MASK = jnp.asarray(
    [[True] * 5, [True, True, False, False, False], [False, True, True, False, True]]
)
LOCAL_HEADS = {
    "attention": functools.partial(heads.LocalAttentionHead, 8, 6, 4),
    "token": functools.partial(heads.UncertaintyTokenHead, 8, 6, 4, num_heads=2),
}
local_heads = pytest.mark.parametrize("kind", LOCAL_HEADS)


@functools.cache
def make_local(kind):
    """A head, and a function of its parameters and of what it looks at."""
    graph, state = nnx.split(LOCAL_HEADS[kind](rngs=nnx.Rngs(2)))
    noise = np.random.default_rng(3)  # biases and norms that are not 0 and 1
    parameters = jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x) + 0.1 * noise.normal(size=x.shape), jnp.float32),
        nnx.to_pure_dict(state),
    )
    return parameters, jax.jit(lambda parameters, *inputs: nnx.merge(graph, parameters)(*inputs))


def embed(kind, *inputs):
    parameters, apply = make_local(kind)
    return apply(parameters, *inputs)


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def linear(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def by_hand(kind, features, local):
    """The mean and the log-variance of one item, of the places that count, in NumPy."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), make_local(kind)[0])

    def pooled(pool):
        weights = softmax(linear(pool["logit"], np.tanh(linear(pool["hidden"], local)))[:, 0])
        return weights @ local

    if kind == "attention":
        residual = 1.0 / (1.0 + np.exp(-linear(p["mean_residual"], pooled(p["mean_pool"]))))
        x = linear(p["mean"], features) + residual
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-6) * p["norm"]["scale"] + p["norm"]["bias"]
        found = pooled(p["log_variance_pool"])
        log_variance = linear(p["log_variance"], features) + linear(
            p["log_variance_residual"], found
        )
        return x / np.linalg.norm(x), log_variance
    attention, found = p["attention"], p["token"].copy()
    query, key, value = (
        np.einsum("...f,fhk->h...k", x, attention[name]["kernel"])
        + attention[name]["bias"].reshape(2, *(1,) * (x.ndim - 1), 3)
        for name, x in (("query", p["token"]), ("key", local), ("value", local))
    )
    for head in range(2):
        weights = softmax(key[head] @ query[head] / np.sqrt(3.0))
        found += weights @ value[head] @ attention["out"]["kernel"][head]
    x = linear(p["mean"], features)
    return x / np.linalg.norm(x), linear(p["log_variance"], found + attention["out"]["bias"])


@local_heads
def test_a_local_head_is_its_formula(kind):
    found = embed(kind, FEATURES, LOCAL, MASK)
    assert isinstance(found, probemb.DiagonalGaussian)
    for k, places in enumerate(np.asarray(MASK)):
        expected = by_hand(kind, np.asarray(FEATURES)[k], np.asarray(LOCAL)[k][places])
        for value, by_numpy in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.asarray(value)[k], by_numpy, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.mean, axis=1), 1.0, rtol=1e-6)
    assert np.abs(found.log_variance).max() > 0.1


@local_heads
def test_without_a_mask_every_place_counts(kind):
    everywhere = embed(kind, FEATURES, LOCAL, np.ones((3, 5), bool))
    chex.assert_trees_all_close(embed(kind, FEATURES, LOCAL), everywhere, rtol=1e-6, atol=1e-6)


@local_heads
def test_masked_places_do_not_matter(kind):
    found = embed(kind, FEATURES, LOCAL, MASK)
    other = np.where(np.asarray(MASK)[..., None], LOCAL, np.float32(1e3))
    chex.assert_trees_all_equal(embed(kind, FEATURES, other, MASK), found)
    alone = embed(kind, np.asarray(FEATURES)[1:2], np.asarray(LOCAL)[1:2, :2])
    expected = jax.tree.map(lambda x: np.asarray(x)[1:2], found)
    chex.assert_trees_all_close(alone, expected, rtol=1e-5)


@local_heads
def test_the_order_of_places_does_not_matter(kind):
    found = embed(kind, FEATURES, LOCAL, MASK)
    turned = embed(kind, FEATURES, np.asarray(LOCAL)[:, ::-1], np.asarray(MASK)[:, ::-1])
    chex.assert_trees_all_close(turned, found, rtol=1e-5, atol=1e-6)


@local_heads
def test_any_batch_axes_and_vmap(kind):
    found = embed(kind, FEATURES, LOCAL, MASK)
    grid = embed(kind, *(np.asarray(x)[None] for x in (FEATURES, LOCAL, MASK)))
    grid = jax.tree.map(lambda x: np.asarray(x)[0], grid)
    chex.assert_trees_all_close(grid, found, rtol=1e-5, atol=1e-6)
    parameters, apply = make_local(kind)
    mapped = jax.vmap(apply, (None, 0, 0, 0))(parameters, FEATURES, LOCAL, MASK)
    chex.assert_trees_all_close(mapped, found, rtol=1e-5, atol=1e-6)


@local_heads
def test_a_local_head_has_finite_gradients_even_of_nothing(kind):
    parameters, apply = make_local(kind)

    @jax.jit
    def gradient(parameters, features, local, mask):
        def loss(*inputs):
            mean, log_variance = apply(*inputs, mask)
            direction = jnp.arange(4.0, dtype=jnp.float32)[None]
            return jnp.sum(mean * direction) + jnp.sum(jnp.square(log_variance))

        return jax.grad(loss, (0, 1, 2))(parameters, features, local)

    of_parameters, of_features, of_local = gradient(parameters, FEATURES, LOCAL, MASK)
    chex.assert_tree_all_finite((of_parameters, of_features, of_local))
    assert np.abs(of_features).min() > 0.0
    np.testing.assert_array_equal(np.abs(np.asarray(of_local)).max(2) > 0.0, MASK)
    flat = jax.tree_util.tree_leaves_with_path(of_parameters)
    idle = [jax.tree_util.keystr(path) for path, leaf in flat if np.abs(leaf).max() < 1e-6]
    # What all keys have in common leaves a softmax as it is.
    assert idle == (["['attention']['key']['bias']"] if kind == "token" else [])

    nothing = jnp.zeros((3, 5), bool)
    chex.assert_tree_all_finite(gradient(parameters, FEATURES, LOCAL, nothing))
    # Without biases, as at the start, the mean of zero features has no direction.
    parameters = jax.tree.map(lambda x: x if x.ndim > 1 else jnp.zeros_like(x), parameters)
    zeros = jnp.zeros_like(FEATURES), jnp.zeros_like(LOCAL)
    chex.assert_tree_all_finite(gradient(parameters, *zeros, nothing))


@local_heads
def test_the_log_variance_starts_around_its_initial_value(kind):
    _, apply = make_local(kind)
    low, high = (
        apply(
            nnx.to_pure_dict(
                nnx.state(LOCAL_HEADS[kind](initial_log_variance=value, rngs=nnx.Rngs(0)))
            ),
            FEATURES,
            LOCAL,
        )
        for value in (-10.0, 0.0)
    )
    low_spread, high_spread = np.asarray(low.log_variance), np.asarray(high.log_variance)
    np.testing.assert_allclose(low_spread, high_spread - 10.0, rtol=1e-5)
    assert abs(high_spread.mean()) < 2.0
    chex.assert_trees_all_equal(low.mean, high.mean)


@local_heads
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((FEATURES[:, :7], LOCAL), "features must have shape (..., 8), got (3, 7)"),
        ((FEATURES, LOCAL[..., :5]), "local must have shape (3, 'place', 6)"),
        ((FEATURES, LOCAL[:2]), "one place or more, got (2, 5, 6)"),
        ((FEATURES, LOCAL[:, 0]), "one place or more, got (3, 6)"),
        ((FEATURES, LOCAL[:, :0]), "one place or more, got (3, 0, 6)"),
        ((FEATURES[0], LOCAL), "local must have shape ('place', 6)"),
        (
            (FEATURES, LOCAL, MASK[:, :4]),
            "mask must be boolean of shape (3, 5), got bool of (3, 4)",
        ),
        ((FEATURES, LOCAL, np.ones((3, 5))), "mask must be boolean of shape (3, 5), got float64"),
    ],
)
def test_bad_local_features(kind, inputs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        embed(kind, *inputs)


def test_bad_lengths_of_local_heads():
    with pytest.raises(ValueError, match="num_local_features must be at least 1, got 0"):
        heads.LocalAttentionHead(8, 0, 2, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"dimension must be an integer, got 2.0"):
        heads.UncertaintyTokenHead(8, 6, 2.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_heads must be at least 1, got 0"):
        heads.UncertaintyTokenHead(8, 6, 2, num_heads=0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="must be a multiple of num_heads = 4, got 6"):
        heads.UncertaintyTokenHead(8, 6, 2, num_heads=4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("head", [heads.LocalAttentionHead, heads.UncertaintyTokenHead])
@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        (float("nan"), ValueError, "initial_log_variance must be finite, got nan"),
        ("0", TypeError, "initial_log_variance must be an array, got str"),
        (True, TypeError, "initial_log_variance must be floating point, got dtype bool"),
    ],
)
def test_a_log_variance_starts_at_a_number(head, start, error, message):
    with pytest.raises(error, match=message):
        head(8, 6, 2, initial_log_variance=start, rngs=nnx.Rngs(0))
