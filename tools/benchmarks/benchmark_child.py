"""The protocol of the contestants of `benchmark_step.py`, each of which is a process of its own.

A contestant builds everything, warms up, and prints a line of JSON with its attributes `found`.
Then it reads lines of JSON from stdin, `{"measure": "whole" or "parts", "steps": N}`, and answers
each with the seconds of every step, by part, and with its peak memory so far.
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
"""Seconds of every step, by part."""


class Setting(NamedTuple):
    """What a contestant is built from."""

    settings: config.Config
    teacher_checkpoint: Path
    threads: int | None
    """None leaves the number to each library."""
    compiler: str | None
    """The backend of `torch.compile`; None lets PyTorch run in eager mode."""


class Contestant(Protocol):
    """One implementation of the training step."""

    found: dict[str, Any]
    """Facts about it, such as its device."""

    def whole(self, steps: int) -> Seconds:
        """Measures whole steps, one after the other."""

    def parts(self, steps: int) -> Seconds:
        """Measures each part alone and repeatedly, with its inputs at hand."""

    def device_memory(self) -> int | None:
        """Returns the peak number of bytes on a GPU, without onnxruntime's; None on a CPU."""


def serve(make: Callable[[Setting], Contestant]) -> None:
    """Runs the command line of a contestant: builds it, then answers until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("teacher_checkpoint", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compiler")
    args = parser.parse_args()
    answers = _answers()
    settings = config.load(args.config)
    contestant = make(Setting(settings, args.teacher_checkpoint, args.threads, args.compiler))
    print(json.dumps(contestant.found), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        seconds = getattr(contestant, question["measure"])(question["steps"])
        memory = {"host": _host_memory(), "device": contestant.device_memory()}
        print(json.dumps({"seconds": seconds, "memory": memory}), file=answers, flush=True)


def timed(
    work: Callable[[], object], steps: int, now: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Returns the seconds of each call, without a first one, which finds the caches cold."""
    work()
    marks = [now()]
    for _ in range(steps):
        work()
        marks.append(now())
    return between(marks)


def between(marks: Sequence[float]) -> list[float]:
    """Returns the differences of successive times."""
    return [after - before for before, after in pairwise(marks)]


def _host_memory() -> int:
    """Returns the peak number of bytes of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _answers() -> TextIO:
    """Returns stdout for the answers; what libraries print to stdout goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # else it would follow the error message
    return answers
