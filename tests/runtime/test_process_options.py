"""The options with which a run in several processes is asked for."""

import argparse

import jax
import pytest

from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import DistributedError

SCHEDULERS = {
    "JOB_COMPLETION_INDEX": "1",
    "SLURM_NTASKS": "4",
    "SLURM_JOB_ID": "7",
    "OMPI_COMM_WORLD_SIZE": "4",
    "JAX_COORDINATOR_ADDRESS": "localhost:1234",
    "JAX_NUM_PROCESSES": "4",
}


def parse(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    distributed.add_options(parser)
    return parser.parse_args(options)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Arguments of `jax.distributed.initialize`, which is not called."""
    calls: list[tuple] = []
    monkeypatch.setattr(distributed, "_watch_others", lambda ended: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kw: calls.append((args, kw)))
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)
    return calls


@pytest.mark.parametrize("options", [(), ("--processes", "1")])
def test_the_environment_of_a_scheduler_alone_does_not_distribute_a_run(
    options: tuple[str, ...], calls: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SCHEDULERS.items():
        monkeypatch.setenv(name, value)
    with distributed.initialized(parse(*options)):
        pass
    assert not calls


def test_auto_leaves_the_detection_to_jax(calls: list[tuple]) -> None:
    with distributed.initialized(parse("--distributed", "auto", "--heartbeat-timeout", "9")):
        pass
    [(args, options)] = calls
    assert args == (None, None, None)
    assert options["heartbeat_timeout_seconds"] == 9


def test_explicit_options_reach_jax(calls: list[tuple]) -> None:
    options = ["--coordinator", "host:1", "--processes", "2", "--process", "1"]
    with distributed.initialized(parse(*options)):
        pass
    assert calls[0][0] == ("host:1", 2, 1)


@pytest.mark.parametrize(
    "options",
    [
        ("--processes", "2"),
        ("--coordinator", "host:1"),
        ("--process", "0"),
        ("--coordinator", "host:1", "--process", "0"),
    ],
)
def test_incomplete_options_are_refused(options: tuple[str, ...], calls: list[tuple]) -> None:
    with pytest.raises(DistributedError) as caught, distributed.initialized(parse(*options)):
        pass
    assert caught.value.code == "incomplete-process-options"
    assert not calls


@pytest.mark.parametrize("error", [ValueError("no coordinator"), RuntimeError("too late")])
def test_processes_that_cannot_connect_are_reported(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def initialize(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with (
        pytest.raises(DistributedError) as caught,
        distributed.initialized(parse("--distributed", "auto")),
    ):
        pass
    assert caught.value.code == "processes-not-connected"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (jax.errors.JaxRuntimeError("INTERNAL: any error of a step"), True),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), True),
        (ValueError("INTERNAL: NCCL operation ncclAllReduce(...) failed"), True),
        (ValueError("RESOURCE_EXHAUSTED: No space left on device"), False),
        (OSError("Gloo"), False),
    ],
)
def test_errors_that_another_process_caused_are_recognised(
    error: Exception, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert distributed.from_other_process(error) is expected
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert not distributed.from_other_process(error)
