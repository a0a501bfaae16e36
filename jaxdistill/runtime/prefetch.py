"""Work done ahead: a producer runs in a thread of its own while its consumer is busy."""

import itertools
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(iterable: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """The same items in the same order, up to `depth` of them made before they are asked for.

    The iterable runs in one background thread, from the moment its first item is asked for. What
    it raises is raised here in its place, with its own traceback. When this iterator ends, is
    closed or is dropped, the item in the making is finished, then the thread ends. With a depth of
    0 there is no thread, and each item is made when it is asked for.

    Not Grain's thread prefetch, which wants iterators that know their state and leaves its thread
    behind when it is dropped; nor `flax.jax_utils.prefetch_to_device`, which runs in no thread.
    """
    if depth < 0:
        raise ValueError(f"depth: expected at least 0, got {depth}")
    return _ahead(iterable, depth) if depth else _in_turn(iterable)


def _in_turn(iterable: Iterable[T]) -> Generator[T, None, None]:
    yield from iterable


def _ahead(iterable: Iterable[T], depth: int) -> Generator[T, None, None]:
    iterator = iter(iterable)

    def produce() -> list[T]:
        return list(itertools.islice(iterator, 1))  # empty at the end

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as worker:
        pending = deque(worker.submit(produce) for _ in range(depth))
        try:
            while made := pending.popleft().result():
                pending.append(worker.submit(produce))
                yield made.pop()  # not kept here: a batch of targets is large
        finally:
            for future in pending:
                future.cancel()
