"""A program that starts itself again for large pages: once, with the same arguments, or not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdistill import huge_pages

GLIBC = dict([os.confstr("CS_GNU_LIBC_VERSION").split()]).get("glibc", "0.0")
NEW = tuple(map(int, GLIBC.split("."))) >= (2, 35)

PROGRAM = """
import os, sys
from pathlib import Path
from jaxdistill import huge_pages
huge_pages._MODES = Path({modes!r})
print(os.getpid(), flush=True)
huge_pages.restart({program!r})
print(os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES"))
"""


def run(folder: Path, modes: str, tunables: str = "", program: str = "program.py") -> list[str]:
    """The lines that the program prints."""
    (folder / "modes").write_text(modes)
    text = PROGRAM.format(modes=str(folder / "modes"), program=program)
    (folder / "program.py").write_text(text)
    command = [sys.executable, str(folder / "program.py"), "a b", "--c"]
    environment = {**os.environ, "GLIBC_TUNABLES": tunables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(not NEW, reason="the C library has no such tunable")
@pytest.mark.parametrize("given", ["", "glibc.malloc.check=0"])
def test_it_starts_again_once_as_the_same_process(tmp_path: Path, given: str) -> None:
    first, second, last = run(tmp_path, "always [madvise] never\n", given)
    tunables = ":".join(filter(None, [given, "glibc.malloc.hugetlb=1"]))
    assert first == second
    assert last == f"{first} ['a b', '--c'] {tunables}"


@pytest.mark.parametrize(
    ("modes", "tunables", "program"),
    [
        ("[always] madvise never", "", "program.py"),  # large pages for everybody
        ("always madvise [never]", "", "program.py"),
        ("always [madvise] never", "glibc.malloc.hugetlb=0", "program.py"),
        ("always [madvise] never", "", "another.py"),  # such as a test that runs it
    ],
)
def test_where_it_is_of_no_use_nothing_happens(
    tmp_path: Path, modes: str, tunables: str, program: str
) -> None:
    first, last = run(tmp_path, modes, tunables, program)
    assert last == f"{first} ['a b', '--c'] {tunables}"


def test_other_systems_have_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huge_pages, "_MODES", tmp_path / "none")
    assert not huge_pages._only_if_asked()
