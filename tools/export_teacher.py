#!/usr/bin/env python3
"""Exports a PyTorch teacher to ONNX, as `jaxdistill export-teacher` does."""

import sys

from jaxdistill.commands.export_teacher import main
from jaxdistill.runtime.errors import command

if __name__ == "__main__":
    sys.exit(command(main))
