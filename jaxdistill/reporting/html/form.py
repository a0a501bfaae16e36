"""How names and numbers are written. Whatever comes from a file passes through `text`, too."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from typing import Any

from jaxdistill.reporting.html.folder import Column, Key

DECIMALS = 4
_ABBREVIATIONS = {"kl": "KL", "mse": "MSE", "bce": "BCE", "iou": "IoU", "miou": "mIoU"}
_MISSING = "\N{EN DASH}"


def text(value: object) -> str:
    """For use between tags and in quoted attributes."""
    known = str(value).encode(errors="replace").decode()  # a lone surrogate cannot be written
    return escape(known, quote=True)


def words(name: str) -> str:
    """`kl` as KL, `teacher_miou` as Teacher mIoU."""
    spaced = " ".join(_ABBREVIATIONS.get(word, word) for word in name.replace("_", " ").split())
    known = spaced[:1].isupper() or spaced.startswith("mIoU")
    return spaced if known else spaced.capitalize()


def texts(columns: Sequence[Column]) -> dict[Key, list[str]]:
    """Every number as text; those that are compared have as many digits, and so stand in line."""
    together: dict[Key, list[float]] = defaultdict(list)
    for column in columns:
        together[_compared(column)] += column.finite
    forms = {kind: _form(values) for kind, values in together.items()}
    return {
        column.key: [number(value, *forms[_compared(column)]) for value in column.values]
        for column in columns
    }


def _compared(column: Column) -> Key:
    """A loss with itself in training and validation; otherwise, a group's numbers."""
    learning = column.group in ("train", "validation")
    return ("", column.name) if learning else (column.group, "")


def _form(values: Sequence[float]) -> tuple[int, str]:
    """Decimals and presentation type that suit the largest of the values."""
    largest = max(map(abs, values), default=0.0)
    if largest >= 1e9 or 0 < largest < 1e-2:
        return 3, "e"
    if all(value.is_integer() for value in values):
        return 0, "f"
    return max(0, min(DECIMALS, DECIMALS - math.floor(math.log10(largest)))), "f"


def number(value: float | None, digits: int, form: str = "f") -> str:
    if value is None:
        return _MISSING
    return "NaN" if math.isnan(value) else f"{value:.{digits}{form}}"


def fact(value: Any) -> str:
    """A value of `provenance.json`."""
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
                json.dumps(one) if isinstance(one, list | dict) else fact(one) for one in value
            )
        case dict():
            return json.dumps(value)
        case _:
            return str(value)
