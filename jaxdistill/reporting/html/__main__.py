"""Writes the page of a run anew: `python -m jaxdistill.page RUN`."""

import argparse
import sys
from pathlib import Path

from jaxdistill.reporting import html as html_lib
from jaxdistill.runtime import errors


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m jaxdistill.page", description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder")
    print(html_lib.write(parser.parse_args().run))


if __name__ == "__main__":
    sys.exit(errors.command(main))
