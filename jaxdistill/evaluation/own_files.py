"""The files that `predict` may replace: those that it wrote, which a note in each of them tells."""

from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from jaxdistill.data.video import import_av
from jaxdistill.runtime.errors import DataError

NOTE = "jaxdistill predict"
VIDEO_NOTE = {"comment": NOTE}
"""The note as metadata of a video."""
PNG_NOTE = PngInfo()
"""The note as text of a PNG file, which Pillow writes before the pixels."""
PNG_NOTE.add_text("Software", NOTE)
_PNG_HEAD = 128  # bytes, in which the note lies


def check_replaceable(path: Path) -> None:
    """Checks that a result does not take the place of a user's file, such as a true mask.

    Args:
      path: A PNG file or a video that is to be written.

    Raises:
      DataError: There is one that `predict` did not write (`image-overwritten`).
    """
    if path.exists() and not _is_own(path):
        raise DataError(
            f"{path}: predict does not overwrite this file, which it did not write, or an earlier "
            f"version did; choose another --output, or delete the file",
            code="image-overwritten",
        )


def _is_own(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix == ".png":
        with path.open("rb") as file:
            head = file.read(_PNG_HEAD)
        return not head or NOTE.encode() in head  # empty: it was interrupted
    av = import_av()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            return NOTE in container.metadata.values()
    except (OSError, av.error.FFmpegError):
        return False
