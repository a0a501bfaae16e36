"""Training as a process of its own, started, stopped, resumed, and compared with one left alone."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run

from jaxdistill import config
from jaxdistill.checkpoint import manager
from jaxdistill.reporting import writer
from jaxdistill.runtime import signals
from jaxdistill.training import Trainer

EPOCHS = 24


class Runs:
    """Runs of one configuration, each in its own folder."""

    def __init__(self, place: Path, *settings: str) -> None:
        self.place, self.settings = place, settings
        self.undisturbed = place / f"undisturbed-{len(list(place.glob('undisturbed-*')))}"
        assert self.start(self.undisturbed).wait() == 0

    def start(self, run: Path, *more: str) -> Any:
        """A training process."""
        return subprocess.Popen(
            self.command(run, *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def command(self, run: Path, *more: str) -> list[str]:
        return [sys.executable, "-m", "jaxdistill.train", *self.arguments(run), *more]

    def arguments(self, run: Path) -> list[str]:
        return [
            *("--config", str(tiny_run.SPECIFIED)),
            *tiny_run.overrides(self.place),
            "student.encoder=tf_efficientnet_lite0",
            f"training.epochs={EPOCHS}",
            "checkpoints.every_steps=1",
            *self.settings,
            f"run={run}",
        ]

    def finish(self, run: Path, *more: str) -> str:
        """Resumes to the end; what was printed."""
        process = self.start(run, "--resume", *more)
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        return printed

    def halfway(self, run: Path) -> None:
        """Trains until it is stopped in the middle, by SIGTERM."""
        process = self.start(run)
        wait_for_epoch(run, EPOCHS // 3)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == signals.EXIT_CODE, printed
        assert len(metrics(run)) < EPOCHS

    def assert_equals_undisturbed(self, run: Path) -> None:
        assert numbers(run) == numbers(self.undisturbed)
        one, two = arrays(run), arrays(self.undisturbed)
        assert one.keys() == two.keys()
        for name, array in one.items():
            assert array.tobytes() == two[name].tobytes(), name


def end_on_a_full_disk(
    disk: Path, size: int, kept: Path, script: str, command: Sequence[str]
) -> None:
    """A run in the folder `run` of a disk of so many bytes, which it fills and which ends it with a
    line; the folder is then at `kept`. `script` starts the command, which is its `$@`."""
    disk.mkdir()
    around = (
        f"mount -t tmpfs -o size={size} tmpfs {disk} || exit 99\n"
        f"{script}; code=$?\n"
        f"wait; cp -r {disk}/run {kept}; exit $code"
    )
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", around, "sh", *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode in (1, 99):
        pytest.skip("this system lets nobody mount a small disk")
    assert done.returncode == 2, done.stderr
    assert "no space left" in done.stderr.lower()
    assert "Traceback" not in done.stderr


def wait_for_epoch(run: Path, epoch: int) -> None:
    deadline = time.monotonic() + 120
    while len(read(run / writer.METRICS)) < epoch:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.01)


def wait_for_line(process: Any, *words: str) -> None:
    for line in process.stdout:
        if any(word in line for word in words):
            return


def read(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read(run / writer.METRICS)]


def numbers(run: Path) -> list[tuple[int, dict[str, float], dict[str, float]]]:
    return [(line["epoch"], line["train"], line["validation"]) for line in metrics(run)]


def arrays(run: Path) -> dict[str, np.ndarray]:
    """All arrays of the newest checkpoint."""
    settings = config.load(run / "config.yaml")
    trainer = Trainer.from_config(settings)
    trainer.setup()
    found = manager.restore_latest(run, trainer.state_in_phase)
    assert found is not None
    assert not found.damaged
    state = found.state._asdict()
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
