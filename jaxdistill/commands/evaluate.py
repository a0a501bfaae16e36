"""Measures a student: `python -m jaxdistill.evaluate RUN_OR_ONNX [KEY=VALUE ...]`.

A run is measured on its own validation pictures; `data.root=OTHER` or any other key measures it
elsewhere. An ONNX file needs `--config FILE`, or at least `data.root=FOLDER`. Leaves
`evaluation.json` and `worst.png`, the pictures with the lowest mIoU. Pictures without masks are
measured by the agreement with the teacher.
"""

import argparse
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jaxdistill import config
from jaxdistill.checkpoint import manager
from jaxdistill.config import yaml_files
from jaxdistill.data import image_ops
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.loader import validation_batches
from jaxdistill.data.splits import open_split
from jaxdistill.evaluation import predictor
from jaxdistill.evaluation.predictor import Given, Segmenter
from jaxdistill.metrics import segmentation
from jaxdistill.reporting.image_grid import sample_grid
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import UserError, command
from jaxdistill.runtime.prefetch import ahead
from jaxdistill.teachers import combined
from jaxdistill.teachers.base import Teacher, file_fingerprints
from jaxdistill.types import Batch

WORST = 8
MEASURES = {
    "miou": segmentation.mean_iou,
    "person_iou": segmentation.iou,
    "boundary_iou": segmentation.boundary_iou,
    "dice": segmentation.dice,
    "precision": segmentation.precision,
    "recall": segmentation.recall,
}
"""Of each picture; a network's are their means."""
TITLES = {
    "miou": "mIoU, mean of the pictures",
    "pooled_miou": "mIoU of the data set's pixels",
    "person_iou": "person IoU",
    "boundary_iou": "boundary IoU",
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
    "agreement": "agreement with the teacher",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m jaxdistill.evaluate", description=__doc__)
    parser.add_argument("network", type=Path, metavar="RUN_OR_ONNX")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="for an ONNX file: its data, and its teacher"
    )
    parser.add_argument("--split", choices=("validation", "train"), default="validation")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="(default: RUN/evaluation; for NAME.onnx, NAME.evaluation)",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="any key, such as data.root=FOLDER"
    )
    predictor.add_options(parser)
    given = parser.parse_intermixed_args(arguments)
    network, settings = _open(given.network, predictor.given(given), given.config, given.overrides)
    in_run = given.network.is_dir()
    beside = given.network / "evaluation" if in_run else given.network.with_suffix(".evaluation")
    output = given.output or beside

    console = Console(soft_wrap=True, highlight=False)
    console.print(network.description, markup=False)
    dataset = open_split(settings.data, given.split)
    teacher = _teacher(settings, console)
    if teacher is None and not dataset.labelled.any():
        raise UserError(
            f"data.{given.split} has no masks, and there is no teacher to agree with: give "
            f"teacher.onnx=FILE, or data.{given.split}.annotations=FILE"
        )
    found = evaluate(network, teacher, settings, dataset, console)
    fingerprints = {"data": dataset.fingerprint, "network": network.fingerprint}
    about = {
        "measured": str(given.network),
        "split": given.split,
        "data": settings.data.model_dump(mode="json"),
        "fingerprints": fingerprints | file_fingerprints(teacher),
    }
    _write(output, {**about, **found.numbers}, found.worst)
    console.print(_table(found.numbers))
    console.print(f"{output / 'evaluation.json'}, and {output / 'worst.png'}", markup=False)


class Evaluation(NamedTuple):
    numbers: dict[str, Any]
    """Plain values: of the `network`, of the `teacher` (or None), and of `each` picture."""
    worst: list["Shown"]
    """The pictures with the lowest mIoU, the lowest first; of agreement where none has a mask."""


class Shown(NamedTuple):
    """A picture, its mask in {0, 1}, and logits; where there is no mask, the teacher's too."""

    score: float
    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w 1"] | None
    teacher: Float[np.ndarray, "h w 1"] | None
    logits: Float[np.ndarray, "h w 1"]


