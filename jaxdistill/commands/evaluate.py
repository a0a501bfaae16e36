"""Measures a student: `jaxdistill evaluate RUN_OR_ONNX [KEY=VALUE ...]`.

A run is measured on its own validation images; `data.root=OTHER` or any other key measures it
elsewhere. An ONNX file needs `--config FILE`, or at least `data.root=FOLDER`; without `--config`,
`data.image_size` is the size of its input. The results are `evaluation.json` and `worst.png`, the
images with the lowest mIoU. Images without masks are measured by the agreement with the teacher.

`--video CLIP` measures how much the masks of a video flicker instead: the share of a still person
that changes between frames, as it is and with `predict --smooth 0.8`.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from jaxdistill import config
from jaxdistill.checkpoint.best import best as best_of
from jaxdistill.commands import common
from jaxdistill.commands.model_options import add_model_options, add_refinement, model_options
from jaxdistill.config import Size
from jaxdistill.config import overrides as overrides_lib
from jaxdistill.data import accounting, layouts
from jaxdistill.data.splits import Data
from jaxdistill.evaluation.backend import ModelOptions
from jaxdistill.evaluation.evaluator import Evaluation, evaluate
from jaxdistill.evaluation.flax_backend import of_best
from jaxdistill.evaluation.predictor import Predictor, load, unknown_model
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import ConfigError, DataError, OutputError
from jaxdistill.runtime.run_layout import CONFIG
from jaxdistill.runtime.text import json_text
from jaxdistill.teachers import combined, plausibility
from jaxdistill.teachers.base import Teacher, file_fingerprints

TITLES = {
    "miou": "mIoU, mean of the images",
    "pooled_miou": "mIoU of the dataset's pixels",
    "person_iou": "person IoU",
    "boundary_iou": "boundary IoU",
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
    "agreement": "agreement with the teacher",
}
"""Scores in the printed table."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, measures, and writes the results.

    Args:
      arguments: The arguments; None takes those of the process.
    """
    args = _parse(arguments)
    if args.video is not None:
        _measure_video(args)
        return
    predictor, settings = _open(args.model, model_options(args), args.config, args.overrides)
    console = common.console()
    console.print(predictor.description)
    own_size = args.own_size or args.refine is not None
    if settings.data.mask_resize == "nearest" and not own_size:
        console.print(
            "data.mask_resize: nearest: masks are up to half a pixel off their images; "
            "data.mask_resize=area measures on aligned masks"
        )
    teacher = _teacher(settings, console)
    data = Data(settings.data)
    if data.layout_note:
        console.print(data.layout_note)
    dataset = getattr(data, args.split)
    size = "their own size" if own_size else "{} x {}".format(*settings.data.image_size)
    console.print(f"data: {len(dataset)} images of data.{args.split}, compared at {size}")
    images = plausibility.first_images(dataset, settings.data.image_size)
    for line in (*accounting.describe(dataset), *plausibility.doubts(teacher, images)):
        console.print(line)
    batch_size = settings.training.batch_size
    if batch_size == "auto":  # which is found by training, on a GPU
        batch_size = config.Training().images_per_step
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluating", total=len(dataset))
        result = evaluate(
            predictor,
            data,
            teacher,
            split=args.split,
            batch_size=batch_size,
            own_size=own_size,
            refine=args.refine,
            progress=lambda count: bar.advance(task, count),
        )
    fingerprints = {"data": dataset.fingerprint, "network": predictor.fingerprint}
    about = {
        "measured": str(args.model),
        "model": predictor.description,
        "split": args.split,
        "own_size": own_size,
        "refine": args.refine,
        "data": settings.data.model_dump(mode="json"),
        "fingerprints": fingerprints | file_fingerprints(teacher),
    }
    output = args.output or _default_output(args.model)
    console.print(_table(result, own_size))  # first: the folder may not be writable
    _write(output, about, result)
    console.print(f"{output / 'evaluation.json'}, and {output / 'worst.png'}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.CommandParser("evaluate", __doc__)
    parser.add_argument("model", type=Path, metavar="RUN_OR_ONNX")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="data and teacher for an ONNX file"
    )
    parser.add_argument("--video", type=Path, metavar="CLIP", help="measure the flicker of a video")
    parser.add_argument("--split", choices=("validation", "train"), default="validation")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="(default: RUN/evaluation; for NAME.onnx, NAME.evaluation)",
    )
    parser.add_argument(
        "--own-size",
        action="store_true",
        help="compare masks at each image's own size, as predict writes them, and not at "
        "data.image_size; --refine implies it",
    )
    add_refinement(parser)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="any key, such as data.root=FOLDER"
    )
    add_model_options(parser)
    return parser.parse_intermixed_args(arguments)


def _measure_video(args: argparse.Namespace) -> None:
    """Prints how much the masks of a video flicker; it needs neither data nor a teacher."""
    from jaxdistill.data.video import open_source
    from jaxdistill.evaluation.video import measure_flicker

    if args.config or args.overrides or args.own_size or args.refine or args.output:
        raise ConfigError(
            "--video needs no data, measures at the size of the model and writes no file: leave "
            "--config, KEY=VALUE, --own-size, --refine and --output out",
            code="options-for-files",
        )
    console = common.console()
    predictor = load(args.model, **model_options(args)._asdict())
    console.print(predictor.description)
    with (
        open_source(args.video) as source,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("evaluating", total=source.count)
        found = measure_flicker(predictor, source, progress=lambda count: bar.advance(task, count))
    for strength, share in found.items():
        how = f"with --smooth {strength}" if strength else "as it is"
        console.print(f"flicker {how}: {share:.4f} of the person where the image is still")


def _open(
    path: Path, options: ModelOptions, file: Path | None, overrides: Sequence[str]
) -> tuple[Predictor, config.Config]:
    """Returns the model, and the configuration with the data and the teacher."""
    if not path.is_dir() and path.suffix != ".onnx":
        raise unknown_model(path)
    if not path.is_dir():
        settings = _settings(path, file, overrides)
        size = settings.data.image_size
        predictor = load(path, **options._asdict(), default_size=size)
        return predictor, _settings(path, file, overrides, predictor.size)
    if file is not None or options.size is not None:
        raise ConfigError(
            "--config and --size are for ONNX files; a run has its own configuration, of which any "
            "key can be changed, such as data.image_size=[320, 320]",
            code="options-for-files",
        )
    best = best_of(path)
    settings = _elsewhere(config.load(path / CONFIG, overrides), overrides)
    if settings.student != best.settings.student:
        raise ConfigError(
            "student: the student of a run cannot be changed; change other keys",
            code="student-differs",
        )
    options = options._replace(size=settings.data.image_size)
    return Predictor(of_best(best, options)), settings


def _elsewhere(settings: config.Config, overrides: Sequence[str]) -> config.Config:
    """Returns settings whose splits are searched for, if the data are not where the run's were.

    That is so where `data.root` is set, but no split, and the folders and files of the run are not
    there; or where the run had no masks, and these data have some.
    """
    keys = [override.partition("=")[0] for override in overrides]
    data, default = settings.data, config.Data()
    named = any(key.startswith(("data.train", "data.validation", "data.source")) for key in keys)
    if "data.root" not in keys or named or data.root is None:
        return settings
    open_splits = {"source": None, "train": default.train, "validation": default.validation}
    searched = settings.model_copy(update={"data": data.model_copy(update=open_splits)})
    splits = data.train, data.validation
    places = [place for each in splits for place in (each.images, each.annotations) if place]
    if not all((data.root / place).exists() for place in places):
        return searched
    if any(each.labelled for each in splits):
        return settings
    try:
        found = layouts.recognise(searched.data, need_validation=False).settings
    except DataError:
        return settings
    return searched if found.train.labelled or found.validation.labelled else settings


def _settings(
    path: Path, file: Path | None, overrides: Sequence[str], size: Size | None = None
) -> config.Config:
    """Returns the configuration for an ONNX file: from a file, or from the overrides alone.

    Without either, `data.image_size` is `size`.
    """
    if file is not None:
        return config.load(file, overrides)
    if not any(override.startswith("data.root=") for override in overrides):
        raise ConfigError(
            f"{path}: an ONNX file has no data of its own; give data.root=FOLDER, or --config FILE",
            code="missing-data-root",
        )
    blank: dict[str, Any] = {"run": "evaluation", "losses": {"kl": 0, "mse": 0}}
    if size is not None:
        blank["data"] = {"image_size": list(size)}
    return config.check(overrides_lib.apply(blank, overrides), source="KEY=VALUE")


def _teacher(settings: config.Config, console: Console) -> Teacher | None:
    """Returns the teacher of the configuration if its file exists."""
    for teacher in settings.teachers:
        if not teacher.onnx.is_file():
            console.print(f"no teacher: {teacher.onnx} does not exist")
            return None
    return combined.of_masks(settings)


def _default_output(model: Path) -> Path:
    return model / "evaluation" if model.is_dir() else model.with_suffix(".evaluation")


def _table(result: Evaluation, own_size: bool) -> Table:
    table = Table(title=f"{result.images} images" + (" at their own size" if own_size else ""))
    table.add_column()
    table.add_column("network", justify="right")
    columns = [result.network]
    if result.teacher:
        table.add_column("teacher", justify="right")
        columns.append(result.teacher)
    for name, title in TITLES.items():
        values = [scores.get(name) for scores in columns]
        if any(value is not None for value in values):
            table.add_row(title, *("" if value is None else f"{value:.4f}" for value in values))
    return table


def _write(output: Path, about: dict[str, Any], result: Evaluation) -> None:
    encoded = io.BytesIO()
    result.worst_grid().save(encoded, "PNG")
    try:
        output.mkdir(parents=True, exist_ok=True)
        numbers = json_text(about | result.as_dict(), indent=1)
        files.write_atomic(output / "evaluation.json", numbers)
        files.write_atomic(output / "worst.png", encoded.getvalue())
    except OSError as error:
        raise OutputError(
            f"{output.absolute()}: cannot write the evaluation: {error.strerror}",
            code="evaluation-not-written",
        ) from None
