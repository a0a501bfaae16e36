"""Files of students that are measured, compared with the student, and written with a model card."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.table import Table

from jaxdistill.config import Size
from jaxdistill.data.splits import open_split
from jaxdistill.exporters import sampling, verify
from jaxdistill.exporters.latency import Cost, TeacherProbe, teacher_probe
from jaxdistill.exporters.onnx_graph import Form
from jaxdistill.exporters.quantize import CALIBRATION_IMAGES
from jaxdistill.exporters.registry import Options, Precision, Report, Source
from jaxdistill.exporters.sampling import Sample
from jaxdistill.exporters.verify import Exported, Row
from jaxdistill.models.feature_info import size_multiple
from jaxdistill.runtime.errors import ExportError, OutputError, UserError, first_line, unwritable
from jaxdistill.runtime.files import write_atomic
from jaxdistill.runtime.text import json_text

_USUAL_SIZE = 320  # pixels; of the images of a student without a run


def check_names(output: Path, options: Options) -> None:
    """Checks that files and model cards would replace nothing but earlier exports.

    Args:
      output: The file.
      options: The precisions, each of which may have a file of its own.

    Raises:
      OutputError: A folder has the name, or a file that is no model card has the card's name
        (`output-exists`).
    """
    for path in _paths(output, options).values():
        check_free(path)


def check_folder(folder: Path) -> None:
    """Checks that a folder is there and can be written to.

    Args:
      folder: The folder of an output.

    Raises:
      OutputError: It is not, or cannot (`output-unwritable`).
    """
    if not folder.is_dir():
        raise OutputError(
            f"{folder.absolute()} is not a folder; create it, or choose another output",
            code="output-unwritable",
        )
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"cannot write into {folder.absolute()}: {error.strerror}", code="output-unwritable"
        ) from None


def check_free(path: Path) -> None:
    """Checks that a file and its model card would replace nothing but earlier exports.

    Args:
      path: The file.

    Raises:
      OutputError: See `check_names`.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; choose another name", code="output-exists")
    card = _card_path(path)
    if card.exists() and not _is_card(card):
        raise OutputError(
            f"{card} exists and is no model card, which has this name beside {path.name}; "
            f"choose another name",
            code="output-exists",
        )


def _paths(output: Path, options: Options) -> dict[Precision, Path]:
    paths = dict.fromkeys(options.precisions, output)
    if len(paths) > 1:
        paths = {name: output.with_suffix(f".{name}{output.suffix}") for name in paths}
    return paths


def _card_path(path: Path) -> Path:
    # NAME.json is the card of NAME.onnx, which may lie beside a file of another format.
    return path.with_suffix(".json" if path.suffix == ".onnx" else f"{path.suffix}.json")


