"""Checkpoints of a state small enough to follow, and damage to their files."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill import config
from jaxdistill.checkpoint.manager import Checkpoints
from jaxdistill.checkpoint.restore import Restored, restore_latest
from jaxdistill.runtime.run_layout import CHECKPOINTS
from jaxdistill.types import TrainState

METADATA = {"progress": {"phase": 0}, "frozen": "ab12"}

TENSORSTORE = (
    'UNKNOWN: Error opening "zarr" driver: Error reading from open file d/445d6a6a2f4b0413: Failed '
    "to read 220 bytes from file at offset 0: {text} [os_error_code='{number}'] "
    "[tensorstore_spec='...']"
)
"""An I/O error as TensorStore reports it."""


def state_after(step: int) -> TrainState:
    params = {"decoder.kernel": jnp.full((3, 2), float(step))}
    opt_state = ({"mu": jnp.ones(2) * step}, jnp.asarray(step))
    stats = {"decoder.mean": jnp.zeros(4)}
    return jax.device_put(TrainState(jnp.asarray(step), params, stats, opt_state), jax.devices()[0])


def save(run: Path, *steps: int, keep: int = 9, scores: dict[int, float] | None = None) -> None:
    with Checkpoints(run, config.Checkpoints(keep=keep)) as checkpoints:
        for step in steps:
            checkpoints.save(state_after(step), METADATA, (scores or {}).get(step))


def restore(run: Path, **options: Any) -> Restored:
    restored = restore_latest(run, lambda phase: state_after(0), **options)
    assert restored is not None
    return restored


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / CHECKPOINTS).iterdir())


def arrays_file(run: Path, step: int) -> Path:
    """The largest data file of a checkpoint."""
    found = (run / CHECKPOINTS / str(step) / "state").glob("**/d/*")
    return max(found, key=lambda path: path.stat().st_size)


def metadata_file(run: Path, step: int) -> Path:
    return run / CHECKPOINTS / str(step) / "metadata" / "metadata"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)