def evaluate(
    network: Segmenter,
    teacher: Teacher | None,
    settings: config.Config,
    dataset: Dataset,
    console: Console,
) -> Evaluation:
    """Goes once over the examples, as a run's validation does, at `data.image_size`."""
    size = min(settings.training.batch_size, len(dataset))
    batches = validation_batches(dataset, settings.data, size)
    steps = range(-(-len(dataset) // size))
    quiet = not console.is_terminal
    measured: list[Measured] = []
    worst: list[Shown] = []
    with closing(ahead(_run(network, teacher, batches))) as seen:
        for _ in track(steps, "evaluating", console=console, transient=True, disable=quiet):
            batch, logits = next(seen)
            real = int(batch.weights.sum())
            values = jax.device_get(_measure(logits, batch.masks))
            measured.append(jax.tree.map(lambda array, real=real: array[:real], values))
            shown = worst + _candidates(batch, logits, values, dataset)
            worst = sorted(shown, key=lambda shown: shown.score)[:WORST]
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *measured)
    numbers = {
        "pictures": len(dataset),
        "without_masks": int((~dataset.labelled).sum()),
        "network": _means(whole["network"], dataset),
        "teacher": _means(whole["teacher"], dataset) if teacher else None,
        "each": _each(whole, dataset),
    }
    return Evaluation(numbers, worst)


def _candidates(
    batch: Batch, logits: dict[str, Any], values: "Measured", dataset: Dataset
) -> list[Shown]:
    """For the worst pictures: those with a mask, or all where no picture has one."""
    known = bool(dataset.labelled.any())
    score = values["network"]["miou" if known else "agreement"]
    own, theirs = (np.asarray(logits.get(role)) for role in ("network", "teacher"))
    return [
        Shown(float(score[row]), batch.images[row], batch.masks[row], None, own[row])
        if known
        else Shown(float(score[row]), batch.images[row], None, theirs[row], own[row])
        for row in np.flatnonzero(batch.labelled if known else batch.weights)
    ]


Measured = dict[str, dict[str, Any]]
"""By role and measure: arrays with a value per picture; `areas` are `metrics.areas`."""


def _run(
    network: Segmenter, teacher: Teacher | None, batches: Iterable[Batch]
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """Batches with the logits of each role."""
    for batch in batches:
        logits: dict[str, Any] = {"network": network.logits(batch.images)}
        if teacher:
            logits["teacher"] = teacher(image_ops.to_float(batch.images)).logits
        yield batch, logits


@jax.jit
def _measure(
    logits: dict[str, Float[Array, "b h w 1"]], masks: UInt8[Array, "b h w 1"]
) -> Measured:
    mask = masks > 0
    predictions = {role: segmentation.predict(values) for role, values in logits.items()}
    measured: Measured = {
        role: {name: measure(prediction, mask) for name, measure in MEASURES.items()}
        | {"areas": segmentation.areas(prediction, mask)}
        for role, prediction in predictions.items()
    }
    if "teacher" in predictions:
        measured["network"]["agreement"] = segmentation.agreement(*predictions.values())
    return measured


def _means(values: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
    """Of each measure over the pictures that it can be had of."""
    known = {name: values[name][_has(name, dataset)] for name in values}
    means = {name: float(known[name].mean(dtype=np.float64)) for name in _scalars(known)}
    if len(known["areas"]):
        means = {"pooled_miou": float(segmentation.pooled_iou(known["areas"]).mean()), **means}
    return means


def _has(measure: str, dataset: Dataset) -> Bool[np.ndarray, " n"]:
    """Whether a picture has what a measure takes: a mask, for all but agreement."""
    return dataset.labelled | (measure == "agreement")


def _each(whole: Measured, dataset: Dataset) -> list[dict[str, Any]]:
    has = {name: _has(name, dataset) for values in whole.values() for name in values}
    return [
        {"name": name, "id": int(dataset.ids[index])}
        | {
            role: {
                measure: float(values[measure][index])
                for measure in _scalars(values)
                if has[measure][index]
            }
            for role, values in whole.items()
        }
        for index, name in enumerate(dataset.names)
    ]


def _scalars(values: dict[str, np.ndarray]) -> list[str]:
    return [name for name, of_pictures in values.items() if name != "areas" and len(of_pictures)]


def _open(
    path: Path, given: Given, file: Path | None, overrides: Sequence[str]
) -> tuple[Segmenter, config.Config]:
    """The network, and the configuration whose data and teacher it is measured with."""
    if not path.is_dir():
        settings = _settings(path, file, overrides)
        return predictor.load(path, given, settings.data.image_size), settings
    if file is not None or given.size is not None:
        raise UserError(
            "--config and --size are for ONNX files; a run has its own configuration, of which "
            "any key can be changed, such as data.image_size=[320, 320]"
        )
    best = manager.best(path)
    settings = config.load(path / "config.yaml", overrides)
    if settings.student != best.settings.student:
        raise UserError("student: a run's student is as it was trained; change other keys")
    return predictor.of_run(best, given), settings


def _settings(path: Path, file: Path | None, overrides: Sequence[str]) -> config.Config:
    """Of an ONNX file: from a configuration file, or from the keys on the command line alone."""
    if file is not None:
        return config.load(file, overrides)
    if not any(override.startswith("data.root=") for override in overrides):
        raise UserError(
            f"{path} does not say what to measure it on: give data.root=FOLDER, or --config FILE"
        )
    blank = {"run": "evaluation", "losses": {"kl": 0, "mse": 0}}
    return config.check(yaml_files.override(blank, overrides), source="KEY=VALUE")


def _teacher(settings: config.Config, console: Console) -> Teacher | None:
    """The configuration's teacher, if its file is there."""
    if settings.teacher is None:
        return None
    if not settings.teacher.onnx.is_file():
        console.print(f"no teacher: {settings.teacher.onnx} is not there", markup=False)
        return None
    return combined.from_config(settings.model_copy(update={"detector": None, "features": ()}))


def _table(numbers: dict[str, Any]) -> Table:
    table = Table(title=f"{numbers['pictures']} pictures")
    table.add_column()
    table.add_column("network", justify="right")
    if numbers["teacher"]:
        table.add_column("teacher", justify="right")
    for name, title in TITLES.items():
        values = [(numbers[role] or {}).get(name) for role in ("network", "teacher")]
        if any(value is not None for value in values):
            shown = ["" if value is None else f"{value:.4f}" for value in values]
            table.add_row(title, *shown[: len(table.columns) - 1])
    return table


def _write(output: Path, numbers: dict[str, Any], worst: Sequence[Shown]) -> None:
    images = np.stack([shown.image for shown in worst]) / np.float32(255)
    logits = np.stack([shown.logits for shown in worst])
    masks, teacher = (_stack([getattr(s, field) for s in worst]) for field in ("mask", "teacher"))
    sheet = sample_grid(images, masks, teacher, logits)
    try:
        output.mkdir(parents=True, exist_ok=True)
        files.write_atomic(output / "evaluation.json", json.dumps(numbers, indent=1))
        encoded = io.BytesIO()
        sheet.save(encoded, "PNG")
        files.write_atomic(output / "worst.png", encoded.getvalue())
    except OSError as error:
        raise UserError(f"cannot write into {output.absolute()}: {error.strerror}") from None


def _stack(maps: Sequence[np.ndarray | None]) -> Float[np.ndarray, "b h w 1"] | None:
    known = [one for one in maps if one is not None]
    return np.stack(known).astype(np.float32) if known else None


if __name__ == "__main__":
    sys.exit(command(main))
