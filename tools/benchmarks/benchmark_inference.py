"""Measures the speed of a run's student, of its teacher, and of PyTorch's export of the student.

    python tools/benchmarks/benchmark_inference.py runs/my_run [--teacher teacher.onnx] \\
        [--size 640 640]

All of them run in onnxruntime and take turns; the results are medians. Our graph and PyTorch's hold
the same weights, and their outputs are compared. `--also` adds other files, such as the student
in int8.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import json_file
import numpy as np
from onnx_network import open_network
from rich.console import Console
from rich.table import Table

from jaxdistill.checkpoint.best import Best
from jaxdistill.checkpoint.best import best as best_of
from jaxdistill.config import Size
from jaxdistill.exporters.latency import latencies
from jaxdistill.exporters.onnx_graph import OPSET, Form, student_graph
from jaxdistill.models.parameters import flat_variables
from jaxdistill.runtime import errors
from jaxdistill.runtime.errors import ConfigError, ExportError
from jaxdistill.torch_interop import checkpoints, export_teacher, parameter_names, smp_networks

OURS, PYTORCHS, TEACHER = "student", "student, PyTorch's export", "teacher"
TOLERANCE = 1e-4  # share of the largest absolute logit


class Contestant(NamedTuple):
    """A network to measure."""

    bytes: int
    run: Callable[[], list[np.ndarray]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, measures, and prints a table."""
    args = _parser().parse_args(arguments)
    best = best_of(args.run)
    size = tuple(args.size or best.settings.data.image_size)
    with tempfile.TemporaryDirectory() as folder:
        files = _files(best, args, Path(folder))
        contestants = {
            name: _contestant(path, args.batch, size, args.threads) for name, path in files.items()
        }
    difference = _difference(contestants)
    seconds = latencies({name: contestant.run for name, contestant in contestants.items()})
    measured = {
        "size": size,
        "batch": args.batch,
        "difference": difference,
        "seconds per image": {name: value / args.batch for name, value in seconds.items()},
        "bytes": {name: contestant.bytes for name, contestant in contestants.items()},
    }
    Console(soft_wrap=True, highlight=False).print(_table(measured))
    if args.json:
        args.json.write_text(json.dumps(measured, indent=2))


def _files(best: Best, args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Returns the files of all contestants; the student is exported into the folder."""
    graphs = {
        OURS: student_graph(best.student, Form()).SerializeToString(),
        PYTORCHS: _export_by_torch(best),
    }
    files = {}
    for index, (name, graph) in enumerate(graphs.items()):
        files[name] = folder / f"{index}.onnx"
        files[name].write_bytes(graph)
    own = best.settings.teacher and best.settings.teacher.onnx
    if teacher := args.teacher or own:
        files[TEACHER] = teacher
    return files | {path.name: path for path in args.also}


def _export_by_torch(best: Best) -> bytes:
    """Exports the student as SMP's UNet by PyTorch."""
    settings = best.settings.student
    channels = [feature.channels for feature in best.student.decoder.feature_info]
    network = smp_networks.unet(settings.encoder, channels)
    arrays = {name: np.asarray(array) for name, array in flat_variables(best.student).items()}
    tensors = checkpoints.tensors_of(parameter_names.to_torch(arrays))
    smp_networks.load(network, tensors, "the run's student")
    return export_teacher.to_onnx(network, None, OPSET)


def _contestant(path: Path, batch: int, size: Size, threads: int | None) -> Contestant:
    """Opens a network, with normalised noise as its input.

    Raises:
      NetworkError: The file is damaged.
      ConfigError: Its input is fixed to another batch or size (`input-size`).
    """
    network = open_network(path, threads=threads)
    image, wanted = network.image, (batch, *size)
    fixed = (image.batch, image.height, image.width)
    if any(own not in (None, side) for own, side in zip(fixed, wanted, strict=True)):
        shown = " x ".join(str(side or "any") for side in fixed)
        raise ConfigError(
            f"{path}: the input is {shown} (batch x height x width), not {batch} x {size[0]} x "
            f"{size[1]}; change --batch and --size, or export the file again",
            code="input-size",
        )
    noise = np.random.default_rng(0).normal(size=image.shape(batch, size)).astype(image.dtype)
    return Contestant(path.stat().st_size, partial(network, noise))


def _difference(contestants: Mapping[str, Contestant]) -> float:
    """Returns the largest difference of our logits from PyTorch's, as a share of the largest.

    Raises:
      ExportError: It exceeds the tolerance (`conversion-differs`).
    """
    [ours], [wanted] = contestants[OURS].run(), contestants[PYTORCHS].run()
    worst = float(np.abs(ours - wanted).max() / np.abs(wanted).max())
    if not worst <= TOLERANCE:
        raise ExportError(
            f"our graph and PyTorch's differ by {worst:.1e} of the largest logit, more than "
            f"{TOLERANCE:.0e}: their speeds cannot be compared",
            code="conversion-differs",
        )
    return worst


def _table(measured: Mapping[str, Any]) -> Table:
    seconds, (height, width) = measured["seconds per image"], measured["size"]
    against = TEACHER if TEACHER in seconds else PYTORCHS
    table = Table(
        title=f"{height} x {width}, batch {measured['batch']}",
        caption=f"largest difference of our graph from PyTorch's: {measured['difference']:.1e}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for heading in ("MB", "ms per image", f"{against} / it"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, value in seconds.items():
        table.add_row(
            name,
            f"{measured['bytes'][name] / 1e6:.1f}",
            f"{value * 1e3:.1f}",
            f"{seconds[against] / value:.2f}",
        )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--teacher", type=Path, help="an .onnx file (default: the run's own)")
    parser.add_argument("--also", type=Path, nargs="+", default=[], help="other .onnx files")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: the run's")
    parser.add_argument("--batch", type=int, default=1, help="images per call (default: 1)")
    parser.add_argument("--threads", type=int, help="onnxruntime's threads on a CPU")
    json_file.add_option(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(errors.command(main))
