"""SIGTERM and SIGINT as a request: finish the step, keep it, and go."""

import signal
import threading
from types import FrameType, TracebackType

EXIT_CODE = 75
"""Of a program that was asked to stop and can go on later: `EX_TEMPFAIL` of sysexits.h."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """As a context it catches the first signal; the second one ends the process at once.

    Outside of the main thread, where Python lets nobody catch signals, it is never requested.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        """Name of the signal that was caught."""

    @property
    def requested(self) -> bool:
        return self.signal is not None

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
