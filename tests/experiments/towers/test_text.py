import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.data.words import Vocabulary
from experiments.towers import text

LENGTH, WIDTH = 6, 8
VOCABULARY = Vocabulary(["a", "cat", "dog", "sees", ","])


@functools.cache
def tower():
    made = nnx.jit(lambda: text.TextTower(len(VOCABULARY), LENGTH, WIDTH, rngs=nnx.Rngs(0)))
    return made()


@jax.jit
def apply(parameters, tokens):
    return nnx.merge(nnx.split(tower())[0], parameters)(tokens)


def run(*texts, length=LENGTH):
    """Pooled and local features and the mask of three texts."""
    tokens = VOCABULARY.encode(texts, length=length)
    return jax.tree.map(np.asarray, apply(nnx.state(tower()), tokens))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_shapes_and_where_there_are_words():
    pooled, local, mask = run("a cat sees", "dog", "a dog", length=5)
    assert pooled.shape == (3, text.HIDDEN) and local.shape == (3, 5, WIDTH)
    assert mask.sum(1).tolist() == [3, 1, 2] and (mask[:, :-1] >= mask[:, 1:]).all()
    assert (pooled >= 0.0).all() and pooled.std() > 0.0


def test_padding_changes_nothing():
    texts = ("a cat sees a dog", "a dog", "cat")
    pooled, local, mask = run(*texts, length=5)
    padded, local_padded, mask_padded = run(*texts)
    close(padded, pooled)
    close(local_padded[mask_padded], local[mask])


def test_the_mean_is_over_words_alone():
    pooled, local, mask = run("a cat sees", "dog", "a dog sees, a cat")
    kernel, bias = (np.asarray(x[...]) for x in (tower().hidden.kernel, tower().hidden.bias))
    for features, x, words in zip(pooled, local, mask, strict=True):
        close(features, np.maximum(x[: words.sum()].mean(0) @ kernel + bias, 0.0))


def test_the_order_of_words_matters():
    pooled, _, _ = run("a cat sees a dog", "a dog sees a cat", "a cat sees a dog")
    np.testing.assert_array_equal(pooled[0], pooled[2])
    assert np.abs(pooled[0] - pooled[1]).max() > 1e-2


def test_a_text_does_not_see_another():
    close(run("a cat", "dog sees dog sees", "a")[0][0], run("a cat", "dog", "a, a, a")[0][0])


def test_gradients_are_finite_even_without_a_word():
    def loss(parameters, tokens):
        pooled, local, _ = apply(parameters, tokens)
        return jnp.square(pooled).sum() + jnp.square(local).sum()

    gradient_of = jax.jit(jax.grad(loss))
    for tokens in ([[2, 3, 5, 0], [4, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]):
        gradient = gradient_of(nnx.state(tower()), np.array(tokens, np.int32))
        chex.assert_tree_all_finite(gradient)
        known = np.abs(gradient.words.embedding[...]).max(1) > 0.0
        assert np.flatnonzero(known).tolist() == np.unique(tokens).tolist()


@pytest.mark.parametrize("shape", [(1, 7), (2,)])
def test_bad_tokens(shape):
    message = re.escape(f"tokens must be (batch, at most 6), got {shape}")
    with pytest.raises(ValueError, match=message):
        tower()(np.ones(shape, np.int32))
