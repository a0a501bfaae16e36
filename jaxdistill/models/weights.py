"""Weights on disk: safetensors whose keys are the student's dotted variable paths.

The file's metadata names what the weights are for: `encoder` (the variant), `normalization` (mean
and std as JSON, for pixels in [0, 1]), `source` (where they come from).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from jaxdistill import config
from jaxdistill.data.image_ops import Normalization
from jaxdistill.runtime.errors import UserError
from jaxdistill.runtime.files import write_atomic

Arrays = dict[str, np.ndarray]


def save(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes the file whole or not at all.

    Raises:
      OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomic(path, serialize(contiguous, metadata=dict(metadata)))


def load(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Arrays by variable path, and the metadata.

    Raises:
      UserError: the file is missing, cut off, or not safetensors.
    """
    if not path.is_file():
        raise UserError(
            f"no weights at {path.absolute()}; tools/convert_weights.py writes such a file"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}); convert the weights again"
        ) from None


def load_for(encoder: str, path: Path) -> tuple[Arrays, Normalization | None]:
    """The arrays of a file for that encoder, and the normalisation that they were trained with.

    Raises:
      UserError: the file is for another encoder, or cannot be read.
    """
    arrays, metadata = load(path)
    written_for = metadata.get("encoder")
    if written_for is not None and written_for != encoder:
        raise UserError(
            f"{path} holds weights of {written_for!r}, but student.encoder is {encoder!r}"
        )
    return arrays, parse_normalization(metadata.get("normalization"), path)


def parse_normalization(text: str | None, path: Path) -> Normalization | None:
    """What `format_normalization` wrote."""
    if text is None:
        return None
    try:
        mean, std = json.loads(text)
        read = config.MeanStd(mean=tuple(mean), std=tuple(std))
        return Normalization(read.mean, read.std)
    except (TypeError, ValueError, RecursionError):
        raise UserError(
            f"{path}: metadata 'normalization' should be [[r, g, b], [r, g, b]], got {text!r}"
        ) from None


def format_normalization(normalization: Normalization) -> str:
    """For a file's metadata."""
    return json.dumps([list(normalization.mean), list(normalization.std)])


def fill(variables: Mapping[str, np.ndarray], loaded: Arrays, path: Path) -> Arrays:
    """The loaded arrays, once every name and shape is known to fit `variables`.

    Raises:
      UserError: names the first variables that are missing, left over, or of another shape.
    """
    missing = sorted(variables.keys() - loaded.keys())
    left_over = sorted(loaded.keys() - variables.keys())
    reshaped = [
        f"{name} is {loaded[name].shape}, expected {variables[name].shape}"
        for name in sorted(variables.keys() & loaded.keys())
        if loaded[name].shape != variables[name].shape
    ]
    complaints = [
        f"{len(names)} {what} ({'; '.join(names[:3])})"
        for what, names in (
            ("missing", missing),
            ("left over", left_over),
            ("of another shape", reshaped),
        )
        if names
    ]
    if complaints:
        raise UserError(f"{path} does not fit this network: {', '.join(complaints)}")
    return loaded
