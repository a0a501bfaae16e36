"""Writes the HTML report of a run again: `jaxdistill report RUN`."""

from collections.abc import Sequence
from pathlib import Path

from jaxdistill.commands import common
from jaxdistill.reporting import html


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and writes the report.

    Args:
      arguments: The arguments; None takes those of the process.
    """
    parser = common.CommandParser("report", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    print(html.write(parser.parse_args(arguments).run))
