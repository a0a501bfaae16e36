"""The document of configuration keys is generated from the schema."""

from pathlib import Path

from jaxdistill import config
from jaxdistill.config.reference import table

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_document_is_current() -> None:
    command = "python -m jaxdistill.config.reference > docs/configuration.md"
    assert DOCUMENT.read_text() == table(), f"run {command}"


def test_every_key_has_a_description() -> None:
    rows = [line.split("|") for line in table().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert all(row[4].strip() for row in rows)
    assert {row[1].strip(" `").partition(".")[0] for row in rows} == set(config.Config.model_fields)
