"""Keeps freed memory in the process on a CPU, so that the next training step can reuse it.

A step allocates one block of a gigabyte or more. By default the GNU C library requests blocks of
that size from the system each time and returns them afterwards; the system then maps every page
again, which took a sixth of a step. With another C library, or with many cores, nothing is changed.
"""

import ctypes
import functools
import os
import resource

import jax

# Parameters of mallopt in <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_HOLES = [2**power for power in range(27, 13, -1)]  # bytes, from the largest to the smallest
_MAX_CORES = 8  # with many cores, threads might queue for the one heap; measured with two
_kept = False


@functools.cache
def share_heap() -> None:
    """Makes threads that start later allocate from the main thread's heap.

    Their own heaps are limited to 64 MB each, so that larger blocks would not be reused.
    """
    if (library := _libc()) and _has_few_cores():
        library.mallopt(_ARENA_MAX, 1)
        if jax.default_backend() != "cpu":  # asked late, because asking starts threads
            library.mallopt(_ARENA_MAX, 0)


def return_freed() -> None:
    """Returns freed memory to the system, for example after a large compilation."""
    if library := _libc():
        library.malloc_trim(0)
        if _kept:
            _reserve(library)


def keep_freed() -> None:
    """Keeps memory that is freed from now on in the process; call it after the first step."""
    global _kept
    if _kept or jax.default_backend() != "cpu" or not _has_few_cores():
        return
    if not (library := _libc()):
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, -1)
    _kept = True
    return_freed()


def _reserve(library: ctypes.CDLL) -> None:
    """Reserves one free block for a step, and fills the smaller holes below it.

    A small allocation may be placed within the block that a step has freed; the step then needs
    another block beside it, so there is room for two. Compiling leaves tens of thousands of small
    holes: the operands that small matrix products copy would be placed in a different one each
    time, never in the processor's cache, which makes the products three times slower. Both cost
    addresses only: memory that nobody writes to is not allocated by the system.
    """
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    room, end = library.malloc(used), library.sbrk(0)
    for size in _HOLES:
        while (hole := library.malloc(size)) and hole < end:
            pass
        library.free(hole)
    library.free(room)


def _has_few_cores() -> bool:
    return (os.cpu_count() or 1) <= _MAX_CORES


@functools.cache
def _libc() -> ctypes.CDLL | None:
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
