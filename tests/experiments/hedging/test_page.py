import json

import pytest

from experiments.hedging import page


def estimate(mean, half=None):
    ends = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": ends[0], "high": ends[1], "seeds": [mean] * 3}


def expected(what, least, reached):
    met = reached is not None and reached["mean"] >= least
    return {
        "split": "test_seen",
        "what": what,
        "least": least,
        "reached": reached,
        "met": met,
    }


@pytest.fixture
def content():
    of = {"embedding": "gaussian", "split": "test_seen"}
    return {
        "command": "python -m experiments.hedged_digits",
        "config": {"seeds": [0, 1, 2]},
        "data": "made up",
        "splits": ["test_seen"],
        "versions": {"jax": "0"},
        "backend": "cpu",
        "performance": [
            {
                **of,
                "condition": "corrupt",
                "average_precision": estimate(0.75, 0.125),
                "accuracy": estimate(0.5, 0.25),
                "calibration_error": estimate(0.0625),
            }
        ],
        "uncertainty": [
            {
                **of,
                "measure": "eta",
                "condition": "corrupt",
                "r_auroc": None,
                "aurc": estimate(0.25, 0.125),
                "tau_identification": None,
                "tau_verification": estimate(-0.875, 0.1),
            }
        ],
        "separation": [{**of, "measure": "eta", "auroc": estimate(0.5)}],
        "expectations": [
            expected("gain", 0.0, estimate(0.25, 0.125)),
            expected("gain by chance", 0.0, estimate(0.25, 0.5)),
            expected("AUROC", 0.8, estimate(0.5)),
            expected("R-AUROC", 0.7, None),
        ],
    }


def test_the_text_is_a_function_of_the_numbers(content):
    again = json.loads(json.dumps(content, allow_nan=False))
    text = page.markdown(content)
    assert text == page.markdown(again)
    assert content["command"] in text and "Seeds 0, 1, 2; jax 0 on cpu" in text
    for row in (
        "| test_seen, corrupt | gaussian | 0.750 [0.625, 0.875] | 0.500 [0.250, 0.750] |",
        "| gaussian | eta | undefined | 0.250 [0.125, 0.375] | undefined | -0.88 |",
        "| test_seen | gaussian | eta | 0.500 (too few seeds) |",
    ):
        assert row in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| test_seen, ")}
    assert widths == {6, 8}


def test_the_text_says_what_is_met(content):
    text = page.markdown(content)
    assert "| gain | above 0 | 0.250 [0.125, 0.375] | met |" in text
    assert "| 0.250 [-0.250, 0.750] | met, but the interval allows either |" in text
    assert "| AUROC | 0.8 | 0.500 (too few seeds) | MISSED |" in text
    assert "| R-AUROC | 0.7 | undefined | MISSED |" in text
    content["config"]["toy"] = True
    assert "MISSED" not in page.markdown(content)


def test_nothing_expected_is_an_empty_table(content):
    text = page.markdown({**content, "expectations": []})
    assert "| test images | expected | at least | reached |  |\n| --- |" in text
