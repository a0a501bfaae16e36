"""A run in several processes: how they find each other, exchange values, and end together.

A run has several processes only when its command line asks for it: `--distributed auto` takes
coordinator, count and index from the scheduler's environment (Slurm, Open MPI, Kubernetes, Cloud
TPU, or JAX's own variables); `--coordinator`, `--processes` and `--process` give them explicitly.
"""

import argparse
import contextlib
import functools
import hashlib
import itertools
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed as jax_distributed
from jax.experimental import multihost_utils

from jaxdistill.runtime.errors import DistributedError, first_line, report
from jaxdistill.runtime.sharding import Mesh

OTHER_PROCESS_FAILED = 76
"""Exit code of a process that ends because another one failed (`EX_PROTOCOL` of sysexits.h)."""
_FAILED = "jaxdistill/failed"  # key in the coordinator's store; the value is a process index
_POLL = 0.5  # seconds between two looks at that key
_LONGEST_WAIT = 7 * 24 * 3600 * 1000  # milliseconds; a lost process is noticed by its heartbeat
_meetings = itertools.count()  # makes the names of the coordinator's barriers unique
_GRACE = 2.0  # seconds that a process has to fail by itself, with its own message


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a run in several processes to a command line.

    Args:
      parser: The parser of a command that calls `initialized` with its arguments.
    """
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--distributed",
        choices=["auto"],
        help="run in several processes, as the scheduler's environment describes them",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process", type=int, metavar="I", help="index of this process, from 0")
    group.add_argument(
        "--heartbeat-timeout",
        type=int,
        default=60,
        metavar="SECONDS",
        help="after how many seconds without a sign of life a process counts as lost; default 60",
    )


@contextmanager
def initialized(args: argparse.Namespace) -> Iterator[None]:
    """Initialises `jax.distributed` for the `with` block, if the run has several processes.

    Enter it before any other JAX call. With several processes an exception inside the block ends
    this process with one line on stderr, and the other processes a few seconds later with a line
    that names it: they could only wait for it in their next collective operation. A process that is
    killed, or hangs, is noticed by JAX after `--heartbeat-timeout`; JAX then ends the others.

    Args:
      args: The parsed options of `add_options`.

    Raises:
      DistributedError: Options are missing (`incomplete-process-options`), or the processes cannot
        connect (`processes-not-connected`).
    """
    if not _several(args):
        yield
        return
    _initialize(args)
    ended = threading.Event()
    threading.Thread(target=_watch_others, args=(ended,), daemon=True).start()
    try:
        # The first collective connects the processes, and waits for the others 30 seconds only. It
        # must not follow a compilation, which takes one process longer than another.
        barrier("start")
        processes_on_machine()
        yield
        # JAX's shutdown aborts all processes if one of them comes later than the heartbeat's
        # timeout; process 0 may have to wait for a slow disk or an experiment tracker first.
        _wait_for_all("end")
    except BaseException as error:
        ended.set()
        code = _exit_code(error)
        _announce_failure()
        _exit(code)
    ended.set()
    jax.distributed.shutdown()


def _several(args: argparse.Namespace) -> bool:
    explicit = (args.coordinator, args.processes, args.process)
    if args.distributed == "auto":
        return True
    if args.processes == 1 or explicit == (None, None, None):
        return False
    if None in explicit:
        raise DistributedError(
            "several processes need all of --coordinator HOST:PORT, --processes N and --process I, "
            "or --distributed auto, which takes them from the scheduler's environment",
            code="incomplete-process-options",
        )
    return True


def _initialize(args: argparse.Namespace) -> None:
    # JAX's handler of SIGTERM would replace the one of `runtime.signals`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            args.coordinator,
            args.processes,
            args.process,
            heartbeat_timeout_seconds=args.heartbeat_timeout,
            shutdown_timeout_seconds=args.heartbeat_timeout,
        )
    except (ValueError, RuntimeError) as error:
        raise DistributedError(
            f"the processes of the run cannot connect ({first_line(error)}); give each of them "
            f"--coordinator HOST:PORT, --processes N and --process I",
            code="processes-not-connected",
        ) from None


def _exit_code(error: BaseException) -> int:
    """Prints why this process ends, and returns its exit code."""
    code = report(error)
    if code is not None:
        return code
    if not from_other_process(error):
        traceback.print_exception(error)
        return 1
    _print_other_failed(f"another process ({first_line(error)})")
    return OTHER_PROCESS_FAILED


def _print_other_failed(which: str) -> None:
    print(
        f"error: process {jax.process_index()} ends, because of a failure of {which}; see the "
        f"last line of the others, then start all of them again with --resume "
        f"[other-process-failed]",
        file=sys.stderr,
    )


def _exit(code: int) -> None:
    """Ends this process without JAX's shutdown, which would wait for the other processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _announce_failure() -> None:
    """Tells the other processes that this one ends; process 0 waits until they have ended.

    With process 0 ends the coordinator, and JAX aborts whoever is still connected to it.
    """
    with contextlib.suppress(Exception):  # the coordinator may be gone already
        client: Any = jax_distributed.global_state.client
        client.key_value_set(_FAILED, str(jax.process_index()), allow_overwrite=True)
        if is_main_process():
            time.sleep(_GRACE + 2 * _POLL)


