"""The metadata of a checkpoint are what was written, or known to be damaged."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.checkpoint.integrity import DamagedError, read_metadata, with_digest

METADATA = {
    "progress": {"epoch": 3, "step": 8, "phase": 0, "sums": {"kl": 0.1 + 0.2}},
    "provenance": {"learning_rate": 1e-06, "root": "caf\N{LATIN SMALL LETTER E WITH ACUTE}"},
    "frozen": "ab12",
    "digests": {"params": "cd34"},
    "score": None,
}
TEXT = json.dumps(with_digest(METADATA)).encode()


def written(folder: Path, content: bytes) -> Path:
    (folder / "metadata").mkdir(exist_ok=True)
    (folder / "metadata" / "metadata").write_bytes(content)
    return folder


def test_metadata_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_metadata(written(tmp_path, TEXT)) == METADATA


@given(bit=st.integers(0, 8 * len(TEXT) - 1))
def test_a_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    content = bytearray(TEXT)
    content[bit // 8] ^= 1 << bit % 8
    folder = written(tmp_path_factory.mktemp("checkpoint"), bytes(content))
    try:
        assert read_metadata(folder) == METADATA
    except DamagedError as damage:
        assert str(folder) in str(damage)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '"text"', json.dumps(METADATA), ""])
def test_other_json_is_damage(tmp_path: Path, text: str) -> None:
    with pytest.raises(DamagedError, match="its metadata"):
        read_metadata(written(tmp_path, text.encode()))
