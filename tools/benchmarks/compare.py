"""Compares networks on the same images: scores, size, and latency on one thread.

    python tools/benchmarks/compare.py --data PATH/TO/COCO --size 320 320 \\
        "MediaPipe's selfie=selfie_segmentation.onnx:probabilities:unit" "ours=runs/phone"

A network is a run, which is exported first (`--precision`), or an ONNX file with what its mask
holds and the normalisation that it expects. Masks are compared at `--size`; a network computes at
its own input size. `--suspects N` lists the images whose mask is most at odds with all networks,
and gives the scores without them too: such masks may be wrong. Latencies are medians of calls that
take turns.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import json_file
import numpy as np
from onnx_network import open_network

from jaxdistill import config, exporters
from jaxdistill.data import Data
from jaxdistill.evaluation import load
from jaxdistill.evaluation.evaluator import Evaluation, evaluate
from jaxdistill.evaluation.predictor import DEFAULT_SIZE
from jaxdistill.exporters.latency import latencies
from jaxdistill.runtime.errors import ConfigError, command

MEASURES = {"miou": "mIoU", "boundary_iou": "boundary IoU"}
"""Scores in the table, by their names in an evaluation."""


class Network(NamedTuple):
    """A network to measure."""

    file: Path
    """The ONNX file."""
    options: Mapping[str, Any]
    """What the file does not say of itself; see `evaluation.load`."""


class Measured(NamedTuple):
    """The figures of a network."""

    evaluation: Evaluation
    """Its scores."""
    bytes: int
    """Size of the ONNX file."""
    seconds: float
    """Seconds for one image of the network's own size, on one thread."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, measures, and prints a Markdown table."""
    args = _parser().parse_args(arguments)
    if min(args.size) < 1 or args.suspects < 0:
        raise ConfigError(
            "expected at least 1 for --size, and at least 0 for --suspects", code="invalid-argument"
        )
    settings = config.Data(root=args.data, image_size=tuple(args.size))
    with tempfile.TemporaryDirectory() as folder:
        networks = {}
        for text in args.networks:
            found = _networks(text, args.precision, Path(folder))
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
            name: {**m._asdict(), "evaluation": m.evaluation.as_dict()}
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
    evaluations, probes = {}, {}
    for name, network in networks.items():
        print(f"{name}: evaluation", file=sys.stderr)
        predictor = load(network.file, default_size=DEFAULT_SIZE, **network.options)
        evaluations[name] = evaluate(predictor, data)
        opened = open_network(network.file, threads=1)
        noise = np.random.default_rng(0).random(opened.image.shape(1, predictor.size))
        probes[name] = partial(opened, noise.astype(opened.image.dtype))
    seconds = latencies(probes)
    return {
        name: Measured(evaluations[name], network.file.stat().st_size, seconds[name])
        for name, network in networks.items()
    }


def table(measured: Mapping[str, Measured], without: set[str]) -> str:
    """Returns the figures as a Markdown table.

    Args:
      measured: The figures by name.
      without: Names of images that are left out of the scores.
    """
    lines = [f"| network | {' | '.join(MEASURES.values())} | MB | ms |", "|---|---|---|---|---|"]
    for name, figures in measured.items():
        images = [one for one in figures.evaluation.per_image if one["name"] not in without]
        scores = (np.mean([one["network"][key] for one in images]) for key in MEASURES)
        cells = " | ".join(f"{score:.4f}" for score in scores)
        lines.append(
            f"| {name} | {cells} | {figures.bytes / 1e6:.2f} | {1e3 * figures.seconds:.1f} |"
        )
    return "\n".join(lines)


def suspects(measured: Mapping[str, Measured], count: int) -> list[str]:
    """Returns the images on which even the best network has a low mIoU, the lowest first.

    Args:
      measured: The figures by name.
      count: Number of images at most; one image at least is left.
    """
    best: dict[str, float] = {}
    for figures in measured.values():
        for image in figures.evaluation.per_image:
            score = image["network"]["miou"]
            best[image["name"]] = max(score, best.get(image["name"], 0.0))
    return sorted(best, key=lambda name: best[name])[: min(count, len(best) - 1)]


def _networks(text: str, precisions: Sequence[str], folder: Path) -> dict[str, Network]:
    """Reads NAME=RUN or NAME=FILE:KIND:NORMALIZATION; a run is exported in each precision."""
    name, _, where = text.partition("=")
    file, *options = where.split(":")
    if not where or len(options) > 2:
        raise ConfigError(
            f"{text}: expected NAME=RUN or NAME=FILE.onnx:KIND:NORMALIZATION",
            code="invalid-argument",
        )
    if Path(where).is_dir():
        found = {}
        print(f"{name}: export", file=sys.stderr)
        for precision in precisions:
            output = folder / f"{len(list(folder.iterdir()))}.onnx"
            exporters.export(where, output, input="unit", precision=precision)
            found[f"{name}, {precision}"] = Network(output, {})
        return found
    names = ("output", "normalization")
    return {name: Network(Path(file), dict(zip(names, options, strict=False)))}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks", nargs="+", metavar="NAME=RUN_OR_FILE", help="NAME=FILE.onnx:KIND:NORMALIZATION"
    )
    parser.add_argument("--data", type=Path, required=True, help="a data set that is recognised")
    parser.add_argument("--size", type=int, nargs=2, default=[320, 320], metavar=("H", "W"))
    parser.add_argument("--precision", nargs="+", default=["float32"], help="of runs")
    parser.add_argument("--suspects", type=int, default=0, metavar="N")
    json_file.add_option(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(command(main))
