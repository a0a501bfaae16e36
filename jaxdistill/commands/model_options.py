"""Command-line options about the model, shared by `evaluate` and `predict`."""

import argparse

from jaxdistill import config
from jaxdistill.evaluation.backend import ModelOptions
from jaxdistill.runtime.errors import ConfigError


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `model_options` reads.

    Args:
      parser: The parser of a command.
    """
    add_interpolation(parser)
    group = parser.add_argument_group("ONNX files that our export did not write")
    group.add_argument(
        "--output-kind",
        choices=("logits", "probabilities"),
        help="what the mask tensor holds (required for such files)",
    )
    group.add_argument(
        "--normalization",
        choices=("imagenet", "unit", "half"),
        help="what the file expects of pixels in [0, 1] (default: imagenet)",
    )
    group.add_argument(
        "--tensor", metavar="NAME", help="the mask tensor (default: the file's first output)"
    )
    group.add_argument(
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
        "and the best checkpoint (1); 0.25 is a quarter of the way",
    )


def model_options(args: argparse.Namespace) -> ModelOptions:
    """Returns the options of `add_model_options`.

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
    return ModelOptions(args.output_kind, args.normalization, args.tensor, size, args.interpolate)
