"""Prefetching: a background thread produces items while the caller works on earlier ones."""

import itertools
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

THREAD_NAME = "prefetch"
"""Prefix of the names of the background threads."""


def prefetch(iterable: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Yields the items of an iterable, up to `depth` of them produced before they are asked for.

    The iterable runs in one background thread, which starts when the first item is asked for. An
    exception in it is raised here at the same position, with its own traceback. When this generator
    ends, is closed or is dropped, the item in production is finished and the thread ends.

    Grain's thread prefetch requires iterators with a state and leaves its thread behind when it is
    dropped; `flax.jax_utils.prefetch_to_device` uses no thread.

    Args:
      iterable: Any iterable; the same items come out in the same order.
      depth: The number of items that are produced ahead. 0 uses no thread.

    Raises:
      ValueError: `depth` is negative.
    """
    if depth < 0:
        raise ValueError(f"depth: expected at least 0, got {depth}")
    return _in_thread(iterable, depth) if depth else _in_caller(iterable)


def _in_caller(iterable: Iterable[T]) -> Generator[T, None, None]:
    yield from iterable


def _in_thread(iterable: Iterable[T], depth: int) -> Generator[T, None, None]:
    iterator = iter(iterable)

    def produce() -> list[T]:
        return list(itertools.islice(iterator, 1))  # empty at the end

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=THREAD_NAME) as worker:
        pending = deque(worker.submit(produce) for _ in range(depth))
        try:
            while item := pending.popleft().result():
                pending.append(worker.submit(produce))
                yield item.pop()  # no reference is kept: a batch with its targets is large
        finally:
            for future in pending:
                future.cancel()
