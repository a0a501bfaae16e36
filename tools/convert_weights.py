#!/usr/bin/env python3
"""Converts weights between timm, SMP and jaxdistill; see `jaxdistill.torch_interop`."""

import sys

from jaxdistill.runtime.errors import command
from jaxdistill.torch_interop.convert_weights import main

if __name__ == "__main__":
    sys.exit(command(main))
