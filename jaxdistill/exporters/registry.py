"""Registry of exporters, and what they take and return."""

from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from rich.console import Console

from jaxdistill.checkpoint.best import Best
from jaxdistill.config import Size
from jaxdistill.models.student import Student
from jaxdistill.runtime.errors import ConfigError, OutputError
from jaxdistill.runtime.registry import Registry

Input = Literal["normalized", "imagenet", "unit", "uint8"]
Precision = Literal["float32", "float16", "int8"]


class Source(NamedTuple):
    """The student to export."""

    student: Student
    """The student, without projectors."""
    best: Best | None = None
    """The checkpoint that the student comes from; None for a student without a run."""
    image_size: Size | None = None
    """Height and width of the images that a weights file was trained on, where it says so."""


class Options(NamedTuple):
    """How to export a student; an exporter may ignore what its format has no use for."""

    input: Input | None = None
    """Input of the graph, always RGB; None: what is usual in the format. `normalized`: float32,
    normalised as the encoder expects. `imagenet`: float32, normalised by ImageNet's mean and
    deviation, whatever the encoder expects. `unit`: float32 in [0, 1]. `uint8`: as images are
    decoded. In ONNX the last is (N, H, W, 3), the others are (N, 3, H, W)."""
    sigmoid: bool = False
    """Whether the output holds probabilities, `mask`, instead of `logits`."""
    size: Size | None = None
    """Fixed height and width of the input; None: both are free."""
    precisions: tuple[Precision, ...] = ("float32",)
    """Number formats; each makes a file of its own."""
    images: int = 100
    """Number of validation images that an exported model is measured on."""
    console: Console | None = None
    """Where to print what was measured; None prints nothing."""
    web_runtime: Path | None = None
    """The npm package onnxruntime-web, which a web page needs, as a tarball or an unpacked folder;
    None: it is downloaded once."""
    examples: tuple[str, ...] = ()
    """Images that a web page offers: files, folders or globs."""
    compare_with: Path | None = None
    """An exported `.onnx` file that a web page shows beside the student."""


def check_variables_only(output: Path, options: Options) -> None:
    """Checks what is asked of an output that holds a student's variables, and no graph.

    Args:
      output: The file or folder to write.
      options: The options.

    Raises:
      ConfigError: An option is for graphs (`invalid-argument`).
      OutputError: The output exists (`output-exists`).
    """
    if options._replace(console=None, images=Options().images) != Options():
        raise ConfigError(
            f"{output.name} holds the student's variables in float32: leave out input, sigmoid, "
            f"size and precision",
            code="invalid-argument",
        )
    if output.exists():
        raise OutputError(f"{output} exists; choose another name", code="output-exists")


class Report(NamedTuple):
    """What an exporter wrote."""

    files: tuple[Path, ...]
    """The models' files or folders."""
    measured: dict[str, Any]
    """Measurements of each model by its precision, plain values; empty if nothing is measured."""


class Exporter(Protocol):
    """Writes a student in one format."""

    def __call__(self, source: Source, output: Path, options: Options) -> Report:
        """Writes the student, completely or not at all.

        Args:
          source: The student to export.
          output: The file or folder to write. Its parent folder exists.
          options: See `Options`.

        Returns:
          What was written.

        Raises:
          ExportError: The student cannot be exported, or the exported model differs from it.
          OutputError: The output cannot be written.
        """
        ...


FOLDER = "/"
"""The ending of a name without one, `page` or `page/`. Paths do not keep the slash."""

EXPORTERS: Registry[Exporter] = Registry("exporter", "the output's ending")
"""Exporters by the ending of the output's name, such as `.onnx`, or `FOLDER`."""
