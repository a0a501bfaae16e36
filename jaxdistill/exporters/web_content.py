"""What a web page shows besides the student: example images, and a network to compare it with."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from jaxdistill.data import decode, image_files
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError, ExportError
from jaxdistill.runtime.paths import expanded

MOST_EXAMPLES = 12
_LONGEST_SIDE = 1280  # pixels
_MOST = 1_000_000_000  # bytes of a network


def examples(arguments: Sequence[str]) -> Iterator[bytes]:
    """Yields example images as JPEG files: upright, reduced, without EXIF data such as places.

    Args:
      arguments: Files, folders or globs. `MOST_EXAMPLES` of their images are taken, evenly spread.

    Raises:
      DataError: There is no image (`no-images`), or one is missing or cannot be decoded
        (`no-such-image`).
    """
    found = image_files.find_images(arguments, []) if arguments else []
    for file in image_files.spread(found, MOST_EXAMPLES):
        try:
            image = Image.fromarray(decode.decode(file.read(), upright=True))
        except (OSError, decode.ImageError) as error:
            raise DataError(f"{file.source}: {error}", code="no-such-image") from None
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", quality=90)
        yield encoded.getvalue()


def exported_network(path: Path) -> tuple[bytes, bytes]:
    """Reads a network that `jaxdistill export` wrote in the form that the page's script expects.

    Args:
      path: The ONNX file, with its model card beside it.

    Returns:
      The network and its model card.

    Raises:
      ExportError: The file or its card cannot be read, or its input or output is another one
        (`not-for-a-page`).
    """
    path = expanded(path)
    try:
        network = files.read(path, _MOST)
        card = files.read(path.with_suffix(".json"), _MOST)
        described = json.loads(card)
        image, output = described["input"], described["output"]["range"]
        wrong = {
            "the model card is not this file's": described["file"]["sha256"]
            != hashlib.sha256(network).hexdigest(),
            f"it takes {image['dtype']}": image["dtype"] != "uint8",
            f"its height and width are {image['height and width']}": image["height and width"]
            != "fixed",
            f"it returns {output}": output != "logits",
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        missing = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else None
        raise _refused(path, missing or "its model card is not one") from None
    for reason, applies in wrong.items():
        if applies:
            raise _refused(path, reason)
    return network, card


def _refused(path: Path, reason: str) -> ExportError:
    return ExportError(
        f"{path}: cannot be shown beside the student ({reason}); expected the file and its model "
        f"card of `jaxdistill export STUDENT {path.stem}.onnx --input uint8 --size H W`",
        code="not-for-a-page",
    )
