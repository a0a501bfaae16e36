#!/usr/bin/env python3
"""Trains a student for every camera of `cameras.py`, and writes what that brings as a table.

    python tools/ablation/camera_runs.py runs/cameras --data build/cameras --config camera

For every camera a student is trained with each set of training masks and several seeds. A score is
that of the validation images after the last epoch; with `--interpolate SHARE`, that of the weights
between the run's start and its best checkpoint. `before training` is the student at its start.
Both need a start from the weights of a whole student. `table.md` and `table.json` are written
after every run; the command continues where it was stopped, and refuses other settings in the same
folder.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ablation_table
import cameras
import runs

from jaxdistill import config
from jaxdistill.checkpoint.interpolation import START
from jaxdistill.data import Data
from jaxdistill.evaluation import load
from jaxdistill.evaluation.evaluator import evaluate
from jaxdistill.runtime.errors import ConfigError, command
from jaxdistill.runtime.files import write_atomic
from jaxdistill.runtime.run_layout import CONFIG

LABELS = {"masks": "all masks", "few": "few masks, the others a teacher's", "labels": "a teacher's"}
"""Titles of the sets of training masks, by the name of their folder."""
START_COLUMN = "before training"
DONE = "camera.json"

Scores = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, trains what is missing, and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of the runs and tables")
    parser.add_argument("--data", type=Path, required=True, help="the folder that cameras.py wrote")
    parser.add_argument("--config", required=True, help="configuration of the student")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    names = list(cameras.CAMERAS)
    parser.add_argument("--cameras", nargs="+", default=names, choices=names)
    parser.add_argument("--labels", nargs="+", default=list(LABELS), choices=list(LABELS))
    parser.add_argument(
        "--interpolate", type=float, metavar="SHARE", help="between 0, the start, and 1"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="any key, for every run")
    args = parser.parse_intermixed_args(arguments)
    for name in args.cameras:
        if not (args.data / name).is_dir():
            raise ConfigError(
                f"there is no folder {(args.data / name).absolute()}; tools/ablation/cameras.py "
                f"makes it",
                code="no-such-folder",
            )
    settings = config.load(args.config, args.overrides)
    made = {f"made.{key}": value for key, value in runs.read(args.data / cameras.MADE).items()}
    shared = {"--data": str(args.data.absolute()), **made, **runs.effective(settings)}
    runs.check(args.folder, shared)
    runs.write(args.folder, shared)
    for seed in args.seeds:
        for camera in args.cameras:
            for labels in args.labels:
                run = args.folder / camera / labels / str(seed)
                if not (run / DONE).exists():
                    overrides = [*_data(args.data / camera, labels), *args.overrides]
                    _train(run, args.config, [*overrides, f"seed={seed}"])
                if args.interpolate is not None:
                    _interpolate(run, args.interpolate)
                write(args.folder, args.interpolate)


def write(folder: Path, share: float | None = None) -> None:
    """Writes `table.json` and `table.md` from the finished runs of a folder.

    Args:
      folder: The folder.
      share: The share of the trained weights that the table shows, where runs were measured at it;
        None: the students after the last epoch.
    """
    found: dict[str, dict[str, dict[str, Scores]]] = {}
    for path in sorted(folder.glob(f"*/*/*/{DONE}")):
        camera, labels, seed = path.parent.relative_to(folder).parts
        result = runs.read(path)
        trained = result["trained"] if share is None else _interpolated(result).get(f"{share:g}")
        for column, scores in {labels: trained, START_COLUMN: result["start"]}.items():
            if scores:
                found.setdefault(camera, {}).setdefault(column, {})[seed] = scores
    runs.save(folder / "table.json", found)
    columns = [START_COLUMN, *LABELS]
    titles = [LABELS.get(column, column) for column in columns]
    scored = "mIoU / boundary IoU" + ("" if share is None else f", interpolated by {share:g}")
    lines = [f"| {scored} | {' | '.join(titles)} |", "|---|" + "---|" * len(columns)]
    for camera in (name for name in cameras.CAMERAS if name in found):
        scores = {column: list(found[camera].get(column, {}).values()) for column in columns}
        scores[START_COLUMN] = scores[START_COLUMN][:1]  # it is the same for every seed
        cells = [_cell(scores[column]) for column in columns]
        lines.append(f"| {camera} | {' | '.join(cells)} |")
    write_atomic(folder / "table.md", "\n".join(lines) + "\n")


def _data(camera: Path, labels: str) -> list[str]:
    return [
        "data.source=mask_folder",
        f"data.root={camera.absolute()}",
        "data.train.images=train/images",
        f"data.train.annotations=train/{labels}",
        "data.validation.images=val/images",
        "data.validation.annotations=val/masks",
    ]


def _train(run: Path, configuration: str, settings: Sequence[str]) -> None:
    last = runs.train(configuration, run, settings)
    trained = {"miou": last["student_miou"], "boundary_iou": last["student_boundary_iou"]}
    start = _between(run, 0) if (run / START).exists() else {}
    runs.save(run / DONE, {"trained": trained, "start": start})


def _interpolate(run: Path, share: float) -> None:
    """Measures the student of a finished run between its start and its end, if that is missing."""
    result = runs.read(run / DONE)
    if f"{share:g}" not in _interpolated(result):
        scores = {**_interpolated(result), f"{share:g}": _between(run, share)}
        runs.save(run / DONE, {**result, "interpolated": scores})


def _interpolated(result: dict[str, Any]) -> dict[str, Scores]:
    """Returns the scores between start and end that were measured, by share."""
    return result.get("interpolated", {})


def _between(run: Path, share: float) -> Scores:
    """Measures the student between the start of a run and its best checkpoint."""
    predictor, settings = load(run, interpolate=share), config.load(run / CONFIG)
    batch_size = settings.training.images_per_step
    found = evaluate(predictor, Data(settings.data), None, batch_size=batch_size)
    return {name: found.network[name] for name in ("miou", "boundary_iou")}


def _cell(seeds: Sequence[Scores]) -> str:
    measures = ("miou", "boundary_iou") if seeds else ()
    return " / ".join(
        ablation_table.spread([scores[measure] for scores in seeds]) for measure in measures
    )


if __name__ == "__main__":
    sys.exit(command(main))
