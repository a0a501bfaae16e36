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
from jaxdistill.runtime.errors import UserError
from jaxdistill.runtime.files import write_atomic
from jaxdistill.torch_interop import checkpoints, smp_networks

DEFAULT_ENCODER = "timm-efficientnet-b3"
TOLERANCE = 1e-4  # of the largest absolute value
_FREE_SIZES = ((64, 64), (96, 160))


def main() -> None:
    arguments = _arguments()
    network, encoder = load(arguments.checkpoint, arguments.encoder)
    sizes = [arguments.size] if arguments.size else _FREE_SIZES
    try:
        graph = export(network, arguments.size, arguments.opset)
        difference = compare(graph, network, sizes)
    except Exception as error:  # torch and onnxruntime raise whatever an encoder runs into
        raise UserError(
            f"{encoder} cannot be exported so ({errors.first_line(error)}): it may need a fixed "
            f"--size, such as 640 640, or another --opset"
        ) from None
    print(f"largest difference of the logits from PyTorch's, relative: {difference:.1e}")
    if not difference <= TOLERANCE:
        raise UserError(
            f"the logits differ from PyTorch's by {difference:.1e} of the largest value, more than "
            f"{TOLERANCE:.0e}: nothing is written"
            + ("" if arguments.size else "; the encoder may need a fixed --size")
        )
    _write(arguments.output, graph)
    size = "x".join(map(str, arguments.size)) if arguments.size else "any size"
    print(f"wrote {arguments.output}: {encoder}, {size}, any batch, {len(graph) / 1e6:.1f} MB")


def load(checkpoint: Path, encoder: str | None = None) -> tuple[nn.Module, str]:
    """The UNet of a checkpoint, in eval mode, and the name of its encoder.

    Args:
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
        raise UserError(f"{error}; the encoder {encoder} was expected, see --encoder") from None
    return network, encoder


def export(network: nn.Module, size: Sequence[int] | None, opset: int) -> bytes:
    """The network as an ONNX file: `images` (N, 3, H, W) to `logits` (N, 1, H, W).

    Args:
      size: height and width; None leaves both free.
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
        help="fixes the size of the pictures; multiples of 32",
    )
    parser.add_argument("--opset", type=int, default=17, help="version of ONNX's operators")
    return parser.parse_args()


def _multiple_of_32(text: str) -> int:
    if not text.isdigit() or int(text) % 32 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of 32")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(errors.command(main))
