"""TensorBoard event files, written in the calling thread.

`tensorboardX.SummaryWriter` writes in a thread of its own. When that thread fails, for example on a
full disk, its queue fills up and the training process waits forever. `EventWriter` uses the same
library without the thread, so that an error is raised where it can be handled.
"""

import os
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2


class EventWriter:
    """Writes scalars and images into a TensorBoard folder.

    Args:
      folder: The folder; it is created.
      purge_step: TensorBoard drops earlier points at or after this step, so that an epoch which a
        resumed run repeats shows once.

    Raises:
      OSError: The folder or file cannot be written. Every method may raise it.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._events = event_file_writer.EventsWriter(str(folder / "events"), f".{os.getpid()}")
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(purge_step, session_log=session)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Adds one point of a curve."""
        self._write(step, summary=summary.scalar(name, value))

    def add_image(self, name: str, image: Image.Image, step: int) -> None:
        """Adds an RGB image."""
        self._write(step, summary=summary.image(name, np.asarray(image), dataformats="HWC"))

    def flush(self) -> None:
        """Writes buffered events to the file."""
        self._events.flush()

    def close(self) -> None:
        """Writes buffered events and closes the file."""
        self._events.close()

    def _write(self, step: int, **content: object) -> None:
        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=step, **content))
