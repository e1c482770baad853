import numpy as np
import pytest

from experiments.captions import retrieval
from experiments.captions.retrieval import Trial, Truth
from experiments.data import caption_grammar
from tests.experiments.captions import made_up_results

CAPTIONS = (
    "four eight two",
    "a four, something, then a two",
    "three digits beginning with four",
    "an even number",
    "some number",
    "seven",
)


@pytest.fixture(scope="package")
def denotations():
    return np.stack([caption_grammar.denotation(caption) for caption in CAPTIONS])


@pytest.fixture(scope="package")
def known_trial(denotations):
    """Six images whose numbers are known, one of them covered."""
    random = np.random.default_rng(0)
    numbers = [482, 402, 499, 112, 7, 482]
    place = [list(map(caption_grammar.spelled, range(1110))).index(str(n)) for n in numbers]
    positives = denotations[:, place].T
    shown = np.zeros((6, 1110))
    shown[np.arange(6), place] = 1.0
    shown[5, [place[0], place[1]]] = 0.5
    ambiguity = {"image": np.log([1, 1, 1, 1, 1, 2.0]), "caption": np.log(denotations.sum(1))}
    pairs = retrieval.pairs_of_captions(denotations, seed=0)
    return Trial(
        random.integers(0, 256, (6, 8, 24)).astype(np.uint8),
        CAPTIONS,
        random.integers(1, 9, (6, 4)).astype(np.int32),
        positives,
        np.eye(6, dtype=bool) & positives | (positives & (positives.cumsum(1) == 1)),
        Truth(ambiguity, shown @ denotations.T, *pairs, np.arange(6) < 3),
    )


@pytest.fixture(scope="module")
def trial():
    """Images and captions of which numbers and pages are made up."""
    return made_up_results.make_trial()


@pytest.fixture(scope="module")
def content(trial):
    """A report of them, as the file's patches let it be made."""
    return made_up_results.content_of(made_up_results.outcomes_of(trial), trial)
