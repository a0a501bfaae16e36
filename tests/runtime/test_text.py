import math

import pytest

from jaxdistill.runtime.text import format_duration, printable


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (1.234, "1.2 s"),
        (99, "99 s"),
        (150, "2 min"),
        (7200, "2 h 00 min"),
        (math.inf, "an unknown time"),
        (math.nan, "an unknown time"),
    ],
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_control_characters_are_escaped() -> None:
    assert (
        printable("a\n\x1b[2J\N{GREEK SMALL LETTER PI}") == "a\\n\\x1b[2J\N{GREEK SMALL LETTER PI}"
    )
