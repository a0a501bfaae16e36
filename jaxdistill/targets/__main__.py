"""`python -m jaxdistill.targets`: see `jaxdistill.fill`."""

import sys

from jaxdistill.errors import command
from jaxdistill.fill import main

sys.exit(command(main))
