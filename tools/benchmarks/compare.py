"""Compares networks on the same images: scores, size, and latency on one thread.

    python tools/benchmarks/compare.py --data PATH/TO/COCO --size 320 320 \\
        "MediaPipe's selfie=selfie_segmentation.onnx:probabilities:unit" \\
        "ours=runs/browser/0,runs/browser/1,runs/browser/2"

A network is one or several runs, such as those of three seeds, or one or several ONNX files with
what their mask holds and the normalisation that they expect, unless we exported them. Runs are
exported first (`--precision`). Scores are the mean and the standard deviation over runs or files;
latency and size are those of the first. Masks are compared at `--size`; a network computes at its
own input size. `--suspects N` lists the images whose mask is most at odds with all networks, and
gives the scores without them too: such masks may be wrong. Latencies are medians of calls that take
turns, in onnxruntime and with `--litert` in LiteRT too; there, an ONNX file needs a `.tflite` file
of the same name beside it.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import json_file
import numpy as np
from onnx_network import open_network
from runtime_engines import RUNTIMES, open_litert

from jaxdistill import config, exporters
from jaxdistill.data import Data
from jaxdistill.evaluation import load
from jaxdistill.evaluation.evaluator import Evaluation, evaluate
from jaxdistill.evaluation.predictor import DEFAULT_SIZE
from jaxdistill.exporters.latency import latencies
from jaxdistill.runtime.errors import ConfigError, command

MEASURES = {"miou": "mIoU", "boundary_iou": "boundary IoU"}
"""Scores in the table, by their names in an evaluation."""
LITERT = ".tflite"
"""Ending of LiteRT's files."""


class Network(NamedTuple):
    """A network to measure."""

    files: Sequence[Path]
    """The ONNX files, one for each run."""
    options: Mapping[str, Any]
    """What the files do not say of themselves; see `evaluation.load`."""
    litert: Path | None
    """The first one for LiteRT."""


class Measured(NamedTuple):
    """The figures of a network."""

    evaluations: Sequence[Evaluation]
    """The scores of each run."""
    bytes: int
    """Size of the first ONNX file."""
    seconds: float
    """Seconds for one image of the network's own size, on one thread of onnxruntime."""
    litert_bytes: int | None
    """Size of the file for LiteRT; None where there is none."""
    litert_seconds: float | None
    """Seconds for one image on one thread of LiteRT."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, measures, and prints a Markdown table."""
    args = _parser().parse_args(arguments)
    if min(args.size) < 1 or args.suspects < 0:
        raise ConfigError(
            "expected at least 1 for --size, and at least 0 for --suspects", code="invalid-argument"
        )
    settings = config.Data(root=args.data, image_size=tuple(args.size))
    with tempfile.TemporaryDirectory() as folder:
        if args.litert and (install := RUNTIMES["LiteRT"].missing):
            raise ConfigError(f"--litert needs LiteRT: {install}", code="extra-missing")
        networks = {}
        for text in args.networks:
            found = _networks(text, args.precision, args.litert, Path(folder))
            if both := networks.keys() & found.keys():
                raise ConfigError(f"two networks are named {both.pop()}", code="invalid-argument")
            networks |= found
        measured = measure(networks, Data(settings))
    print(table(measured, set()))
    if names := suspects(measured, args.suspects):
        print(f"\nMasks that are most at odds with all networks: {', '.join(names)}")
        print(f"\nWithout these {len(names)} images:\n\n{table(measured, set(names))}")
    if args.json:
        rows = {
            name: {**m._asdict(), "evaluations": [one.as_dict() for one in m.evaluations]}
            for name, m in measured.items()
        }
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def measure(networks: Mapping[str, Network], data: Data) -> dict[str, Measured]:
    """Measures networks on the validation images of a data set.

    Args:
      networks: The networks by name.
      data: The data set.

    Returns:
      The figures by name.
    """
    evaluations: dict[str, list[Evaluation]] = {}
    probes: dict[str, Callable[[], object]] = {}
    for name, network in networks.items():
        print(f"{name}: evaluation", file=sys.stderr)
        for file in network.files:
            predictor = load(file, default_size=DEFAULT_SIZE, **network.options)
            evaluations.setdefault(name, []).append(evaluate(predictor, data))
        opened = open_network(network.files[0], threads=1)
        noise = np.random.default_rng(0).random(opened.image.shape(1, predictor.size))
        probes[name] = partial(opened, noise.astype(opened.image.dtype))
        if network.litert:
            pixels = np.random.default_rng(0).random((1, *predictor.size, 3), np.float32)
            probes[f"{name}{LITERT}"] = partial(open_litert(network.litert), pixels)
    seconds = latencies(probes)
    return {
        name: Measured(
            evaluations[name],
            network.files[0].stat().st_size,
            seconds[name],
            network.litert.stat().st_size if network.litert else None,
            seconds.get(f"{name}{LITERT}"),
        )
        for name, network in networks.items()
    }


