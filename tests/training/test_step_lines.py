"""Lines that say how far a run is, where its output is a file."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import toy_student
from rich.console import Console

import jaxdistill as jd
from jaxdistill.training.callbacks import StepLine

SIZE, EPOCHS, STEPS = 16, 2, 3


def trained(run: Path, console: Console) -> None:
    toy_student.register()
    draw = np.random.default_rng(0)
    batches = [
        {
            "images": draw.uniform(size=(2, SIZE, SIZE, 3)).astype(np.float32),
            "masks": draw.integers(0, 2, (2, SIZE, SIZE, 1)).astype(np.float32),
        }
        for _ in range(STEPS)
    ]
    jd.Trainer(
        jd.models.create("toy-decoder", encoder="toy-encoder"),
        batches,
        losses={"bce": jd.losses.BCE(weight=1.0)},
        run=run,
        console=console,
        epochs=EPOCHS,
    ).fit()


def steps(printed: io.StringIO) -> list[tuple[str, ...]]:
    return re.findall(r"epoch (\d)/2: step (\d) of 3, loss [0-9.]+\n", printed.getvalue())


@pytest.mark.parametrize(("seconds", "count"), [(0.0, EPOCHS * STEPS), (float("inf"), 1)])
def test_steps_are_printed_at_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, count: int
) -> None:
    monkeypatch.setattr(StepLine, "_SECONDS", seconds)
    printed = io.StringIO()
    trained(tmp_path / "run", Console(file=printed, width=1000))
    every = [(str(epoch), str(step)) for epoch in (1, 2) for step in (1, 2, 3)]
    assert steps(printed) == every[:count]


def test_a_terminal_has_a_bar_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepLine, "_SECONDS", 0.0)
    printed = io.StringIO()
    trained(tmp_path / "run", Console(file=printed, width=1000, force_terminal=True))
    assert printed.getvalue()
    assert not steps(printed)
