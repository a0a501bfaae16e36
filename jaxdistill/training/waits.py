"""What the training loop waits for: data, the teacher, or the step itself."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


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
