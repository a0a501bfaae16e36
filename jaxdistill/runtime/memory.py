"""On a CPU: memory that one training step has freed is there for the next.

A step takes one block of a gigabyte or more. The GNU C library asks the system for blocks of that
size each time, and gives them back; in each the system then maps every page anew, which was a sixth
of a step. With another library, or many cores, all stays as it is.
"""

import ctypes
import functools
import os
import resource

import jax

# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_HOLES = [2**power for power in range(27, 13, -1)]  # bytes, from the largest to the least
_MOST_CORES = 8  # with many, threads might queue for the one heap; what was measured had two
_kept = False


@functools.cache
def share_heap() -> None:
    """All threads that are yet to start will share the main one's heap: theirs end at 64 MB."""
    if (library := _library()) and _on_few_cores():
        library.mallopt(_ARENA_MAX, 1)
        if jax.default_backend() != "cpu":  # asked late, because asking starts threads
            library.mallopt(_ARENA_MAX, 0)


def give_back() -> None:
    """To the system, what is free at the moment: for when a compiler has left much behind."""
    if library := _library():
        library.malloc_trim(0)
        if _kept:
            _arrange(library)


def keep_freed() -> None:
    """From now on freed memory stays in the process: for when a first step has ended."""
    global _kept
    if _kept or jax.default_backend() != "cpu" or not _on_few_cores():
        return
    if not (library := _library()):
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, -1)
    _kept = True
    give_back()


def _arrange(library: ctypes.CDLL) -> None:
    """Room for a step in one piece, and no holes beside it.

    A small block may take its place within what a step has freed, and the step then needs as much
    beside it; so there is room for both. And compiling leaves tens of thousands of holes: what
    small products copy their operands to would lie in another one each time, never in the
    processor's cache, and they take three times as long. Both are addresses alone: what nobody uses
    takes no memory.
    """
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    room, end = library.malloc(used), library.sbrk(0)
    for size in _HOLES:
        while (hole := library.malloc(size)) and hole < end:
            pass
        library.free(hole)
    library.free(room)


def _on_few_cores() -> bool:
    return (os.cpu_count() or 1) <= _MOST_CORES


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
        library.malloc_trim.argtypes = [ctypes.c_size_t]
        library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        library.free.argtypes = [ctypes.c_void_p]
        library.sbrk.argtypes, library.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
    except (OSError, AttributeError):
        return None
    return library
