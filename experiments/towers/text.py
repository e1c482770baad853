"""A small transformer over words."""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.data.words import PADDING
from experiments.towers.image import HIDDEN

_HEADS = 4


class _Block(nnx.Module):
    """Attention and a hidden layer, each added to what it normalises."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(_HEADS, width, decode=False, rngs=rngs)
        self.hidden_norm = nnx.LayerNorm(width, rngs=rngs)
        self.hidden = nnx.Linear(width, 2 * width, rngs=rngs)
        self.out = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), mask=mask[:, None, None, :])
        return x + self.out(nnx.gelu(self.hidden(self.hidden_norm(x))))


class TextTower(nnx.Module):
    """Word numbers (batch, length) to local features (batch, length, width) and pooled ones.

    Args:
      num_words: of the vocabulary.
      length: of the longest text.
      width: of a local feature vector, a multiple of 4.
      rngs: of the initial parameters.
    """

    def __init__(self, num_words: int, length: int, width: int, *, rngs: nnx.Rngs):
        self.words = nnx.Embed(num_words, width, rngs=rngs)
        self.places = nnx.Embed(length, width, rngs=rngs)
        self.first = _Block(width, rngs=rngs)
        self.second = _Block(width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.hidden = nnx.Linear(width, HIDDEN, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Pooled features (batch, 128), local features, and where there are words.

        Raises:
          ValueError: tokens of another shape, or longer than the longest text.
        """
        longest = self.places.num_embeddings
        if tokens.ndim != 2 or tokens.shape[1] > longest:
            raise ValueError(f"tokens must be (batch, at most {longest}), got {tokens.shape}")
        mask = tokens != PADDING
        x = self.words(tokens) + self.places(jnp.arange(tokens.shape[1]))
        for block in (self.first, self.second):
            x = block(x, mask)
        x = self.norm(x)
        count = jnp.maximum(mask.sum(1, keepdims=True), 1)
        pooled = jnp.where(mask[..., None], x, 0.0).sum(1) / count
        return nnx.relu(self.hidden(pooled)), x, mask