def table(measured: Mapping[str, Measured], without: set[str]) -> str:
    """Returns the figures as a Markdown table.

    Args:
      measured: The figures by name.
      without: Names of images that are left out of the scores.
    """
    titles = ["network", *MEASURES.values(), "MB", "ms"]
    if litert := any(figures.litert_seconds for figures in measured.values()):
        titles += [f"MB, {LITERT}", "ms, LiteRT"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, figures in measured.items():
        cells = [name, *(_score(figures.evaluations, key, without) for key in MEASURES)]
        cells += [f"{figures.bytes / 1e6:.2f}", f"{1e3 * figures.seconds:.1f}"]
        if figures.litert_bytes and figures.litert_seconds:
            cells += [f"{figures.litert_bytes / 1e6:.2f}", f"{1e3 * figures.litert_seconds:.1f}"]
        elif litert:
            cells += ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _score(evaluations: Sequence[Evaluation], key: str, without: set[str]) -> str:
    """Returns a score's mean over the images, as mean and standard deviation over the runs."""
    scores = [
        mean(one["network"][key] for one in each.per_image if one["name"] not in without)
        for each in evaluations
    ]
    return f"{mean(scores):.4f}" + (f" ± {stdev(scores):.4f}" if len(scores) > 1 else "")


def suspects(measured: Mapping[str, Measured], count: int) -> list[str]:
    """Returns the images on which even the best network has a low mIoU, the lowest first.

    Args:
      measured: The figures by name.
      count: Number of images at most; one image at least is left.
    """
    best: dict[str, float] = {}
    for figures in measured.values():
        for image in (one for each in figures.evaluations for one in each.per_image):
            score = image["network"]["miou"]
            best[image["name"]] = max(score, best.get(image["name"], 0.0))
    return sorted(best, key=lambda name: best[name])[: min(count, len(best) - 1)]


def _networks(
    text: str, precisions: Sequence[str], litert: bool, folder: Path
) -> dict[str, Network]:
    """Reads NAME=RUN,... or NAME=FILE,...:KIND:NORMALIZATION; runs are exported by precision."""
    name, _, where = text.partition("=")
    listed, *options = where.split(":")
    if not where or len(options) > 2:
        raise ConfigError(
            f"{text}: expected NAME=RUN,RUN,... or NAME=FILE.onnx,...:KIND:NORMALIZATION",
            code="invalid-argument",
        )
    runs = where.split(",")
    if all(Path(run).is_dir() for run in runs):
        found = {}
        print(f"{name}: export", file=sys.stderr)
        for precision in precisions:
            files = [_exported(run, precision, ".onnx", folder) for run in runs]
            other = _exported(runs[0], precision, LITERT, folder) if litert else None
            found[f"{name}, {precision}"] = Network(files, {}, other)
        return found
    files = [Path(file) for file in listed.split(",")]
    beside = files[0].with_suffix(LITERT)
    if litert and not beside.exists():
        print(f"{name}: there is no {beside} to measure in LiteRT", file=sys.stderr)
    names = ("output", "normalization")
    own = dict(zip(names, options, strict=False))
    return {name: Network(files, own, beside if litert and beside.exists() else None)}


def _exported(run: str, precision: str, ending: str, folder: Path) -> Path:
    output = folder / f"{len(list(folder.iterdir()))}{ending}"
    # The file for LiteRT returns probabilities, as those that MediaPipe publishes.
    sigmoid = ending == LITERT
    exporters.export(run, output, input="unit", sigmoid=sigmoid, precision=precision)
    return output


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NAME=RUNS_OR_FILES",
        help="NAME=RUN,RUN,... or NAME=FILE.onnx,...:KIND:NORMALIZATION",
    )
    parser.add_argument("--data", type=Path, required=True, help="a data set that is recognised")
    parser.add_argument("--size", type=int, nargs=2, default=[320, 320], metavar=("H", "W"))
    parser.add_argument("--precision", nargs="+", default=["float32"], help="of runs")
    parser.add_argument(
        "--litert",
        action="store_true",
        help="measure latencies in LiteRT too, which needs the extra tflite",
    )
    parser.add_argument("--suspects", type=int, default=0, metavar="N")
    json_file.add_option(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(command(main))
