"""What the training loop waits for."""

import pytest

from jaxdistill.training import waits
from jaxdistill.training.waits import Waits


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(waits.time, "perf_counter", lambda: now[0])
    return now


def test_a_wait_for_a_batch_is_shared_as_its_making_took(clock: list[float]) -> None:
    counted = Waits()
    with counted.for_input():
        clock[0] += 4
    with counted.for_step():
        clock[0] += 2
    assert counted.take({"data": 10, "teacher": 30}) == {"data": 1, "teacher": 3, "step": 2}
    # The next epoch: the teacher took no further time.
    with counted.for_input():
        clock[0] += 5
    assert counted.take({"data": 11, "teacher": 30}) == {"data": 5, "teacher": 0, "step": 0}


def test_an_epoch_without_steps_has_no_waits(clock: list[float]) -> None:
    assert Waits().take({"data": 0.0, "teacher": 0.0}) == {"data": 0, "teacher": 0, "step": 0}
