"""The sample grids, small enough to be part of the report."""

import base64
import io
from collections.abc import Mapping
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

_Encoding = tuple[int, int, bytes]
"""Width, height and content."""
_Encodings = dict[tuple[Path, int], _Encoding]
"""By path and time of change."""
# A report is written after each epoch; all grids but the newest were encoded for the one before.
# What that one did not look at is dropped: a run may have thousands of epochs.
_latest: _Encodings = {}


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
    encoded: _Encodings = {}
    every = 1
    while (album := _every(every, paths, best, encoded)) is None:
        every *= 2
    _latest.clear()
    _latest.update(encoded)
    return album


def _every(
    every: int, paths: Mapping[int, Path], best: int | None, encoded: _Encodings
) -> Album | None:
    """Returns None where the grids do not fit although some could be left out."""
    epochs = list(paths)
    required = {*epochs[:1], *epochs[-1:], best}
    wanted = [e for n, e in enumerate(epochs) if n % every == 0 or e in required]
    grids, size = [], 0
    for epoch in wanted:
        width, height, content = _looked_up(paths[epoch], encoded)
        size += len(content)
        if size > BUDGET and not required.issuperset(wanted):
            return None
        uri = f"data:image/webp;base64,{base64.b64encode(content).decode()}"
        grids.append(Grid(epoch, width, height, uri))
    return Album(grids, len(epochs), every)


def _looked_up(path: Path, encoded: _Encodings) -> _Encoding:
    key = path, path.stat().st_mtime_ns
    if key not in encoded:
        encoded[key] = _latest.get(key) or _encode(path)
    return encoded[key]


def _encode(path: Path) -> _Encoding:
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
