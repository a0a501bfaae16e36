"""What a run's folder holds, as the page needs it: columns of numbers, facts, sample sheets."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jaxdistill.config_tree import parse_yaml
from jaxdistill.errors import UserError

Key = tuple[str, str]
"""Group and name of a number."""
Facts = Mapping[str, Mapping[str, Any]]
BEST_BY = ("student_miou", "agreement")  # the first that there is, as checkpoints choose theirs


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
        """The value at a dotted path of the configuration; None where there is none."""
        value: Any = self.settings
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

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
    configuration = (run / "config.yaml").read_text(encoding="utf-8")
    settings = parse_yaml(configuration, str(run / "config.yaml"))
    metrics = run / "metrics.jsonl"
    lines = _metrics(metrics) if metrics.exists() else {}
    return Run(
        name=run.resolve().name,
        configuration=configuration,
        settings=settings if isinstance(settings, Mapping) else {},
        epochs=list(lines),
        columns=_columns(list(lines.values())),
        updated=datetime.fromtimestamp(metrics.stat().st_mtime).astimezone() if lines else None,
        facts=_facts(run / "facts.json"),
        samples=_samples(run / "samples"),
    )


def _metrics(path: Path) -> dict[int, dict[str, Any]]:
    lines = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = json.loads(line)
            lines[int(values.pop("epoch"))] = values
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(
                f"{path}, line {number}: expected a JSON object with an epoch; remove that line"
            ) from None
    return dict(sorted(lines.items()))


def _columns(lines: Sequence[Mapping[str, Any]]) -> list[Column]:
    flat = [_flat(line) for line in lines]
    keys = list(dict.fromkeys(key for line in flat for key in line))
    groups = [group for group, _ in keys]
    keys.sort(key=lambda key: groups.index(key[0]))  # what came late stands with its group
    return [Column(*key, [line.get(key) for line in flat]) for key in keys]


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
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, got {error}; delete the file") from None
    if not isinstance(facts, dict) or not all(isinstance(v, dict) for v in facts.values()):
        raise UserError(f"{path}: expected sections of names and values; delete the file")
    return facts


def _samples(folder: Path) -> dict[int, Path]:
    numbered = [(path.stem.removeprefix("epoch_"), path) for path in folder.glob("epoch_*.png")]
    return dict(sorted((int(number), path) for number, path in numbered if number.isdecimal()))
