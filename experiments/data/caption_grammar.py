"""A small grammar of captions of numbers: a caption denotes a set of numbers, exactly.

A number is a string of one to three digits, zeros in front included: there are 1,110. A
caption spells its digits or withholds some of them:

    four eight two                          {482}
    a four, something, then a two           {402, 412, ..., 492}
    a four, then an even digit              {40, 42, 44, 46, 48}
    three digits ending in two              100 numbers
    three digits beginning with four eight  10 numbers
    two digits, one of them a seven         19 numbers
    an even number of two digits            50 numbers, those whose last digit is even
    a number of three digits                1,000 numbers
    a number with a seven                   291 numbers of any length
    an odd number                           555 numbers
    some number                             all of them

`denotation` reads a caption, whoever wrote it; `describe` writes one that holds of a number.
"""

import functools

import numpy as np

LONGEST = 3
DIGIT_WORDS = tuple("zero one two three four five six seven eight nine".split())
_COUNTS = ("one", "two", "three")
_CLASSES = {
    "even": np.arange(10) % 2 == 0,
    "odd": np.arange(10) % 2 == 1,
    "small": np.arange(10) < 5,
    "large": np.arange(10) >= 5,
}
"""Weaker things to say of a digit; a parity can be said of a number too."""
_PARITIES = ("even", "odd")

WORDS = (
    *DIGIT_WORDS,
    *_CLASSES,
    *"a an some something then number digit digits of with them ending in beginning".split(),
)
"""All words of the grammar."""


def _every_number() -> np.ndarray:
    """The digits (number, 3) of all numbers, the shorter first; -1 where there is none."""
    parts = []
    for length in range(1, LONGEST + 1):
        digits = np.arange(10**length)[:, None] // 10 ** np.arange(length)[::-1] % 10
        parts.append(np.pad(digits, ((0, 0), (0, LONGEST - length)), constant_values=-1))
    return np.concatenate(parts)


MOST_WORDS = 12
"""Of a caption, its commas counted: "an even digit, an odd digit, then an even digit"."""

NUMBERS = _every_number()
"""The digits (1110, 3) int64 of every number, -1 behind the last."""
LENGTHS = (NUMBERS >= 0).sum(1)
"""How many digits (1110) each has."""
_LAST = NUMBERS[np.arange(len(NUMBERS)), LENGTHS - 1]


def spelled(number: int) -> str:
    """A number, by its place among `NUMBERS`, in figures."""
    return "".join(str(digit) for digit in NUMBERS[number] if digit >= 0)


def _article(words: str) -> str:
    """The words behind the article that they are spoken with: an eight, but a one."""
    return f"{'an' if words[0] in 'aeiou' and words != 'one' else 'a'} {words}"


# --- what a caption denotes -------------------------------------------------------------------


def _digit(word: str) -> int:
    if word not in DIGIT_WORDS:
        raise ValueError(f"{word!r} is no digit")
    return DIGIT_WORDS.index(word)


def _with_article(words: str) -> str:
    """The words behind their article."""
    _, _, rest = words.partition(" ")
    if not rest or _article(rest) != words:
        raise ValueError(f"{words!r} must begin with the right article")
    return rest


def _digits_allowed(term: str) -> np.ndarray:
    """Which of the ten digits (10) a term such as "a four" or "an even digit" allows."""
    if term == "something":
        return np.ones(10, bool)
    word = _with_article(term)
    class_, _, noun = word.partition(" ")
    if noun == "digit" and class_ in _CLASSES:
        return _CLASSES[class_]
    return np.arange(10) == _digit(word)


def _at_places(first: int, allowed: list[np.ndarray]) -> np.ndarray:
    """Numbers whose digits from place `first` on are allowed."""
    held = np.ones(len(NUMBERS), bool)
    for place, of_place in enumerate(allowed, first):
        held &= (NUMBERS[:, place] >= 0) & of_place[NUMBERS[:, place]]
    return held


def _of_length(length: int) -> np.ndarray:
    return length == LENGTHS


def _count(phrase: str) -> int:
    """2 for "two digits"."""
    word, _, noun = phrase.partition(" ")
    if word not in _COUNTS or noun != ("digit" if word == "one" else "digits"):
        raise ValueError(f"{phrase!r} must be one digit, two digits or three digits")
    return _COUNTS.index(word) + 1


def _number(phrase: str) -> np.ndarray:
    """Numbers of "an even number" and "a number"."""
    words = _with_article(phrase).split(" ")
    if words == ["number"]:
        return np.ones(len(NUMBERS), bool)
    if len(words) == 2 and words[0] in _PARITIES and words[1] == "number":
        return _CLASSES[words[0]][_LAST]
    raise ValueError(f"{phrase!r} is no number")


