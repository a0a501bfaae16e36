"""Runs of a folder: trained to their end, and with the same settings, so that they compare."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdistill import config
from jaxdistill.checkpoint.integrity import fingerprint
from jaxdistill.commands import train as train_command
from jaxdistill.config.flat import flat
from jaxdistill.models import weights as weights_lib
from jaxdistill.reporting import run_files
from jaxdistill.runtime.errors import ConfigError, RunError, first_line
from jaxdistill.runtime.files import write_atomic

DESIGN = "design.json"


def check(folder: Path, design: Mapping[str, Any]) -> None:
    """Compares with what earlier runs of the folder were made with.

    Args:
      folder: The folder of the runs.
      design: Plain values by name, such as options of the command.

    Raises:
      ConfigError: One of them differs (`design-differs`).
    """
    if (folder / DESIGN).exists():
        before = read(folder / DESIGN)
        compare(folder, before, design, before.keys() | design.keys())


def compare(
    place: Path, before: Mapping[str, Any], design: Mapping[str, Any], names: Iterable[str]
) -> None:
    """Compares some values of two designs.

    Args:
      place: The folder or file of the earlier runs, for the message.
      before: The design of these.
      design: The design of those that are to be made.
      names: The names of the values.

    Raises:
      ConfigError: One of them differs (`design-differs`).
    """
    for name in sorted(names):
        old, new = (repr(each[name]) if name in each else "not set" for each in (before, design))
        if old != new:
            raise ConfigError(
                f"{place}: {name} was {old} in earlier runs and is {new} now, so the runs would "
                f"not be comparable; choose another folder",
                code="design-differs",
            )


def write(folder: Path, design: Mapping[str, Any]) -> None:
    """Records the design in the folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / DESIGN, design)


def effective(settings: config.Config) -> dict[str, Any]:
    """Returns the part of a design that a configuration makes: its values, by dotted key.

    Paths that do not change what is computed are left out; weights count by their content.

    Args:
      settings: The configuration that the runs share.

    Raises:
      WeightsError: The student's weights cannot be read; see `models.weights.load`.
    """
    weights = settings.student.weights or settings.student.encoder_weights
    student = {"weights", "encoder_weights"}
    own = {
        "run": True,
        "seed": True,
        "data": {"prepared"},
        "student": student,
        "training": {"interpolate"},
    }
    return {
        **dict(flat(settings.model_dump(mode="json", exclude=own))),
        "student.weights": weights and fingerprint(weights_lib.load(weights)[0]),
    }


def read(file: Path) -> dict[str, Any]:
    """Returns the object in a JSON file of these tools.

    Args:
      file: The file.

    Raises:
      RunError: It cannot be read, or holds something else (`unreadable-result`).
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
    else:
        if isinstance(found, dict):
            return found
        reason = "not a JSON object"
    raise RunError(
        f"{file}: cannot be read: {reason}; restore it or move it away", code="unreadable-result"
    )


def save(file: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file completely or not at all."""
    write_atomic(file, json.dumps(value, indent=1))


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
