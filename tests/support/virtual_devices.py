"""Programs on several devices, which a CPU can pretend to have."""

import os
import subprocess
import sys
from pathlib import Path


def run_on_devices(program: str, *args: str, devices: int = 4) -> None:
    """Runs a Python program that ends by printing `compared`."""
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        env={**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "compared", done.stderr
