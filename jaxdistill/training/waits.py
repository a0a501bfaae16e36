"""What the training loop waits for: data, the teacher, or the step itself."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

from jaxdistill.runtime import memory


class Waits:
    """Adds up the seconds of an epoch that the loop waits for its next batch and for a step.

    Batches are made ahead in another thread on an accelerator, so that making them takes no time of
    the loop as long as they are there. What the loop does wait for them is shared between data and
    teacher as the time that making them took.
    """

    def __init__(self) -> None:
        self._input = self._step = 0.0
        self._made: Mapping[str, float] = {}

    @contextmanager
    def for_input(self) -> Iterator[None]:
        """Counts the time of the block as a wait for a batch."""
        start = time.perf_counter()
        yield
        self._input += time.perf_counter() - start

    @contextmanager
    def for_step(self) -> Iterator[None]:
        """Counts the time of the block as a wait for a step."""
        start = time.perf_counter()
        yield
        self._step += time.perf_counter() - start

    def take(self, made: Mapping[str, float]) -> dict[str, float]:
        """Returns the waits since the last call, in seconds.

        Args:
          made: Seconds so far that making batches took, in `data` and `teacher`.

        Returns:
          Seconds under `data`, `teacher` and `step`.
        """
        now = dict(made)
        spent = {name: now[name] - self._made.get(name, 0.0) for name in now}
        whole = sum(spent.values()) or 1.0
        waits = {name: self._input * each / whole for name, each in spent.items()}
        waits["step"] = self._step
        self._input, self._step, self._made = 0.0, 0.0, now
        return waits


def finish_step_on_cpu(scalars: Mapping[str, Any]) -> None:
    """Waits for the end of a step on a CPU, and keeps the memory that it frees for the next one.

    On a CPU the next batch is made after the step instead of during it, so that teacher and step do
    not share its cores. On an accelerator nothing is done.

    Args:
      scalars: What the step returned beside the state.
    """
    if jax.default_backend() == "cpu":
        jax.block_until_ready(scalars)
        memory.keep_freed()
