"""Command-line options about the model: of `evaluate`, `predict` and `inspect`."""

import argparse
import json
from typing import get_args

from pydantic import TypeAdapter

from jaxdistill import config
from jaxdistill.config.yaml_files import parse_yaml
from jaxdistill.evaluation.backend import ModelOptions
from jaxdistill.evaluation.refinement import REFINEMENTS
from jaxdistill.runtime.errors import ConfigError

_LAYOUT = "order of the axes of input or mask (default: as its shape suggests)"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `model_options` reads.

    Args:
      parser: The parser of a command.
    """
    add_interpolation(parser)
    group = parser.add_argument_group("ONNX files that our export did not write")
    group.add_argument(
        "--output-kind",
        choices=get_args(config.OutputKind),
        help="what the mask tensor holds (required for such files)",
    )
    group.add_argument(
        "--channel",
        type=int,
        nargs="+",
        metavar="N",
        help="the class of people in the mask tensor, counted from 0, or several that are added up",
    )
    group.add_argument(
        "--tensor", metavar="NAME", help="the mask tensor (default: the file's first output)"
    )
    group.add_argument("--output-layout", choices=get_args(config.Layout), help=_LAYOUT)
    add_input_options(group)


def add_input_options(parser: argparse._ActionsContainer) -> None:
    """Adds the options about the input of an ONNX file.

    Args:
      parser: The parser of a command, or a group of it.
    """
    parser.add_argument(
        "--normalization",
        type=_normalization,
        metavar="NAME|YAML",
        help="what the file expects of pixels: imagenet, unit ([0, 1]), half ([-1, 1]), bytes "
        "([0, 255]), or '{mean: [r, g, b], std: [r, g, b]}', with scale: 255 where these are of "
        "pixels in [0, 255] (default: bytes for an input of uint8, else imagenet)",
    )
    parser.add_argument(
        "--channel-order",
        choices=get_args(config.ChannelOrder),
        help="order of the input's channels (default: rgb)",
    )
    parser.add_argument("--layout", choices=get_args(config.Layout), help=_LAYOUT)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="input size, for files that accept any size",
    )


def add_interpolation(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--interpolate`.

    Args:
      parser: The parser of a command.
    """
    parser.add_argument(
        "--interpolate",
        type=float,
        metavar="SHARE",
        help="for a run that started from a whole student's weights: weights between the start (0) "
        "and the best checkpoint (1); 0.25 is a quarter of the way (default: the run's "
        "training.interpolate)",
    )


def add_refinement(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--refine`.

    Args:
      parser: The parser of a command.
    """
    parser.add_argument(
        "--refine",
        metavar="NAME",
        help=f"refine masks at the size of the image: {', '.join(REFINEMENTS)} lets edges follow "
        f"its colours (default: off)",
    )


def checked_size(args: argparse.Namespace) -> config.Size | None:
    """Returns `--size`.

    Args:
      args: The parsed command line.

    Raises:
      ConfigError: A side is not positive, or too large (`input-size`).
    """
    size = (args.size[0], args.size[1]) if args.size else None
    if size and not all(0 < side <= config.LARGEST_SIDE for side in size):
        raise ConfigError(
            f"--size {size[0]} {size[1]}: expected two numbers from 1 to {config.LARGEST_SIDE}, "
            f"such as 320 320",
            code="input-size",
        )
    return size


def model_options(args: argparse.Namespace) -> ModelOptions:
    """Returns the options of `add_model_options`.

    Args:
      args: The parsed command line.

    Raises:
      ConfigError: A side is not positive, or too large (`input-size`).
    """
    return ModelOptions(
        output=args.output_kind,
        normalization=args.normalization,
        tensor=args.tensor,
        size=checked_size(args),
        interpolate=args.interpolate,
        channel=args.channel,
        channel_order=args.channel_order,
        layout=args.layout,
        output_layout=args.output_layout,
    )


def _normalization(text: str) -> config.Normalization:
    """Reads a name, or a mean and a standard deviation in YAML."""
    try:
        value = json.dumps(parse_yaml(text, "--normalization"))
        return TypeAdapter(config.Normalization).validate_json(value, strict=True)
    except (ConfigError, TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected imagenet, unit, half, bytes, or a mean and a standard deviation "
            f"such as '{{mean: [124, 116, 104], std: [58, 57, 57], scale: 255}}'"
        ) from None
