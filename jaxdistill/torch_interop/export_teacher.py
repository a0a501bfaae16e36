"""Exports a PyTorch teacher to an ONNX file that training can use.

The teacher is a UNet of segmentation_models_pytorch with any encoder; the channels of its decoder
are read from the checkpoint. The graph maps normalised images (N, 3, H, W) to logits
(N, 1, H, W); N is free, and so are H and W unless a size is fixed. A file is written only if
onnxruntime computes the same logits as PyTorch.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import nn

from jaxdistill.config import Size
from jaxdistill.runtime.errors import ExportError, WeightsError, first_line, unwritable
from jaxdistill.runtime.files import write_atomic
from jaxdistill.torch_interop import checkpoints, smp_networks

DEFAULT_ENCODER = "timm-efficientnet-b3"
"""Encoder of a checkpoint whose metadata do not name one."""
TOLERANCE = 1e-4
"""Largest difference of the logits, as a share of the largest absolute value."""
_SAMPLE_SIZES = ((64, 64), (96, 160))


class ExportedTeacher(NamedTuple):
    """What was exported."""

    encoder: str
    """Name of the teacher's encoder."""
    bytes: int
    """Size of the file."""
    difference: float
    """Largest difference of the logits from PyTorch's, as a share of the largest absolute value."""
    normalization: str | None
    """What the network expects of pixels in [0, 1], `[mean, std]` as JSON; None: not known."""


def export_teacher(
    checkpoint: Path,
    output: Path,
    encoder: str | None = None,
    size: Size | None = None,
    opset: int = 17,
) -> ExportedTeacher:
    """Exports a teacher.

    Args:
      checkpoint: A `.pth` or `.safetensors` file.
      output: The ONNX file.
      encoder: SMP's name of the encoder; None takes that of the metadata, or `DEFAULT_ENCODER`.
      size: Fixed height and width of the images in pixels; None leaves both free.
      opset: Version of ONNX's operators.

    Raises:
      WeightsError: The checkpoint cannot be read, or belongs to another network.
      ExportError: PyTorch cannot export this network (`torch-export`), or onnxruntime
        computes other logits (`conversion-differs`).
      OutputError: The file cannot be written (`output-unwritable`).
    """
    network, encoder = load(checkpoint, encoder)
    try:
        graph = to_onnx(network, size, opset)
        difference = compare(graph, network, [size] if size else _SAMPLE_SIZES)
    except Exception as error:  # an encoder may make torch and onnxruntime raise anything
        raise ExportError(
            f"the encoder {encoder} cannot be exported ({first_line(error)}); it may need a fixed "
            f"--size, such as 640 640, or another --opset",
            code="torch-export",
        ) from None
    if not difference <= TOLERANCE:
        raise ExportError(
            f"the logits differ from PyTorch's by {difference:.1e} of the largest value, more than "
            f"{TOLERANCE:.0e}: nothing is written"
            + ("" if size else "; the encoder may need a fixed --size"),
            code="conversion-differs",
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(output, graph)
    except OSError as error:
        raise unwritable(output, error) from None
    normalization = checkpoints.metadata_of(checkpoint).get("normalization")
    return ExportedTeacher(encoder, len(graph), difference, normalization)


def load(checkpoint: Path, encoder: str | None = None) -> tuple[nn.Module, str]:
    """Loads the UNet of a checkpoint.

    Args:
      checkpoint: A `.pth` or `.safetensors` file.
      encoder: SMP's name of the encoder; None takes that of the metadata, or `DEFAULT_ENCODER`.

    Returns:
      The network in eval mode, and the name of its encoder.

    Raises:
      WeightsError: The checkpoint cannot be read, or belongs to another network.
    """
    tensors, channels = smp_networks.read_unet(checkpoint)
    written_for = checkpoints.metadata_of(checkpoint).get("encoder")
    encoder = encoder or written_for or DEFAULT_ENCODER
    network = smp_networks.unet(encoder, channels)
    try:
        smp_networks.load(network, tensors, str(checkpoint))
    except WeightsError as error:
        raise WeightsError(
            f"{error}; the encoder {encoder} was expected, see --encoder", code=error.code
        ) from None
    return network, encoder


def to_onnx(network: nn.Module, size: Sequence[int] | None, opset: int) -> bytes:
    """Converts a network to ONNX: `images` (N, 3, H, W) to `logits` (N, 1, H, W).

    Args:
      network: The network, in eval mode.
      size: Fixed height and width; None leaves both free.
      opset: Version of ONNX's operators.

    Returns:
      The content of the ONNX file.
    """
    free = {0: "N"} if size else {0: "N", 2: "H", 3: "W"}
    images = torch.zeros(2, 3, *(size or _SAMPLE_SIZES[0]))
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The tracer warns that it takes some sizes as constants; `compare` would notice.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (images,),
            file,  # type: ignore[arg-type]
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": free, "logits": free},
            opset_version=opset,
            dynamo=False,  # traces in seconds where torch.export needs minutes, and fuses BatchNorm
        )
    return file.getvalue()


@torch.inference_mode()
def compare(graph: bytes, network: nn.Module, sizes: Sequence[Sequence[int]]) -> float:
    """Compares onnxruntime's logits with PyTorch's, for batches of one and two random images.

    Args:
      graph: The content of an ONNX file.
      network: The network that it was made from.
      sizes: Heights and widths of the images.

    Returns:
      The largest difference, as a share of the largest absolute logit.
    """
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for size in sizes:
        for batch in (1, 2):
            images = torch.randn(batch, 3, *size, generator=generator)
            expected = network(images).numpy()
            (logits,) = session.run(None, {"images": images.numpy()})
            difference = np.abs(logits - expected).max() / np.abs(expected).max()
            worst = float(np.maximum(worst, difference))  # `max` would pass over NaN
    return worst
