"""Export as an ONNX file: builds graphs, and writes those that compute what the student does."""

from collections.abc import Sequence
from pathlib import Path

import onnx

from jaxdistill.config import Size
from jaxdistill.exporters import verified_files
from jaxdistill.exporters.model_card import describe, make_card, stamp
from jaxdistill.exporters.onnx_graph import Form, student_graph
from jaxdistill.exporters.onnx_student import OnnxStudent, graph_inputs
from jaxdistill.exporters.quantize import to_int8
from jaxdistill.exporters.registry import EXPORTERS, Options, Precision, Report, Source


@EXPORTERS.register(".onnx")
def export(source: Source, output: Path, options: Options) -> Report:
    """Writes a file and a model card per precision, once all graphs are verified.

    Args:
      source: The student to export.
      output: The file. Several precisions write `NAME.PRECISION.onnx` each.
      options: See `Options`; the input is `normalized` where nothing else is chosen.

    Returns:
      The files, and their measurements.

    Raises:
      ExportError: A graph differs from the student (`graph-differs`), a module has no ONNX form
        (`no-onnx-form`), or there are no images for int8 (`int8-needs-images`).
      OutputError: The output exists and is a folder (`output-exists`), or cannot be written
        (`output-unwritable`).
    """
    verified_files.check_names(output, options)
    form = Form(options.input or "normalized", options.sigmoid, options.size)
    size = form.size or verified_files.usual_size(source)
    images = verified_files.validation_images(source, options, size)
    graphs = _build_graphs(source, form, options.precisions, size)
    card = make_card(describe(graphs["float32"], form), form, source, size)
    for graph in graphs.values():
        stamp(graph, card)
    exported = {
        precision: OnnxStudent(graph.SerializeToString(), form, source.student.normalization)
        for precision, graph in graphs.items()
    }
    return verified_files.write(exported, card, images, source, form, output, options)


def _build_graphs(
    source: Source, form: Form, precisions: Sequence[Precision], size: Size
) -> dict[Precision, onnx.ModelProto]:
    """Builds a graph per precision, and the float32 graph that the others are compared with."""
    student = source.student
    graphs: dict[Precision, onnx.ModelProto] = {"float32": student_graph(student, form)}
    if "float16" in precisions:
        graphs["float16"] = student_graph(student, form, "float16")
    if "int8" in precisions:
        images = verified_files.calibration_images(source, size)
        inputs = list(graph_inputs(images, form, student.normalization))
        graphs["int8"] = to_int8(graphs["float32"], inputs, student.float32_layers)
    return graphs
