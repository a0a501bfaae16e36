"""The option `--json` of the benchmarks."""

import argparse
from pathlib import Path


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option; its folder is looked for before anything is measured."""
    parser.add_argument("--json", type=_in_folder, help="write all numbers to this file")


def _in_folder(text: str) -> Path:
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.absolute().parent}")
    return path
