"""Experiment trackers of a run: services and packages that its metrics are also sent to.

Whatever a tracker raises ends no run, and is logged once for each class of error.
"""

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

# Registers the trackers that ship.
from jaxdistill.reporting.trackers import mlflow as mlflow
from jaxdistill.reporting.trackers import wandb as wandb
from jaxdistill.reporting.trackers.base import TRACKERS, Tracker
from jaxdistill.runtime.errors import ConfigError, first_line
from jaxdistill.runtime.warn_once import WarnOnce

log = logging.getLogger(__name__)


def check(names: Sequence[str]) -> None:
    """Checks that trackers are known and installed.

    Args:
      names: Their names.

    Raises:
      ConfigError: One is not known (`unknown-tracker`) or not installed (`tracker-not-installed`).
    """
    for name in names:
        package = getattr(TRACKERS[name], "package", None)
        if package is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"trackers: {name} needs the package {package}; install it with "
                f"`pip install 'jaxdistill[{name}]'`, or leave it out",
                code="tracker-not-installed",
            )


class Trackers:
    """The trackers of a run.

    Args:
      names: Their names.
      run: The run's folder.
      settings: The run's configuration, as plain values.
    """

    def __init__(self, names: Sequence[str], run: Path, settings: Mapping[str, Any]) -> None:
        self._warn = WarnOnce(log)
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            self._attempt(name, partial(self._start, name, run, settings))

    def epoch(self, number: int, values: Mapping[str, float], grid: Image.Image | None) -> None:
        """Sends an epoch to every tracker; see `Tracker.epoch`."""
        for name, tracker in self._trackers.items():
            self._attempt(name, partial(tracker.epoch, number, values, grid))

    def close(self) -> None:
        """Closes every tracker."""
        for name, tracker in self._trackers.items():
            self._attempt(name, tracker.close)

    def _start(self, name: str, run: Path, settings: Mapping[str, Any]) -> None:
        self._trackers[name] = TRACKERS[name](run, settings)

    def _attempt(self, name: str, function: Callable[[], object]) -> None:
        try:
            function()
        except Exception as error:  # whatever a package of somebody else raises
            message = f"{name} failed, training goes on: {first_line(error)}"
            self._warn((name, type(error)), message)
