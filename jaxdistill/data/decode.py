"""Encoded pictures to pixels, whatever a user's folder holds, and however hostile the bytes."""

import io
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from jaxdistill.runtime.text import printable

# Named, since Pillow would otherwise try every format it knows, some by starting other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
LARGEST = 2**27
"""Pixels: 134 million, so that a phone's 108 are welcome. Decoding takes 14 bytes for each, 22 at
most, in every thread that decodes."""
LARGEST_FILE = 2**30
"""Bytes: beyond what the largest picture takes uncompressed."""
_MOST_SCANS = 100
_TILE = (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)

# Pillow warns of pictures that we still take, and refuses later than we do.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class PictureError(Exception):
    """Bytes that are no usable picture. The message says why; the caller knows which file."""


def decode(data: bytes, upright: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of an encoded picture; grey, transparent, CMYK and 16-bit ones are converted.

    Args:
      data: the file's bytes.
      upright: turn the picture as its EXIF orientation says. COCO's sizes and segmentations refer
        to the pixels as stored, so the default leaves them.

    Raises:
      PictureError: not a picture, cut off, of 32-bit values, or so large (more than `LARGEST`
        pixels declared) that decoding it could exhaust the memory.
    """
    return _decode(data, "RGB", upright)


def orientation(file: Path) -> tuple[int, tuple[int, int]]:
    """By EXIF, 1 to 8, where 1 is upright; and height and width of the pixels as they are stored.

    Raises:
      PictureError: the file is no picture; it is read no further than that takes.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            told = image.getexif().get(ExifTags.Base.Orientation, 1)
            return told if told in range(1, 9) else 1, (image.height, image.width)
    except Exception as error:  # as in `_decode`
        raise PictureError(_reason(error)) from None


def encode_mask(mask: UInt8[np.ndarray, "h w"]) -> bytes:
    """A mask of {0, 1} as a PNG of one bit per pixel, which every viewer shows black and white."""
    encoded = io.BytesIO()
    Image.fromarray(mask.astype(bool)).save(encoded, "PNG")
    return encoded.getvalue()


def decode_mask(data: bytes) -> UInt8[np.ndarray, "h w"]:
    """Grey levels of an encoded mask; 255 is a person.

    Raises:
      PictureError: see `decode`.
    """
    return _decode(data, "L", upright=False)


def _decode(data: bytes, mode: str, upright: bool) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_bombs(image, data)
            turned = ImageOps.exif_transpose(image) if upright else image
            converted = _eight_bits(turned)
            # To convert a mode to itself would be a copy.
            return np.asarray(converted if converted.mode == mode else converted.convert(mode))
    except PictureError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise PictureError(_reason(error)) from None


def _refuse_bombs(image: Image.Image, data: bytes) -> None:
    """Few bytes that stand for much memory or time; nothing is decoded yet."""
    if image.width * image.height > LARGEST:
        raise PictureError(
            f"{image.width} x {image.height} pixels are more than {LARGEST / 1e6:.0f} million"
        )
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        width, height = (int(image.tag_v2.get(tag, 1)) for tag in _TILE)
        if width * height > LARGEST:
            raise PictureError(f"its tiles are of {width} x {height} pixels")
    # Each scan of a progressive JPEG goes over all pixels again, and may be a few bytes.
    if image.format == "JPEG" and data.count(b"\xff\xda") > _MOST_SCANS:
        raise PictureError(f"a JPEG of more than {_MOST_SCANS} scans")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow would clip 16 bits at 255 rather than scale them."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise PictureError("its pixels are 32-bit values, of a range that nothing tells")
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not a picture in one of the formats {', '.join(FORMATS)}"
    return printable(str(error) or type(error).__name__)
