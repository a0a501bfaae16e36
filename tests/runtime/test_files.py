"""Atomic writing, bounded reading, and retries of I/O errors."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdistill.runtime import files
from jaxdistill.runtime.files import PARTIAL, read, retry_io, write_atomic


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, collected instead of slept."""
    waits: list[float] = []
    monkeypatch.setattr(files.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("content", [b"\0\xff", "caf\N{LATIN SMALL LETTER E WITH ACUTE}\n", ""])
@pytest.mark.parametrize("durable", [True, False])
def test_write_atomic_replaces_the_content(
    tmp_path: Path, content: bytes | str, durable: bool
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old and longer than the new content")
    write_atomic(path, content, durable=durable)
    expected = content.encode() if isinstance(content, str) else content
    assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_syncs_file_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(
        files.os, "fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode))
    )
    write_atomic(tmp_path / "a", b"x")
    assert synced == [False, True]


def test_write_atomic_replaces_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    write_atomic(link, "new")
    assert target.read_text() == "precious"
    assert link.read_text() == "new"
    assert not link.is_symlink()


def test_write_atomic_obeys_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a"
    path.write_text("old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("\N{GREEK SMALL LETTER PI}" * 127)
    write_atomic(path, "x")
    assert path.read_text() == "x"


def test_processes_that_write_the_same_file_never_mix_their_content(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from jaxdistill.runtime.files import write_atomic\n"
        "for _ in range(200): write_atomic(Path(sys.argv[1]), sys.argv[2] * 9999, durable=False)"
    )
    path = tmp_path / "a"
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), letter]) for letter in "abc"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.add(path.read_text())
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen <= {letter * 9999 for letter in "abc"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_left_by_a_killed_process_is_recognisable(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from jaxdistill.runtime import files\n"
        "files.os.fsync = lambda descriptor: os._exit(9)\n"
        "files.write_atomic(Path(sys.argv[1]), 'new')"
    )
    path = tmp_path / "a"
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    [left_over] = tmp_path.iterdir()
    assert left_over.name.startswith(".a.")
    assert left_over.name.endswith(PARTIAL)


def test_read_returns_a_file_within_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read(path, 5) == b"12345"
    with pytest.raises(OSError, match="larger than") as caught:
        read(path, 4)
    assert caught.value.errno == errno.EFBIG


def test_read_refuses_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a file"):
            read(path, 5)


def test_a_name_that_is_too_long_is_that_of_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert files.is_file(tmp_path / "file")
    for name in ("x" * 300, ".", "gone"):
        assert not files.is_file(tmp_path / name)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR])
def test_retry_io_returns_the_result_once_the_error_is_over(
    number: int, no_waits: list[float]
) -> None:
    errors = [OSError(number, "once"), OSError(number, "twice")]

    def function() -> str:
        if errors:
            raise errors.pop()
        return "content"

    assert retry_io(function) == "content"
    assert no_waits == list(files.RETRY_WAITS[:2])
    assert no_waits == sorted(no_waits)


def test_retry_io_raises_an_error_that_stays(no_waits: list[float]) -> None:
    calls = []

    def function() -> None:
        calls.append(None)
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        retry_io(function)
    assert len(calls) == 1 + len(files.RETRY_WAITS)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "x"), ValueError("x")])
def test_retry_io_raises_other_errors_at_once(error: Exception, no_waits: list[float]) -> None:
    def function() -> None:
        raise error

    with pytest.raises(type(error)):
        retry_io(function)
    assert not no_waits


def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open", "closed", "lost+found"):
        (tmp_path / name).mkdir()
    listed = os.scandir
    closed = {str(tmp_path / "closed"), str(tmp_path / "lost+found")}

    def scandir(path: str) -> object:
        if str(path) in closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        list(files.walk(tmp_path))
    closed.discard(str(tmp_path / "closed"))
    found = {folder.name for folder, _, _ in files.walk(tmp_path)}
    assert found == {tmp_path.name, "open", "closed"}
    assert list(files.walk(tmp_path / "none")) == []
