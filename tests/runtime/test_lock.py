"""A run folder is written by one process at a time."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdistill.runtime.errors import RunError
from jaxdistill.runtime.lock import LOCK_FILE, OWNER_FILE, locked

HOLD = """
import sys, time
from pathlib import Path
from jaxdistill.runtime.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(run: Path) -> subprocess.Popen[str]:
    """Starts a process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_locked_run_is_refused_and_the_error_names_the_owner(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(RunError) as caught, locked(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    assert caught.value.code == "run-locked"
    for expected in (str(tmp_path), str(process.pid), os.uname().nodename, " s)"):
        assert expected in str(caught.value)


def test_an_attempt_to_lock_keeps_the_owner_s_lock(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        for _ in range(2):
            with pytest.raises(RunError, match=f"process {process.pid} "), locked(tmp_path):
                pass
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, number: int) -> None:
    process = hold(tmp_path)
    process.send_signal(number)
    process.wait()
    with locked(tmp_path):
        assert json.loads((tmp_path / OWNER_FILE).read_text())["pid"] == os.getpid()


def test_the_lock_is_released_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass
    assert not (tmp_path / OWNER_FILE).exists()


def test_a_run_locked_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RunError) as caught, locked(tmp_path):
        pass
    assert caught.value.code == "run-locked"


@pytest.mark.parametrize("content", ["", "[]", '{"pid": 1}', '{"since": 1e999}', "\0"])
def test_an_unreadable_owner_is_another_process(tmp_path: Path, content: str) -> None:
    with locked(tmp_path):
        (tmp_path / OWNER_FILE).write_text(content)
        with pytest.raises(RunError, match="another process"), locked(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    ran = False
    with locked(tmp_path):
        ran = True
    assert ran
    # On ENOSYS filelock falls back to a lock of its own, which needs no warning.
    assert "has no locks" in caplog.text or number == errno.ENOSYS


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / LOCK_FILE).symlink_to(target)
    with pytest.raises(RunError) as caught, locked(tmp_path):
        pass
    assert caught.value.code == "run-not-writable"
    assert not target.exists()
