import hashlib
import itertools
import re

import numpy as np
import pytest

from experiments.data import caption_grammar as grammar
from experiments.data.words import words_of

FIGURES = [
    "".join(figures)
    for length in (1, 2, 3)
    for figures in itertools.product("0123456789", repeat=length)
]
FIGURE = {word: str(digit) for digit, word in enumerate(grammar.DIGIT_WORDS)}
COUNTS = {"one digit": "1", "two digits": "2", "three digits": "3"}

# Each form as a pattern of figures: how the caption reads, and what of it goes where.
CLASSES = {"even": "[02468]", "odd": "[13579]", "small": "[0-4]", "large": "[5-9]"}
TERMS = {
    **{f"{'an' if word == 'eight' else 'a'} {word}": figure for word, figure in FIGURE.items()},
    "an even digit": "[02468]",
    "an odd digit": "[13579]",
    "a small digit": "[0-4]",
    "a large digit": "[5-9]",
    "something": "[0-9]",
}
ARTICLES = {words: figure for words, figure in TERMS.items() if words.split()[-1] in FIGURE}


def pattern(caption):
    """The numbers of a caption as a regular expression of their figures."""
    for count, length in COUNTS.items():
        any_number = f"(?=.{{{length}}}$)"
        for parity in ("even", "odd"):
            if caption == f"an {parity} number of {count}":
                return f"{any_number}.*{CLASSES[parity]}"
        if caption == f"a number of {count}":
            return f"{any_number}.*"
        if caption.startswith(f"{count} ending in "):
            return f"{any_number}.*" + figures(caption.removeprefix(f"{count} ending in "))
        if caption.startswith(f"{count} beginning with "):
            known = figures(caption.removeprefix(f"{count} beginning with "))
            return f"{any_number}{known}.*"
        if caption.startswith(f"{count}, one of them "):
            return f"{any_number}.*{ARTICLES[caption.removeprefix(f'{count}, one of them ')]}.*"
    if caption.startswith("a number with "):
        return f".*{ARTICLES[caption.removeprefix('a number with ')]}.*"
    match caption:
        case "some number" | "a number":
            return ".*"
        case "an even number" | "an odd number":
            return ".*" + CLASSES[caption.split()[1]]
    if caption.split()[0] in FIGURE:
        return figures(caption)
    return "".join(TERMS[term] for term in caption.replace("then ", "").split(", "))


def figures(words):
    return "".join(FIGURE[word] for word in words.split())


def matching(expression):
    return [bool(re.fullmatch(expression, number)) for number in FIGURES]


def described(seed, number):
    random = np.random.RandomState(seed)
    shown = random.randint(len(FIGURES), size=number)
    return [(grammar.describe(random, place), place) for place in shown]


def test_numbers_are_all_strings_of_one_to_three_digits():
    assert [grammar.spelled(place) for place in range(len(grammar.NUMBERS))] == FIGURES
    assert grammar.LENGTHS.tolist() == [len(number) for number in FIGURES]


@pytest.mark.parametrize(
    ("caption", "size"),
    [
        ("four eight two", 1),
        ("zero", 1),
        ("a four, something, then a two", 10),
        ("a four, then an even digit", 5),
        ("a small digit, a large digit, then an odd digit", 125),
        ("something, something, then something", 1000),
        ("an even digit", 5),
        ("an eight", 1),
        ("a one, then a one", 1),
        ("something", 10),
        ("three digits ending in two", 100),
        ("three digits ending in zero zero", 10),
        ("three digits beginning with four eight", 10),
        ("two digits beginning with zero", 10),
        ("two digits, one of them a seven", 19),
        ("three digits, one of them an eight", 271),
        ("one digit, one of them a four", 1),
        ("an even number of two digits", 50),
        ("an odd number of one digit", 5),
        ("a number of three digits", 1000),
        ("a number of one digit", 10),
        ("a number with a seven", 291),
        ("a number with a zero", 291),
        ("an odd number", 555),
        ("an even number", 555),
        ("a number", 1110),
        ("some number", 1110),
    ],
)
def test_every_form_denotes_what_it_says(caption, size):
    held = grammar.denotation(caption)
    assert held.dtype == bool and held.sum() == size
    assert held.tolist() == matching(pattern(caption))
    assert grammar.ambiguity(caption) == pytest.approx(np.log(size), abs=1e-12)


