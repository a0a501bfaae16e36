"""Writes the HTML report of a run again: `jaxdistill report RUN`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdistill.reporting import html
from jaxdistill.runtime.errors import command


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
      arguments: Command-line arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(prog="jaxdistill report", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    print(html.write(parser.parse_args(arguments).run))


if __name__ == "__main__":
    sys.exit(command(main))
