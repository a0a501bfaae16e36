#!/usr/bin/env python3
"""Exports a PyTorch teacher to ONNX; see `jaxdistill.torch_interop`."""

import sys

from jaxdistill.runtime.errors import command
from jaxdistill.torch_interop.export_teacher import main

if __name__ == "__main__":
    sys.exit(command(main))
