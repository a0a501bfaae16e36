"""What the commands have in common: the file of `--output`."""

import os
from pathlib import Path

import pytest
from refused import refused

from jaxdistill.commands.common import write_output
from jaxdistill.runtime.errors import OutputError


@pytest.mark.parametrize("content", ["Gr\u00fc\u00dfe", b"\x00\xff"])
def test_an_output_is_written_in_a_folder_that_is_made(
    tmp_path: Path, content: str | bytes
) -> None:
    path = tmp_path / "a/b/c.txt"
    for _ in range(2):
        write_output(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [*path.parent.iterdir()] == [path]


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_output(path, "content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert path.is_fifo()


@pytest.mark.parametrize("output", [".", "file/below"])
def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").touch()
    with refused(OutputError, "cannot-write", str(tmp_path)):
        write_output(tmp_path / output, "content")
