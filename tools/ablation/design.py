"""What all runs of a folder must share, so that their numbers can be compared."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdistill.runtime.errors import ConfigError

NAME = "design.json"


def check(folder: Path, design: Mapping[str, Any]) -> None:
    """Compares with what earlier runs of the folder were made with.

    Args:
      folder: The folder of the runs.
      design: Plain values by name, such as options of the command.

    Raises:
      ConfigError: One of them differs (`design-differs`).
    """
    file = folder / NAME
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else design
    for name, value in design.items():
        if before.get(name) != value:
            raise ConfigError(
                f"{folder}: {name} was {before.get(name)!r} in earlier runs and is {value!r} "
                f"now, so the runs would not be comparable; choose another folder",
                code="design-differs",
            )


def write(folder: Path, design: Mapping[str, Any]) -> None:
    """Keeps it for later runs; the folder is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(json.dumps(design, indent=1), encoding="utf-8")
