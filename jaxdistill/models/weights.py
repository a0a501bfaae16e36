"""Weights files: safetensors whose keys are the student's dotted variable paths.

The file's metadata may hold `encoder` (name of the encoder), `normalization` (mean and std as JSON,
for pixels in [0, 1]), `image_size` (height and width of the images that a student was trained on,
as JSON), and `source` (where the weights come from).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from jaxdistill import config
from jaxdistill.data.image_ops import Normalization
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import WeightsError

Arrays = dict[str, np.ndarray]


def save(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a weights file; an error leaves an existing file as it was.

    Args:
      path: The file.
      arrays: Arrays by variable path.
      metadata: See the module's documentation.

    Raises:
      OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    files.write_atomic(path, serialize(contiguous, metadata=dict(metadata)))


def load(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Reads a weights file.

    Args:
      path: The file.

    Returns:
      The arrays by variable path, and the metadata.

    Raises:
      WeightsError: The file does not exist (`weights-missing`), is cut off or of another format
        (`weights-damaged`), or cannot be read at the moment (`weights-io`).
    """
    try:
        return files.retry_io(lambda: _load(path))
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        of_system = files.os_error(error)
        if of_system is not None and of_system.errno not in files.STRUCTURE_ERRORS:
            raise WeightsError(
                f"{path}: cannot be read at the moment: {of_system.strerror}; check the disk, the "
                f"network and the permissions, and try again",
                code="weights-io",
            ) from None
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}); `jaxdistill convert-weights` writes "
            f"such files, and of a run `jaxdistill export RUN NAME.safetensors`",
            code="weights-damaged",
        ) from None


def _load(path: Path) -> tuple[Arrays, dict[str, str]]:
    if not path.is_file():
        raise WeightsError(
            f"no weights at {path.absolute()}; `jaxdistill convert-weights` writes such a file",
            code="weights-missing",
        )
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def load_for(encoder: str, path: Path) -> tuple[Arrays, Normalization | None]:
    """Reads a weights file for an encoder.

    Args:
      encoder: Name of the encoder.
      path: The file.

    Returns:
      The arrays by variable path, and the normalisation that they were trained with if the file
      holds it.

    Raises:
      WeightsError: The file belongs to another encoder (`weights-encoder`), its metadata are
        damaged (`weights-metadata`), or it cannot be read.
    """
    arrays, metadata = load(path)
    written_for = metadata.get("encoder")
    if written_for is not None and written_for != encoder:
        raise WeightsError(
            f"{path} holds weights of {written_for!r}, but student.encoder is {encoder!r}",
            code="weights-encoder",
        )
    return arrays, parse_normalization(metadata.get("normalization"), path)


def parse_normalization(text: str | None, path: Path) -> Normalization | None:
    """Parses the entry `normalization` of a file's metadata.

    Args:
      text: The entry, as `format_normalization` writes it; None if there is none.
      path: The file, for the message.

    Returns:
      The normalisation; None if there is none.

    Raises:
      WeightsError: The entry has another form (`weights-metadata`).
    """
    if text is None:
        return None
    try:
        mean, std = json.loads(text)
        read = config.MeanStd(mean=tuple(mean), std=tuple(std))
        return Normalization(read.mean, read.std)
    except (TypeError, ValueError, RecursionError):
        raise WeightsError(
            f"{path}: metadata 'normalization' should be [[r, g, b], [r, g, b]], got {text!r}",
            code="weights-metadata",
        ) from None


def format_normalization(normalization: Normalization) -> str:
    """Returns the entry `normalization` of a file's metadata."""
    return json.dumps([list(normalization.mean), list(normalization.std)])


def parse_image_size(text: str | None, path: Path) -> config.Size | None:
    """Parses the entry `image_size` of a file's metadata.

    Args:
      text: The entry; None if there is none.
      path: The file, for the message.

    Returns:
      Height and width; None if there is none.

    Raises:
      WeightsError: The entry has another form (`weights-metadata`).
    """
    if text is None:
        return None
    try:
        return config.Data(image_size=tuple(json.loads(text))).image_size
    except (TypeError, ValueError, RecursionError):
        raise WeightsError(
            f"{path}: metadata 'image_size' should be [height, width], got {text!r}",
            code="weights-metadata",
        ) from None


def fill(variables: Mapping[str, Any], loaded: Arrays, path: Path | str) -> Arrays:
    """Checks that loaded arrays have the names and shapes of a network's variables.

    Args:
      variables: The network's variables, arrays by path.
      loaded: The arrays of a file.
      path: The file or its name, for the message.

    Returns:
      The loaded arrays, in the number format of the variables.

    Raises:
      WeightsError: Variables are missing, left over, or of another shape (`weights-mismatch`); the
        message names the first of each.
    """
    missing = sorted(variables.keys() - loaded.keys())
    left_over = sorted(loaded.keys() - variables.keys())
    reshaped = [
        f"{name} is {loaded[name].shape}, expected {variables[name].shape}"
        for name in sorted(variables.keys() & loaded.keys())
        if loaded[name].shape != variables[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({'; '.join(names[:3])})"
        for what, names in (
            ("missing", missing),
            ("left over", left_over),
            ("of another shape", reshaped),
        )
        if names
    ]
    if problems:
        raise WeightsError(
            f"{path} does not fit this network: {', '.join(problems)}", code="weights-mismatch"
        )
    return {name: np.asarray(array, variables[name].dtype) for name, array in loaded.items()}
