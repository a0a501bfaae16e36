"""Ranks the inner tensors of a network: `jaxdistill rank-features --config FILE`.

For each tensor, a linear probe from its channels to the share of person in a cell is fitted to
training images and measured on validation images. Set `detector.onnx=FILE` to rank another file.
The result is a table, a JSON file, and the `features` lines of a configuration with the best tensor
of each stride.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from jaxdistill import config
from jaxdistill.analysis.feature_ranking import STRIDES, rank_features
from jaxdistill.commands import common

_SHOWN = 5  # rows of the table for each stride; the file has all


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, ranks, and writes the results.

    Args:
      arguments: The arguments; None takes those of the process.
    """
    args = _parser().parse_intermixed_args(arguments)
    console = common.console()
    ranking = rank_features(
        config.load(args.config, args.overrides),
        network=args.network,
        tensors=args.tensors,
        strides=args.stride or STRIDES,
        images=args.images,
        console=console,
    )
    content = {
        **ranking.metadata,
        "suggestion": ranking.suggestion,
        "tensors": ranking.tensors,
    }
    console.print(_table(ranking.tensors))
    if ranking.not_finite:
        console.print(f"left out: {ranking.not_finite} with values that are not finite")
    if ranking.suggestion:
        console.print("the best of each stride, as lines of a configuration:\n")
        console.print(yaml.safe_dump(ranking.suggestion, sort_keys=False))
    common.write_output(args.output, json.dumps(content, indent=1))  # last: it may not be writable
    console.print(f"all {len(ranking.tensors)} tensors: {args.output}")


def _parser() -> argparse.ArgumentParser:
    parser = common.CommandParser("rank-features", __doc__)
    parser.add_argument("--config", type=Path, required=True, help="the run's YAML file")
    parser.add_argument(
        "--network",
        choices=("detector", "teacher"),
        help="whose tensors (default: the detector's if there is one, else the teacher's)",
    )
    parser.add_argument(
        "--tensors",
        action="append",
        metavar="PATTERN",
        help="only tensors of such names, for example '/model.3*'; may be repeated",
    )
    parser.add_argument(
        "--stride",
        action="append",
        type=int,
        choices=STRIDES,
        help="only maps of this stride; may be repeated",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=200,
        metavar="N",
        help="how many images to fit to, and as many to measure on (default: 200)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("rank_features.json"),
        metavar="FILE",
        help="the JSON file (default: rank_features.json)",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="any key, such as detector.onnx=FILE"
    )
    return parser


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=f"the best {_SHOWN} of each stride")
    table.add_column("stride", justify="right")
    table.add_column("tensor", overflow="fold")
    table.add_column("from")
    for title in ("IoU", "R²", "channels", "cost", "MB/image"):
        table.add_column(title, justify="right")
    for stride in STRIDES:
        for row in [row for row in rows if row["stride"] == stride][:_SHOWN]:
            table.add_row(
                str(stride),
                row["tensor"],
                row["operator"],
                f"{row['iou']:.3f}",
                f"{row['r2']:.3f}",
                str(row["channels"]),
                f"{row['multiplications_share']:.0%}",
                f"{row['cache_bytes_per_image'] / 1e6:.2f}",
            )
        table.add_section()
    return table
