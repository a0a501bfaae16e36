"""Every error has a class and a code, and the troubleshooting page lists each code."""

import re
from pathlib import Path

from jaxdistill.config.messages import _CODES
from jaxdistill.data.sources import SOURCES
from jaxdistill.evaluation.refinement import REFINEMENTS
from jaxdistill.exporters import EXPORTERS
from jaxdistill.losses import LOSSES
from jaxdistill.models import DECODERS, ENCODERS
from jaxdistill.reporting.trackers import TRACKERS

ROOT = Path(__file__).parents[1]
SOURCE = {path: path.read_text() for path in (ROOT / "jaxdistill").rglob("*.py")}
COMPUTED = {
    *_CODES.values(),
    "unknown-key",
    *(
        f"unknown-{registry.kind.replace(' ', '-')}"
        for registry in (SOURCES, EXPORTERS, LOSSES, DECODERS, ENCODERS, TRACKERS, REFINEMENTS)
    ),
}
"""Codes that are not written out where an error is raised."""


def documented() -> set[str]:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    return {code for row in rows for code in re.findall(r"`([a-z0-9-]+)`", row)}


def raised() -> set[str]:
    pattern = r'(?:code=|invalid\(\s*)"([a-z0-9-]+)"'
    return {code for text in SOURCE.values() for code in re.findall(pattern, text)}


def test_the_troubleshooting_page_lists_every_code_and_no_other() -> None:
    assert documented() == (raised() | COMPUTED) - {"error"}


def test_no_error_is_raised_without_a_class() -> None:
    bare = [str(path) for path, text in SOURCE.items() if "raise UserError(" in text]
    assert not bare
