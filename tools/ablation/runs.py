"""Runs of a folder: trained to their end, and with the same settings, so that they compare."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdistill.commands import train as train_command
from jaxdistill.reporting import run_files
from jaxdistill.runtime.errors import ConfigError

DESIGN = "design.json"


def check(folder: Path, design: Mapping[str, Any]) -> None:
    """Compares with what earlier runs of the folder were made with.

    Args:
      folder: The folder of the runs.
      design: Plain values by name, such as options of the command.

    Raises:
      ConfigError: One of them differs (`design-differs`).
    """
    file = folder / DESIGN
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else design
    for name in sorted(before.keys() | design.keys()):
        old, new = (repr(each[name]) if name in each else "not set" for each in (before, design))
        if old != new:
            raise ConfigError(
                f"{folder}: {name} was {old} in earlier runs and is {new} now, so the runs would "
                f"not be comparable; choose another folder",
                code="design-differs",
            )


def write(folder: Path, design: Mapping[str, Any]) -> None:
    """Records the design in the folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESIGN).write_text(json.dumps(design, indent=1), encoding="utf-8")


def train(configuration: str, run: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Trains to the end, from where an earlier command stopped.

    Args:
      configuration: File or name of the configuration.
      run: The run's folder.
      settings: Overrides, without `run`.

    Returns:
      The validation's scores after the last epoch.

    Raises:
      SystemExit: The training failed or was stopped.
    """
    print(f"\n> {run}", flush=True)
    arguments = ["--config", configuration, "--resume", *settings, f"run={run}"]
    if code := train_command.main(arguments):
        sys.exit(code)
    lines = (run / run_files.METRICS).read_text(encoding="utf-8").splitlines()
    scores: dict[str, Any] = json.loads(lines[-1])["validation"]
    return scores
