"""Freed memory is reused by the next step, in whichever thread it allocates."""

import os
import platform
import subprocess
import sys

import pytest

START = """
import sys
from jaxdistill.runtime import memory
memory._MAX_CORES = 1000
memory.share_heap()
"""
# A thread allocates much memory twice; prints how many pages the system maps the second time.
AGAIN = """
import resource, threading

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=lambda: b"x" * 2**28)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
if sys.argv[1] == "kept":
    memory.keep_freed()
faults()
print(faults())
"""
# Frees every other block; prints how many of the same number of new blocks reuse their addresses.
HOLES = """
if sys.argv[1] == "kept":
    memory.keep_freed()
pieces = [bytes(100_000) for _ in range(200)]
holes = {id(piece) for piece in pieces[::2]}
pieces = pieces[1::2]
memory.return_freed()
print(len(holes & {id(piece) for piece in [bytes(100_000) for _ in range(100)]}))
"""
PAGES = 2**28 // os.sysconf("SC_PAGESIZE")

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only the GNU C library is tuned"
)


def test_freed_memory_is_reused_without_page_faults() -> None:
    assert printed_number(AGAIN, "given back") > PAGES / 2
    assert printed_number(AGAIN, "kept") < PAGES / 100


def test_small_holes_are_not_filled_one_by_one() -> None:
    assert printed_number(HOLES, "given back") > 50
    assert printed_number(HOLES, "kept") < 5


def printed_number(program: str, mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", START + program, mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)
