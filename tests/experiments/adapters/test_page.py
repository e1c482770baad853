import copy
import json

import numpy as np
import pytest

from experiments.adapters import page
from experiments.adapters.evaluation import OWN
from experiments.adapters.numbers import FROZEN
from experiments.captions import numbers as caption_numbers
from experiments.reports import estimates
from experiments.reports.tables import find
from tests.experiments.adapters.made_up_results import METHODS, content_of, made_up


@pytest.fixture(scope="module", autouse=True)
def no_bootstrap(module_patch):
    """A page shows whatever it is given."""
    random = np.random.default_rng(0)

    def over_items(*_, **__):
        mean = float(random.uniform())
        return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}

    module_patch.setattr(estimates, "over_items", over_items)


@pytest.fixture(scope="module")
def known():
    return content_of(*made_up(True))


@pytest.fixture(scope="module")
def unknown():
    return content_of(*made_up(False))


def test_the_first_table_is_of_the_first_method_beside_the_best_without_one(known):
    content = copy.deepcopy(known)
    row = find(content["comparisons"], side="caption")
    row |= {
        "rival": "minus best cosine",
        "rival_score": interval(0.4, 0.6),
        "all_own": interval(0.5, 0.7),
        "all_difference": interval(-0.1, 0.3),
    }
    content["comparisons"] = [{k: v for k, v in row.items() if not k.startswith("new_o")}]
    content["config"]["methods"] = ["von_mises_fisher", "probvlm"]
    content["failures"] = {"image": 19, "caption": 20}
    text = page.markdown(content)
    assert "The total uncertainty of von_mises_fisher and the best" in text
    assert (
        "| captions | 20 | 0.600 [0.500, 0.700] | minus best cosine | 0.500 [0.400, 0.600] | "
        "0.100 [-0.100, 0.300] | 30 |  |"
    ) in text


def interval(low, high):
    return {"mean": 0.5 * (low + high), "low": low, "high": high}


def test_the_page_is_made_of_the_numbers(known, unknown):
    for content in (known, unknown):
        again = json.loads(json.dumps(content, allow_nan=False))
        text = page.markdown(content)
        assert text == page.markdown(again)
        assert text.startswith("# ProbVLM adapters: results\n")
        assert content["command"] in text and "Seeds 0, 1, 2; jax 0 on cpu" in text
        for lines in text.split("\n\n"):
            table = [line for line in lines.splitlines() if line.startswith("|")]
            assert len({line.count("|") for line in table}) <= 1
    titles = "Spearman, true ambiguity | R-AUROC | R-AUROC, annotated"
    assert titles in page.markdown(known)
    text = page.markdown(unknown)
    assert "ambiguity" not in text and "| R-AUROC |" not in text and "R-AUROC, annotated" in text


def test_the_exact_loss_stands_beside_the_released_one(known):
    text = page.markdown(known)
    assert "## The exact loss beside the released one" in text
    assert "the partner's embedding decides" in text and "its own embedding decides" not in text
    assert "| probvlm | images | " in text and "| released | captions | " in text
    renamed = {"probvlm": "probvlm_own", "released": "released_own"}
    content = copy.deepcopy(known)
    for row in content["uncertainty"] + content["fits"] + content["retrieval"]:
        row["method"] = renamed.get(row["method"], row["method"])
    text = page.markdown(content)
    assert "its own embedding decides" in text and "the partner's embedding decides" not in text
    for row in content["uncertainty"] + content["fits"]:
        row["method"] = {"released_own": "released"}.get(row["method"], row["method"])
    assert "beside the released one" not in page.markdown(content)


def test_the_table_has_all_of_the_first_method_and_the_own_of_others(known):
    text = page.markdown(known).split("Of captions as queries:")[1]
    rows = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith("| ")][2:]
    found = [(method.removeprefix("| "), measure) for method, measure in rows]
    assert set(found) == {
        *((method, OWN) for method in METHODS),
        ("probvlm", "aleatoric"),
        (FROZEN, "minus best cosine"),
        (FROZEN, "minus margin"),
        (caption_numbers.NO_MODEL, "minus words"),
    }
    means = [
        find(known["uncertainty"], method=method, measure=measure, side="caption")["spearman"][
            "mean"
        ]
        for method, measure in found
    ]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("has_truth", [False, True])
def test_where_nothing_fails_no_table_has_a_score_of_failures(has_truth):
    text = page.markdown(content_of(*made_up(has_truth, error=0.0)))
    assert ("Spearman, true ambiguity" in text) == has_truth
    assert "| R-AUROC |" not in text