def test_what_is_described_denotes_what_it_says():
    captions = {caption for caption, _ in described(1, 1500)}
    assert len(captions) > 500
    for caption in captions:
        assert grammar.denotation(caption).tolist() == matching(pattern(caption)), caption


def test_descriptions_hold_are_short_and_use_known_words():
    known = {*grammar.WORDS, ","}
    longest = 0
    used = set()
    for caption, place in described(2, 2000):
        words = words_of(caption)
        assert grammar.denotation(caption)[place], (caption, FIGURES[place])
        used.update(words)
        longest = max(longest, len(words))
    assert used == known and longest <= grammar.MOST_WORDS
    longest_possible = "an even digit, an odd digit, then an even digit"
    assert len(words_of(longest_possible)) == grammar.MOST_WORDS


def test_everything_that_can_be_said_of_a_number_is_read():
    """A word for a chosen digit is as good as any other: two numbers of each length will do."""
    for place in (4, 8, 10, 98, 110, 592):
        random = np.random.RandomState(place)
        captions = {grammar.describe(random, place) for _ in range(1500)}
        assert all(grammar.denotation(caption)[place] for caption in captions)
        for caption in captions:
            assert grammar.denotation(caption).tolist() == matching(pattern(caption)), caption


def test_the_stream_of_descriptions_is_frozen():
    text = "\n".join(caption for caption, _ in described(0, 1000))
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "57b8a7014b8371e7c81b449cb8737558b6e900af8bfb908c65d4d43d07ae3603"
    )


def test_nobody_can_change_what_a_caption_denotes():
    with pytest.raises(ValueError, match="read-only"):
        grammar.denotation("an odd number")[0] = True


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("", "must begin with the right article"),
        (" ", "must begin with the right article"),
        ("Four", "must begin with the right article"),
        ("A four", "must begin with the right article"),
        ("an four", "'an four' must begin with the right article"),
        ("an one", "'an one' must begin with the right article"),
        ("a eight", "'a eight' must begin with the right article"),
        ("a even number", "'a even number' must begin with the right article"),
        ("a four, two", 'its last term lacks "then"'),
        ("a four, a two", 'its last term lacks "then"'),
        ("four, then two", "'four' must begin with the right article"),
        ("a four, then then a two", "'then a two' must begin with the right article"),
        ("then a four", "'then a four' must begin with the right article"),
        ("a four; then a two", "'four; then a two' is no digit"),
        ("four  two", "'' is no digit"),
        ("four two ", "'' is no digit"),
        ("four\n", "must begin with the right article"),
        ("four ten", "'ten' is no digit"),
        ("a ten", "'ten' is no digit"),
        ("a dog", "'dog' is no digit"),
        ("one two three four", "it has 4 digits, 3 are the most"),
        ("a one, a two, a three, then a four", "it has 4 digits, 3 are the most"),
        ("a number of four digits", "must be one digit, two digits or three digits"),
        ("a number of two digit", "must be one digit, two digits or three digits"),
        ("a number of one digits", "must be one digit, two digits or three digits"),
        ("a large number", "'a large number' is no number"),
        ("an even number of", "is no digit"),
        ("two digits", "is no digit"),
        ("two digits ending in two eight", "it names as many digits as there are, or more"),
        ("one digit beginning with two", "it names as many digits as there are, or more"),
        ("two digits ending in a two", "'a' is no digit"),
        ("two digits ending in ", "'' is no digit"),
        ("two digits, one of them seven", "'seven' must begin with the right article"),
        ("a number with an even digit", "'even digit' is no digit"),
        ("some number of two digits", "must begin with the right article"),
    ],
)
def test_what_is_not_of_the_grammar_is_one_error(caption, message):
    beginning = re.escape(f"caption must be of the grammar, got {caption!r}: ")
    for function in (grammar.denotation, grammar.ambiguity):
        with pytest.raises(ValueError, match=f"^{beginning}.*{re.escape(message)}"):
            function(caption)
