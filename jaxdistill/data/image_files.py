"""A user's pictures, wherever they lie: files, folders and globs become a list without clashes."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdistill.data import decode
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""By which a folder's files are known as pictures; a file that is named is tried anyhow."""


class Picture(NamedTuple):
    """A picture's file, and what is made of it."""

    source: Path
    name: Path
    """Of the PNG made from it, below the folder for such files."""

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
          OSError: see `files.read`.
        """
        return files.read(self.source, decode.LARGEST_FILE)


def find(
    arguments: Sequence[str], outputs: Sequence[Path], left_out: Sequence[Path] = ()
) -> list[Picture]:
    """All pictures that the arguments stand for, each once, in order.

    Names mirror the folders, from the deepest one that holds all arguments. They are the pictures'
    own with `.png` for their ending; where two pictures differ only in their ending, all keep it.

    Args:
      arguments: files, folders (with all below), or globs (`**` for any folders).
      outputs: folders that will be written to; pictures from an earlier run are not taken up.
      left_out: other folders whose pictures are not taken up.

    Raises:
      UserError: an argument matches nothing, there is no picture, or one would be overwritten.
    """
    written = [folder.resolve() for folder in outputs]
    starts = [_anchored(Path(argument).expanduser()) for argument in arguments]
    not_taken = [*written, *(folder.resolve() for folder in left_out)]
    sources = list(dict.fromkeys(path for start in starts for path in _pictures(start, not_taken)))
    if not sources:
        raise UserError(
            f"no picture in {', '.join(arguments)}; looked for names that end in "
            f"{', '.join(ENDINGS)}"
        )
    root = os.path.commonpath([_folder_of(start) for start in starts])
    names = [path.relative_to(root) for path in sources]
    short = [name.with_suffix(".png") for name in names]
    if max(Counter(short).values()) > 1:
        short = [name.with_name(name.name + ".png") for name in names]
    taken = set(sources)
    for name in short:
        for folder in written:
            if folder / name in taken:
                raise UserError(f"{folder / name} would be overwritten; choose another --output")
    return [Picture(source, name) for source, name in zip(sources, short, strict=True)]


def _anchored(path: Path) -> Path:
    """Absolute, but a link stays the name it is."""
    return path.resolve() if path.is_dir() else path.parent.resolve() / path.name


def _folder_of(start: Path) -> Path:
    """The folder that an argument names; of a glob, as far as it is the same for all matches."""
    while not start.exists():
        start = start.parent
    return start if start.is_dir() else start.parent


def _pictures(start: Path, written: Sequence[Path]) -> Iterator[Path]:
    for match in [start] if start.exists() else _matches(start, written):
        if match.is_dir():
            yield from _below(match, written)
        else:
            yield match


def _matches(pattern: Path, written: Sequence[Path]) -> list[Path]:
    folder = _folder_of(pattern)
    try:
        found = sorted(folder.glob(str(pattern.relative_to(folder))))
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"{pattern}: no such file, and not a glob either: {error}") from None
    if not found:
        raise UserError(f"{pattern}: no file or folder has this name, and as a glob none fits it")
    return [path for path in found if not any(path.is_relative_to(place) for place in written)]


def _below(folder: Path, written: Sequence[Path]) -> Iterator[Path]:
    for place, folders, names in files.walk(folder):
        folders[:] = sorted(name for name in folders if place / name not in written)
        for name in sorted(names):
            if name.lower().endswith(ENDINGS):
                yield place / name
