"""Words of a text, and the vocabulary that makes numbers of them."""

import re
from collections.abc import Iterable

import numpy as np

PADDING, UNKNOWN = 0, 1
"""The word numbers of no word, and of a word that is not in the vocabulary."""


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
