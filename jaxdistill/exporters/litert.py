"""Export as a `.tflite` file for LiteRT and MediaPipe, with the extra `tflite`.

JAX's and TensorFlow's own converters make the graph. The student is traced in its portable forms,
so that it consists of operators that XNNPACK has, LiteRT's library for CPUs.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill.config import Size
from jaxdistill.exporters import litert_metadata, verified_files, verify
from jaxdistill.exporters.litert_metadata import LABELS_FILE, Activation
from jaxdistill.exporters.litert_student import LiteRTStudent, file_inputs
from jaxdistill.exporters.model_card import Interface, make_card
from jaxdistill.exporters.onnx_graph import Form
from jaxdistill.exporters.registry import EXPORTERS, Options, Precision, Report, Source
from jaxdistill.models.parameters import flat_variables, is_frozen
from jaxdistill.models.student import Student
from jaxdistill.ops import forms
from jaxdistill.runtime.errors import ConfigError, ExportError, UserError, first_line

IMAGE = "image"
"""Name of the input."""


@EXPORTERS.register(".tflite")
def export(source: Source, output: Path, options: Options) -> Report:
    """Writes a file and a model card per precision, once all files are verified.

    Args:
      source: The student to export.
      output: The file. Several precisions write `NAME.PRECISION.tflite` each.
      options: See `Options`. The input is `unit` where nothing else is chosen; both `unit` and
        `uint8` are (1, H, W, 3) of one size, and the graph normalises.

    Returns:
      The files, and their measurements.

    Raises:
      ConfigError: The input is `normalized` or `imagenet` (`invalid-argument`), or a package of the
        extra is not installed (`extra-missing`).
      ExportError: A file differs from the student (`graph-differs`), the student cannot be
        converted (`no-tflite-form`), or there are no images for int8 (`int8-needs-images`).
      OutputError: The output exists and is a folder (`output-exists`), or cannot be written
        (`output-unwritable`).
    """
    verified_files.check_names(output, options)
    if options.input in ("normalized", "imagenet"):
        raise ConfigError(
            f"input: {output.name} normalises images itself, because MediaPipe knows no mean and "
            f"deviation per channel; choose unit or uint8 instead of {options.input}",
            code="invalid-argument",
        )
    tensorflow = _import_tensorflow()
    size = options.size or verified_files.usual_size(source)
    form = Form(options.input or "unit", options.sigmoid, size)
    images = verified_files.validation_images(source, options, size)
    exported = {
        precision: LiteRTStudent(content, form.input)
        for precision, content in _convert(tensorflow, source, form, size, options).items()
    }
    card = make_card(_describe(exported["float32"], source.student, form), form, source, size)
    card["versions"]["tensorflow"] = tensorflow.__version__
    return verified_files.write(exported, card, images, source, form, output, options)


def _import_tensorflow() -> Any:
    """Returns the module of TensorFlow, or says which extra to install."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its notes would bury our own lines
    try:
        import ai_edge_litert.interpreter
        import tensorflow
    except ImportError as error:
        raise ConfigError(
            f"a .tflite file needs the Python package {error.name!r}: "
            f"pip install 'jaxdistill[tflite]'",
            code="extra-missing",
        ) from None
    del ai_edge_litert  # imported to see that it is there
    with contextlib.suppress(RuntimeError):  # it was used before, with whatever it took
        tensorflow.config.set_visible_devices([], "GPU")  # it would take the whole memory
    return tensorflow


def _convert(
    tensorflow: Any, source: Source, form: Form, size: Size, options: Options
) -> dict[Precision, bytes]:
    """Returns the file of each precision, and of float32, with MediaPipe's metadata."""
    activation = Activation.NONE if form.sigmoid else Activation.SIGMOID
    stats = (0.0, 255.0 if form.input == "uint8" else 1.0)
    metadata = litert_metadata.segmenter_metadata(IMAGE, form.output, activation, stats)
    files = {LABELS_FILE: "person\n"}
    precisions: set[Precision] = {"float32", *options.precisions}
    try:
        function = _concrete_function(tensorflow, source.student, form, size)
        return {
            name: litert_metadata.attach(
                _convert_to(tensorflow, function, name, source, form, size), metadata, files
            )
            for name in sorted(precisions)
        }
    except UserError:
        raise
    except Exception as error:  # whatever either converter raises
        raise ExportError(
            f"the student cannot be converted to a .tflite file ({type(error).__name__}: "
            f"{first_line(error)}); it may use an operation of JAX that LiteRT does not have",
            code="no-tflite-form",
        ) from error


def _concrete_function(tensorflow: Any, student: Student, form: Form, size: Size) -> Any:
    """Traces the student as a function of TensorFlow from an image to logits or probabilities."""
    from jax.experimental import jax2tf

    student = verify.in_float32(student)

    def outputs(image: jax.Array) -> jax.Array:
        if form.input == "uint8":
            image = image.astype(jnp.float32) / 255
        logits = student(image, train=False).logits
        return jax.nn.sigmoid(logits) if form.sigmoid else logits

    converted = jax2tf.convert(
        outputs, with_gradient=False, native_serialization_platforms=("cpu",)
    )
    dtype = tensorflow.uint8 if form.input == "uint8" else tensorflow.float32
    signature = [tensorflow.TensorSpec((1, *size, 3), dtype, IMAGE)]
    with forms.portable():
        function = tensorflow.function(converted, input_signature=signature, autograph=False)
        return function.get_concrete_function()


def _convert_to(
    tensorflow: Any, function: Any, precision: Precision, source: Source, form: Form, size: Size
) -> bytes:
    lite = tensorflow.lite
    converter = lite.TFLiteConverter.from_concrete_functions([function], tensorflow.Module())
    converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS]
    if precision != "float32":
        converter.optimizations = [lite.Optimize.DEFAULT]
    if precision == "float16":  # of the weights; LiteRT computes in what the device has
        converter.target_spec.supported_types = [tensorflow.float16]
    if precision == "int8":  # of all layers; the converter cannot leave some of them in float32
        converter.target_spec.supported_ops.append(lite.OpsSet.TFLITE_BUILTINS_INT8)
        converter.representative_dataset = lambda: _calibration_inputs(source, form, size)
    content: bytes = converter.convert()
    return content


def _calibration_inputs(source: Source, form: Form, size: Size) -> Iterator[list[Any]]:
    for image in file_inputs(verified_files.calibration_images(source, size), form.input):
        yield [image]


def _describe(file: LiteRTStudent, student: Student, form: Form) -> Interface:
    def tensor(name: str, details: dict[str, Any]) -> dict[str, Any]:
        dtype, shape = details["dtype"].__name__, details["shape"].tolist()
        return {"name": name, "dtype": dtype, "shape": shape, "layout": "NHWC"}

    unused = [f"encoder.{path}" for path in student.encoder.unused]
    weights = sum(  # a BatchNorm is folded into kernel and bias
        value.size
        for path, value in flat_variables(student).items()
        if path.endswith((".kernel", ".bias")) and not is_frozen(path, unused)
    )
    return Interface(tensor(IMAGE, file.image), tensor(form.output, file.output), weights)
