"""What an experiment tracker is: one class in one file, registered under its name."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from PIL import Image

from jaxdistill.runtime import files
from jaxdistill.runtime.registry import Registry

IDS = "trackers.json"
"""File in a run's folder: the identity of the run at each tracker."""


class Tracker(Protocol):
    """Receives the metrics of a run; its class is called with the run's folder and settings.

    It goes on with the same run where the folder was resumed (`known_id`).
    """

    package: ClassVar[str]
    """Python package that it needs; an extra of the same name installs it."""

    def epoch(self, number: int, values: Mapping[str, float], grid: Image.Image | None) -> None:
        """Receives an epoch.

        Args:
          number: The epoch, counted from 1.
          values: Metrics by path, such as `validation/student_miou`.
          grid: The sample grid, or None.
        """
        ...

    def close(self) -> None:
        """Ends the connection; the run may be resumed later."""
        ...


TRACKERS: Registry[Callable[[Path, Mapping[str, Any]], Tracker]] = Registry("tracker", "trackers")
"""Names to `Tracker` classes."""


def known_id(run: Path, name: str) -> str | None:
    """Returns the identity of a run at a tracker; None if it has none yet.

    Args:
      run: The run's folder.
      name: Name of the tracker.
    """
    path = run / IDS
    return json.loads(path.read_text(encoding="utf-8")).get(name) if path.exists() else None


def remember_id(run: Path, name: str, identity: str) -> None:
    """Keeps the identity of a run at a tracker, so that a resumed run goes on with it.

    Args:
      run: The run's folder.
      name: Name of the tracker.
      identity: What `known_id` is to return.
    """
    path = run / IDS
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    files.write_atomic(path, json.dumps({**known, name: identity}).encode())
