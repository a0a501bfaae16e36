"""Lists prepared data sets and target caches: `jaxdistill storage [FOLDER ...]`.

Each is named by what it depends on, so that other images, another teacher or another version leave
the former ones behind. `--unused-for DAYS --remove` removes those that no run has opened since.
Without FOLDER and `--config`, the default folder of prepared data sets is listed.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxdistill import config
from jaxdistill.commands import common
from jaxdistill.runtime import storage
from jaxdistill.runtime.errors import ConfigError, OutputError
from jaxdistill.runtime.paths import expanded
from jaxdistill.runtime.storage import Stored
from jaxdistill.runtime.text import printable

_DAY = 24 * 60 * 60
_LONGEST = 80  # characters of a description


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, lists, and removes.

    Args:
      arguments: The arguments; None takes those of the process.
    """
    parser = common.CommandParser("storage", __doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--config", metavar="FILE", help="its data.prepared and targets.cache are listed"
    )
    parser.add_argument(
        "--unused-for", type=_days, metavar="DAYS", help="list what was not opened for so long"
    )
    parser.add_argument("--remove", action="store_true", help="remove what is listed")
    args = parser.parse_args(arguments)
    if args.remove and args.unused_for is None:
        raise ConfigError(
            "storage: --remove removes what no run has opened for some time; say for how long with "
            "--unused-for DAYS",
            code="command-line",
        )
    roots = [expanded(folder) for folder in args.folders] + list(_roots_of(args.config))
    roots = roots or [config.Data().prepared]
    now, console = time.time(), common.console()
    found = [
        stored
        for stored in storage.find(roots)
        if args.unused_for is None or now - stored.used > args.unused_for * _DAY
    ]
    for stored in found:
        if args.remove:
            _remove(stored)
        console.print(_line(stored, now, removed=args.remove))
    total = storage.describe_size(sum(stored.size for stored in found))
    where = ", ".join(map(str, roots))
    console.print(f"{len(found)} folders, {total}{' removed' if args.remove else ''} in {where}")


def _days(text: str) -> float:
    with contextlib.suppress(ValueError):
        if (days := float(text)) >= 0:
            return days
    raise argparse.ArgumentTypeError(f"expected a number of days from 0 on, got {text!r}")


def _roots_of(path: str | None) -> Iterator[Path]:
    if path is not None:
        settings = config.load(Path(path))
        yield settings.data.prepared
        if settings.targets.cache is not None:
            yield settings.targets.cache


def _remove(stored: Stored) -> None:
    try:
        storage.remove(stored)
    except OSError as error:
        raise OutputError(
            f"{error.filename or stored.path}: cannot be removed: {error.strerror}",
            code="output-unwritable",
        ) from None


def _line(stored: Stored, now: float, *, removed: bool) -> str:
    text = json.dumps(stored.about.get("images") or stored.about)
    about = printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ...")
    return (
        f"{'removed ' if removed else ''}{stored.path}: {stored.kind}, "
        f"{storage.describe_size(stored.size)}, opened {(now - stored.used) / _DAY:.1f} days ago"
        f"{'' if about == '{}' else f', of {about}'}"
    )
