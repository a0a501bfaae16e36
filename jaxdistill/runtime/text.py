"""Text: names from files made harmless, durations in words, JSON."""

import json
import math
from collections.abc import Mapping
from typing import Any


def printable(text: str) -> str:
    """Returns the text with every unprintable character escaped.

    Names that come from files may contain line breaks and terminal control codes.

    Args:
      text: Any text.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def format_duration(seconds: float) -> str:
    """Returns a duration as text, such as `12 s`, `45 min` or `3 h 20 min`.

    Args:
      seconds: The duration; one that is not finite becomes "an unknown time".
    """
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def json_text(value: Any, indent: int) -> str:
    """Returns plain values as JSON that every reader takes: numbers that are not finite are null.

    Args:
      value: Dictionaries, lists, text and numbers.
      indent: Spaces by which each level is indented.
    """

    def finite(each: Any) -> Any:
        if isinstance(each, float) and not math.isfinite(each):
            return None
        if isinstance(each, Mapping):
            return {key: finite(inner) for key, inner in each.items()}
        return [finite(inner) for inner in each] if isinstance(each, list | tuple) else each

    return json.dumps(finite(value), indent=indent, allow_nan=False)