def _is_card(path: Path) -> bool:
    try:
        return "jaxdistill" in json.loads(path.read_bytes())["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def usual_size(source: Source) -> Size:
    """Returns height and width of the images of a run, or of a student without a run.

    Args:
      source: The student.
    """
    if source.best:
        return source.best.settings.data.image_size
    if source.image_size:
        return source.image_size
    side = max(1, _USUAL_SIZE // size_multiple(source.student)) * size_multiple(source.student)
    return side, side


def validation_images(source: Source, options: Options, size: Size) -> Sample:
    """Returns images of the run's validation split, or noise where there are none.

    Args:
      source: The student.
      options: Number of images, precisions, and where to print that there are none.
      size: Height and width of the images.

    Raises:
      ExportError: int8 needs images, and a student without a run has none (`int8-needs-images`).
      DataError: int8 needs images, and the run's cannot be read.
    """
    reason = "a student without a run has no validation images"
    if source.best:
        try:
            data = source.best.settings.data
            dataset = open_split(data, "validation")
            return sampling.sample(dataset, options.images, size, data.mask_resize)
        except UserError as error:
            if "int8" in options.precisions:
                raise
            reason = str(error)
    if "int8" in options.precisions:  # which is calibrated and judged on images
        raise ExportError(
            "int8 needs images to calibrate with: export a run instead of a student, or choose "
            "float32 or float16",
            code="int8-needs-images",
        )
    _console(options).print(f"the graph is compared with the student on noise: {reason}")
    return sampling.noise(verify.COMPARED, size)


def calibration_images(source: Source, size: Size) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns training images to calibrate int8 with.

    Args:
      source: The student of a run; without one, `validation_images` refuses int8.
      size: Height and width of the images.
    """
    assert source.best is not None
    dataset = open_split(source.best.settings.data, "train")
    return sampling.sample(dataset, CALIBRATION_IMAGES, size).images


def write(
    exported: Mapping[Precision, Exported],
    card: dict[str, Any],
    images: Sample,
    source: Source,
    form: Form,
    output: Path,
    options: Options,
) -> Report:
    """Measures files, compares them with the student, and writes those that were asked for.

    Args:
      exported: The files by precision, with float32, which the others are compared with.
      card: What the model cards have in common.
      images: The images to measure on.
      source: The student.
      form: Input and output of the files.
      output: The file. Several precisions write a file each, see `Options.precisions`.
      options: What to write, and where to print measurements.

    Returns:
      The files, and their measurements.

    Raises:
      ExportError: A file differs from the student (`graph-differs`); none is written.
      OutputError: A file cannot be written (`output-unwritable`).
    """
    console = _console(options)
    teacher = _teacher(source, images.images.shape[1:3], console)
    rows, cost = verify.compare(source.student, form, exported, images, teacher)
    console.print(_table(rows, cost, images))
    trained_in, share = source.student.dtype, 0.0
    if trained_in != "float32":
        share = verify.changed_by_precision(source.student, images.images)
        console.print(
            f"the run computes in {trained_in}; the graphs are compared with its student in "
            f"float32, which has another class at {share:.2%} of the pixels"
        )
    # float32 first: int8 is judged by what it loses against that graph.
    for precision in dict.fromkeys(("float32", *options.precisions)):
        verify.check(precision, rows[precision], rows["float32"], form)
    measured: dict[str, Any] = {
        precision: {
            "images": len(images.images),
            "images_compared": min(verify.COMPARED, len(images.images)),
            "size": images.images.shape[1:3],
            **rows[precision]._asdict(),
            "teacher": cost and cost._asdict(),
            "student": {"precision": trained_in, "changed_in_float32": share},
        }
        for precision in options.precisions
    }
    paths = _paths(output, options)
    for precision, path in paths.items():
        whole = {**card, "measured": measured[precision]}
        card_path = write_file(path, precision, exported[precision].content, whole)
        console.print(f"{path}, and its model card {card_path.name}")
    return Report(tuple(paths.values()), measured)


def _console(options: Options) -> Console:
    return options.console or Console(quiet=True)


def _teacher(source: Source, size: Size, console: Console) -> TeacherProbe | None:
    """Returns a call of the run's only teacher, if it can be run on images of this size."""
    found = source.best.settings.teachers if source.best else ()
    if len(found) != 1:
        return None
    try:
        probe = teacher_probe(found[0], size)
        probe.run()
    except Exception as error:  # onnxruntime's errors have no base class of their own
        console.print(f"the teacher is not measured: {first_line(error)}")
        return None
    return probe


def _table(rows: Mapping[Precision, Row], teacher: Cost | None, images: Sample) -> Table:
    count, height, width, _ = images.images.shape
    table = Table(title=f"{count} images of {height} x {width}; batch 1, on the CPU")
    table.caption = (
        "difference: the largest from the student's output, as a share of the largest output; "
        "changed: share of pixels whose class differs from the student's"
        + (f", both on {verify.COMPARED} of the images" if count > verify.COMPARED else "")
    )
    lines = []
    if teacher:
        table.caption += "; the teacher's input is {} x {}".format(*teacher.size)
        lines += [{"": "teacher", **_cost(teacher)}]
    for name, row in rows.items():
        cells = {
            "faster": f"{teacher.seconds / row.seconds:.2f} x" if teacher else "",
            "difference": f"{row.difference:.1e}",
            "changed": f"{row.changed:.2%}",
            "mIoU": "" if row.mean_iou is None else f"{row.mean_iou:.4f}",
        }
        lines += [{"": name, **_cost(row), **cells}]
    # What no line has, such as a mIoU without masks, is no column.
    headings = [heading for heading in lines[-1] if any(line.get(heading) for line in lines)]
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for line in lines:
        table.add_row(*(line.get(heading, "") for heading in headings))
    return table


def _cost(of: Cost | Row) -> dict[str, str]:
    return {"MB": f"{of.bytes / 1e6:.1f}", "ms": f"{of.seconds * 1e3:.1f}"}


def write_file(path: Path, precision: str, content: bytes, card: dict[str, Any]) -> Path:
    """Writes an exported file and its model card, and returns the card's path.

    Args:
      path: The file.
      precision: Its number format.
      content: Its content.
      card: The card's values, to which name, precision and digest of the file are added.

    Raises:
      OutputError: One of the two cannot be written (`output-unwritable`).
    """
    file = {
        "name": path.name,
        "precision": precision,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    own = _card_path(path)
    try:
        write_atomic(path, content)
        write_atomic(own, json_text({"file": file, **card}, indent=2))
    except OSError as error:
        raise unwritable(path, error) from None
    return own
