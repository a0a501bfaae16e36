"""What an exported graph is worth: how near the Flax student, how fast, how good its masks."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from flax import nnx
from jaxtyping import Float, UInt8

from jaxdistill import config
from jaxdistill.config import Size
from jaxdistill.data import image_ops
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.image_ops import Normalization
from jaxdistill.exporters.onnx_graph import Form
from jaxdistill.metrics import segmentation
from jaxdistill.models.student import Student
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import input_size

Output = Float[np.ndarray, "n h w 1"]
COMPARED = 4  # pictures that the student itself computes, which takes it seconds each
ROUNDS = 12


class Cost(NamedTuple):
    """What a network costs its user."""

    bytes: int
    seconds: float
    """Per picture, batch 1, on the CPU."""
    size: Size
    """Height and width of that picture."""


class Row(NamedTuple):
    """What was measured of one graph."""

    bytes: int
    seconds: float
    """As in `Cost`."""
    difference: float
    """The largest one to the student's output, as a share of the largest output."""
    changed: float
    """Share of the pixels that are a person for one and not for the other."""
    mean_iou: float | None
    """None on pictures without masks."""


class Sample(NamedTuple):
    """Pictures to measure on."""

    images: UInt8[np.ndarray, "n h w 3"]
    masks: UInt8[np.ndarray, "n h w 1"] | None
    """In {0, 1}; None where nobody knows them."""


def compare(
    student: Student,
    form: Form,
    graphs: Mapping[str, onnx.ModelProto],
    sample: Sample,
    teacher: config.Teacher | None,
) -> tuple[dict[str, Row], Cost | None]:
    """A row per graph, and what the teacher costs in the same moments.

    Raises:
      UserError: the teacher's file is damaged.
    """
    size = sample.images.shape[1:3]
    written = {name: graph.SerializeToString() for name, graph in graphs.items()}
    students = {
        name: OnnxStudent(model, form, student.normalization) for name, model in written.items()
    }
    probes = {name: own.probe(size) for name, own in students.items()}
    if teacher is not None:
        probes["teacher"], teachers_size, at_once = teacher_probe(teacher, size)
    seconds = latencies(probes)
    few = sample.images[:COMPARED]
    expected = flax_outputs(student, few, form)
    rows = {}
    for name, own in students.items():
        output = own(few if sample.masks is None else sample.images)
        rows[name] = Row(
            len(written[name]),
            seconds[name],
            difference(expected, output[:COMPARED]),
            changed(expected, output[:COMPARED], form),
            None if sample.masks is None else mean_iou(output, sample.masks, form),
        )
    if teacher is None:
        return rows, None
    per_picture = seconds["teacher"] / at_once
    return rows, Cost(teacher.onnx.expanduser().stat().st_size, per_picture, teachers_size)


def sample(dataset: Dataset, count: int, size: Size) -> Sample:
    """At most `count` examples, taken evenly from all over the split; masks if all have one."""
    count = min(count, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    photographs = [dataset[int(index)] for index in indices]
    images = [image_ops.resize_image(photo.image, size) for photo in photographs]
    masks = [image_ops.resize_mask(p.mask, size) for p in photographs if p.mask is not None]
    known = np.stack(masks)[..., None] if len(masks) == count else None
    return Sample(np.stack(images), known)


def noise(count: int, size: Size) -> Sample:
    """Where there are no pictures."""
    drawn = np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)
    return Sample(drawn, None)


def feed(
    images: UInt8[np.ndarray, "n h w 3"], form: Form, normalization: Normalization
) -> Iterator[np.ndarray]:
    """Picture by picture, batches of one, as a graph of that form wants them."""
    for image in images[:, None]:
        if form.input == "uint8":
            yield image
            continue
        values = image.astype(np.float32) / 255
        if form.input == "normalized":
            values = np.asarray(image_ops.normalize(values, normalization))
        yield np.ascontiguousarray(values.transpose(0, 3, 1, 2))


class OnnxStudent:
    """An exported graph in onnxruntime, on the CPU."""

    def __init__(self, model: bytes, form: Form, normalization: Normalization) -> None:
        self._form, self._normalization = form, normalization
        self._session = _open(model)

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"]) -> Output:
        fed = feed(images, self._form, self._normalization)
        outputs = [self._session.run(None, {"image": image})[0] for image in fed]
        return np.concatenate(outputs).transpose(0, 2, 3, 1)

    def probe(
        self, size: Size, options: onnxruntime.RunOptions | None = None
    ) -> Callable[[], object]:
        """Computes one picture of that size, whichever, already laid out."""
        image = next(feed(noise(1, size).images, self._form, self._normalization))
        return lambda: self._session.run(None, {"image": image}, options)


def flax_outputs(student: Student, images: UInt8[np.ndarray, "n h w 3"], form: Form) -> Output:
    """What the graph's output should be, computed by the student itself, on the CPU.

    An accelerator would round otherwise (TF32), and hide or feign a difference.
    """

    cpu = jax.local_devices(backend="cpu")[0]
    graph, state = nnx.split(student)
    state = jax.device_put(state, cpu)

    @jax.jit
    def run(state: nnx.State, image: jax.Array) -> jax.Array:
        logits = nnx.merge(graph, state)(image.astype(jnp.float32) / 255, train=False).logits
        return jax.nn.sigmoid(logits) if form.sigmoid else logits

    with jax.default_device(cpu):
        return np.concatenate([np.asarray(run(state, image)) for image in images[:, None]])


def difference(expected: Output, actual: Output) -> float:
    """The largest, as a share of the largest value (of 1, if that is smaller)."""
    return float(np.abs(expected - actual).max() / max(1.0, np.abs(expected).max()))


def changed(expected: Output, actual: Output, form: Form) -> float:
    """Share of the pixels that come to lie on the other side of the mask's edge."""
    return float((masks_of(expected, form) != masks_of(actual, form)).mean())


def masks_of(output: Output, form: Form) -> np.ndarray:
    """Person or not."""
    return output > (0.5 if form.sigmoid else 0.0)


def mean_iou(output: Output, masks: UInt8[np.ndarray, "n h w 1"], form: Form) -> float:
    """As the validation of a run measures it: the mean over the pictures."""
    return float(
        segmentation.mean_iou(jnp.asarray(masks_of(output, form)), jnp.asarray(masks > 0)).mean()
    )


def teacher_probe(teacher: config.Teacher, size: Size) -> tuple[Callable[[], object], Size, int]:
    """What computes the teacher's masks of pictures of that size, or of its own if it has one; that
    size, and how many pictures they are.

    Raises:
      UserError: the file is missing or damaged; see `OnnxGraph`.
    """
    graph = OnnxGraph(teacher.onnx)
    model, picture = graph.cut([teacher.tensor or graph.outputs[0]])
    session = _open(model, graph.path.parent)
    size, count = input_size(graph.path, picture, teacher.size, size), picture.batch or 1
    image = np.zeros((count, 3, *size), picture.dtype)
    return lambda: session.run(None, {picture.name: image}), size, count


def latencies(probes: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds per call, the median of several; they take turns, so that all have the same luck."""
    taken: dict[str, list[float]] = {name: [] for name in probes}
    for turn in range(ROUNDS + 1):
        for name, probe in probes.items():
            began = time.perf_counter()
            probe()
            if turn > 0:  # the first one allocates
                taken[name].append(time.perf_counter() - began)
    return {name: float(np.median(seconds)) for name, seconds in taken.items()}


def _open(model: bytes, folder: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder.resolve())
        )
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
