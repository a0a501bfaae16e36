"""SIGTERM and SIGINT as a request: finish the step, keep it, and go."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

EXIT_CODE = 75
"""Of a program that was asked to stop and can go on later: `EX_TEMPFAIL` of sysexits.h."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """As a context it catches the first signal; the second one ends the process at once.

    Outside of the main thread, where Python lets nobody catch signals, it is never requested.

    Args:
      agree: whether any process of the run wishes to stop.
    """

    def __init__(self, agree: Callable[[bool], bool]) -> None:
        self._agree = agree
        self.signal: str | None = None
        """Name of the signal that was caught."""
        self.requested = False
        """Whether the run is to stop, by the last `poll`."""

    def poll(self) -> bool:
        """Looks whether the run is to stop; to be called by all processes at the same places."""
        self.requested = self.requested or self._agree(self.signal is not None)
        return self.requested

    def __enter__(self) -> "Interruption":
        self._catches = threading.current_thread() is threading.main_thread()
        if self._catches:
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._catches:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
