"""Files of the target cache: what is kept, how damage is found, and processes that share it."""

import errno
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.runtime import files
from jaxdistill.runtime.errors import CacheError
from jaxdistill.teachers.cache_files import CacheFolder, DamagedEntryError

SHAPES = ((4, 6, 3), (2, 3, 5))


def folder(root: Path, **provenance: object) -> CacheFolder:
    return CacheFolder(root, "features", {"file": "abc", **provenance}, SHAPES)


def arrays(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 30, shape).astype(np.float32) for shape in SHAPES]


def test_what_was_written_is_read_in_float16(tmp_path: Path) -> None:
    own = folder(tmp_path)
    assert own.read("07", False) is None
    assert not own.contains("07", False)
    kept = own.write("07", False, arrays())
    assert own.contains("07", False)
    assert not own.contains("07", True)
    for read, kept_one, original in zip(own.read("07", False), kept, arrays(), strict=True):
        np.testing.assert_array_equal(read, kept_one)
        np.testing.assert_array_equal(read, original.astype(np.float16))
    assert own.entry_bytes == sum(array.nbytes for array in kept)


@pytest.mark.parametrize("key", ["ab", "0" * 64, "../../x", "", "a/b", "A", "a" * 999, "\0\n"])
def test_any_key_has_a_file_in_the_folder(tmp_path: Path, key: str) -> None:
    own = folder(tmp_path)
    own.write(key, True, arrays())
    assert own.contains(key, True)
    assert own.entry_path(key, True).resolve().is_relative_to(own.path)
    assert own.entry_path(key, True) != own.entry_path(key + "x", True)


def test_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder(tmp_path).write("07", False, arrays())
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.*") if path.is_file()}
    assert modes == {0o640}


def raising(number: int, times: int):
    """Returns a reader that raises an error some times before it reads, and the list of calls."""
    calls = []

    def read(path: Path, most: int, read=files._read) -> bytes:
        calls.append(path)
        if len(calls) <= times:
            raise OSError(number, os.strerror(number), str(path))
        return read(path, most)

    return read, calls


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RETRY_WAITS", (0, 0))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_an_io_error_is_retried_and_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    own = folder(tmp_path)
    own.write("07", False, arrays())
    read, calls = raising(number, times=2)
    monkeypatch.setattr(files, "_read", read)
    assert own.read("07", False) is not None
    assert len(calls) == 3
    read, calls = raising(number, times=99)
    monkeypatch.setattr(files, "_read", read)
    with pytest.raises(CacheError) as caught:
        own.read("07", False)
    assert caught.value.code == "cache-io"
    assert len(calls) == 3
    assert own.entry_path("07", False).exists()


def test_an_entry_that_may_not_be_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = folder(tmp_path)
    own.write("07", False, arrays())
    read, _ = raising(errno.EACCES, times=99)
    monkeypatch.setattr(files, "_read", read)
    with pytest.raises(CacheError, match="chmod") as caught:
        own.read("07", False)
    assert caught.value.code == "cache-permission"


def test_other_provenance_has_another_folder(tmp_path: Path) -> None:
    folder(tmp_path).write("01", False, arrays())
    assert folder(tmp_path).contains("01", False)
    assert not folder(tmp_path, file="abd").contains("01", False)
    assert not folder(tmp_path, normalization="unit").contains("01", False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[CacheFolder, Path, bytes]:
    own = folder(tmp_path_factory.mktemp("cache"))
    own.write("03", True, arrays())
    path = own.entry_path("03", True)
    return own, path, path.read_bytes()


@given(st.data())
def test_no_damage_is_missed(written: tuple[CacheFolder, Path, bytes], data: st.DataObject) -> None:
    own, path, intact = written
    place = data.draw(st.integers(0, len(intact) - 1))
    if data.draw(st.booleans()):
        damaged = intact[:place]
    else:
        flipped = intact[place] ^ (1 << data.draw(st.integers(0, 7)))
        damaged = intact[:place] + bytes([flipped]) + intact[place + 1 :]
    path.write_bytes(damaged)
    try:
        entry = own.read("03", True)
    except DamagedEntryError:
        return
    # A changed byte of the header without meaning (a space, say) changes no number.
    for array, original in zip(entry, arrays(), strict=True):
        np.testing.assert_array_equal(array, original.astype(np.float16))


def test_what_is_no_file_or_too_large_is_damage(tmp_path: Path) -> None:
    own = folder(tmp_path)
    own.entry_path("01", False).mkdir(parents=True)
    own.entry_path("01", True).write_bytes(bytes(10**6))
    for flipped in (False, True):
        with pytest.raises(DamagedEntryError):
            own.read("01", flipped)
        own.set_aside("01", flipped)
        assert own.read("01", flipped) is None
        assert own.write("01", flipped, arrays())
    assert len(list(own.path.glob("*/*.damaged"))) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, 7e4])
def test_values_that_float16_cannot_hold_are_refused(tmp_path: Path, value: float) -> None:
    values = arrays()
    values[1][0, 0, 0] = value
    with pytest.raises(CacheError, match="image 05") as caught:
        folder(tmp_path).write("05", False, values)
    assert caught.value.code == "cache-not-finite"
    assert not folder(tmp_path).contains("05", False)


def test_outputs_of_other_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError) as caught:
        folder(tmp_path).write("05", False, arrays()[::-1])
    assert caught.value.code == "cache-shape"


def test_a_full_disk_is_reported_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = folder(tmp_path)

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CacheError) as caught:
        own.write("01", False, arrays())
    assert caught.value.code == "cache-write"
    assert not own.contains("01", False)
    assert [path.name for path in own.path.rglob("*") if path.is_file()] == ["about.json"]


def _write_many(root: Path, rounds: int) -> None:
    own = folder(root)
    for _ in range(rounds):
        own.write("01", False, arrays())


def test_processes_may_write_the_same_entry_at_once(tmp_path: Path) -> None:
    own = folder(tmp_path)
    own.write("01", False, arrays())
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(tmp_path, 200)) for _ in range(2)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        entry = own.read("01", False)
        np.testing.assert_array_equal(entry[0], arrays()[0].astype(np.float16))
        reads += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert reads > 10
    assert not list(own.path.rglob("*.partial"))
