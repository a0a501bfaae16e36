"""A tiny run in several processes on this machine, or in one, with smooth activations."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tiny_run
from smooth import smooth_activations

from jaxdistill.commands.train import main

CHILD = Path(__file__).with_name("process_child.py")
EPOCHS, STEPS = 3, 2
HEARTBEAT_TIMEOUT = 10
ENCODER = "encoder.safetensors"
PICTURES = {1, 2, 3, 4, 5, 6, 7, 8}
GIVEN = [
    f"training.epochs={EPOCHS}",
    "training.learning_rate=1e-4",
    "data.augment=light",
    "data.crop=0.5",
    "checkpoints.keep=9",
    "student.encoder=tf_efficientnet_lite0",
]


def make(place: Path, encoder: Path) -> Path:
    """With real weights, as users have them: random ones enlarge rounding."""
    tiny_run.make(place)
    (place / ENCODER).symlink_to(encoder)
    return place


def arguments(place: Path, run: Path, *more: str) -> list[str]:
    shrunk = ["--config", str(tiny_run.SPECIFIED), *tiny_run.overrides(place)]
    given = [*GIVEN, f"student.encoder_weights={place / ENCODER}"]
    return [*shrunk, *given, f"run={run}", *more]


def launch(
    count: int,
    seen: Path,
    program: Sequence[str],
    given: Sequence[str],
    each: Sequence[str] = (),
) -> list[subprocess.Popen[str]]:
    """Starts that many processes of a program; in `each`, `{}` is the process's number."""
    seen.mkdir(parents=True, exist_ok=True)
    meeting = joining(count)
    return [
        subprocess.Popen(
            [
                *(sys.executable, *program, *given, *meeting, "--process", str(index)),
                *(one.format(index) for one in each),
            ],
            env={**os.environ, "SEEN": str(seen)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]


def joining(count: int) -> list[str]:
    """The options with which so many processes find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count)]
    return [*meeting, "--heartbeat-timeout", str(HEARTBEAT_TIMEOUT)]


def train_alone(place: Path, run: Path, *more: str) -> None:
    """A run in this process."""
    with smooth_activations():
        main(arguments(place, run, *more))


def train(count: int, place: Path, run: Path, *more: str) -> str:
    """A run in so many processes; what process 0 printed."""
    child = Path(__file__).with_name("process_child.py")
    given = arguments(place, run, *more)
    processes = launch(count, run.parent / f"{run.name}-seen", [str(child)], given)
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, "\n".join(printed)
    for others in printed[1:]:
        assert "epoch" not in others
    return printed[0]


def cut(run: Path, other: Path) -> Path:
    """A copy as it stood within its second epoch."""
    shutil.copytree(run, other)
    for folder in (other / "checkpoints").iterdir():
        if int(folder.name) > 3:
            shutil.rmtree(folder)
    return other
