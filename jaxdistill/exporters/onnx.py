"""Export as an ONNX file: builds graphs, compares them with the student, writes model cards."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from rich.console import Console
from rich.table import Table

from jaxdistill import config
from jaxdistill.config import Size
from jaxdistill.data.splits import open_split
from jaxdistill.exporters import sampling, verify
from jaxdistill.exporters.latency import Cost
from jaxdistill.exporters.model_card import make_card, stamp
from jaxdistill.exporters.onnx_graph import Form, student_graph
from jaxdistill.exporters.onnx_student import graph_inputs
from jaxdistill.exporters.quantize import CALIBRATION_IMAGES, to_int8
from jaxdistill.exporters.registry import EXPORTERS, Options, Precision, Report, Source
from jaxdistill.exporters.sampling import Sample
from jaxdistill.exporters.verify import Row
from jaxdistill.models.feature_info import size_multiple
from jaxdistill.runtime.errors import ExportError, OutputError, UserError
from jaxdistill.runtime.files import write_atomic

_USUAL_SIZE = 320  # pixels; of the noise that a student without a run is compared on


@EXPORTERS.register(".onnx")
def export(source: Source, output: Path, options: Options) -> Report:
    """Writes a file and a model card per precision, once all graphs are verified.

    Args:
      source: The student to export.
      output: The file. Several precisions write `NAME.PRECISION.onnx` each.
      options: See `Options`.

    Returns:
      The files, and their measurements.

    Raises:
      ExportError: A graph differs from the student (`graph-differs`), a module has no ONNX form
        (`no-onnx-form`), or there are no images for int8 (`int8-needs-images`).
      OutputError: The output exists and is a folder (`output-exists`), or cannot be written
        (`output-unwritable`).
    """
    if output.is_dir():
        raise OutputError(f"{output} is a folder; choose another name", code="output-exists")
    console = options.console or Console(quiet=True)
    form = Form(options.input, options.sigmoid, options.size)
    size = _image_size(source, form)
    images = _validation_images(source, options, size, console)
    graphs = _build_graphs(source, form, options.precisions, size)
    card = make_card(graphs["float32"], form, source)
    for graph in graphs.values():
        stamp(graph, card)
    teacher = _teacher(source, console)
    rows, cost = verify.compare(source.student, form, graphs, images, teacher)
    console.print(_table(rows, cost, images))
    trained_in, share = source.student.dtype, 0.0
    if trained_in != "float32":
        share = verify.changed_by_precision(source.student, images.images)
        console.print(
            f"the run computes in {trained_in}; the graphs are compared with its student in "
            f"float32, which has another class at {share:.2%} of the pixels"
        )
    for precision in options.precisions:
        verify.check(precision, rows[precision], rows["float32"])
    measured: dict[str, Any] = {
        precision: {
            "images": len(images.images),
            "size": size,
            **rows[precision]._asdict(),
            "teacher": cost and cost._asdict(),
            "student": {"precision": trained_in, "changed_in_float32": share},
        }
        for precision in options.precisions
    }
    paths = _paths(output, options.precisions)
    for precision, path in paths.items():
        _write(path, precision, graphs[precision], {**card, "measured": measured[precision]})
        console.print(f"{path}, and its model card {path.with_suffix('.json').name}")
    return Report(tuple(paths.values()), measured)


def _image_size(source: Source, form: Form) -> Size:
    if form.size:
        return form.size
    if source.best:
        return source.best.settings.data.image_size
    side = max(1, _USUAL_SIZE // size_multiple(source.student)) * size_multiple(source.student)
    return side, side


def _validation_images(source: Source, options: Options, size: Size, console: Console) -> Sample:
    """Returns images of the run's validation split, or noise where there are none."""
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
    console.print(f"the graph is compared with the student on noise: {reason}")
    return sampling.noise(verify.COMPARED, size)


def _build_graphs(
    source: Source, form: Form, precisions: Sequence[Precision], size: Size
) -> dict[Precision, onnx.ModelProto]:
    """Builds a graph per precision, and the float32 graph that the others are compared with."""
    student = source.student
    graphs: dict[Precision, onnx.ModelProto] = {"float32": student_graph(student, form)}
    if "float16" in precisions:
        graphs["float16"] = student_graph(student, form, "float16")
    if "int8" in precisions and source.best:
        dataset = open_split(source.best.settings.data, "train")
        images = sampling.sample(dataset, CALIBRATION_IMAGES, size).images
        inputs = graph_inputs(images, form, student.normalization)
        graphs["int8"] = to_int8(graphs["float32"], inputs, student.float32_layers)
    return graphs


def _teacher(source: Source, console: Console) -> config.Teacher | None:
    """Returns the section of the run's only teacher if the teacher's file still exists."""
    found = source.best.settings.teachers if source.best else ()
    if len(found) != 1:
        return None
    [teacher] = found
    if teacher.onnx.is_file():
        return teacher
    console.print(f"the teacher is not measured: {teacher.onnx} does not exist")
    return None


def _paths(output: Path, precisions: Sequence[Precision]) -> dict[Precision, Path]:
    if len(precisions) == 1:
        return {precisions[0]: output}
    return {precision: output.with_suffix(f".{precision}.onnx") for precision in precisions}


def _table(rows: Mapping[Precision, Row], teacher: Cost | None, images: Sample) -> Table:
    count, height, width, _ = images.images.shape
    table = Table(title=f"{count} images of {height} x {width}; batch 1, on the CPU")
    for heading in ("", "MB", "ms", "faster", "error", "changed", "mIoU"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    table.caption = (
        "error: largest difference from the student's output, as a share of the largest output; "
        "changed: share of pixels whose class differs from the student's"
    )
    if teacher:
        table.caption += "; the teacher's input is {} x {}".format(*teacher.size)
        table.add_row("teacher", f"{teacher.bytes / 1e6:.1f}", f"{teacher.seconds * 1e3:.1f}")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row.bytes / 1e6:.1f}",
            f"{row.seconds * 1e3:.1f}",
            f"{teacher.seconds / row.seconds:.2f} x" if teacher else "",
            f"{row.difference:.1e}",
            f"{row.changed:.2%}",
            "" if row.mean_iou is None else f"{row.mean_iou:.4f}",
        )
    return table


def _write(path: Path, precision: str, graph: onnx.ModelProto, card: dict[str, Any]) -> None:
    content = graph.SerializeToString()
    file = {
        "name": path.name,
        "precision": precision,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    try:
        write_atomic(path, content)
        write_atomic(path.with_suffix(".json"), json.dumps({"file": file, **card}, indent=2))
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}", code="output-unwritable"
        ) from None
