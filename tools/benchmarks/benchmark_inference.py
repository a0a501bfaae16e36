"""How fast the student of a run is: against its teacher, and as PyTorch would have exported it.

    python tools/benchmark_inference.py runs/my_run [--teacher teacher.onnx] [--size 640 640]

All of them run in onnxruntime and take turns; given are medians. Our graph and PyTorch's hold the
same weights, which is checked on the pictures that they are timed with. Other files, such as the
student in eight bits, can join with `--also`.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxdistill.checkpoint.best import Best
from jaxdistill.checkpoint.best import best as best_of
from jaxdistill.config import Size
from jaxdistill.exporters import verify
from jaxdistill.exporters.onnx_graph import OPSET, Form, student_graph
from jaxdistill.models.parameters import flat_variables
from jaxdistill.runtime import errors
from jaxdistill.runtime.errors import UserError
from jaxdistill.torch_interop import checkpoints, export_teacher, parameter_names, smp_networks
from jaxdistill.torch_interop.onnx_sessions import open_network

OURS, PYTORCHS, TEACHER = "student", "student, PyTorch's export", "teacher"
TOLERANCE = 1e-4  # of the largest absolute logit


class Contestant(NamedTuple):
    bytes: int
    run: Callable[[], list[np.ndarray]]


def main() -> None:
    given = _arguments()
    best = best_of(given.run)
    size = tuple(given.size or best.settings.data.image_size)
    with tempfile.TemporaryDirectory() as folder:
        files = _files(best, given, Path(folder))
        contestants = {
            name: _contestant(path, given.batch, size, given.threads)
            for name, path in files.items()
        }
    difference = _difference(contestants)
    seconds = verify.latencies({name: contestant.run for name, contestant in contestants.items()})
    measured = {
        "size": size,
        "batch": given.batch,
        "difference": difference,
        "seconds per picture": {name: value / given.batch for name, value in seconds.items()},
        "bytes": {name: contestant.bytes for name, contestant in contestants.items()},
    }
    Console(soft_wrap=True, highlight=False).print(_table(measured))
    if given.json:
        given.json.write_text(json.dumps(measured, indent=2))


def _files(best: Best, given: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Of all contestants; the student is exported into the folder."""
    graphs = {
        OURS: student_graph(best.student, Form()).SerializeToString(),
        PYTORCHS: _torchs(best),
    }
    files = {}
    for index, (name, graph) in enumerate(graphs.items()):
        files[name] = folder / f"{index}.onnx"
        files[name].write_bytes(graph)
    own = best.settings.teacher and best.settings.teacher.onnx
    if teacher := given.teacher or own:
        files[TEACHER] = teacher
    return files | {path.name: path for path in given.also}


def _torchs(best: Best) -> bytes:
    """The same student as SMP's UNet, exported by torch."""
    settings = best.settings.student
    network = smp_networks.unet(settings.encoder, settings.decoder_channels)
    arrays = {name: np.asarray(array) for name, array in flat_variables(best.student).items()}
    tensors = checkpoints.tensors_of(parameter_names.to_torch(arrays))
    smp_networks.load(network, tensors, "the run's student")
    return export_teacher.export(network, None, OPSET)


def _contestant(path: Path, batch: int, size: Size, threads: int | None) -> Contestant:
    """A network, with normalised noise to run on.

    Raises:
      UserError: the file is damaged, or its input is fixed to another batch or size.
    """
    network = open_network(path, threads=threads)
    _, dtype, *fixed = network.picture
    wanted = (batch, *size)
    if any(own not in (None, side) for own, side in zip(fixed, wanted, strict=True)):
        shown = " x ".join(str(side or "any") for side in fixed)
        raise UserError(
            f"{path}: takes batches x heights x widths of {shown}, not {batch} x {size[0]} x "
            f"{size[1]}; choose --batch and --size accordingly, or export it again"
        )
    noise = np.random.default_rng(0).normal(size=(batch, 3, *size)).astype(dtype)
    return Contestant(path.stat().st_size, partial(network, noise))


def _difference(contestants: Mapping[str, Contestant]) -> float:
    """Between the logits of our graph and of PyTorch's, as a share of the largest.

    Raises:
      UserError: they are not those of one student.
    """
    [ours], [wanted] = contestants[OURS].run(), contestants[PYTORCHS].run()
    worst = float(np.abs(ours - wanted).max() / np.abs(wanted).max())
    if not worst <= TOLERANCE:
        raise UserError(
            f"our graph and PyTorch's differ by {worst:.1e} of the largest logit, more than "
            f"{TOLERANCE:.0e}: they cannot be compared"
        )
    return worst


def _table(measured: Mapping[str, Any]) -> Table:
    seconds, (height, width) = measured["seconds per picture"], measured["size"]
    against = TEACHER if TEACHER in seconds else PYTORCHS
    table = Table(
        title=f"{height} x {width}, batch {measured['batch']}",
        caption=f"largest difference of our graph from PyTorch's: {measured['difference']:.1e}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for heading in ("MB", "ms per picture", f"{against} / it"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, value in seconds.items():
        table.add_row(
            name,
            f"{measured['bytes'][name] / 1e6:.1f}",
            f"{value * 1e3:.1f}",
            f"{seconds[against] / value:.2f}",
        )
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--teacher", type=Path, help=".onnx; the run's own if left out")
    parser.add_argument("--also", type=Path, nargs="+", default=[], help="other .onnx files")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: the run's")
    parser.add_argument("--batch", type=int, default=1, help="pictures per call (default: 1)")
    parser.add_argument("--threads", type=int, help="of onnxruntime on a CPU")
    parser.add_argument("--json", type=Path, help="all numbers, into this file")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(errors.command(main))
