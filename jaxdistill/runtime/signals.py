"""SIGTERM and SIGINT as a request to stop: finish the step, save a checkpoint, and exit."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

EXIT_CODE = 75
"""Exit code of a run that was stopped and can be resumed (`EX_TEMPFAIL` of sysexits.h)."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Catches the first SIGTERM or SIGINT inside a `with` block; a second one ends the process.

    Outside of the main thread, where Python cannot catch signals, nothing is caught.

    Args:
      any_process: Returns whether any process of the run has set the flag that it is called with,
        such as `AnyProcess(mesh).any`.
    """

    def __init__(self, any_process: Callable[[bool], bool]) -> None:
        self._any_process = any_process
        self.signal: str | None = None
        """Name of the signal that this process caught, such as `SIGTERM`."""
        self.requested = False
        """Whether the last `poll` found that the run has to stop."""

    def poll(self) -> bool:
        """Returns whether the run has to stop; all processes must call it equally often."""
        self.requested = self.requested or self._any_process(self.signal is not None)
        return self.requested

    def __enter__(self) -> "Interruption":
        """Installs the signal handlers."""
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._catch) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restores the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
