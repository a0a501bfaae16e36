"""What sources have in common that find images in a folder by themselves."""

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxdistill.data import decode, image_files
from jaxdistill.data.sources.base import SourceExample
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError


def by_key(folder: Path, excluded: Sequence[Path] = ()) -> dict[str, list[Path]]:
    """Returns the images in a folder and below, by their path in it without the suffix.

    Args:
      folder: The folder.
      excluded: Folders that are not searched.

    Raises:
      DataError: There is no image (`no-images`).
    """
    root = folder.resolve()
    found: dict[str, list[Path]] = defaultdict(list)
    for image in image_files.find_images([str(folder)], [], excluded):
        found[key_of(image.source, root)].append(image.source)
    return found


def key_of(path: Path, root: Path) -> str:
    """Returns the path of a file in a folder without its suffix, as other files are named after it.

    Args:
      path: The file.
      root: The folder.
    """
    key = path.relative_to(root).with_suffix("").as_posix()
    return unicodedata.normalize("NFC", key)  # macOS writes accents apart


def unsupported(folder: Path, excluded: Sequence[Path]) -> Mapping[str, Sequence[str]]:
    """Returns the names of images whose format cannot be decoded, for `Source.omissions`.

    Args:
      folder: The folder of the images.
      excluded: Folders that are not searched.
    """
    found = image_files.unsupported_images([str(folder)], [], excluded)
    root = folder.resolve()
    names = [printable_name(path, root) for path in found]
    return {f"images of {image_files.UNSUPPORTED}": names} if names else {}


def with_formats(fingerprint: str, folder: Path, excluded: Sequence[Path]) -> str:
    """Returns a fingerprint of files that also stands for which of them are images.

    It stays as it is where that does not depend on the installed packages, so that what was
    prepared earlier is found.

    Args:
      fingerprint: The fingerprint of the files.
      folder: The folder of the images.
      excluded: Folders that are not searched.
    """
    root = folder.resolve()
    names = [printable_name(path, root) for path in image_files.of_rare_formats(root, excluded)]
    if not names:
        return fingerprint
    return hashlib.sha256(f"{fingerprint} {names}".encode()).hexdigest()[:32]


def read_image(id: int, name: str, path: Path, data: bytes | None = None) -> SourceExample:
    """Reads an image file, and checks that it can be decoded.

    Args:
      id: Id of the image.
      name: Its name, relative to the folder of the images.
      path: The file.
      data: The image, where it is no file of its own.

    Returns:
      An upright image without a mask, or the problem with the file.

    Raises:
      DataError: The file cannot be read, and may be intact (`unreadable-file`).
    """
    try:
        data = files.read(path, decode.MAX_FILE_BYTES) if data is None else data
        decode.decode(data, upright=True)
    except OSError as error:
        if error.errno not in files.STRUCTURE_ERRORS:  # the image may be intact
            raise DataError(
                f"{path}: cannot be read: {error.strerror}", code="unreadable-file"
            ) from None
        return SourceExample(id, name, problem=error.strerror or str(error))
    except decode.ImageError as error:
        return SourceExample(id, name, problem=str(error))
    return SourceExample(id, name, data, upright=True)


def is_upright(data: bytes, size: tuple[int, int]) -> bool | None:
    """Returns whether an image of that height and width is upright or as its pixels are stored.

    An image that has the size both ways is taken for upright: people draw on what they see.

    Args:
      data: Content of an image file that can be decoded.
      size: Height and width of the mask.

    Returns:
      Whether to rotate the image by its EXIF orientation; None if it has another size.
    """
    for upright in (True, False):
        if decode.decode(data, upright).shape[:2] == size:
            return upright
    return None


def printable_name(path: Path, root: Path) -> str:
    """Returns a path relative to a folder, without bytes that are not text.

    Args:
      path: A path in the folder.
      root: The folder.
    """
    return os.fsencode(path.relative_to(root)).decode(errors="backslashreplace")
