"""What a run's folder holds, as the page needs it: columns of numbers, facts, sample sheets."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jaxdistill.config import yaml_files
from jaxdistill.reporting.run_files import sample_paths
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import UserError

Key = tuple[str, str]
"""Group and name of a number."""
Facts = Mapping[str, Mapping[str, Any]]
BEST_BY = ("student_miou", "agreement")  # the first that there is, as checkpoints choose theirs
_LARGEST_FILE = 2**28  # bytes: a line of metrics has a thousand
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
_LARGEST_NUMBER = 2**53  # up to which a float holds every integer


class Column(NamedTuple):
    """One number per epoch; None where a line of `metrics.jsonl` lacks it."""

    group: str
    """`train`, `validation`, `seconds`, ...; empty for a number beside the groups."""
    name: str
    values: Sequence[float | None]

    @property
    def key(self) -> Key:
        return self.group, self.name

    @property
    def finite(self) -> list[float]:
        return [value for value in self.values if value is not None and math.isfinite(value)]


class Run(NamedTuple):
    """The contents of a run's folder."""

    name: str
    configuration: str
    """YAML."""
    settings: Mapping[str, Any]
    """The same, read; not checked, for it may be another version's."""
    epochs: Sequence[int]
    columns: Sequence[Column]
    """Each as long as `epochs`; group by group, in the order of their first appearance."""
    updated: datetime | None
    facts: Facts
    samples: Mapping[int, Path]
    """The sheets by epoch, in order."""

    def column(self, group: str, name: str) -> Column | None:
        return next((c for c in self.columns if c.key == (group, name)), None)

    def setting(self, path: str) -> Any:
        """The value at a dotted path of the configuration; None where there is none that fits."""
        value: Any = self.settings
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return None if isinstance(value, int) and abs(value) > _LARGEST_NUMBER else value

    @property
    def score(self) -> Column | None:
        """What says how good an epoch is: validation mIoU; agreement where there are no masks."""
        columns = (self.column("validation", name) for name in BEST_BY)
        return next((column for column in columns if column and column.finite), None)

    @property
    def best(self) -> int | None:
        """The epoch of the highest score, the first of equals."""
        column = self.score
        if column is None:
            return None
        return self.epochs[column.values.index(max(column.finite))]


def read(run: Path) -> Run:
    """Reads a run's folder.

    Raises:
      UserError: it is not a run, or a file in it cannot be read.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run.absolute()} is not a run: it has no config.yaml")
    configuration = _text(run / "config.yaml", yaml_files.LARGEST_FILE)
    settings = yaml_files.parse_yaml(configuration, str(run / "config.yaml"))
    metrics = run / "metrics.jsonl"
    lines = _metrics(metrics) if metrics.exists() else {}
    return Run(
        name=run.resolve().name,
        configuration=configuration,
        settings=settings if isinstance(settings, Mapping) else {},
        epochs=list(lines),
        columns=_columns(list(lines.values())),
        updated=_modified(metrics) if lines else None,
        facts=_facts(run / "provenance.json"),
        samples=sample_paths(run),
    )


def _text(path: Path, most: int) -> str:
    try:
        return files.read(path, most).decode()
    except OSError as error:
        raise UserError(f"cannot read {path.absolute()}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path.absolute()} is not a text file; delete it") from None


def _modified(path: Path) -> datetime | None:
    """None for a time that no calendar has, as an archive may give it to a file."""
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
            raise UserError(
                f"{path}, line {number}: expected a JSON object with an epoch; remove that line"
            ) from None
    return dict(sorted(lines.items()))


def _columns(lines: Sequence[Mapping[Key, float | None]]) -> list[Column]:
    keys = list(dict.fromkeys(key for line in lines for key in line))
    groups = [group for group, _ in keys]
    keys.sort(key=lambda key: groups.index(key[0]))  # what came late stands with its group
    return [Column(*key, [line.get(key) for line in lines]) for key in keys]


def _flat(line: Mapping[str, Any]) -> dict[Key, float | None]:
    alone = {name: value for name, value in line.items() if not isinstance(value, Mapping)}
    groups = {name: value for name, value in line.items() if isinstance(value, Mapping)}
    return {
        (group, name): float(value) if isinstance(value, int | float) else None
        for group, values in {**groups, "": alone}.items()
        for name, value in values.items()
    }


def _facts(path: Path) -> Facts:
    if not path.exists():
        return {}
    try:
        facts = json.loads(_text(path, _LARGEST_FILE))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, got {error}; delete the file") from None
    if not isinstance(facts, dict) or not all(isinstance(v, dict) for v in facts.values()):
        raise UserError(f"{path}: expected sections of names and values; delete the file")
    return facts
