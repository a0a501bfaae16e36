"""What all runs of a folder must share, so that their numbers can be compared."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdistill.runtime.errors import ConfigError

FILE_NAME = "design.json"


def check(folder: Path, design: Mapping[str, Any]) -> None:
    """Compares with what earlier runs of the folder were made with.

    Args:
      folder: The folder of the runs.
      design: Plain values by name, such as options of the command.

    Raises:
      ConfigError: One of them differs (`design-differs`).
    """
    file = folder / FILE_NAME
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
    (folder / FILE_NAME).write_text(json.dumps(design, indent=1), encoding="utf-8")
