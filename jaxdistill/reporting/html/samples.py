"""The sheets of sample pictures, small enough to be carried inside the page."""

import base64
import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from jaxdistill.data import decode
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import UserError

BUDGET = 6_000_000
"""Bytes of all sheets together, before base64 adds a third."""
_LARGEST = (1640, 2460)
_QUALITY = 80


class Sheet(NamedTuple):
    """The samples of an epoch."""

    epoch: int
    width: int
    height: int
    uri: str
    """A `data:` URI."""


class Album(NamedTuple):
    """As many sheets as the page has room for."""

    sheets: list[Sheet]
    of: int
    """How many the run has."""
    every: int
    """Each n-th epoch is here, and the first, the best, and the latest in any case."""


def embed(paths: Mapping[int, Path], best: int | None) -> Album:
    """Encodes every sheet, or every second, fourth, ... until they fit into `BUDGET` bytes.

    Args:
      paths: of the sheets by epoch, in order.
      best: an epoch that must not be left out.

    Raises:
      UserError: a sheet is no picture.
    """
    every = 1
    while (album := _every(every, paths, best)) is None:
        every *= 2
    return album


def _every(every: int, paths: Mapping[int, Path], best: int | None) -> Album | None:
    """None where the sheets do not fit, though there are some to leave out."""
    epochs = list(paths)
    indispensable = {*epochs[:1], *epochs[-1:], best}
    wanted = [e for n, e in enumerate(epochs) if n % every == 0 or e in indispensable]
    sheets, size = [], 0
    for epoch in wanted:
        width, height, content = _encoded(paths[epoch], paths[epoch].stat().st_mtime_ns)
        size += len(content)
        if size > BUDGET and not indispensable.issuperset(wanted):
            return None
        uri = f"data:image/webp;base64,{base64.b64encode(content).decode()}"
        sheets.append(Sheet(epoch, width, height, uri))
    return Album(sheets, len(epochs), every)


# A page is written after each epoch: all sheets but the newest were encoded for the one before. No
# more than a few budgets' worth of them is ever asked for.
@lru_cache(maxsize=4096)
def _encoded(path: Path, modified: int) -> tuple[int, int, bytes]:
    try:
        sheet = Image.fromarray(decode.decode(files.read(path, decode.LARGEST_FILE)))
    except (OSError, decode.PictureError) as error:
        raise UserError(f"cannot read the samples {path}: {error}; delete the file") from None
    sheet.thumbnail(_LARGEST)
    file = io.BytesIO()
    sheet.save(file, "WEBP", quality=_QUALITY, method=2)
    return sheet.width, sheet.height, file.getvalue()