def _parse(caption: str) -> np.ndarray:
    if caption == "some number":
        return np.ones(len(NUMBERS), bool)
    for split, first in ((" ending in ", False), (" beginning with ", True)):
        if split in caption:
            phrase, words = caption.split(split, 1)
            length, digits = _count(phrase), [_digit(word) for word in words.split(" ")]
            if len(digits) >= length:
                raise ValueError("it names as many digits as there are, or more")
            allowed = [np.arange(10) == digit for digit in digits]
            return _of_length(length) & _at_places(0 if first else length - len(digits), allowed)
    if ", one of them " in caption:
        phrase, term = caption.split(", one of them ", 1)
        digit = _digit(_with_article(term))
        return _of_length(_count(phrase)) & (NUMBERS == np.asarray(digit)).any(1)
    if caption.startswith("a number with "):
        digit = _digit(_with_article(caption.removeprefix("a number with ")))
        return (NUMBERS == np.asarray(digit)).any(1)
    if caption.endswith(("number", "digit", "digits")) and "number" in caption:
        phrase, _, count = caption.partition(" of ")
        return _number(phrase) & (_of_length(_count(count)) if count else True)
    if caption.split(" ")[0] in DIGIT_WORDS:
        allowed = [np.arange(10) == _digit(word) for word in caption.split(" ")]
    else:
        terms = caption.split(", ")
        if len(terms) > 1:
            if not terms[-1].startswith("then "):
                raise ValueError('its last term lacks "then"')
            terms[-1] = terms[-1].removeprefix("then ")
        allowed = [_digits_allowed(term) for term in terms]
    if len(allowed) > LONGEST:
        raise ValueError(f"it has {len(allowed)} digits, {LONGEST} are the most")
    return _of_length(len(allowed)) & _at_places(0, allowed)


@functools.cache
def denotation(caption: str) -> np.ndarray:
    """The numbers of which a caption holds: boolean (1110), in the order of `NUMBERS`.

    Raises:
      ValueError: a caption that is not of the grammar.
    """
    try:
        held = _parse(caption)
    except ValueError as error:
        raise ValueError(f"caption must be of the grammar, got {caption!r}: {error}") from None
    held.flags.writeable = False
    return held


def ambiguity(caption: str) -> float:
    """The logarithm of how many numbers a caption denotes, in nats; 0 for a single one."""
    return float(np.log(denotation(caption).sum()))


# --- what to say of a number ------------------------------------------------------------------


def _term(random: np.random.RandomState, digit: int) -> str:
    """Something that holds of a digit: itself, a class of it, or nothing."""
    kind = random.choice(3, p=[0.6, 0.2, 0.2])
    if kind == 0:
        return _article(DIGIT_WORDS[digit])
    if kind == 1:
        class_ = random.choice([name for name, members in _CLASSES.items() if members[digit]])
        return _article(f"{class_} digit")
    return "something"


def _listed(random: np.random.RandomState, digits: np.ndarray) -> str:
    terms = [_term(random, digit) for digit in digits]
    if len(terms) > 1:
        terms[-1] = f"then {terms[-1]}"
    return ", ".join(terms)


def _whole(random: np.random.RandomState, digits: np.ndarray) -> str:
    return " ".join(DIGIT_WORDS[digit] for digit in digits)


def _counted(digits: np.ndarray) -> str:
    return f"{_COUNTS[len(digits) - 1]} digit{'s' * (len(digits) > 1)}"


def _partly(random: np.random.RandomState, digits: np.ndarray) -> str:
    """The first or the last digits, but not all; of a single digit its length alone."""
    if len(digits) == 1:
        return _long(random, digits)
    known = random.randint(1, len(digits))
    if random.random_sample() < 0.5:
        return f"{_counted(digits)} beginning with {_whole(random, digits[:known])}"
    return f"{_counted(digits)} ending in {_whole(random, digits[-known:])}"


def _containing(random: np.random.RandomState, digits: np.ndarray) -> str:
    word = _article(DIGIT_WORDS[random.choice(digits)])
    if random.random_sample() < 0.5 and len(digits) > 1:
        return f"{_counted(digits)}, one of them {word}"
    return f"a number with {word}"


def _parity(random: np.random.RandomState, digits: np.ndarray) -> str:
    phrase = f"{_article(_PARITIES[digits[-1] % 2])} number"
    return phrase if random.random_sample() < 0.3 else f"{phrase} of {_counted(digits)}"


def _long(_: np.random.RandomState, digits: np.ndarray) -> str:
    return f"a number of {_counted(digits)}"


def _nothing(_: np.random.RandomState, __: np.ndarray) -> str:
    return "some number"


_FORMS = {
    _whole: 0.20,
    _listed: 0.38,
    _partly: 0.16,
    _containing: 0.10,
    _parity: 0.10,
    _long: 0.04,
    _nothing: 0.02,
}
"""How often each way to write a caption is taken."""


def describe(random: np.random.RandomState, number: int) -> str:
    """A caption that holds of a number, given by its place among `NUMBERS`.

    Args:
      random: NumPy's legacy generator, whose stream is frozen; the same state writes the same.
      number: from 0 to 1109.

    Raises:
      ValueError: there is no such number.
    """
    if not 0 <= number < len(NUMBERS):
        raise ValueError(f"number must lie in 0..{len(NUMBERS) - 1}, got {number}")
    digits = NUMBERS[number, : LENGTHS[number]]
    form = list(_FORMS)[random.choice(len(_FORMS), p=list(_FORMS.values()))]
    return form(random, digits)
