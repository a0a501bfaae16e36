"""Finding a user's images: files, folders and globs become a list of files with unique names."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from jaxdistill.data import decode
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError
from jaxdistill.runtime.paths import expanded

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
)
"""Suffixes by which images are found in folders. A file that is named itself needs none of them."""
OTHER_SUFFIXES = (
    *(".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jxl", ".jxr"),
    *(".exr", ".hdr", ".ico", ".pbm", ".pcx", ".pgm", ".ppm", ".psd", ".svg", ".tga"),
)
"""Suffixes of images that are found where they can be decoded, whatever they hold."""
_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2")
"""Suffixes of cameras' raw files. Many are TIFFs, of which a small preview would be decoded."""


UNSUPPORTED = "a format that cannot be decoded here (HEIC needs pip install pillow-heif)"
"""What `unsupported_images` have."""
_ARCHIVE = "__MACOSX"
"""Folder that macOS adds to archives."""


T = TypeVar("T")


class ImageFile(NamedTuple):
    """An image file, and the name of the file that is made from it."""

    source: Path
    """The image."""
    name: Path
    """Relative path of the PNG that is made from it, below an output folder."""

    def read(self) -> bytes:
        """Returns the content of the file.

        Raises:
          OSError: The file cannot be read, is not a regular file, or is too large.
        """
        return files.read(self.source, decode.MAX_FILE_BYTES)


