"""Numbers as data frames, and a page's tables written from them.

Numbers of a question are frames: a row for each case (method, split, side), a column for each
measure. A cell is a plain value, or an estimate: {"mean", "low", "high", "seeds"} as `estimates`
makes it. `records` is what results.json holds of a frame, `pandas.DataFrame` of that is the frame
again, and `pandas.json_normalize` of it has a column for each part of an estimate.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A frame of rows: cells stay what they are, what a row lacks is None."""
    found = pd.DataFrame(rows, dtype=object)
    return found.where(found.notna(), None)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, as JSON has them."""
    return frame.to_dict("records")


def where(frame: pd.DataFrame, **what: Any) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    chosen = [
        all(row)
        for row in zip(*(frame[name] == value for name, value in what.items()), strict=True)
    ]
    return pd.DataFrame(frame.loc[chosen])


def number(value: Any, digits: int = 3, *, missing: str = "undefined") -> str:
    """A cell as text: a mean with its interval, a number, or a word.

    An estimate of one seed is its value; of two it says that they are few.

    Args:
      value: an estimate, a number, a text, a truth value, or None for what is not defined.
      digits: after the point.
      missing: what None is written as.
    """
    if value is None:
        return missing
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, str | int):
        return str(value)
    if not isinstance(value, Mapping):
        return f"{value:.{digits}f}"
    text = f"{value['mean']:.{digits}f}"
    if value["low"] is not None:
        return f"{text} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
    return f"{text} (too few seeds)" if len(value.get("seeds", ())) > 1 else text


def markdown(
    frame: pd.DataFrame,
    columns: Mapping[str, str],
    *,
    digits: int | Mapping[str, int] = 3,
    shown: Mapping[str, Callable[[Any], str]] | None = None,
    missing: str = "undefined",
) -> str:
    """A table in Markdown.

    Args:
      frame: its rows.
      columns: of the frame, in their order, with their titles.
      digits: after the point, of all columns or by column (3 where none is named).
      shown: how the cells of a column are written, where `number` is not what a reader wants.
      missing: what None is written as.
    """
    by_column = digits if isinstance(digits, Mapping) else dict.fromkeys(columns, digits)

    def text(name: str, cell: Any) -> str:
        if shown is not None and name in shown:
            return shown[name](cell)
        return number(cell, by_column.get(name, 3), missing=missing)

    if frame.empty:
        return table(list(columns.values()), [])
    written = [[text(name, cell) for cell in frame[name]] for name in columns]
    return table(list(columns.values()), [list(row) for row in zip(*written, strict=True)])


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, of what is text already."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def find(rows: list[dict], **what: str) -> dict | None:
    """The first row with these values."""
    return next((row for row in rows if all(row[k] == v for k, v in what.items())), None)
