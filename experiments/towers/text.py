"""A small transformer over words, and the vocabulary that makes word numbers of a text."""

import re
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.towers.image import HIDDEN

PADDING, UNKNOWN = 0, 1
"""The word numbers of no word, and of a word that is not in the vocabulary."""
_HEADS = 4


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: letters, digits and apostrophes; a comma is a word."""
    return re.findall(r"[\w']+|,", text.lower())


class Vocabulary:
    """Words with their numbers; 0 is padding and 1 any other word.

    Args:
      words: the known words, in order; each once.
    """

    def __init__(self, words: Iterable[str]):
        self.words = ("", "?", *words)
        self._numbers = {word: number for number, word in enumerate(self.words)}
        if len(self._numbers) < len(self.words):
            raise ValueError("words must be all different, and neither empty nor '?'")

    @classmethod
    def of(cls, texts: Iterable[str], *, least: int = 1) -> "Vocabulary":
        """The words that stand `least` times or more in some texts, in alphabetical order."""
        words, counts = np.unique([w for text in texts for w in words_of(text)], return_counts=True)
        return cls(words[counts >= least].tolist())

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, texts: Iterable[str], *, length: int | None = None) -> np.ndarray:
        """Word numbers (text, length) int32; by default as long as the longest text.

        Args:
          texts: to encode.
          length: where longer texts are cut.

        Raises:
          ValueError: no texts, or one without a word; a length below 1.
        """
        if length is not None and length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        rows = [[self._numbers.get(word, UNKNOWN) for word in words_of(text)] for text in texts]
        if not rows or not all(rows):
            raise ValueError("texts must be at least one, each with at least one word")
        length = length or max(map(len, rows))
        encoded = np.full((len(rows), length), PADDING, np.int32)
        for row, numbers in zip(encoded, rows, strict=True):
            row[: len(numbers)] = numbers[:length]
        return encoded


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
