"""Trains a student: `python -m jaxdistill.train --config FILE`, the same as `jaxdistill train`."""

import sys

from jaxdistill.commands.train import main
from jaxdistill.runtime.errors import command

if __name__ == "__main__":
    sys.exit(command(main))
