import numpy as np
import pytest
import scipy.stats

from experiments.uncertainty import baselines
from experiments.uncertainty.baselines import BASELINES, Baseline, Evidence, measured

SCORES = np.array([[3.0, 1.0, 2.5], [0.0, 0.0, 0.0]], np.float32)
MATCH = np.array([[0.2, 0.9], [0.5, 0.1]], np.float32)


def test_scores_tell_their_best_their_margin_and_how_many_items_they_spread_over():
    found = measured(Evidence(scores=SCORES))
    assert list(found)[:3] == ["minus best score", "minus margin", "entropy over items"]
    assert found["minus best score"].tolist() == [-3.0, 0.0]
    assert found["minus margin"].tolist() == [-0.5, 0.0]
    entropy = scipy.stats.entropy(np.exp(SCORES), axis=1)
    np.testing.assert_allclose(found["entropy over items"], entropy, rtol=1e-6)


def test_of_cosines_only_the_entropy_wants_logits():
    found = measured(Evidence(cosines=SCORES / 4.0, logits=SCORES))
    assert list(found)[:3] == ["minus best cosine", "minus margin", "entropy over items"]
    assert found["minus margin"].tolist() == [-0.125, 0.0]
    of_scores = measured(Evidence(scores=SCORES))["entropy over items"]
    np.testing.assert_array_equal(found["entropy over items"], of_scores)


def test_the_others_by_hand():
    points = np.array([[3.0, -4.0], [0.0, 0.0]])
    changed = np.stack([np.eye(2), -np.eye(2)], 1)
    votes = np.array([[7, 7, 7, 7], [7, 8, 7, 9]])
    evidence = Evidence(
        match=MATCH, points=points, changed=changed, texts=("some number", "7"), votes=votes
    )
    found = measured(evidence)
    np.testing.assert_allclose(found["distance to nearest"], [0.1, 0.5], rtol=1e-6)
    assert found["minus norm"].tolist() == [-5.0, 0.0]
    assert found["TTDA"].tolist() == [1.0, 1.0]  # +-1 in one dimension, 0 in the other
    assert found["minus words"].tolist() == [-2.0, -1.0]
    shares = [[1.0], [0.5, 0.25, 0.25]]
    entropy = [scipy.stats.entropy(share) for share in shares]
    np.testing.assert_allclose(found["entropy of votes"], entropy, atol=1e-12)
    assert not {"minus best score", "minus best cosine", "minus margin"} & set(found)


def test_nothing_is_to_be_had_of_nothing():
    assert measured(Evidence()) == {}


def test_every_row_takes_what_there_can_be():
    for name, row in BASELINES.items():
        assert row.takes and set(row.takes) <= set(Evidence._fields), name
    assert baselines.named(*Evidence._fields) == tuple(BASELINES)


def test_names_by_kind_of_evidence():
    names = baselines.named("cosines", "logits")
    assert names[:3] == ("minus best cosine", "minus margin", "entropy over items")
    with pytest.raises(ValueError, match=r"kinds must be among scores, .*got 'cosine'"):
        baselines.named("cosine")


def test_a_row_is_a_baseline(monkeypatch):
    row = Baseline(lambda scores: -scores.mean(1), ("cosines", "scores"))
    monkeypatch.setitem(BASELINES, "minus mean", row)
    found = measured(Evidence(scores=SCORES))
    np.testing.assert_allclose(found["minus mean"], -SCORES.mean(1))
    assert list(found)[-1] == "minus mean" and "minus mean" in baselines.named("scores")


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        (Evidence(scores=np.ones(3)), r"scores must have shape \(query, item\), .* got \(3,\)"),
        (Evidence(points=np.ones((0, 2))), r"points must have shape .* none of them 0, got \(0, 2"),
        (Evidence(cosines=np.ones((3, 1))), r"cosines must be of two items at least, got \(3, 1"),
        (Evidence(match=np.array([[0.5, np.nan]])), "match must have no NaN, got 1 of them"),
        (Evidence(texts=()), r"texts must have shape \(query\), none of them 0, got \(0,\)"),
    ],
)
def test_evidence_of_another_form_is_refused(evidence, message):
    with pytest.raises(ValueError, match=message):
        measured(evidence)
