"""Decoding of image files from untrusted folders into pixels."""

import contextlib
import functools
import io
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, TiffImagePlugin, features

from jaxdistill.runtime.text import printable

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # an MPO is opened as a JPEG
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, how an image is turned upright."""
_TURNS_BACK = {**_TURNS, 6: _TURNS[8], 8: _TURNS[6]}
MAX_PIXELS = 2**27
"""Largest number of pixels of an image: 134 million, enough for a phone's 108 million. Decoding
takes 14 to 22 bytes per pixel in each thread that decodes."""
MAX_FILE_BYTES = 2**30
"""Largest size of an image file: more than the largest image takes uncompressed."""
_MAX_SCANS = 100
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
"""A marker of a JPEG with a length behind it, as libjpeg finds it in the data of a scan. Others are
skipped: stuffed bytes, restarts, and what is no marker."""
_END, _SCAN = 0xD9, 0xDA
_TIFF_HEIGHT, _TIFF_WIDTH = TiffImagePlugin.IMAGELENGTH, TiffImagePlugin.IMAGEWIDTH
_TILE_TAGS = (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)
_pillow_limit = threading.Lock()


@functools.cache
def formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that are decoded.

    Without such a list Pillow would try every format that it knows, some of them by starting other
    programs. HEIC needs the package pillow-heif, and AVIF a Pillow that was built with it.
    """
    found = [*_FORMATS, *(["AVIF"] if features.check("avif") else [])]
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        found.append("HEIF")
    return tuple(found)


class Stored(NamedTuple):
    """The pixels of a mask file as they are stored, since their meaning is not known yet."""

    values: np.ndarray
    """Grey levels or palette indices (h, w) in uint8 or uint16, or RGB (h, w, 3) in uint8."""
    palette: UInt8[np.ndarray, "n 3"] | None = None
    """Colours of the palette indices; None where there is no palette."""
    alpha: UInt8[np.ndarray, "h w"] | None = None
    """Opacity; None where the file has none."""


class ImageError(Exception):
    """Bytes are not a usable image. The message gives the reason; the caller knows the file."""


