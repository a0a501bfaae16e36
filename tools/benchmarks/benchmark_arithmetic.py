"""The arithmetic of a step and the machine's best rate: the floor of `benchmark_step.py`.

Counted are the convolutions of all three networks in their plain form, forward and, of what is
trained, backward. A form that needs less arithmetic, such as that of our upsampling convolution,
may therefore come to lie below the floor.
"""

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import benchmark_child
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_original
from onnxruntime import GraphOptimizationLevel, SessionOptions
from torch.utils.flop_counter import FlopCounterMode

from jaxdistill import config
from jaxdistill.config import Size
from jaxdistill.models import feature_info
from jaxdistill.models.feature_pairs import pair_up
from jaxdistill.runtime import errors
from jaxdistill.torch_interop import export_teacher
from jaxdistill.torch_interop.onnx_sessions import open_network

_TRIES = 10
_SIDES = {"cpu": 2048, "gpu": 8192}  # of square matrices: large enough for the best rate


class Arithmetic:
    def __init__(self, given: benchmark_child.Given) -> None:
        self.found = {
            "flops": flops(given.settings, given.teacher_checkpoint),
            "rates": rates(given.settings.precision),
        }


def flops(settings: config.Config, teacher_checkpoint: Path) -> dict[str, float]:
    """Floating-point operations for one picture: `teacher`, `detector`, `encoder`, `rest`.

    `encoder` is the student's, forward; `rest` is all else that the student's step computes.
    """
    size = settings.data.image_size
    tensors = [feature.tensor for feature in settings.features]
    detector, shapes = onnx_flops(settings.detector.onnx, tensors, size)
    pairs = pair_up(settings.features, shapes, size, feature_info(settings.student))
    with torch.device("meta"):  # shapes without numbers
        student = torch_original.Student(settings.student, pairs).train()
    student.unet.encoder.requires_grad_(False)
    teacher, _ = export_teacher.load(teacher_checkpoint)
    pictures = torch.empty(1, 3, *size, device="meta")

    def learn() -> None:
        logits, projected = student(pictures)
        sum([logits.sum(), *(maps.sum() for maps in projected)]).backward()

    with torch.no_grad():
        encoder = counted(lambda: student.unet.encoder(pictures))
        teacher_flops = counted(lambda: teacher.to("meta")(pictures))
    return {
        "teacher": teacher_flops,
        "detector": detector,
        "encoder": encoder,
        "rest": counted(learn) - encoder,
    }


def counted(work: Callable[[], object]) -> float:
    """Floating-point operations of what torch does there."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def onnx_flops(
    path: Path, tensors: Sequence[str], size: Size
) -> tuple[float, list[tuple[int, int, int]]]:
    """Operations of the convolutions that these tensors of a picture need; their (h, w, C).

    From a run with onnxruntime's profiler: what ONNX's own shape inference finds is incomplete.
    """
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        network = open_network(path, tensors, options=options)
        black = np.zeros((network.picture.batch or 1, 3, *size), network.picture.dtype)
        outputs = network(black)
        events = json.loads(Path(network.session.end_profiling()).read_text())
    total = 0.0
    for event in events:
        about = event.get("args", {})
        if about.get("op_name") == "Conv" and event["name"].endswith("_kernel_time"):
            [output], kernel = (
                _shapes(about["output_type_shape"]),
                _shapes(about["input_type_shape"])[1],
            )
            total += 2.0 * math.prod(output) * math.prod(kernel[1:])
    return total / len(black), [(h, w, c) for _, c, h, w in (array.shape for array in outputs)]


def _shapes(typed: Sequence[dict[str, list[int]]]) -> list[list[int]]:
    return [shape for tensor in typed for shape in tensor.values()]


def rates(precision: str) -> dict[str, float]:
    """The best rate of a product of two square matrices, operations per second, by library."""
    side = _SIDES["cpu" if jax.default_backend() == "cpu" else "gpu"]
    one = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    on_jax = jnp.asarray(one, precision)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    on_torch = torch.from_numpy(one).to(device, getattr(torch, precision))
    product = jax.jit(jnp.matmul)

    def in_torch() -> None:
        torch.mm(on_torch, on_torch)
        if on_torch.is_cuda:
            torch.cuda.synchronize()

    each: dict[str, Callable[[], Any]] = {
        "numpy": lambda: one @ one,
        "jax": lambda: product(on_jax, on_jax).block_until_ready(),
        "torch": in_torch,
    }
    return {
        library: 2 * side**3 / min(benchmark_child.timed(work, _TRIES))
        for library, work in each.items()
    }


if __name__ == "__main__":
    raise SystemExit(errors.command(lambda: benchmark_child.serve(Arithmetic)))
