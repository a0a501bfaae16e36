#!/usr/bin/env python3
"""Makes the tables of the documents again, by the commands that the documents give.

    python tools/reproduce.py                                     # lists tables, commands, state
    python tools/reproduce.py distillation longer --data FOLDER   # makes two
    python tools/reproduce.py all --data FOLDER

FOLDER stands for the documents' PATH/TO/COCO and PATH/TO/IMAGES; U²-Net-p, the encoder's weights
and MediaPipe's are in ext_extractor, as the README and docs/tutorials/mediapipe.md say.

A table is one section of a document; its shell blocks are run in their order, from the top of the
repository. What was interrupted goes on where it stopped: a table that is done by the same commands
is left out, and the commands themselves go on (`jaxdistill train --resume`, `ablate.py`). For each
table, runs/tables/NAME holds what its commands printed, and `made.json`, with an entry for every
time they were started: commands, start, commit, machine, seconds, and whether they came to their
end. The spread over seeds is a column of the tables.
"""

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdistill.runtime.errors import command
from jaxdistill.runtime.files import write_atomic

ROOT = Path(__file__).parents[1]
STATE = ROOT / "runs" / "tables"
MADE = "made.json"


class Table(NamedTuple):
    """Where the commands of a table stand, and what they need besides the repository."""

    document: str
    heading: str
    needs: str = ""


_NEAREST = "the page's table is of data.mask_resize=nearest, its commands measure on aligned masks"

TABLES = {
    "distillation": Table(
        "distillation.md", "What distillation brings", f"data; hours; {_NEAREST}"
    ),
    "masks": Table("distillation.md", "What the masks of the tables are worth", "data; hours"),
    "longer": Table("distillation.md", "Longer, and with crops", f"data; hours; {_NEAREST}"),
    "training": Table("distillation.md", "EMA, copy-paste and several sizes", "data; hours"),
    "teachers": Table("distillation.md", "Two teachers", "data; an hour; MediaPipe's weights"),
    "recommended": Table(
        "distillation.md", "The recommended configuration", f"data; an hour; {_NEAREST}"
    ),
    "runtimes": Table("performance.md", "The same masks in six runtimes", "data; the runtimes"),
    "input": Table("performance.md", "Data", "data"),
    "videos": Table("performance.md", "Videos", "data; a quarter of an hour"),
    "comparison": Table("comparison.md", "On ordinary images", "data"),
    "students": Table(
        "comparison.md", "Which to take", "data; hours; one of the page's three seeds"
    ),
    "cameras": Table("comparison.md", "A camera of your own", "data; hours"),
    "turned": Table("comparison.md", "A camera on its side", "data; hours; after cameras"),
    "infrared": Table("comparison.md", "An infrared camera", "data; hours; after cameras"),
    "communication": Table("scale.md", "What devices tell each other"),
    "gpu-program": Table("gpu.md", "The GPU's program, checked without a GPU"),
    "injection": Table("reliability.md", "An unreliable file system", "an hour"),
}


def commands(table: Table) -> str:
    """Returns the shell blocks of a section, without those of its subsections."""
    text = (ROOT / "docs" / table.document).read_text()
    [section] = re.findall(rf"^#+ {re.escape(table.heading)}\n(.*?)(?=^#+ |\Z)", text, re.M | re.S)
    return "".join(re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S))


def script(table: Table, data: str | None) -> str:
    """Returns the commands with the reader's own files, which go on where they stopped."""
    text = commands(table)
    if data:
        for name in ("PATH/TO/COCO", "PATH/TO/IMAGES"):
            text = text.replace(name, shlex.quote(str(Path(data).absolute())))
    return re.sub(r"^(jaxdistill train) ", r"\1 --resume ", text, flags=re.M)


def make(name: str, data: str | None) -> bool:
    """Runs the commands of a table, and says whether all succeeded."""
    folder = STATE / name
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"commands": script(TABLES[name], data), "start": time.strftime("%Y-%m-%d %H:%M:%S")}
    entry |= about() | {"seconds": None, "done": False}
    entries = [*made(name), entry]
    # Beside this Python are jaxdistill and python, whether or not the environment is active.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    started = time.monotonic()
    try:
        with (folder / "output.txt").open("a") as output:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", entry["commands"]],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        entry["done"] = done.returncode == 0
    finally:
        entry["seconds"] = round(time.monotonic() - started)
        write_atomic(folder / MADE, json.dumps(entries, indent=2) + "\n")
    return entry["done"]


def made(name: str) -> list[dict[str, Any]]:
    """Returns the entries of a table: one for every time that its commands were started."""
    try:
        found = json.loads((STATE / name / MADE).read_text())
    except FileNotFoundError:
        return []
    return found if isinstance(found, list) else []  # a version before held the last one alone


def about() -> dict[str, str | int | None]:
    """Returns the commit and the machine."""
    git = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    return {
        "commit": found.stdout.strip() or "unknown",
        "machine": f"{platform.platform()}, {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def state(name: str) -> str:
    """Returns what is known of a table's last run."""
    if not (STATE / name).exists():
        return "not made"
    entries = made(name)
    if not entries or not entries[-1]["done"]:
        return "begun"
    last = entries[-1]
    same = [each for each in entries if each["commands"] == last["commands"]]
    seconds = sum(each["seconds"] for each in same)
    return f"made {last['start']} at {last['commit']} in {seconds} s, begun {len(same)} times"


def main(arguments: Sequence[str] | None = None) -> int:
    """Lists the tables, or makes some."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="names, or all")
    parser.add_argument("--data", metavar="FOLDER", help="stands for PATH/TO/COCO")
    args = parser.parse_args(arguments)
    if unknown := set(args.tables) - {*TABLES, "all"}:
        parser.error(f"unknown table {unknown.pop()!r}; available: {', '.join(TABLES)}")
    if not args.tables:
        for name, table in TABLES.items():
            print(f"{name}: docs/{table.document}, {table.heading!r}; {state(name)}")
            print(f"  needs {table.needs or 'nothing'}")
            print(re.sub(r"^", "    ", commands(table).rstrip(), flags=re.M))
        return 0
    names = list(TABLES) if "all" in args.tables else args.tables
    if not args.data and any("data" in TABLES[name].needs for name in names):
        parser.error("expected --data FOLDER")
    for name in names:
        text = script(TABLES[name], args.data)
        if any(each["done"] and each["commands"] == text for each in made(name)):
            print(f"{name}: {state(name)}; delete {STATE / name} to make it again")
            continue
        print(f"{name}: see {STATE / name / 'output.txt'}", flush=True)
        if not make(name, args.data):
            print(f"{name}: failed; the same command goes on", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
