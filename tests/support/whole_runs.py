"""Training runs that are started, stopped, resumed, and compared with one that was left alone.

A run that is to be killed or to receive signals is a process of its own. It is resumed, and
refused, within the test's process, which has JAX imported already.
"""

import contextlib
import io
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_run

from jaxdistill.commands import train
from jaxdistill.reporting import writer
from jaxdistill.runtime import signals
from jaxdistill.runtime.errors import UserError

EPOCHS = 24
PATIENCE = 900  # seconds; guards against a hang on a machine that may be very busy


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
        printed = io.StringIO()
        warnings = logging.StreamHandler(printed)
        logging.getLogger("jaxdistill").addHandler(warnings)
        try:
            with contextlib.redirect_stdout(printed):
                assert train.main([*self.arguments(run), "--resume", *more]) is None
        finally:
            logging.getLogger("jaxdistill").removeHandler(warnings)
        return printed.getvalue()

    def refused(self, run: Path, *more: str) -> UserError:
        """The error that resuming ends with, at once."""
        with pytest.raises(UserError) as error:
            train.main([*self.arguments(run), "--resume", *more])
        return error.value

    def halfway(self, run: Path) -> None:
        """Trains until it is stopped in the middle, by SIGTERM."""
        process = self.start(run)
        wait_for_epoch(run, EPOCHS // 3)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=PATIENCE)
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
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode in (1, 99):
        pytest.skip("this system lets nobody mount a small disk")
    assert done.returncode == 2, done.stderr
    assert "no space left" in done.stderr.lower()
    assert "Traceback" not in done.stderr


def wait_for_epoch(run: Path, epoch: int) -> None:
    deadline = time.monotonic() + PATIENCE
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
    newest = max((run / "checkpoints").glob("[0-9]*[0-9]"), key=lambda path: int(path.name))
    state = ocp.PyTreeCheckpointer().restore((newest / "state").absolute())
    return {
        f"{part}.{name}": np.asarray(a) for part, all in state.items() for name, a in all.items()
    }
