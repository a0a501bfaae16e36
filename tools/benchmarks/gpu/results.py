"""Results of the check: one JSON object per line, written as soon as it is known."""

import json
import os
import traceback
from pathlib import Path
from typing import Any

VARIABLE = "JAXDISTILL_GPU_RESULTS"
"""Environment variable with the path of the file; without it results are only printed."""
PLAIN_OPS = "JAXDISTILL_PLAIN_OPS"
"""That of `jaxdistill.ops.forms`, which check.py may be unable to import: its kit brings JAX."""
RUN = "JAXDISTILL_GPU_RUN"
"""Environment variable with the id of the run of check.py, which is recorded with every result."""


def record(kind: str, **values: Any) -> None:
    """Prints a result, and appends it to the file that `VARIABLE` names.

    Args:
      kind: What was measured, such as `step`.
      **values: Plain values.
    """
    print(json.dumps({"kind": kind, **values}), flush=True)
    append_here(kind, **values)


def record_error(kind: str, error: Exception, **values: Any) -> None:
    """Records that something could not be measured; the others are still to be.

    Args:
      kind: What was to be measured.
      error: Why it was not.
      **values: Which one it was.
    """
    traceback.print_exception(error)
    text = f"{type(error).__name__}: {error}"
    # The end of a long one is that of another program's log.
    record(kind, **values, error=text if len(text) < 500 else f"{text[:200]} ... {text[-280:]}")


def append_here(kind: str, **values: Any) -> None:
    """Appends a result to the file that `VARIABLE` names, if it does."""
    if path := os.environ.get(VARIABLE):
        append(
            Path(path), kind, **values, **({"run": os.environ[RUN]} if RUN in os.environ else {})
        )


def settings() -> dict[str, str]:
    """Returns what the environment changes about our programs, to be recorded with their times."""
    return {"flags": os.environ.get("XLA_FLAGS", ""), "plain_ops": os.environ.get(PLAIN_OPS, "")}


def append(path: Path, kind: str, **values: Any) -> None:
    """Appends a result to a file; see `record`."""
    with path.open("a") as file:
        file.write(json.dumps({"kind": kind, **values}) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the results in a file; a line that was cut off is left out."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found
