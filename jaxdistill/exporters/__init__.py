"""Export of students: `export(run, "student.onnx")`.

The ending of the output's name selects the exporter. Each module registers its own; a new one needs
a line here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from jaxdistill.checkpoint.best import Best
from jaxdistill.checkpoint.best import best as best_of
from jaxdistill.checkpoint.interpolation import interpolated
from jaxdistill.config import Size
from jaxdistill.exporters import litert as litert
from jaxdistill.exporters import onnx as onnx
from jaxdistill.exporters import orbax as orbax
from jaxdistill.exporters import web_page as web_page
from jaxdistill.exporters import weights_file as weights_file
from jaxdistill.exporters.registry import (
    EXPORTERS,
    FOLDER,
    Input,
    Options,
    Precision,
    Report,
    Source,
)
from jaxdistill.exporters.verified_files import check_folder
from jaxdistill.models import Student, check_image_size, from_weights, weights, without_projectors
from jaxdistill.runtime.errors import ConfigError

__all__ = ["EXPORTERS", "Options", "Report", "Source", "export"]


def export(
    source: Best | Student | str | Path,
    output: str | Path,
    *,
    input: Input | None = None,
    sigmoid: bool = False,
    size: Size | None = None,
    precision: Precision | Sequence[Precision] = "float32",
    images: int = 100,
    interpolate: float | None = None,
    console: Console | None = None,
    web_runtime: str | Path | None = None,
    examples: str | Path | Sequence[str | Path] = (),
    compare_with: str | Path | None = None,
) -> Report:
    """Exports a student, in the format that the ending of the output's name selects.

    A file `NAME.onnx` is written only after onnxruntime has computed the same masks with it as the
    student; a model card is written beside it as `NAME.json`. A file `NAME.tflite`, for LiteRT and
    MediaPipe, likewise, with the card `NAME.tflite.json`. A folder `NAME.orbax` is an Orbax
    checkpoint of the student's variables, and a file `NAME.safetensors` holds them for
    `student.weights` of another training. A name without an ending is the folder of a web page.

    Args:
      source: Folder of a run, a run's best checkpoint (`trainer.best()`), a student, or a weights
        file that names its encoder and decoder. A student without a run is compared with its graph
        on noise, because it has no images.
      output: Name of the file or folder to write.
      input: Input of a graph; see `Options.input`.
      sigmoid: Whether a graph returns probabilities instead of logits.
      size: Fixed height and width of a graph's input, in pixels; None: both are free in ONNX, and
        those of the run's images in a `.tflite` file.
      precision: Number format of a graph. Several write a file `NAME.PRECISION.onnx` each.
      images: Number of validation images that a graph is measured on.
      interpolate: For a run that started from a whole student's weights: 0 is the start, 1 the
        best checkpoint, and numbers between them weights between them. By default
        `training.interpolate` of the run.
      console: Where to print what was measured; None prints nothing.
      web_runtime: The npm package onnxruntime-web, which a web page needs, as a tarball or an
        unpacked folder; None: it is downloaded once, into `~/.cache/jaxdistill`.
      examples: Images that a web page offers: files, folders or globs. It takes a dozen of them,
        evenly spread, and makes them smaller, without EXIF data such as places.
      compare_with: A file `NAME.onnx` that a web page shows beside the student. It was exported
        from another student, with `input="uint8"` and a fixed size.

    Returns:
      The files that were written, and what was measured.

    Raises:
      ConfigError: An argument is wrong (`unknown-exporter`, `image-size`, `invalid-argument`).
      OutputError: The output exists or cannot be written (`output-exists`, `output-unwritable`).
      RunError: There is no such run, it has no sound checkpoint, or no start to interpolate with
        (`no-start-weights`).
      ExportError: See the exporters.
    """
    output = Path(output)
    exporter = EXPORTERS[output.suffix or FOLDER]
    precisions = (precision,) if isinstance(precision, str) else tuple(precision)
    _check(output, input, precisions, images)
    images_shown = (examples,) if isinstance(examples, str | Path) else tuple(examples)
    of_page = {"web_runtime": web_runtime, "examples": images_shown, "compare_with": compare_with}
    for name, value in of_page.items():
        if value and output.suffix:
            raise ConfigError(
                f"{name}: {output.name} is no web page, whose name has no ending",
                code="invalid-argument",
            )
    of_file = None
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix == ".safetensors":
            source = from_weights(path)
            of_file = weights.parse_image_size(weights.load(path)[1].get("image_size"), path)
        else:
            source = best_of(path)
    if not isinstance(source, Best):
        if interpolate is not None:
            raise ConfigError(
                "interpolate: a student without a run has no start", code="options-for-runs"
            )
        best, student = None, source
    else:
        best = interpolated(source, interpolate)
        student = best.student
    if size is not None:
        check_image_size(student, size, "size")
        size = (size[0], size[1])
    options = Options(
        input,
        sigmoid,
        size,
        precisions,
        images,
        console,
        web_runtime=None if web_runtime is None else Path(web_runtime),
        examples=tuple(map(str, images_shown)),
        compare_with=None if compare_with is None else Path(compare_with),
    )
    return exporter(Source(without_projectors(student), best, of_file), output, options)


def _check(output: Path, input: str | None, precisions: Sequence[str], images: int) -> None:
    """Checks what can be known to fail before the work begins."""
    known = get_args(Precision)
    unknown = [name for name in precisions if name not in known]
    if unknown or not precisions:
        raise ConfigError(
            f"precision: expected {', '.join(known)}, got {', '.join(unknown) or 'nothing'}",
            code="invalid-argument",
        )
    if input not in (None, *get_args(Input)):
        raise ConfigError(
            f"input: expected {', '.join(get_args(Input))}, got {input}", code="invalid-argument"
        )
    if images < 1:
        raise ConfigError(f"images: expected at least 1, got {images}", code="invalid-argument")
    check_folder(output.parent)
