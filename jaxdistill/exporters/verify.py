"""Comparison of exported graphs with the Flax student: difference, masks, size and speed."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import UInt8

from jaxdistill.config import Size
from jaxdistill.exporters.latency import Cost, TeacherProbe, latencies
from jaxdistill.exporters.onnx_graph import Form
from jaxdistill.exporters.onnx_student import Output
from jaxdistill.exporters.registry import Precision
from jaxdistill.exporters.sampling import Sample
from jaxdistill.metrics import segmentation
from jaxdistill.models.student import Student
from jaxdistill.runtime import xla
from jaxdistill.runtime.errors import ExportError

COMPARED = 4
"""Number of images that the Flax student computes, which takes seconds each."""

MAX_DIFFERENCE = {"float32": 1e-4, "float16": 5e-2}
"""Largest difference between the outputs of graph and student, as a share of the largest output.
There is no bound for int8, whose masks are compared instead."""
MAX_PROBABILITY_DIFFERENCE = 1e-3
"""Largest difference of probabilities in float32. Of logits up to 1000, as MediaPipe's network has
them, the rounding alone changes a probability by some 1e-4."""
MAX_IOU_LOSS = 0.02
"""Largest loss of mean IoU from float32 to int8."""
MAX_CHANGED = 0.02
"""Largest share of pixels whose class int8 changes, where there are no masks to compare with."""


class Exported(Protocol):
    """A file, and how to run it."""

    @property
    def content(self) -> bytes:
        """The file."""
        ...

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"]) -> Output:
        """Computes logits or probabilities of RGB images, as the form of the file says."""
        ...

    def probe(self, size: Size) -> Callable[[], object]:
        """Returns a function that runs the file once on an image of noise."""
        ...


class Row(NamedTuple):
    """Measurements of one graph."""

    bytes: int
    """Size of the file."""
    seconds: float
    """Seconds per image on the CPU, in batches of one."""
    difference: float
    """Largest difference from the student's output, as a share of the largest output."""
    changed: float
    """Share of the pixels that are a person for the graph and not for the student, or vice versa.
    """
    mean_iou: float | None
    """Mean IoU with the masks; None for images without masks."""


def compare(
    student: Student,
    form: Form,
    exported: Mapping[Precision, Exported],
    sample: Sample,
    teacher: TeacherProbe | None = None,
) -> tuple[dict[Precision, Row], Cost | None]:
    """Measures files against the student, and against its teacher.

    Args:
      student: The student.
      form: Input and output of the files.
      exported: The files by precision.
      sample: The images to measure on.
      teacher: A call of the teacher; None: no teacher is measured.

    Returns:
      The measurements by precision, and size and speed of the teacher.
    """
    size = sample.images.shape[1:3]
    probes = {str(name): own.probe(size) for name, own in exported.items()}
    seconds = latencies(probes if teacher is None else {**probes, "teacher": teacher.run})
    few = sample.images[:COMPARED]
    expected = flax_outputs(in_float32(student), few, form)
    rows = {}
    for name, own in exported.items():
        output = own(few if sample.masks is None else sample.images)
        rows[name] = Row(
            len(own.content),
            seconds[name],
            difference(expected, output[:COMPARED]),
            changed(expected, output[:COMPARED], form),
            None if sample.masks is None else mean_iou(output, sample.masks, form),
        )
    return rows, None if teacher is None else teacher.cost(seconds["teacher"])


def in_float32(student: Student) -> Student:
    """Returns a student with the same variables that computes in float32, as graphs do.

    Args:
      student: A student of any precision.
    """
    copy: Student = nnx.clone(student)
    copy.dtype = "float32"
    return copy


def changed_by_precision(student: Student, images: UInt8[np.ndarray, "n h w 3"]) -> float:
    """Returns the share of pixels whose class a student changes when it computes in float32.

    Args:
      student: A student of another precision.
      images: RGB; a few of them are measured.
    """
    form, few = Form(), images[:COMPARED]
    own, other = (flax_outputs(each, few, form) for each in (student, in_float32(student)))
    return changed(other, own, form)


def check(precision: Precision, row: Row, reference: Row, form: Form) -> None:
    """Checks that a graph computes what the student computes, up to its precision.

    Args:
      precision: Number format of the graph.
      row: Its measurements.
      reference: Those of the float32 graph.
      form: Output of the graph.

    Raises:
      ExportError: The difference is larger than allowed (`graph-differs`).
    """
    if precision != "int8":
        what, value, limit = "difference", row.difference, MAX_DIFFERENCE[precision]
        if form.sigmoid:
            limit = max(limit, MAX_PROBABILITY_DIFFERENCE)
    elif row.mean_iou is None or reference.mean_iou is None:
        what, value, limit = "share of pixels changed", row.changed, MAX_CHANGED
    else:
        what, value, limit = "mean IoU lost", reference.mean_iou - row.mean_iou, MAX_IOU_LOSS
    if not value <= limit:  # also where it is NaN
        advice = f"; leave {precision} out, or train the student further"
        raise ExportError(
            f"the {precision} graph computes something else, so that no file was written: "
            f"{what} {value:.2g}, allowed {limit:.2g}{'' if precision == 'float32' else advice}",
            code="graph-differs",
        )


def flax_outputs(student: Student, images: UInt8[np.ndarray, "n h w 3"], form: Form) -> Output:
    """Computes the expected output of a graph with the student itself.

    Args:
      student: The student.
      images: RGB.
      form: Output of the graph.

    Returns:
      Logits, or probabilities if the form has `sigmoid`.
    """
    graphdef, state = nnx.split(student)
    state = jax.tree.map(np.asarray, state)

    @jax.jit
    def run(state: nnx.State, image: jax.Array) -> jax.Array:
        logits = nnx.merge(graphdef, state)(image.astype(jnp.float32) / 255, train=False).logits
        return jax.nn.sigmoid(logits) if form.sigmoid else logits

    with xla.exact_products():
        outputs = [np.asarray(run(state, image), np.float32) for image in images[:, None]]
        return np.concatenate(outputs)


def difference(expected: Output, actual: Output) -> float:
    """Returns the largest difference, divided by the largest expected value or 1.

    Args:
      expected: The student's output.
      actual: A graph's output.
    """
    return float(np.abs(expected - actual).max() / max(1.0, np.abs(expected).max()))


def changed(expected: Output, actual: Output, form: Form) -> float:
    """Returns the share of pixels whose class differs.

    Args:
      expected: The student's output.
      actual: A graph's output.
      form: Output of the graph.
    """
    return float((to_masks(expected, form) != to_masks(actual, form)).mean())


def to_masks(output: Output, form: Form) -> np.ndarray:
    """Returns where an output is a person.

    Args:
      output: A graph's output.
      form: Output of the graph.
    """
    return output > (0.5 if form.sigmoid else 0.0)


def mean_iou(output: Output, masks: UInt8[np.ndarray, "n h w 1"], form: Form) -> float:
    """Returns the mean over the images of the mean IoU, as a run's validation measures it.

    Args:
      output: A graph's output.
      masks: The images' masks.
      form: Output of the graph.
    """
    return float(
        segmentation.mean_iou(jnp.asarray(to_masks(output, form)), jnp.asarray(masks > 0)).mean()
    )
