"""The floor of `benchmark_step.py`: the arithmetic of a step, and the machine's best rate.

It counts the convolutions of all three networks in their plain form: forward, and backward for what
is trained. A form that needs less arithmetic, such as that of our upsampling convolution, may
therefore be faster than the floor.
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
from onnx_network import open_network
from onnxruntime import GraphOptimizationLevel, SessionOptions
from torch.utils.flop_counter import FlopCounterMode

from jaxdistill import config
from jaxdistill.config import Size
from jaxdistill.models import feature_info
from jaxdistill.models.feature_pairs import pair_up
from jaxdistill.runtime import errors
from jaxdistill.torch_interop import export_teacher

_TRIES = 10
_SIDES = {"cpu": 2048, "gpu": 8192}  # rows of square matrices, enough for the best rate


class Arithmetic:
    """Answers nothing; everything is in `found`."""

    def __init__(self, setting: benchmark_child.Setting) -> None:
        self.found = {
            "flops": flops(setting.settings, setting.teacher_checkpoint),
            "rates": rates(setting.settings.precision),
        }


def flops(settings: config.Config, teacher_checkpoint: Path) -> dict[str, float]:
    """Returns floating-point operations per image: `teacher`, `detector`, `encoder`, `rest`.

    `encoder` is the student's, forward; `rest` is everything else that the student's step computes.
    """
    size = settings.data.image_size
    tensors = [feature.tensor for feature in settings.features]
    detector, shapes = onnx_flops(settings.detector.onnx, tensors, size)
    pairs = pair_up(settings.features, shapes, size, feature_info(settings.student))
    with torch.device("meta"):  # shapes without numbers
        student = torch_original.Student(settings.student, pairs).train()
    student.unet.encoder.requires_grad_(False)
    teacher, _ = export_teacher.load(teacher_checkpoint)
    images = torch.empty(1, 3, *size, device="meta")

    def forward_and_backward() -> None:
        logits, projected = student(images)
        sum([logits.sum(), *(maps.sum() for maps in projected)]).backward()

    with torch.no_grad():
        encoder = counted(lambda: student.unet.encoder(images))
        teacher_flops = counted(lambda: teacher.to("meta")(images))
    return {
        "teacher": teacher_flops,
        "detector": detector,
        "encoder": encoder,
        "rest": counted(forward_and_backward) - encoder,
    }


def counted(work: Callable[[], object]) -> float:
    """Returns the floating-point operations of a call of PyTorch."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def onnx_flops(
    path: Path, tensors: Sequence[str], size: Size
) -> tuple[float, list[tuple[int, int, int]]]:
    """Returns the operations of the convolutions that some tensors need, and their (h, w, C).

    They come from onnxruntime's profiler, since ONNX's own shape inference is incomplete.
    """
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        network = open_network(path, tensors, options=options)
        black = np.zeros((network.image.batch or 1, 3, *size), network.image.dtype)
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
    """Returns the best rate of a matrix product, in operations per second, by library."""
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
