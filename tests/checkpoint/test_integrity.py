"""The record of a checkpoint is what was written, or known to be damaged."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.checkpoint.integrity import Damaged, read_record, sealed

RECORD = {
    "progress": {"epoch": 3, "step": 8, "phase": 0, "sums": {"kl": 0.1 + 0.2}},
    "identity": {"training.final_learning_rate": 1e-06, "data.root": "caf\N{LATIN SMALL LETTER E}"},
    "frozen": "ab12",
    "digests": {"params": "cd34"},
    "score": None,
}
TEXT = json.dumps(sealed(RECORD)).encode()


def written(folder: Path, content: bytes) -> Path:
    (folder / "record").mkdir(exist_ok=True)
    (folder / "record" / "metadata").write_bytes(content)
    return folder


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    assert read_record(written(tmp_path, TEXT)) == RECORD


@given(bit=st.integers(0, 8 * len(TEXT) - 1))
def test_a_bit_that_changed_is_noticed(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    content = bytearray(TEXT)
    content[bit // 8] ^= 1 << bit % 8
    folder = written(tmp_path_factory.mktemp("checkpoint"), bytes(content))
    try:
        assert read_record(folder) == RECORD
    except Damaged as damage:
        assert str(folder) in str(damage)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '"text"', json.dumps(RECORD), ""])
def test_what_is_no_record_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(Damaged, match="its record"):
        read_record(written(tmp_path, text.encode()))
