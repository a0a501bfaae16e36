import contextlib
import gc
import threading
import time
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.runtime.prefetch import THREAD_NAME, prefetch


class BrokenError(Exception):
    pass


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


@pytest.fixture(autouse=True)
def _no_thread_remains():
    assert not workers()
    yield
    gc.collect()
    assert not workers()


def producer(items, log=None, fails=False):
    try:
        yield from items
        if fails:
            raise BrokenError
    finally:
        if log is not None:
            log.append("closed")


@given(st.lists(st.none() | st.integers()), st.integers(0, 5), st.booleans())
def test_items_and_errors_come_in_order(items, depth, fails):
    """Falsy items are kept, and an error is raised after the items before it."""
    received = []
    iterator = prefetch(producer(items, fails=fails), depth)
    with pytest.raises(BrokenError) if fails else contextlib.nullcontext():
        received.extend(iterator)
    assert received == items
    assert next(iterator, "end") == "end"
    assert not workers()


@given(st.integers(0, 8), st.integers(0, 4), st.sampled_from(["close", "drop", "error"]))
def test_stopping_early_stops_the_thread_and_the_producer(taken, depth, how):
    log, made = [], []

    def endless():
        for item in producer(iter(int, 1), log):
            made.append(item)
            yield item

    iterator = prefetch(endless(), depth)
    for _ in range(taken):
        next(iterator)
    if how == "close":
        iterator.close()
    elif how == "error":
        with pytest.raises(BrokenError):
            iterator.throw(BrokenError)
    del iterator
    assert not workers()
    assert log == (["closed"] if made else [])
    assert len(made) <= taken + depth


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_depth_items_are_produced_while_the_consumer_is_busy(depth):
    made = []
    iterator = prefetch((made.append(item) or item for item in range(100)), depth)
    assert not made, "production starts when the first item is asked for"
    for item in iterator:
        deadline = time.monotonic() + 5
        while len(made) < item + 1 + depth and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.005)
        assert len(made) == item + 1 + depth
        if item == 3:
            break
    iterator.close()


def test_producer_and_consumer_run_at_the_same_time():
    """Each waits for the other: with one thread the test would not end."""
    asked, answered = threading.Event(), threading.Event()

    def items():
        yield 1
        assert asked.wait(5)
        answered.set()
        yield 2

    iterator = prefetch(items())
    assert next(iterator) == 1
    asked.set()
    assert answered.wait(5)
    assert list(iterator) == [2]


def test_the_producer_runs_in_one_background_thread():
    threads = set(prefetch(threading.get_ident() for _ in range(20)))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_error_keeps_its_traceback():
    def faulty():
        yield 1
        raise BrokenError("in here")

    iterator = prefetch(faulty())
    assert next(iterator) == 1
    with pytest.raises(BrokenError, match="in here") as caught:
        next(iterator)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "faulty"


def test_no_reference_to_a_yielded_item_is_kept():
    class Item:
        alive = 0

        def __init__(self):
            Item.alive += 1

        def __del__(self):
            Item.alive -= 1

    iterator = prefetch((Item() for _ in range(10)), depth=1)
    for item in iterator:
        del item
        time.sleep(0.005)
        assert Item.alive <= 1, "only the prefetched item"


def test_a_negative_depth_is_refused():
    with pytest.raises(ValueError, match="depth"):
        prefetch([], depth=-1)
