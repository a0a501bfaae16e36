"""On a CPU: memory that one training step has freed is there for the next.

A step takes one block of a gigabyte or more. The GNU C library asks the system for blocks of that
size each time, and gives them back; in each the system then maps every page anew, which was a sixth
of a step. Elsewhere than with that library, none of this does anything.
"""

import ctypes
import functools
import resource

import jax

# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


@functools.cache
def share_heap() -> None:
    """All threads that are yet to start will share the main one's heap: theirs end at 64 MB."""
    if library := _library():
        library.mallopt(_ARENA_MAX, 1)
        if jax.default_backend() != "cpu":  # asked late, because asking starts threads
            library.mallopt(_ARENA_MAX, 0)


def give_back() -> None:
    """To the system, what is free at the moment."""
    if library := _library():
        library.malloc_trim(0)


@functools.cache
def keep_freed() -> None:
    """From now on freed memory stays in the process: for when a first step has ended."""
    if jax.default_backend() != "cpu" or not (library := _library()):
        return
    give_back()
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, -1)
    # Room of addresses, of which only what is used takes memory. Without it a small block may take
    # its place within what the step has freed, and the step then needs as much beside it.
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    library.free(library.malloc(used))


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
        library.malloc_trim.argtypes = [ctypes.c_size_t]
        library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        library.free.argtypes = [ctypes.c_void_p]
    except (OSError, AttributeError):
        return None
    return library
