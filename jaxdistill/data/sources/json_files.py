"""Reading of untrusted JSON files of a known structure."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from jaxdistill.runtime.errors import DataError

T = TypeVar("T")


def parse(
    path: Path, data: bytes, structure: TypeAdapter[T], refuse: Callable[[str], DataError]
) -> T:
    """Parses a JSON file.

    Args:
      path: Name of the file, for messages.
      data: Its content, in any encoding of JSON.
      structure: What is expected of the content.
      refuse: Returns the error for a content that has another structure.

    Raises:
      DataError: The file is not JSON (`not-json`), or has another structure.
    """
    try:
        # Windows programs write a byte-order mark, or UTF-16.
        encoding = json.detect_encoding(data)
        return structure.validate_json(data if encoding == "utf-8" else data.decode(encoding))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a JSON file: {error}", code="not-json") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            reason = first["ctx"]["error"]
            raise DataError(f"{path}: not a JSON file: {reason}", code="not-json") from None
        # The location also names branches of unions, which mean nothing to a user.
        parts = [part for part in first["loc"] if not str(part).startswith(("list[", "Rle"))]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
        place = place.lstrip(".") or "top level"
        got = f", got {first['input']!r:.60}" if first["type"] != "missing" else ""
        raise refuse(f"{place}: {first['msg'].replace('Input should', 'should')}{got}") from None
