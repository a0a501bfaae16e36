"""Damages small files and lets the program read them: `python tests/fuzz.py --examples 1000`.

Prints a row for each reader of `hostile.READERS`. A reader that raises anything but its own clean
error, takes too long or too much memory, or ends the process, is a bug: what it read is kept.
"""

import argparse
import faulthandler
import json
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from hostile import Files
from hostile_networks import READERS
from hypothesis import HealthCheck, given, seed, settings

from jaxdistill.data import decode

LIMIT = 2**32
"""Bytes of memory that reading small files may ask for, before the system refuses."""
MOST = 22 * decode.MAX_PIXELS
"""And that it may really fill: what decoding the largest picture does."""
PATIENCE = 30
"""Seconds for one example."""


class Row(NamedTuple):
    """What came of one reader's examples."""

    title: str
    tried: int
    accepted: int
    refused: int
    seconds: float
    slowest: float
    megabytes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=300, help="of the cheapest readers")
    parser.add_argument("--only", nargs="*", choices=sorted(READERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path("build/fuzz"), help="of what did harm")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each reader")
    given_ = parser.parse_args()
    faulthandler.enable()
    faulthandler.register(signal.SIGALRM, chain=True)  # tells where, and ends the process
    warnings.simplefilter("ignore")
    if not given_.json:
        print("| reads | tried | accepted | refused | seconds | slowest | memory |")
        print("|---|---|---|---|---|---|---|")
    for name in given_.only or READERS:
        row = fuzz(name, given_.examples, given_.seed, given_.kept)
        print(
            json.dumps({"name": name, **row._asdict()}) if given_.json else _line(row), flush=True
        )


def fuzz(name: str, dataset: int, number: int, kept: Path) -> Row:
    """Tries a reader's share of the examples.

    Raises:
      Exception: whatever the reader raised that it should not.
    """
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, (kept / name).open("wb") as evidence:
        place = Path(folder)
        reader = READERS[name](place)
        _limit_memory()
        outcomes: Counter[str] = Counter()
        before, began, slowest = _reset_peak(), time.perf_counter(), 0.0
        sound: Files = {}

        @seed(number)
        @settings(
            max_examples=max(1, dataset // reader.cost),
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(reader.hostile)
        def attempt(files: Files) -> None:
            nonlocal slowest
            _replace(place, files, sound)
            evidence.seek(0)
            evidence.write(repr(files).encode())
            evidence.truncate()
            evidence.flush()
            signal.alarm(PATIENCE)
            started = time.perf_counter()
            try:
                reader.read(place)
                outcomes["accepted"] += 1
            except reader.refuses as refusal:
                assert str(refusal).isprintable(), f"not one line: {refusal!r}"
                outcomes["refused"] += 1
            finally:
                signal.alarm(0)
                slowest = max(slowest, time.perf_counter() - started)

        attempt()
        filled = _peak() - before
        assert filled < MOST, f"{name}: reading took {filled / 2**20:.0f} MB"
        seconds = time.perf_counter() - began
    (kept / name).unlink()
    return Row(
        reader.title,
        outcomes.total(),
        outcomes["accepted"],
        outcomes["refused"],
        round(seconds, 2),
        round(slowest, 3),
        round(filled / 2**20),
    )


def _replace(place: Path, files: Files, sound: Files) -> None:
    """Writes the files, and those that the example before had damaged as they were."""
    for name in sound.keys() - files.keys():
        (place / name).write_bytes(sound.pop(name))
    for name, content in files.items():
        path = place / name
        if name not in sound:
            sound[name] = path.read_bytes() if path.exists() else b""
        path.write_bytes(content)


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT, hard))


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def _line(row: Row) -> str:
    return (
        f"| {row.title} | {row.tried:,} | {row.accepted:,} | {row.refused:,} | "
        f"{row.seconds:.0f} | {row.slowest:.2f} s | {row.megabytes:.0f} MB |"
    )


if __name__ == "__main__":
    sys.exit(main())
