"""Finished parts of a video: folders with the encoded frames and what the next frame depends on."""

import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdistill.data.video import frame_times
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError

log = logging.getLogger(__name__)

_STATE = "state.npz"
_DAMAGE = (EOFError, KeyError, ValueError, FileNotFoundError, zipfile.BadZipFile)
"""What NumPy raises for a state that is empty, cut off, or not there."""


def finish(unfinished: Path, count: int, state: Mapping[str, np.ndarray]) -> Path:
    """Gives a part its name, once all of it is on the disk.

    Args:
      unfinished: The folder of its files, with an ending that is taken away.
      count: Number of its frames.
      state: What the next frame depends on.

    Returns:
      The folder by its new name.
    """
    np.savez(unfinished / _STATE, allow_pickle=False, count=count, **state)
    for path in (*unfinished.iterdir(), unfinished):
        files.sync(path)
    finished = unfinished.rename(unfinished.with_suffix(""))
    files.sync(finished.parent)
    return finished


def read_state(part: Path) -> dict[str, np.ndarray]:
    """Returns what `finish` wrote: the state, and `count`.

    Args:
      part: The folder.
    """
    with np.load(part / _STATE) as state:
        return dict(state)


def readable_frames(part: Path, videos: Sequence[Path]) -> int:
    """Returns how many frames of a part can be read; there are fewer, with a warning, after damage.

    Args:
      part: The folder.
      videos: The files in it that hold all its frames.

    Raises:
      DataError, OSError: A file may be intact, but cannot be read at the moment.
    """
    try:
        count = int(read_state(part)["count"])
        found = min((len(frame_times(video)) for video in videos), default=count)
    except _DAMAGE:
        count, found = 1, 0
    except DataError as error:
        if error.code == "unreadable-file":
            raise
        count, found = 1, 0
    if found < count:
        log.warning("%s: this part is damaged; it is drawn again, and what follows", part)
    return found
