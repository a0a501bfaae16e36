"""The option `--json` of the benchmarks."""

import argparse
from pathlib import Path


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option, which is refused before anything is measured if it cannot be written.

    Args:
      parser: The parser of a benchmark.
    """
    parser.add_argument("--json", type=_new_file, help="write all numbers to this file")


def _new_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; expected a file")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.absolute().parent}")
    return path
