"""Freed memory is kept for the next step, whichever thread asks for it."""

import os
import platform
import subprocess
import sys

import pytest

# A thread takes much memory, twice; how many pages the system maps for the second time.
PROGRAM = """
import sys
from jaxdistill.ops import memory
memory.share_heap()
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
PAGES = 2**28 // os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is tuned is GNU's C library")
def test_what_was_freed_is_taken_again_without_a_fault() -> None:
    assert faults("given back") > PAGES / 2
    assert faults("kept") < PAGES / 100


def faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)
