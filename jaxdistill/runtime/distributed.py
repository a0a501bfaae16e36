"""One run in many processes: how they find each other, agree, and end together."""

import argparse
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdistill.runtime.errors import UserError, first_line, tell
from jaxdistill.runtime.sharding import Mesh

LOST = 76
"""Exit code of a process whose run failed elsewhere: `EX_PROTOCOL` of sysexits.h."""
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "JAX_NUM_PROCESSES")
_ANNOUNCED = ("JAX_COORDINATOR_ADDRESS", "JOB_COMPLETION_INDEX")
Tree = TypeVar("Tree")


def add_options(parser: argparse.ArgumentParser) -> None:
    """To a command line that runs in many processes."""
    group = parser.add_argument_group("many processes, where Slurm or Open MPI does not tell")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--processes", type=int, help="how many there are; 1: this one is alone")
    group.add_argument("--process", type=int, help="which of them this is, counted from 0")
    group.add_argument(
        "--patience",
        type=int,
        default=60,
        metavar="SECONDS",
        help="how long a process may give no sign of life before the others end too; 60",
    )


@contextmanager
def joined(given: argparse.Namespace) -> Iterator[None]:
    """Inside, this process is one of those of its run, if there are several; before, JAX must not
    have been used.

    Where they are several, whatever is raised inside ends the process at once, with its line: a
    process that waited for the others would keep them waiting.

    Raises:
      UserError: the others cannot be found.
    """
    if not _expected(given):
        yield
        return
    _initialize(given)
    last_words = _LastWords(given.patience)
    try:
        yield
    except BaseException as error:
        code = tell(error)
        if code is None:
            code = LOST
            if not from_other_process(error):
                traceback.print_exc()
            last_words.become(
                f"error: process {jax.process_index()} cannot go on ({first_line(error)}); most "
                f"likely another process failed: see its last line, then start all again with "
                f"--resume"
            )
        else:
            last_words.spare()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    jax.distributed.shutdown()
    last_words.spare()


class _LastWords:
    """A line that follows this process's end: JAX aborts it when it learns that another one is
    lost, and prints much while it does."""

    def __init__(self, patience: int) -> None:
        line = (
            f"error: process {jax.process_index()} was ended, since another one had failed or had "
            f"given no sign of life for {patience} s, or it was killed itself; see which was the "
            f"first, then start all again with --resume"
        )
        waits = (
            'trap "" INT TERM; last="$0"; while read -r line; do last="$line"; done\n'
            '[ -z "$last" ] || printf "%s\\n" "$last" >&2'
        )
        self._shell = subprocess.Popen(
            ["sh", "-c", waits, line], stdin=subprocess.PIPE, start_new_session=True, text=True
        )

    def become(self, line: str) -> None:
        """That line instead."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{line}\n")
        self._shell.stdin.flush()

    def spare(self) -> None:
        """None is needed."""
        self._shell.communicate("\n")


def _expected(given: argparse.Namespace) -> bool:
    """Whether options or environment speak of other processes."""
    if given.processes is not None:
        return given.processes > 1
    counts = [os.environ.get(name, "1") for name in _COUNTS]
    several = any(count.isdecimal() and int(count) > 1 for count in counts)
    return several or bool(given.coordinator) or any(name in os.environ for name in _ANNOUNCED)


def _initialize(given: argparse.Namespace) -> None:
    # Its handler of SIGTERM would stand in the way of `interruption`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            given.coordinator,
            given.processes,
            given.process,
            heartbeat_timeout_seconds=given.patience,
            shutdown_timeout_seconds=given.patience,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the run's processes cannot be joined ({first_line(error)}); give each of them "
            f"--coordinator HOST:PORT, --processes N and --process I, or run alone with "
            f"--processes 1"
        ) from None


def from_other_process(error: BaseException) -> bool:
    """Whether it is what this process sees of another one's end."""
    if jax.process_count() == 1:
        return False
    # Where JAX waits for a collective outside of a step, its error is a plain ValueError.
    own = isinstance(error, ValueError) and re.search("gloo|nccl", str(error), re.IGNORECASE)
    return bool(own) or isinstance(error, jax.errors.JaxRuntimeError)


def is_main_process() -> bool:
    """Whether this process is the one that prints, draws and writes what all have in common."""
    return jax.process_index() == 0


def barrier(place: str) -> None:
    """Until all processes have come to that place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


@contextmanager
def main_process_first(place: str) -> Iterator[None]:
    """What is made on disk, where it is not there yet: by one process, and found by the others."""
    if not is_main_process():
        barrier(place)
    yield
    if is_main_process():
        barrier(place)


def broadcast(tree: Tree) -> Tree:
    """Process 0's values, for all."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def all_gather(values: Any) -> np.ndarray:
    """The rows of all processes, in their order."""
    if jax.process_count() == 1:
        return np.asarray(values)
    return np.concatenate(multihost_utils.process_allgather(np.asarray(values)))


class Agreement:
    """Whether any process wishes something: the same answer to all of them at the same call.

    With several processes it is what was wished at the call before, so that nobody waits for the
    devices.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh, self._asked = mesh, None
        self._any = jax.jit(lambda flags: flags.any(), out_shardings=mesh.replicated)

    def reached(self, wish: bool) -> bool:
        """To be called by all processes as often."""
        if jax.process_count() == 1:
            return wish
        before = self._asked
        flags = np.full(jax.local_device_count(), wish)
        self._asked = self._any(self._mesh.shard(flags))
        return before is not None and bool(before)

    def forget(self) -> None:
        """What was wished before has been done."""
        self._asked = None
