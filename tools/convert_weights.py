#!/usr/bin/env python3
"""Converts weights from and to PyTorch, as `jaxdistill convert-weights` does."""

import sys

from jaxdistill.commands.convert_weights import main
from jaxdistill.runtime.errors import command

if __name__ == "__main__":
    sys.exit(command(main))
