import numpy as np
import pytest

from experiments.data.words import PADDING, UNKNOWN, Vocabulary, words_of

VOCABULARY = Vocabulary(["a", "cat", "dog", "sees", ","])


def test_words_are_letters_digits_apostrophes_and_commas():
    assert words_of("A dog's 2 cats, seen (twice).") == "a dog's 2 cats , seen twice".split()
    assert words_of("Ein Käfer,,") == ["ein", "käfer", ",", ","]
    assert words_of(" .!- ") == []


def test_words_have_the_numbers_from_two_on():
    assert VOCABULARY.words == ("", "?", "a", "cat", "dog", "sees", ",")
    assert len(VOCABULARY) == 7
    encoded = VOCABULARY.encode(["A cat, a bird", "dog"])
    assert encoded.dtype == np.int32
    assert encoded.tolist() == [[2, 3, 6, 2, UNKNOWN], [4] + 4 * [PADDING]]


def test_a_length_cuts_and_pads():
    texts = ["a cat sees a dog", "dog"]
    assert VOCABULARY.encode(texts, length=3).tolist() == [[2, 3, 5], [4, 0, 0]]
    assert VOCABULARY.encode(texts, length=7).shape == (2, 7)


def test_a_vocabulary_of_texts_has_the_frequent_words_in_order():
    texts = ["a cat sees a dog", "The dog", "a bird"]
    assert Vocabulary.of(texts).words[2:] == ("a", "bird", "cat", "dog", "sees", "the")
    frequent = Vocabulary.of(texts, least=2)
    assert frequent.words[2:] == ("a", "dog")
    assert frequent.encode(texts[:1]).tolist() == [[2, UNKNOWN, UNKNOWN, 2, 3]]
    assert len(Vocabulary.of([])) == 2


@pytest.mark.parametrize("words", [["cat", "cat"], ["cat", ""], ["?"]])
def test_bad_words(words):
    with pytest.raises(ValueError, match=r"words must be all different, and neither empty nor '?'"):
        Vocabulary(words)


@pytest.mark.parametrize("texts", [[], [""], ["a cat", "..."]])
def test_bad_texts(texts):
    with pytest.raises(ValueError, match="texts must be at least one, each with at least one word"):
        VOCABULARY.encode(texts)


@pytest.mark.parametrize("length", [0, -1])
def test_bad_length(length):
    with pytest.raises(ValueError, match=f"length must be at least 1, got {length}"):
        VOCABULARY.encode(["a cat"], length=length)
