import json

import numpy as np
import pytest

from experiments.captions import page
from experiments.reports import estimates
from tests.experiments.captions.made_up_results import (
    content_of,
    without_truth,
)


@pytest.fixture(scope="module", autouse=True)
def no_bootstrap(module_patch):
    """A page shows whatever it is given."""
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    module_patch.setattr(estimates, "over_items", lambda *_, **__: interval)


def test_the_text_is_a_function_of_the_numbers(content):
    again = json.loads(json.dumps(content, allow_nan=False))
    text = page.markdown(content, "Title")
    assert text == page.markdown(again, "Title") and text.startswith("# Title: results\n")
    assert "| no model | minus words | 0.50 [0.40, 0.60] |" in text


def test_the_text_says_what_is_met_and_what_is_missed(content):
    met, missed = (
        {**row, "met": good, "ahead": good}
        for row, good in zip(content["expectations"], (True, False), strict=True)
    )
    text = page.markdown({**content, "expectations": [met, missed]}, "Title")
    assert "| met | " in text and "| MISSED | " in text
    assert "| yes |" in text and "| NO |" in text


def test_without_truth_there_is_no_ambiguity(trial):
    bare, outcomes = without_truth(trial)
    text = page.markdown(content_of(outcomes, bare), "Title")
    assert "ambiguity" not in text and "all that is true" not in text
    assert "undefined" not in text


def test_what_never_fails_is_undefined(trial):
    bare, outcomes = without_truth(trial, (10.0 * trial.annotated).astype(np.float32))
    assert "undefined" in page.markdown(content_of(outcomes, bare), "Title")
