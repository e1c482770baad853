import json

import pandas as pd

from experiments.reports import tables

ESTIMATE = {"mean": 0.5, "low": 0.25, "high": 0.75, "seeds": [0.25, 0.5, 0.75]}
ROWS = [
    {"method": "hib", "size": 3, "r_auroc": ESTIMATE, "met": True},
    {"method": "cosine", "size": 4, "r_auroc": None},
]


def test_a_frame_keeps_its_cells_through_json():
    frame = tables.frame(ROWS)
    records = json.loads(json.dumps(tables.records(frame), allow_nan=False))
    assert records == [ROWS[0], {**ROWS[1], "met": None}]
    again = pd.DataFrame(records, dtype=object)
    assert tables.records(again[again["method"] == "hib"]) == ROWS[:1]
    flat = pd.json_normalize(records)
    assert flat["r_auroc.mean"][0] == 0.5
    assert tables.records(tables.frame([])) == []


def test_a_table_is_written_from_a_frame():
    text = tables.markdown(
        tables.frame(ROWS),
        {"method": "method", "r_auroc": "R-AUROC", "size": "seeds", "met": "met"},
        digits={"r_auroc": 2},
        shown={"met": lambda met: "-" if met is None else "met"},
    )
    assert text.splitlines() == [
        "| method | R-AUROC | seeds | met |",
        "| --- | --- | --- | --- |",
        "| hib | 0.50 [0.25, 0.75] | 3 | met |",
        "| cosine | undefined | 4 | - |",
    ]


def test_where_are_the_rows_with_all_these_values():
    found = tables.frame([{"a": 1, "b": "x"}, {"a": 1, "b": None}, {"a": 2, "b": "x"}])
    assert tables.records(tables.where(found, a=1, b="x")) == [{"a": 1, "b": "x"}]
    assert len(tables.where(found, a=3)) == 0