def _watch_others(ended: threading.Event) -> None:
    """Ends this process soon after another one has announced that it failed."""
    client: Any = jax_distributed.global_state.client
    while not ended.wait(_POLL):
        try:
            failed = client.key_value_try_get(_FAILED)
        except jax.errors.JaxRuntimeError:  # there is no such key
            continue
        if not ended.wait(_GRACE):
            _print_other_failed(f"process {failed}")
            _exit(OTHER_PROCESS_FAILED)


def from_other_process(error: BaseException) -> bool:
    """Returns whether an exception is how this process notices the end of another one.

    Args:
      error: An exception that was raised by a JAX operation.
    """
    if jax.process_count() == 1:
        return False
    # Outside of compiled functions, JAX raises a plain ValueError from a failed collective.
    collective = re.search("gloo|nccl", str(error), re.IGNORECASE)
    return isinstance(error, jax.errors.JaxRuntimeError) or (
        isinstance(error, ValueError) and collective is not None
    )


def is_main_process() -> bool:
    """Returns whether this process prints and writes what all processes have in common."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes have called it.

    Args:
      name: The same name in every process; it appears in JAX's messages.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextmanager
def main_process_first(name: str) -> Iterator[None]:
    """Runs the `with` block in the main process, and afterwards in all other processes.

    Use it around code that creates a file unless it exists, which may take hours. The block ends at
    the same time in all processes.

    Args:
      name: The same name in every process; it appears in JAX's messages.
    """
    if not is_main_process():
        _wait_for_all(name)
    yield
    if is_main_process():
        _wait_for_all(name)
    _wait_for_all(f"{name} in all")


def _wait_for_all(name: str) -> None:
    """Waits for all processes by the coordinator: the first collective gives up in 30 seconds."""
    if jax.process_count() > 1:
        client: Any = jax_distributed.global_state.client
        client.wait_at_barrier(f"jaxdistill/{next(_meetings)} {name}", _LONGEST_WAIT)


@functools.cache
def processes_on_machine() -> int:
    """Returns how many of the run's processes are on this machine.

    `initialized` calls it first, in all processes; later calls communicate no more.
    """
    if jax.process_count() == 1:
        return 1
    own = np.frombuffer(hashlib.sha256(socket.gethostname().encode()).digest(), np.int32)
    return int((all_gather(own[None]) == own).all(1).sum())


def share_folder(folder: Path) -> bool:
    """Returns whether all processes see the same folder; all of them must call it.

    Args:
      folder: The folder; it is made where it does not exist.
    """
    if jax.process_count() == 1:
        return True
    token = folder / f".shared-{_token()}"
    with contextlib.suppress(OSError):  # then the others do not find it
        if is_main_process():
            folder.mkdir(parents=True, exist_ok=True)
            token.touch()
    barrier("shared folder")
    seen = all_gather(np.array([token.exists()]))
    if is_main_process():
        token.unlink(missing_ok=True)
    return bool(seen.all())


def _token() -> str:
    """Returns a random name that is the same in all processes."""
    own = np.frombuffer(os.urandom(8), np.uint8).astype(np.int32)
    return bytes(all_gather(own[None])[0].astype(np.uint8)).hex()


def all_gather(values: Any) -> np.ndarray:
    """Returns the rows of all processes, in the order of the processes.

    Args:
      values: An array (n, ...) with the same shape in every process.

    Returns:
      An array (processes * n, ...).
    """
    if jax.process_count() == 1:
        return np.asarray(values)
    gathered = multihost_utils.process_allgather(_in_32_bits(values))
    return np.concatenate(_in_dtype_of(gathered, values))


def _in_32_bits(values: Any) -> np.ndarray:
    """Returns arrays of 64 bits as twice as many numbers of 32 bits: JAX would round the former."""
    array = np.asarray(values)
    if array.dtype.itemsize != 8:
        return array
    return np.ascontiguousarray(array[..., None]).view(np.uint32)


def _in_dtype_of(sent: Any, like: Any) -> np.ndarray:
    """Undoes `_in_32_bits` on arrays with any axes in front."""
    array, dtype = np.asarray(sent), np.asarray(like).dtype
    if dtype.itemsize != 8:
        return array
    return np.ascontiguousarray(array).view(dtype)[..., 0]


class AnyProcess:
    """Tells all processes whether any of them has set a flag, without waiting for the devices.

    With several processes the answer to a call is that of the call before, whose reduction has
    finished on the devices in the meantime. With one process the answer is immediate.

    Args:
      mesh: The devices over which the flags are reduced.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._pending: jax.Array | None = None
        self._reduce = jax.jit(lambda flags: flags.any(), out_shardings=mesh.replicated)

    def any(self, flag: bool) -> bool:
        """Returns whether any process has set its flag; all processes must call it equally often.

        Args:
          flag: The flag of this process.
        """
        if jax.process_count() == 1:
            return flag
        before = self._pending
        flags = np.full(jax.local_device_count(), flag)
        self._pending = self._reduce(self._mesh.shard(flags))
        return before is not None and bool(before)

    def reset(self) -> None:
        """Forgets the flags of the last call; all processes must call it."""
        self._pending = None
