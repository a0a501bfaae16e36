"""The sample grids, small enough to be part of the report."""

import base64
import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from jaxdistill.data import decode
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import RunError

BUDGET = 6_000_000
"""Bytes of all grids together, before base64 adds a third."""
_LARGEST = (1640, 2460)
_QUALITY = 80


class Grid(NamedTuple):
    """The sample grid of an epoch."""

    epoch: int
    width: int
    height: int
    uri: str
    """The image as a `data:` URI."""


class Album(NamedTuple):
    """The sample grids that fit into the report."""

    grids: list[Grid]
    total: int
    """The number of grids of the run."""
    every: int
    """Every n-th grid is included; the first, the best and the latest always are."""


def embed(paths: Mapping[int, Path], best: int | None) -> Album:
    """Encodes every grid, or every second, fourth, ... until they fit into `BUDGET` bytes.

    Args:
      paths: The grids by epoch, in order.
      best: An epoch that is always included.

    Returns:
      The encoded grids.

    Raises:
      RunError: A grid is not an image (`unreadable-report-file`).
    """
    every = 1
    while (album := _every(every, paths, best)) is None:
        every *= 2
    return album


def _every(every: int, paths: Mapping[int, Path], best: int | None) -> Album | None:
    """Returns None where the grids do not fit although some could be left out."""
    epochs = list(paths)
    required = {*epochs[:1], *epochs[-1:], best}
    wanted = [e for n, e in enumerate(epochs) if n % every == 0 or e in required]
    grids, size = [], 0
    for epoch in wanted:
        width, height, content = _encoded(paths[epoch], paths[epoch].stat().st_mtime_ns)
        size += len(content)
        if size > BUDGET and not required.issuperset(wanted):
            return None
        uri = f"data:image/webp;base64,{base64.b64encode(content).decode()}"
        grids.append(Grid(epoch, width, height, uri))
    return Album(grids, len(epochs), every)


# A report is written after each epoch; all grids but the newest were encoded for the one before.
# No more than a few times the budget is ever kept.
@lru_cache(maxsize=4096)
def _encoded(path: Path, modified: int) -> tuple[int, int, bytes]:
    try:
        grid = Image.fromarray(decode.decode(files.read(path, decode.MAX_FILE_BYTES)))
    except (OSError, decode.ImageError) as error:
        raise RunError(
            f"{path}: cannot read the sample grid: {error}; delete the file",
            code="unreadable-report-file",
        ) from None
    grid.thumbnail(_LARGEST)
    file = io.BytesIO()
    grid.save(file, "WEBP", quality=_QUALITY, method=2)
    return grid.width, grid.height, file.getvalue()
