import numpy as np
import pytest

from experiments.captions import retrieval
from experiments.captions.retrieval import Outcome


def test_pairs_of_captions_are_nested_or_neither_implies_the_other(denotations):
    narrow, wide, implied = retrieval.pairs_of_captions(denotations, seed=0)
    sets = [set(np.flatnonzero(row)) for row in denotations]
    nested = {(i, j) for i in range(6) for j in range(6) if sets[i] < sets[j]}
    neither = {
        (i, j) for i in range(6) for j in range(6) if sets[i] - sets[j] and sets[j] - sets[i]
    }
    pairs = list(zip(narrow.tolist(), wide.tolist(), strict=True))
    assert set(pairs[: len(pairs) // 2]) <= nested and set(pairs[len(pairs) // 2 :]) <= neither
    assert len(set(pairs)) == len(pairs) == 2 * min(len(nested), len(neither))
    assert implied.tolist() == [True] * (len(pairs) // 2) + [False] * (len(pairs) // 2)


def test_metrics_of_both_sides(known_trial):
    scores = known_trial.positives.astype(np.float32)
    found = retrieval.metrics(scores, known_trial)
    for side in ("image", "caption"):
        for name in ("R@1", "R-Precision", "mAP@R"):
            np.testing.assert_allclose(found[side][name], 1.0, err_msg=name)
    # Where several captions are true and one was written, chance picks among the true ones.
    np.testing.assert_allclose(
        found["image"]["annotated R@1"],
        known_trial.annotated.sum(1) / known_trial.positives.sum(1),
        rtol=1e-5,
    )


def test_the_ceiling_knows_all_but_what_is_covered(known_trial):
    found = retrieval.ceiling(known_trial)
    np.testing.assert_allclose(found["image"]["R-Precision"][:5], 1.0)
    # It may be 482 or 402: four captions are sure to be true, the fifth is as likely as not.
    assert known_trial.positives[5].sum() == 5
    np.testing.assert_allclose(found["image"]["R-Precision"][5], 1.0)
    assert retrieval.ceiling(known_trial._replace(truth=None)) is None


@pytest.mark.parametrize("implication", [None, np.ones(3)])
def test_an_outcome_is_its_arrays(known_trial, implication):
    scores = known_trial.positives.astype(np.float32)
    unsure = {"image": {"b": np.zeros(6), "a/c": np.ones(6)}, "caption": {"b": np.ones(6)}}
    outcome = Outcome(scores, retrieval.metrics(scores, known_trial), unsure, implication)
    again = retrieval.outcome_of(retrieval.arrays_of(outcome))
    for side in ("image", "caption"):
        assert list(again.uncertainty[side]) == list(unsure[side])  # a report keeps their order
    assert str(again) == str(outcome)