def decode(data: bytes, upright: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file to RGB.

    Grey, transparent, CMYK and 16-bit images are converted. Of several images in a file, such as
    the frames of a GIF, the first one is taken.

    Args:
      data: The content of the file.
      upright: Whether to rotate the image by its EXIF orientation. COCO's sizes and segmentations
        usually refer to the pixels as stored, so the default does not rotate.

    Raises:
      ImageError: The bytes are not an image, are cut off, hold 32-bit values, or declare more than
        `MAX_PIXELS` pixels.
    """
    return _decode(data, "RGB", upright)


def orientation(file: Path) -> tuple[int, tuple[int, int]]:
    """Returns the EXIF orientation of an image file, and its height and width as stored.

    Only the header is read, except of a PNG.

    Returns:
      The orientation, 1 to 8 (1 is upright), and (height, width).

    Raises:
      ImageError: The file is not an image.
    """
    try:
        with _opened(file) as image:
            _refuse_large(image)
            if image.format == "PNG":  # may have it behind the pixels
                image.load()
            size = image.height, image.width
            if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow has swapped them
                size = image.tag_v2[_TIFF_HEIGHT], image.tag_v2[_TIFF_WIDTH]
            return _orientation(image), size
    except ImageError:
        raise
    except Exception as error:  # Pillow raises nearly anything on damaged bytes
        raise ImageError(_reason(error)) from None


def is_image(file: Path) -> bool:
    """Returns whether a file begins as an image in one of `formats`, whatever its name.

    Args:
      file: The file.
    """
    try:
        if not file.is_file():  # a pipe would have to be waited for
            return False
        with _opened(file):
            return True
    except Exception:  # Pillow raises nearly anything on damaged bytes
        return False


def encode_mask(mask: UInt8[np.ndarray, "h w"]) -> bytes:
    """Encodes a mask of 0 and 1 as a PNG of one bit per pixel, which viewers show black and white.

    Args:
      mask: 1 is a person, 0 is not.
    """
    encoded = io.BytesIO()
    Image.fromarray(mask.astype(bool)).save(encoded, "PNG")
    return encoded.getvalue()


def decode_mask(data: bytes) -> UInt8[np.ndarray, "h w"]:
    """Decodes a mask to grey levels; 255 is a person.

    Args:
      data: The content of an image file.

    Raises:
      ImageError: See `decode`.
    """
    return _decode(data, "L", upright=False)


def decode_stored(data: bytes) -> Stored:
    """Decodes a mask file without interpreting its values.

    Args:
      data: The content of an image file.

    Raises:
      ImageError: See `decode`.
    """
    with _loaded(data) as image:
        alpha = None
        if image.has_transparency_data:
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if image.mode == "P":
            palette = np.zeros((256, 3), np.uint8)
            colours = np.reshape(image.getpalette("RGB") or [], (-1, 3))
            palette[: len(colours)] = colours
            return Stored(np.asarray(image), palette, alpha)
        if image.mode.startswith("I;16"):
            return Stored(np.asarray(image).astype(np.uint16))
        is_grey = image.mode in ("1", "L", "LA", "La")
        return Stored(
            np.asarray(_eight_bits(image).convert("L" if is_grey else "RGB")), None, alpha
        )


def _decode(data: bytes, mode: str, upright: bool) -> np.ndarray:
    with _loaded(data, as_stored=not upright) as image:
        turn = _TURNS.get(_orientation(image)) if upright else None
        converted = _eight_bits(image if turn is None else image.transpose(turn))
        # Converting an image to its own mode would copy it.
        return np.asarray(converted if converted.mode == mode else converted.convert(mode))


@contextlib.contextmanager
def _loaded(data: bytes, as_stored: bool = False) -> Iterator[Image.Image]:
    """Opens and reads an image file; what goes wrong, here or in the block, is an `ImageError`.

    Pillow turns a TIFF upright while it reads it; `as_stored` turns it back.
    """
    try:
        with _opened(io.BytesIO(data)) as image:
            _refuse_bombs(image, data)
            is_turned = as_stored and isinstance(image, TiffImagePlugin.TiffImageFile)
            back = _TURNS_BACK.get(_orientation(image)) if is_turned else None
            image.load()
            yield image if back is None else image.transpose(back)
    except ImageError:
        raise
    except Exception as error:  # Pillow raises nearly anything on damaged bytes
        raise ImageError(_reason(error)) from None


@contextlib.contextmanager
def _opened(file: Path | IO[bytes]) -> Iterator[Image.Image]:
    """Opens an image without Pillow's limit, which warns of sizes that are allowed here.

    The limit is a global variable of Pillow, so it is changed only while a header is read, by one
    thread at a time. `_refuse_bombs` applies the limit of this module.
    """
    supported = formats()
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = Image.open(file, formats=supported)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 where there is none or the EXIF is damaged.

    Pillow warns of damaged EXIF. The filters of warnings are global, so they are changed only while
    EXIF is read, by one thread at a time.
    """
    with _pillow_limit, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tag = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # Pillow raises nearly anything on damaged bytes
            return 1
    return int(tag) if tag in _TURNS else 1


def _refuse_bombs(image: Image.Image, data: bytes) -> None:
    """Refuses a few bytes that stand for much memory or time, before anything is decoded."""
    _refuse_large(image)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        width, height = (int(image.tag_v2.get(tag, 1)) for tag in _TILE_TAGS)
        if width * height > MAX_PIXELS:
            raise ImageError(f"it has tiles of {width} x {height} pixels")
    # Each scan of a JPEG, progressive or not, goes over all pixels again, and may be a few bytes.
    if image.format in ("JPEG", "MPO") and _scans(data) > _MAX_SCANS:
        raise ImageError(f"it is a JPEG of more than {_MAX_SCANS} scans")


def _scans(data: bytes) -> int:
    """Counts the scans of a JPEG up to the end of its first image.

    Phones append videos and other images, in which the bytes of a marker occur by chance.
    """
    count, place = 0, 2
    while found := _MARKER.search(data, place):
        place = found.end()
        kind = data[place - 1]
        if kind == _END:
            break
        count += kind == _SCAN
        place += int.from_bytes(data[place : place + 2], "big")
    return count


def _refuse_large(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{image.width} x {image.height} pixels are more than {MAX_PIXELS / 1e6:.0f} million"
        )


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scales 16 bits to 8, which Pillow would clip at 255."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError("it has 32-bit values, whose range is unknown")
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image in one of the formats {', '.join(formats())}"
    return printable(str(error) or type(error).__name__)
