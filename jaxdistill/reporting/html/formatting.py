"""Names and numbers as text for the HTML report."""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from jaxdistill.reporting.html.report_data import Column, Key

Texts = Mapping[Key, Sequence[str]]
"""Every number of every epoch as text, in the column order of the table of numbers."""

DECIMALS = 4
_ABBREVIATIONS = {"kl": "KL", "mse": "MSE", "bce": "BCE", "iou": "IoU", "miou": "mIoU"}
_MISSING = "\N{EN DASH}"


def format_name(name: str) -> str:
    """Returns the name of a number as a title: `teacher_miou` becomes "Teacher mIoU"."""
    spaced = " ".join(_ABBREVIATIONS.get(word, word) for word in name.replace("_", " ").split())
    return spaced if spaced.startswith("mIoU") else spaced[:1].upper() + spaced[1:]


def format_texts(columns: Sequence[Column]) -> dict[Key, list[str]]:
    """Returns all numbers as text.

    Numbers that are compared with each other have the same number of decimals.

    Args:
      columns: The columns of a run.

    Returns:
      One text per epoch for each column, in the order of `columns`.
    """
    together: dict[Key, list[float]] = defaultdict(list)
    for column in columns:
        together[_compared(column)] += column.finite
    formats = {key: _format(values) for key, values in together.items()}
    return {
        column.key: [format_number(value, *formats[_compared(column)]) for value in column.values]
        for column in columns
    }


def group_sizes(texts: Texts) -> Counter[str]:
    """Returns how many columns each group of numbers has, in their order."""
    return Counter(group for group, _ in texts)


def format_number(value: float | None, digits: int, presentation: str = "f") -> str:
    """Returns a number as text.

    Args:
      value: The number; None where it is missing.
      digits: Digits after the decimal point.
      presentation: Python's presentation type, `f` or `e`.
    """
    if value is None:
        return _MISSING
    return "NaN" if math.isnan(value) else f"{value:.{digits}{presentation}}"


def format_value(value: Any) -> Markup:
    """Returns a value of `provenance.json` as HTML; fingerprints are set in a monospaced font."""
    escaped = str(escape(_plain(value)))  # joining pieces of Markup would escape them again
    return Markup(re.sub(r"\b[0-9a-f]{32,}\b", r"<code>\g<0></code>", escaped))


def _plain(value: Any) -> str:
    match value:
        case None:
            return _MISSING
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
        case float():
            return f"{value:.6g}"
        case list():
            return ", ".join(
                json.dumps(one) if isinstance(one, list | dict) else _plain(one) for one in value
            )
        case dict():
            return json.dumps(value)
        case _:
            return str(value)


def _compared(column: Column) -> Key:
    """Returns a key that columns with equal formatting share.

    A loss shares it between training and validation; other columns share it within their group.
    """
    learning = column.group in ("train", "validation")
    return ("", column.name) if learning else (column.group, "")


def _format(values: Sequence[float]) -> tuple[int, str]:
    """Returns the digits and presentation type that suit the largest of the values."""
    largest = max(map(abs, values), default=0.0)
    if largest >= 1e9 or 0 < largest < 1e-2:
        return 3, "e"
    if all(value.is_integer() for value in values):
        return 0, "f"
    return max(0, min(DECIMALS, DECIMALS - math.floor(math.log10(largest)))), "f"