def find_images(
    arguments: Sequence[str], outputs: Sequence[Path], excluded: Sequence[Path] = ()
) -> list[ImageFile]:
    """Returns all images that the arguments stand for, each once, in order.

    The names of the outputs mirror the folders below the deepest folder that contains all
    arguments. An output is named like its image, with the suffix `.png`. Where two images differ in
    their suffix only, `.png` is appended to all names instead.

    Args:
      arguments: Files, folders (searched with all folders below), or globs (`**` for any folders).
      outputs: Folders that will be written to. Images in them are not found.
      excluded: More folders whose images are not found.

    Raises:
      DataError: An argument matches nothing (`no-such-image`), there is no image (`no-images`), or
        an image would be overwritten (`image-overwritten`).
    """
    written = [folder.resolve() for folder in outputs]
    starts = [_anchored(expanded(argument)) for argument in arguments]
    skipped = [*written, *(folder.resolve() for folder in excluded)]
    sources = list(dict.fromkeys(path for start in starts for path in _images(start, skipped)))
    if not sources:
        others = unsupported_images(arguments, outputs, excluded)
        hint = f"; {others[0]} and {len(others) - 1} others have {UNSUPPORTED}" if others else ""
        raise DataError(
            f"{', '.join(arguments)}: no image is there; expected files that end in "
            f"{', '.join(SUFFIXES)}{hint}",
            code="no-images",
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
                raise DataError(
                    f"{folder / name}: this image would be overwritten; choose another --output",
                    code="image-overwritten",
                )
    return [ImageFile(source, name) for source, name in zip(sources, short, strict=True)]


def spread(files: Sequence[T], most: int) -> list[T]:
    """Returns some of the files, evenly spread: neighbours by name are often of one scene.

    Args:
      files: The files, sorted by name.
      most: Number of files to return, at most.
    """
    count = min(most, len(files))
    return [files[index * len(files) // count] for index in range(count)]


def unsupported_images(
    arguments: Sequence[str], outputs: Sequence[Path], excluded: Sequence[Path] = ()
) -> list[Path]:
    """Returns the images that `find_images` passes over because they cannot be decoded here.

    Args:
      arguments: As for `find_images`.
      outputs: As for `find_images`.
      excluded: As for `find_images`.
    """
    starts = [_anchored(expanded(argument)) for argument in arguments]
    skipped = [folder.resolve() for folder in (*outputs, *excluded)]
    return list(dict.fromkeys(path for start in starts for path in _others(start, skipped)))


def of_rare_formats(folder: Path, excluded: Sequence[Path]) -> list[Path]:
    """Returns the files in a folder that are images in some installations only.

    These are images that an optional package or a build of Pillow decodes, and raw files, which
    earlier versions decoded.

    Args:
      folder: The folder.
      excluded: Folders that are not searched.
    """
    return [
        path
        for path in files_below(folder.resolve(), [each.resolve() for each in excluded])
        if _is_raw(path) or (_is_other(path) and decode.is_image(path))
    ]


def _anchored(path: Path) -> Path:
    """Returns an absolute path that keeps the name of a link."""
    return path.resolve() if path.is_dir() else path.parent.resolve() / path.name


def _folder_of(start: Path) -> Path:
    """Returns the folder of an argument; of a glob, the deepest one without a pattern."""
    while not start.exists():
        start = start.parent
    return start if start.is_dir() else start.parent


def _images(start: Path, skipped: Sequence[Path]) -> Iterator[Path]:
    for match in [start] if start.exists() else matching(start, skipped):
        if match.is_dir():
            yield from _below(match, skipped)
        elif not _is_raw(match):
            yield match


def _others(start: Path, skipped: Sequence[Path]) -> Iterator[Path]:
    for match in [start] if start.exists() else matching(start, skipped):
        if match.is_dir():
            yield from _others_below(match, skipped)
        elif _is_raw(match):
            yield match


def matching(pattern: Path, skipped: Sequence[Path] = ()) -> list[Path]:
    """Returns what a glob matches, sorted by name.

    Args:
      pattern: The glob.
      skipped: Folders whose content is left out, resolved.

    Raises:
      DataError: There is nothing, or it is no glob (`no-such-image`).
    """
    folder = _folder_of(pattern)
    try:
        found = sorted(folder.glob(str(pattern.relative_to(folder))))
    except (ValueError, NotImplementedError) as error:
        raise DataError(
            f"{pattern}: there is no such file, and it is not a valid glob: {error}",
            code="no-such-image",
        ) from None
    if not found:
        raise DataError(
            f"{pattern}: there is no such file or folder, and no file matches it as a glob",
            code="no-such-image",
        )
    return [
        path
        for path in found
        if not any(path.is_relative_to(place) for place in skipped) and not _is_of_macos(path)
    ]


def _below(folder: Path, skipped: Sequence[Path]) -> Iterator[Path]:
    for path in files_below(folder, skipped):
        if path.name.lower().endswith(SUFFIXES) or (_is_other(path) and decode.is_image(path)):
            yield path


def _others_below(folder: Path, skipped: Sequence[Path]) -> Iterator[Path]:
    for path in files_below(folder, skipped):
        if _is_raw(path) or (_is_other(path) and not decode.is_image(path)):
            yield path


def _is_other(path: Path) -> bool:
    return path.name.lower().endswith(OTHER_SUFFIXES)


def _is_raw(path: Path) -> bool:
    return path.name.lower().endswith(_RAW)


def files_below(folder: Path, skipped: Sequence[Path]) -> Iterator[Path]:
    """Yields the files in a folder and below, sorted by name, without those that programs add.

    Passed over are folders that are hidden, and what macOS and network storage keep beside files.

    Args:
      folder: The folder.
      skipped: Folders that are not searched, resolved.
    """
    for place, folders, names in files.walk(folder):
        folders[:] = sorted(
            name for name in folders if place / name not in skipped and not is_added(name)
        )
        for name in sorted(names):
            if not _is_of_macos(path := place / name):
                yield path


def is_added(folder: str) -> bool:
    """Returns whether a folder of that name holds a program's copies of files, and not a user's.

    Args:
      folder: Its name, such as `.ipynb_checkpoints`.
    """
    return folder.startswith(".") or folder in (_ARCHIVE, "@eaDir")


def _is_of_macos(path: Path) -> bool:
    """Whether a file holds what macOS keeps beside another file of that name."""
    return path.name.startswith("._") or _ARCHIVE in path.parts
