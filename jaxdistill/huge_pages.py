"""Memory in large pages: asked for before a program starts, for it cannot be asked for later.

XLA's CPU back end takes the memory of a step, gigabytes at 640x640, anew in every step and gives it
back after it. In pages of 4 KB the system hands it out hundreds of thousands of times, which takes
longer than a tenth of the step; in pages of 2 MB it does not. The GNU C library asks for these if a
tunable says so, and reads its tunables when a program starts.
"""

import os
import sys
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb"
_VARIABLE = "GLIBC_TUNABLES"
_MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # "always [madvise] never"
_SINCE = (2, 35)  # of the GNU C library


def restart(program: str) -> None:
    """Starts this process's program again, with large pages, where the system gives them to those
    who ask. To be called before anything large is imported.

    Nothing happens where the variable GLIBC_TUNABLES speaks of it already.

    Args:
      program: what the process was started with, such as `jaxdistill.train` behind `-m`; if it was
        not, nothing happens.
    """
    given = os.environ.get(_VARIABLE, "")
    started = any(word.endswith(program) for word in sys.orig_argv)
    if started and TUNABLE not in given and _only_if_asked():
        os.environ[_VARIABLE] = ":".join(filter(None, [given, f"{TUNABLE}=1"]))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _only_if_asked() -> bool:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        modes = _MODES.read_text()
    except (ValueError, OSError):  # another C library, another system
        return False
    since = tuple(map(int, version.split(".")[:2]))
    return name == "glibc" and since >= _SINCE and "[madvise]" in modes
