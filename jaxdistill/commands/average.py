"""Writes the mean of several networks' outputs as one ONNX file, or that of their weights.

    jaxdistill export runs/a a.onnx --input unit --size 224 224
    jaxdistill export runs/a b.onnx --input unit --size 352 352
    jaxdistill average mean.onnx a.onnx b.onnx:mirrored
    jaxdistill average mean.safetensors runs/a runs/b runs/c

MEAN.onnx is the mean of the probabilities of ONNX files of `jaxdistill export`, with another input
than bytes: networks of several runs, or one network at two sizes. It takes as long as all of them
together. `FILE:mirrored` shows the network the image flipped left to right, and flips its mask
back. The mean is written only after onnxruntime has computed the same probabilities with it as with
the files; a model card is written beside it as MEAN.json.

MEAN.safetensors is the mean of the weights of runs that started from the same `student.weights`,
such as with other seeds: of their best checkpoints, with `training.interpolate` between the start
and that. It takes as long as one of them. `jaxdistill export` takes it, and so does
`student.weights` of another training.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from jaxdistill.checkpoint.weight_mean import write_weight_mean
from jaxdistill.commands import common
from jaxdistill.commands.model_options import checked_size
from jaxdistill.exporters.mean import average
from jaxdistill.exporters.mean_graph import Input, Member, read_member
from jaxdistill.runtime.errors import ConfigError, NetworkError, RunError

_MIRRORED = ":mirrored"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and writes the mean.

    Args:
      arguments: The arguments; None takes those of the process.
    """
    args = _parser().parse_args(arguments)
    if args.output.suffix == ".safetensors":
        if args.size or args.input != "unit":
            raise ConfigError(
                f"--size and --input are for a MEAN.onnx; give them to `jaxdistill export "
                f"{args.output}`",
                code="mean-ending",
            )
        _average_weights(args.output, [Path(run) for run in args.files])
        return
    members = [_member(text) for text in args.files]
    average(
        members,
        args.output,
        size=checked_size(args),
        input=args.input,
        console=common.console(),
    )


def _average_weights(output: Path, runs: Sequence[Path]) -> None:
    if files := [run for run in runs if run.is_file()]:
        raise RunError(
            f"{files[0]} is a file, expected the folder of a run: {output.name} is the mean of the "
            f"weights of runs. The mean of ONNX files is a MEAN.onnx",
            code="not-a-run",
        )
    write_weight_mean(runs, output)
    print(f"wrote {output}, the mean of the weights of {len(runs)} runs")


def _member(text: str) -> Member:
    mirrored = text.endswith(_MIRRORED) and not Path(text).exists()
    path = Path(text.removesuffix(_MIRRORED) if mirrored else text)
    if path.is_dir():
        raise NetworkError(
            f"{path} is a folder, expected a file of `jaxdistill export RUN FILE.onnx`. The mean "
            f"of the weights of runs is a MEAN.safetensors",
            code="not-a-member",
        )
    return read_member(path, mirrored=mirrored)


def _parser() -> argparse.ArgumentParser:
    parser = common.CommandParser("average", __doc__)
    parser.add_argument(
        "output", type=Path, metavar="MEAN", help="the file to write, .onnx or .safetensors"
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="an exported FILE.onnx, or FILE.onnx:mirrored; for weights, the folder of a run",
    )
    parser.add_argument(
        "--input",
        choices=get_args(Input),
        default="unit",
        help="input of MEAN.onnx, always RGB. unit: float32 (N, 3, H, W) in [0, 1]; uint8: "
        "(N, H, W, 3), as images are decoded (default: unit)",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width of MEAN.onnx's input (default: those of the largest file)",
    )
    return parser
