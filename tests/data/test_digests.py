"""A prepared data set is found by content: copies are recognised, changed bytes are noticed."""

import hashlib
import os
from pathlib import Path

import pytest
from refused import refused

from jaxdistill.data.sources import digests
from jaxdistill.data.sources.digests import digest_files
from jaxdistill.runtime.errors import DataError


def digest(root: Path, memory: Path | None) -> str:
    found = hashlib.sha256()
    digest_files(found, sorted(root.rglob("*.png")), root, memory)
    return found.hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    for number in range(3):
        (root / "a" / f"{number}.png").write_bytes(bytes([number]) * 10)
    return root


def test_other_times_and_places_make_no_difference(root: Path, tmp_path: Path) -> None:
    before = digest(root, tmp_path / "memory")
    for path in root.rglob("*.png"):
        os.utime(path, (1, 1))
    assert digest(root, tmp_path / "memory") == before
    root.rename(tmp_path / "moved")
    assert digest(tmp_path / "moved", None) == before


def test_a_change_that_keeps_the_size_is_noticed(root: Path, tmp_path: Path) -> None:
    before = digest(root, tmp_path / "memory")
    (root / "a" / "1.png").write_bytes(b"x" * 10)
    assert digest(root, tmp_path / "memory") != before


def test_other_names_are_another_data_set(root: Path, tmp_path: Path) -> None:
    before = digest(root, tmp_path / "memory")
    (root / "a" / "1.png").rename(root / "a" / "4.png")
    assert digest(root, tmp_path / "memory") != before


def test_an_unchanged_file_is_read_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(root, tmp_path / "memory")
    read = []
    once = digests._digest
    monkeypatch.setattr(digests, "_digest", lambda path: read.append(path) or once(path))
    assert digest(root, tmp_path / "memory") == before
    (root / "a" / "2.png").write_bytes(b"y")
    digest(root, tmp_path / "memory")
    assert read == [root / "a" / "2.png"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a/0.png": [10]}', b'{"a/0.png": 3}'])
def test_a_damaged_memory_is_not_used(root: Path, tmp_path: Path, content: bytes) -> None:
    before = digest(root, tmp_path / "memory")
    [memory] = (tmp_path / "memory").iterdir()
    memory.write_bytes(content)
    assert digest(root, tmp_path / "memory") == before


def test_a_memory_that_cannot_be_written_is_done_without(root: Path, tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("a file")
    assert digest(root, tmp_path / "memory") == digest(root, None)


def test_a_file_that_cannot_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", failing)
    with refused(DataError, "unreadable-file", "0.png"):
        digest(root, None)
