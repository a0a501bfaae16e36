"""Freed memory is kept for the next step, whichever thread asks for it."""

import os
import platform
import subprocess
import sys

import pytest

START = """
import sys
from jaxdistill.ops import memory
memory._MOST_CORES = 1000
memory.share_heap()
"""
# A thread takes much memory, twice; how many pages the system maps for the second time.
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
# Every other of many pieces is freed; how many of as many new ones are where those were.
HOLES = """
if sys.argv[1] == "kept":
    memory.keep_freed()
pieces = [bytes(100_000) for _ in range(200)]
holes = {id(piece) for piece in pieces[::2]}
pieces = pieces[1::2]
memory.give_back()
print(len(holes & {id(piece) for piece in [bytes(100_000) for _ in range(100)]}))
"""
PAGES = 2**28 // os.sysconf("SC_PAGESIZE")

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="what is tuned is GNU's C library"
)


def test_what_was_freed_is_taken_again_without_a_fault() -> None:
    assert said(AGAIN, "given back") > PAGES / 2
    assert said(AGAIN, "kept") < PAGES / 100


def test_what_a_compiler_has_left_is_not_filled_piece_by_piece() -> None:
    assert said(HOLES, "given back") > 50
    assert said(HOLES, "kept") < 5


def said(program: str, mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", START + program, mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)
