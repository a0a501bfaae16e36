"""The contents of a run folder, as the HTML report needs them."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jaxdistill.config import yaml_files
from jaxdistill.reporting.run_files import BEST_BY, METRICS, PROVENANCE, sample_paths
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import RunError
from jaxdistill.runtime.run_layout import CONFIG

Key = tuple[str, str]
"""Group and name of a number."""
Sections = Mapping[str, Mapping[str, Any]]

_LARGEST_FILE = 2**28  # bytes; a line of metrics has about a thousand
_LARGEST_NUMBER = 2**53  # floats represent every integer up to here
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


class Column(NamedTuple):
    """One number per epoch."""

    group: str
    """`train`, `validation`, `seconds`, ...; empty for a number outside of the groups."""
    name: str
    values: Sequence[float | None]
    """None where a line of `metrics.jsonl` lacks the number."""

    @property
    def key(self) -> Key:
        """Group and name."""
        return self.group, self.name

    @property
    def finite(self) -> list[float]:
        """The values that are finite."""
        return [value for value in self.values if value is not None and math.isfinite(value)]


class Run(NamedTuple):
    """The contents of a run folder."""

    name: str
    configuration: str
    """The text of `config.yaml`."""
    settings: Mapping[str, Any]
    """The parsed `config.yaml`, unchecked: another version may have written it."""
    epochs: Sequence[int]
    columns: Sequence[Column]
    """Each as long as `epochs`; group by group, in the order of their first appearance."""
    updated: datetime | None
    """When `metrics.jsonl` was last written."""
    provenance: Sections
    samples: Mapping[int, Path]
    """The sample grids by epoch, in order."""

    def column(self, group: str, name: str) -> Column | None:
        """Returns a column, or None where it does not exist."""
        return next((c for c in self.columns if c.key == (group, name)), None)

    def setting(self, path: str) -> Any:
        """Returns the value at a dotted path of the configuration, or None."""
        value: Any = self.settings
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return None if isinstance(value, int) and abs(value) > _LARGEST_NUMBER else value

    @property
    def score(self) -> Column | None:
        """The score by which epochs are compared: validation mIoU, or agreement without masks."""
        columns = (self.column("validation", name) for name in BEST_BY)
        return next((column for column in columns if column and column.finite), None)

    @property
    def best(self) -> int | None:
        """The epoch with the highest score, the last one of equals, whose checkpoint is kept."""
        column = self.score
        if column is None:
            return None
        best = max(column.finite)
        equals = [index for index, value in enumerate(column.values) if value == best]
        return self.epochs[equals[-1]]


def read(run: Path) -> Run:
    """Reads a run folder.

    Args:
      run: The run folder.

    Raises:
      RunError: The folder is not a run (`not-a-run`), or one of its files cannot be read
        (`unreadable-report-file`) or is damaged (`damaged-report-file`).
      ConfigError: `config.yaml` is not valid YAML.
    """
    if not (run / CONFIG).is_file():
        raise RunError(f"{run.absolute()} is not a run: it has no config.yaml", code="not-a-run")
    configuration = _text(run / CONFIG, yaml_files.LARGEST_FILE)
    settings = yaml_files.parse_yaml(configuration, str(run / CONFIG))
    metrics = run / METRICS
    lines = _metrics(metrics) if metrics.exists() else {}
    return Run(
        name=run.resolve().name,
        configuration=configuration,
        settings=settings if isinstance(settings, Mapping) else {},
        epochs=list(lines),
        columns=_columns(list(lines.values())),
        updated=_modified(metrics) if lines else None,
        provenance=_provenance(run / PROVENANCE),
        samples=sample_paths(run),
    )


def _text(path: Path, most: int) -> str:
    try:
        return files.read(path, most).decode()
    except OSError as error:
        raise RunError(
            f"{path.absolute()}: cannot read the file: {error.strerror}",
            code="unreadable-report-file",
        ) from None
    except UnicodeDecodeError:
        raise _damaged(f"{path.absolute()}: not a text file") from None


def _damaged(what: str) -> RunError:
    return RunError(f"{what}; correct or delete it", code="damaged-report-file")


def _modified(path: Path) -> datetime | None:
    """Returns None for a time outside of the calendar, as an archive may give it to a file."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def _metrics(path: Path) -> dict[int, dict[Key, float | None]]:
    lines = {}
    for number, line in enumerate(_text(path, _LARGEST_FILE).splitlines(), start=1):
        try:
            values = json.loads(line)
            epoch = int(values.pop("epoch"))
            if not 0 <= epoch <= _LARGEST_NUMBER:
                raise ValueError(epoch)
            lines[epoch] = _flat(values)
        except _UNREADABLE:
            raise _damaged(f"{path}: line {number}: expected a JSON object with `epoch`") from None
    return dict(sorted(lines.items()))


def _columns(lines: Sequence[Mapping[Key, float | None]]) -> list[Column]:
    keys = list(dict.fromkeys(key for line in lines for key in line))
    groups = [group for group, _ in keys]
    keys.sort(key=lambda key: groups.index(key[0]))  # a name that appears late joins its group
    return [Column(*key, [line.get(key) for line in lines]) for key in keys]


def _flat(line: Mapping[str, Any]) -> dict[Key, float | None]:
    alone = {name: value for name, value in line.items() if not isinstance(value, Mapping)}
    groups = {name: value for name, value in line.items() if isinstance(value, Mapping)}
    return {
        (group, name): float(value) if isinstance(value, int | float) else None
        for group, values in {**groups, "": alone}.items()
        for name, value in values.items()
    }


def _provenance(path: Path) -> Sections:
    if not path.exists():
        return {}
    try:
        sections = json.loads(_text(path, _LARGEST_FILE))
    except (ValueError, RecursionError) as error:
        raise _damaged(f"{path}: expected JSON, got {error}") from None
    if not isinstance(sections, dict) or not all(isinstance(v, dict) for v in sections.values()):
        raise _damaged(f"{path}: expected sections of names and values")
    return sections
