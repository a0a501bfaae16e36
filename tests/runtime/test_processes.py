"""What real processes of a run exchange, and how they end when one of them fails."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from process_runs import process_options
from whole_runs import PATIENCE

PROGRAM = """
import argparse, json, sys, time
from jaxdistill.runtime import distributed, errors
from jaxdistill.runtime.distributed import AnyProcess

def run(args):
    with distributed.initialized(args):
        exec(args.body, globals())

parser = argparse.ArgumentParser()
distributed.add_options(parser)
parser.add_argument("body")
args = parser.parse_args()
sys.exit(errors.command(lambda: run(args)))
"""

EXCHANGE = """
import os, pathlib, jax, numpy as np
from jaxdistill.runtime.sharding import Mesh, local_rows
index = jax.process_index()
mesh = Mesh("auto")
vote = AnyProcess(mesh)
with distributed.main_process_first("file"):
    first = time.time()
    time.sleep(0.5 * (index == 0))
distributed.barrier("end")
rows = mesh.shard(np.full((2, 3), float(index)))
on_devices = mesh.shard(jax.device_put(np.arange(2) + 10 * index, mesh.own))
folder = pathlib.Path(os.environ["FOLDER"])
print(json.dumps({
    "main": distributed.is_main_process(),
    "all_gather": distributed.all_gather(np.asarray([[index, index]])).tolist(),
    "wide": [
        distributed.all_gather(np.asarray([2**40 + index])).tolist(),
        distributed.all_gather(np.asarray([0.1 + index])).tolist(),
    ],
    "any": [vote.any(flag and index == 1) for flag in (False, True, False, False)],
    "first": first,
    "local_rows": local_rows(rows).tolist(),
    "shape": rows.shape,
    "on_devices": local_rows(on_devices).tolist(),
    "on_machine": distributed.processes_on_machine(),
    "shared": [distributed.share_folder(each) for each in (folder, folder / str(index))],
}))
"""


def start(
    count: int, *bodies: str, options: Sequence[str] = (), **environment: str
) -> list[subprocess.Popen[str]]:
    """Starts processes of a run; each executes the body of its index, or the last one."""
    options = [*process_options(count), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-c", PROGRAM, bodies[min(index, len(bodies) - 1)]),
                *(*options, "--process", str(index)),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def test_values_are_exchanged_between_two_processes(tmp_path: Path) -> None:
    two_devices = "--xla_force_host_platform_device_count=2"
    processes = start(2, EXCHANGE, XLA_FLAGS=two_devices, FOLDER=str(tmp_path))
    printed = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    main, other = (json.loads(out.splitlines()[-1]) for out, _ in printed)
    assert (main["main"], other["main"]) == (True, False)
    assert main["all_gather"] == other["all_gather"] == [[0, 0], [1, 1]]
    # 64 bits, as the ids of images.
    assert main["wide"] == other["wide"] == [[2**40, 2**40 + 1], [0.1, 1.1]]
    # One call later than it was set, and for all at the same call.
    assert main["any"] == other["any"] == [False, False, True, False]
    assert other["first"] > main["first"] + 0.4
    assert main["local_rows"] == [[0.0] * 3] * 2
    assert other["local_rows"] == [[1.0] * 3] * 2
    assert main["shape"] == other["shape"] == [4, 3]
    assert (main["on_devices"], other["on_devices"]) == ([0, 1], [10, 11])
    assert main["on_machine"] == other["on_machine"] == 2
    # The second folder has another name in each process, as one that the machines do not share.
    assert main["shared"] == other["shared"] == [True, False]
    assert not list(tmp_path.rglob(".shared*"))


LONG = """
import jax
with distributed.main_process_first("data"):
    time.sleep(35 * (jax.process_index() == 0))
distributed.barrier("end")
"""


@pytest.mark.slow
def test_the_main_process_may_take_longer_than_a_collective_waits() -> None:
    """JAX connects the processes of a CPU in their first collective, for 30 seconds at most."""
    processes = start(2, LONG)
    printed = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed


LATE = """
import jax
time.sleep(25 * (jax.process_index() == 0))
print("done")
"""


@pytest.mark.slow
def test_the_main_process_may_end_later_than_a_heartbeat() -> None:
    processes = start(2, LATE, options=["--heartbeat-timeout", "10"])
    printed = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert [out.splitlines()[-1] for out, _ in printed] == ["done", "done"]


FAIL = "distributed.barrier('start'); raise errors.RunError('a disk is gone', code='some-code')"
CRASH = "distributed.barrier('start'); raise KeyError('a bug')"
WAIT = "distributed.barrier('start'); time.sleep(60)"


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(("body", "code"), [(FAIL, 2), (CRASH, 1)])
def test_a_process_that_fails_ends_the_others(failing: int, body: str, code: int) -> None:
    """The other one waits for something that JAX does not know of."""
    bodies = [body, WAIT] if failing == 0 else [WAIT, body]
    processes = start(2, *bodies)
    _, errors = processes[failing].communicate(timeout=PATIENCE)
    _, other = processes[1 - failing].communicate(timeout=PATIENCE)
    assert processes[failing].returncode == code
    assert processes[1 - failing].returncode == 76
    lines = other.splitlines()
    assert lines[-1].endswith("[other-process-failed]"), other
    assert f"process {failing}" in lines[-1]
    if code == 2:
        assert errors.splitlines()[-1] == "error: a disk is gone [some-code]"


def test_processes_that_fail_alike_each_print_their_own_line() -> None:
    processes = start(2, FAIL)
    printed = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], printed
    for text in printed:
        assert text.splitlines()[-1] == "error: a disk is gone [some-code]"
