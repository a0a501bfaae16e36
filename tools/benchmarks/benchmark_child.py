"""What the contestants of `benchmark_step.py` have in common, each being a process of its own.

A contestant builds everything, warms up, and says on stdout in a line of JSON what it found. Then
it reads lines of JSON from stdin, `{"measure": "whole" or "parts", "steps": N}`, and answers each
with the seconds that every step took, by part, and with the most memory that it has held so far.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from jaxdistill import config

Seconds = dict[str, list[float]]


class Given(NamedTuple):
    """What a contestant is told."""

    settings: config.Config
    teacher_checkpoint: Path
    threads: int | None
    """None leaves the number to each library."""


class Contestant(Protocol):
    found: dict[str, Any]

    def whole(self, steps: int) -> Seconds:
        """Of whole steps, one after the other."""

    def parts(self, steps: int) -> Seconds:
        """Of the same parts again and again, each with what it needs at hand."""

    def device_memory(self) -> int | None:
        """The most bytes held on a GPU, without onnxruntime's; None on a CPU."""


def serve(make: Callable[[Given], Contestant]) -> None:
    """The command line of a contestant: builds it, then answers until nothing more is asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("teacher_checkpoint", type=Path)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    answers = _answers()
    contestant = make(Given(config.load(given.config), given.teacher_checkpoint, given.threads))
    print(json.dumps(contestant.found), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        seconds = getattr(contestant, question["measure"])(question["steps"])
        memory = {"host": _host_memory(), "device": contestant.device_memory()}
        print(json.dumps({"seconds": seconds, "memory": memory}), file=answers, flush=True)


def timed(
    work: Callable[[], object], steps: int, now: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Seconds of each call; one before them, which finds the caches cold, does not count."""
    work()
    marks = [now()]
    for _ in range(steps):
        work()
        marks.append(now())
    return between(marks)


def between(marks: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(marks)]


def _host_memory() -> int:
    """The most bytes that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _answers() -> TextIO:
    """Where answers go: stdout, whose place stderr takes for whatever libraries print."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # else it would come behind the last words
    return answers
