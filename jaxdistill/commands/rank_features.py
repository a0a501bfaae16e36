"""Ranks a frozen network's tensors: `python -m jaxdistill.rank_features --config configs/my.yaml`.

How much does each inner map tell about people? A linear probe from its channels to the share of
person in a cell is fitted to training pictures and measured on validation pictures. Another file is
ranked with `detector.onnx=FILE`. Leaves a table, a JSON file, and the lines for `features` that the
best tensor of each stride would have.
"""

import argparse
import difflib
import fnmatch
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from jaxdistill import config
from jaxdistill.analysis.feature_ranking import Ranked, Sample, rank
from jaxdistill.config import FrozenNetwork, Size
from jaxdistill.data.splits import open_split
from jaxdistill.models.feature_pairs import fitting_taps, tap_stride
from jaxdistill.models.student import is_frozen
from jaxdistill.runtime.errors import UserError, command
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_tensors import Map, maps

STRIDES = (2, 4, 8, 16, 32)
FEWEST_CHANNELS = 4
SHOWN = 5
"""Rows of the table for each stride; the file has all."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    given = _parser().parse_intermixed_args(arguments)
    if given.pictures < 2:
        raise UserError(f"--pictures {given.pictures}: a probe needs at least 2 to be fitted to")
    settings = config.load(given.config, given.overrides)
    role, section = _section(settings, given.network)

    console = Console(soft_wrap=True, highlight=False, markup=False)
    graph = OnnxGraph(section.onnx)
    found = maps(graph, section.size, settings.data.image_size)
    strides = given.stride or STRIDES
    chosen = choose(found, given.tensors, strides, settings.data.image_size, graph.path)
    train, validation = (
        Sample(open_split(settings.data, split), settings, given.pictures)
        for split in ("train", "validation")
    )
    console.print(
        f"{role}: {graph.path}, {len(chosen)} of {len(found)} maps; {len(train)} pictures to fit "
        f"to, {len(validation)} to measure on"
    )
    ranked = rank(graph, section, settings, chosen, train, validation, console)
    suggestion = suggest(ranked, settings, role)
    about = {
        role: section.model_dump(mode="json"),
        "image_size": settings.data.image_size,
        "pictures": {"train": len(train), "validation": len(validation)},
        "fingerprints": {
            role: graph.fingerprint,
            "train": train.fingerprint,
            "validation": validation.fingerprint,
        },
    }
    rows = [_numbers(each, settings.data.image_size) for each in ranked]
    _write(given.output, {**about, "tensors": rows, "suggestion": suggestion})
    console.print(_table(rows))
    if lost := len(chosen) - len(ranked):
        console.print(f"left out: {lost} with values that are not finite")
    if suggestion:
        console.print("the best of each stride, as the configuration would have them:\n")
        console.print(yaml.safe_dump(suggestion, sort_keys=False))
    console.print(f"all {len(ranked)} tensors: {given.output}")


def choose(
    found: Sequence[Map],
    patterns: Sequence[str] | None,
    strides: Sequence[int],
    image_size: Size,
    path: Path,
) -> list[Map]:
    """The maps that a tap of the student fits, and that are asked for.

    What only an activation reads is left out, unless a pattern names it.

    Raises:
      UserError: there is none, or a pattern matches nothing.
    """
    if patterns is None:
        wanted = [each for each in found if not each.inside]
    else:
        names = {name for pattern in patterns for name in _matching(pattern, found, path)}
        wanted = [each for each in found if each.tensor in names]
    fitting = [
        each
        for each in wanted
        if each.channels >= FEWEST_CHANNELS and _stride(each, image_size) in strides
    ]
    if fitting:
        return fitting
    some = [f"{each.height} x {each.width} x {each.channels}" for each in wanted]
    raise UserError(
        f"{path}: no tensor to rank: wanted are maps of {FEWEST_CHANNELS} channels or more, at "
        f"stride {', '.join(map(str, strides))} of pictures of {image_size[0]} x {image_size[1]} "
        f"(data.image_size); there are {', '.join(list(dict.fromkeys(some))[:8]) or 'no maps'}"
    )


def suggest(ranked: Sequence[Ranked], settings: config.Config, role: str) -> dict[str, Any]:
    """Keys of a configuration: the best tensor of each stride, with a tap that teaches the student.

    A frozen encoder learns nothing at its taps, so stride 32, where the decoder has none, may be
    missing. Tensors of the teacher's are a detector's to the configuration.
    """
    features: dict[str, dict[str, str]] = {}
    for each in ranked:
        taps = fitting_taps((each.map.height, each.map.width), settings.data.image_size)
        learning = [tap for tap in taps if not is_frozen(tap, settings.student.frozen)]
        in_decoder = [tap for tap in learning if tap.startswith("decoder.")]
        for tap in (in_decoder or learning)[:1]:
            features.setdefault(tap, {"tensor": each.map.tensor, "tap": tap})
    if not features:
        return {}
    best = {"features": sorted(features.values(), key=lambda one: tap_stride(one["tap"]))}
    if role == "detector" or settings.teacher is None:
        return best
    fed = settings.teacher.model_dump(mode="json", include=set(FrozenNetwork.model_fields))
    return {"detector": fed, **best}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jaxdistill.rank_features", description=__doc__)
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
        help="only those so named, such as '/model.3*'; may be repeated",
    )
    parser.add_argument(
        "--stride", action="append", type=int, choices=STRIDES, help="only this; may be repeated"
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=200,
        metavar="N",
        help="to fit to, and as many to measure on (default: 200)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("rank_features.json"),
        metavar="FILE",
        help="(default: rank_features.json)",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="any key, such as detector.onnx=FILE"
    )
    return parser


def _section(settings: config.Config, role: str | None) -> tuple[str, FrozenNetwork]:
    sections = {"detector": settings.detector, "teacher": settings.teacher}
    for name, section in sections.items():
        if section is not None and role in (None, name):
            return name, section
    raise UserError(
        f"no {role or 'detector and no teacher'} is configured: give detector.onnx=FILE, the "
        f"network whose tensors are to be ranked"
    )


def _matching(pattern: str, found: Sequence[Map], path: Path) -> list[str]:
    names = [each.tensor for each in found]
    if matching := fnmatch.filter(names, pattern):
        return matching
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
    hint = f"the nearest are {', '.join(map(repr, near))}" if near else "no name is like it"
    raise UserError(f"{path}: no map's name matches --tensors {pattern!r}; {hint}")


def _stride(each: Map, image_size: Size) -> int | None:
    taps = fitting_taps((each.height, each.width), image_size)
    return tap_stride(taps[0]) if taps else None


def _numbers(each: Ranked, image_size: Size) -> dict[str, Any]:
    height, width, channels = each.map.height, each.map.width, each.map.channels
    return {
        "tensor": each.map.tensor,
        "operator": each.map.operator,
        "iou": each.iou,
        "r2": each.r2,
        "stride": _stride(each.map, image_size),
        "height": height,
        "width": width,
        "channels": channels,
        "dead_channels": each.probe.dead,
        "ridge": each.probe.ridge,
        "multiplications_share": each.map.share,
        "store_bytes_per_picture": 2 * height * width * channels,  # float16
    }


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=f"the best {SHOWN} of each stride")
    table.add_column("stride", justify="right")
    table.add_column("tensor", overflow="fold")
    table.add_column("from")
    for title in ("IoU", "R²", "channels", "cost", "MB/picture"):
        table.add_column(title, justify="right")
    for stride in STRIDES:
        for row in [row for row in rows if row["stride"] == stride][:SHOWN]:
            table.add_row(
                str(stride),
                row["tensor"],
                row["operator"],
                f"{row['iou']:.3f}",
                f"{row['r2']:.3f}",
                str(row["channels"]),
                f"{row['multiplications_share']:.0%}",
                f"{row['store_bytes_per_picture'] / 1e6:.2f}",
            )
        table.add_section()
    return table


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path.absolute()}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(command(main))
