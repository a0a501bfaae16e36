"""Size and speed of exported students, beside their teacher's."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from jaxdistill import config
from jaxdistill.config import Size
from jaxdistill.exporters.onnx_student import open_for_measuring
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import input_size

ROUNDS = 12
"""Number of calls of which the median is taken."""


class Cost(NamedTuple):
    """Size and speed of a network."""

    bytes: int
    """Size of the file."""
    seconds: float
    """Seconds per image on the CPU, in batches of one."""
    size: Size
    """Height and width of the image."""


class TeacherProbe(NamedTuple):
    """One call of a teacher, to measure its speed."""

    run: Callable[[], object]
    """Computes the teacher's masks once."""
    size: Size
    """Height and width of the teacher's input."""
    batch: int
    """Number of images in a call."""
    bytes: int
    """Size of the file."""

    def cost(self, seconds: float) -> Cost:
        """Returns size and speed of the teacher.

        Args:
          seconds: Seconds per call.
        """
        return Cost(self.bytes, seconds / self.batch, self.size)


def teacher_probe(teacher: config.Teacher, size: Size) -> TeacherProbe:
    """Prepares a call of a teacher on the CPU.

    Args:
      teacher: The teacher's section of the configuration.
      size: Height and width of the images, where neither the teacher's file nor `teacher.size`
        fixes them.

    Returns:
      The call.

    Raises:
      NetworkError: The file is missing or damaged; see `OnnxGraph`.
    """
    graph = OnnxGraph(teacher.onnx, teacher.layout)
    model, image = graph.cut([teacher.tensor or graph.outputs[0]])
    session = open_for_measuring(model, graph.path.parent)
    size, count = input_size(graph.path, image, teacher.size, size), image.batch or 1
    batch = np.zeros(image.shape(count, size), image.dtype)
    bytes_ = graph.path.stat().st_size
    return TeacherProbe(lambda: session.run(None, {image.name: batch}), size, count, bytes_)


def latencies(probes: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Measures the durations of calls.

    The calls take turns, so that a disturbance affects all of them.

    Args:
      probes: Functions by name.

    Returns:
      By name the median of `ROUNDS` calls, in seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in probes}
    for turn in range(ROUNDS + 1):
        for name, probe in probes.items():
            began = time.perf_counter()
            probe()
            if turn > 0:  # the first call allocates memory
                taken[name].append(time.perf_counter() - began)
    return {name: float(np.median(seconds)) for name, seconds in taken.items()}
