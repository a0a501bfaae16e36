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
HEARTBEAT_TIMEOUT = 30
ENCODER = "encoder.safetensors"
IMAGES = {1, 2, 3, 4, 5, 6, 7, 8}
SETTINGS = [
    f"training.epochs={EPOCHS}",
    "training.learning_rate=1e-4",
    "data.augment=light",
    "data.crop=0.5",
    "checkpoints.keep=9",
    "student.encoder=tf_efficientnet_lite0",
]


def make(folder: Path, encoder: Path) -> Path:
    """Makes a tiny run's files, with ImageNet weights: random weights amplify rounding."""
    tiny_run.make(folder)
    (folder / ENCODER).symlink_to(encoder)
    return folder


def arguments(folder: Path, run: Path, *more: str) -> list[str]:
    shrunk = ["--config", str(tiny_run.SPECIFIED), *tiny_run.overrides(folder)]
    args = [*SETTINGS, f"student.encoder_weights={folder / ENCODER}"]
    return [*shrunk, *args, f"run={run}", *more]


def launch(
    count: int,
    seen: Path,
    program: Sequence[str],
    args: Sequence[str],
    each: Sequence[str] = (),
) -> list[subprocess.Popen[str]]:
    """Starts processes of a program; `{}` in `each` becomes the index of the process."""
    seen.mkdir(parents=True, exist_ok=True)
    options = process_options(count)
    return [
        subprocess.Popen(
            [
                *(sys.executable, *program, *args, *options, "--process", str(index)),
                *(one.format(index) for one in each),
            ],
            env={**os.environ, "SEEN": str(seen)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]


def process_options(count: int) -> list[str]:
    """Returns the options with which processes find each other, without the index."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count)]
    return [*options, "--heartbeat-timeout", str(HEARTBEAT_TIMEOUT)]


def train_one(folder: Path, run: Path, *more: str) -> None:
    """Trains in this process."""
    with smooth_activations():
        main(arguments(folder, run, *more))


def train(count: int, folder: Path, run: Path, *more: str) -> str:
    """Trains in `count` processes; returns what process 0 printed."""
    args = arguments(folder, run, *more)
    processes = launch(count, run.parent / f"{run.name}-seen", [str(CHILD)], args)
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, "\n".join(printed)
    for others in printed[1:]:
        assert "epoch" not in others
    return printed[0]


def cut(run: Path, other: Path) -> Path:
    """Copies a run without its checkpoints after step 3, which is in the second epoch."""
    shutil.copytree(run, other)
    for folder in (other / "checkpoints").iterdir():
        if int(folder.name) > 3:
            shutil.rmtree(folder)
    return other
