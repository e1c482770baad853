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
        expected = FEATURES @ layer.kernel[...] + layer.bias[...][None]
        chex.assert_trees_all_close(field, expected, rtol=1e-5)


def test_the_components_of_a_mixture_differ():
    p = make("mixture")(FEATURES)
    assert isinstance(p, probemb.GaussianMixture)
    chex.assert_shape(p.logits, (3, 2))
    chex.assert_shape(p.components.mean, (3, 2, 5))
    assert not np.allclose(p.components.mean[:, 0], p.components.mean[:, 1])
    assert p.mean.shape == p.variance.shape == (3, 5)


@pytest.mark.parametrize("kind", ["point", "gaussian", "mixture"])
def test_used_as_a_function(kind):
    """A graph and a plain tree of parameters: jit, vmap and grad need nothing else."""
    graph, state = nnx.split(make(kind))
    parameters = nnx.to_pure_dict(state)

    def apply(parameters, features):
        return nnx.merge(graph, parameters)(features)

    eager = apply(parameters, FEATURES)
    chex.assert_trees_all_close(jax.jit(apply)(parameters, FEATURES), eager, rtol=1e-6)
    mapped = jax.vmap(apply, (None, 0))(parameters, FEATURES)
    chex.assert_trees_all_close(mapped, eager, rtol=1e-5)

    def loss(parameters):
        return sum(
            jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(apply(parameters, FEATURES))
        )

    gradient = jax.grad(loss)(parameters)
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
