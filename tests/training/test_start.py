"""What the start of a run compiles: on a GPU each program costs a tenth of a second or more."""

from pathlib import Path

import jax
import pytest
import tiny_run

from jaxdistill.training.trainer import Trainer


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list that grows by one for each program that is compiled, or read from a cache."""
    programs: list[str] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            programs.append(event)

    jax.clear_caches()  # other tests of this process may have compiled the same
    jax.monitoring.register_event_duration_secs_listener(listen)
    return programs


def test_a_run_starts_with_few_programs(tmp_path: Path, compiled: list[str]) -> None:
    """Weights are drawn by NumPy and put on the device; the optimizer's state is one program."""
    trainer = Trainer.from_config(tiny_run.make(tmp_path), tiny_run.QUIET)
    trainer.callbacks = []
    trainer.setup()
    assert 0 < len(compiled) < 5
    # Key and augmentation; input and output of two networks.
    batches = trainer.train_batches(0)
    next(batches)
    assert len(compiled) < 13
    before = len(compiled)
    next(batches)
    assert len(compiled) == before
    batches.close()
