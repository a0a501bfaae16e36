"""Predicts persons in images: `jaxdistill predict RUN_OR_ONNX IMAGES... --output FOLDER`.

Masks, overlays and cutouts are PNG files with the size of the image, upright: turned as the EXIF
orientation says, and without it. They lie exactly on what a viewer shows of the image. The folders
of the images are mirrored in OUTPUT/masks, OUTPUT/overlays and OUTPUT/cutouts.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from jaxdistill.commands import common
from jaxdistill.commands.model_options import add_model_options, model_options
from jaxdistill.data.image_files import UNSUPPORTED, find_images, unsupported_images
from jaxdistill.evaluation.masks import DRAWINGS
from jaxdistill.evaluation.prediction_files import Skipped, predict_files
from jaxdistill.evaluation.predictor import check_options, load
from jaxdistill.runtime.text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses arguments and writes predictions.

    Args:
      arguments: The arguments; None takes those of the process.

    Returns:
      The exit code: 0, or 1 if an image was skipped.
    """
    args = _parse(arguments)
    check_options(args.threshold, args.batch_size)
    kinds = list(dict.fromkeys(args.kinds))
    earlier = [args.output / kind for kind in DRAWINGS]
    outputs = [args.output / kind for kind in kinds]
    found = find_images(args.images, outputs, earlier)
    unsupported = unsupported_images(args.images, outputs, earlier)
    predictor = load(args.model, **model_options(args)._asdict())

    console = common.console(stderr=True)
    console.print(predictor.description)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("predicting", total=len(found))

        def progress(count: int, skipped: Sequence[Skipped]) -> None:
            for source, reason in skipped:
                console.print(printable(f"skipped {source}: {reason}"))
            bar.advance(task, count)

        skipped = predict_files(
            predictor,
            found,
            args.output,
            kinds=kinds,
            threshold=None if args.soft else args.threshold,
            batch_size=args.batch_size,
            progress=progress,
        )
    for source in unsupported:
        console.print(printable(f"skipped {source}: {UNSUPPORTED}"))
    skipped += len(unsupported)
    done = f"{len(found) + len(unsupported) - skipped} images: {', '.join(kinds)} in {args.output}"
    console.print(f"{done}; {skipped} skipped" if skipped else done)
    return 1 if skipped else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.CommandParser("predict", __doc__)
    parser.add_argument("model", type=Path, metavar="RUN_OR_ONNX")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="files, folders or globs such as 'a/*.jpg'"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--as",
        dest="kinds",
        nargs="+",
        choices=tuple(DRAWINGS),
        default=["masks"],
        help="masks: white is a person (the default); overlays: the image with its persons marked; "
        "cutouts: the persons alone, the rest transparent",
    )
    edge = parser.add_mutually_exclusive_group()
    edge.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="a person is where the probability is above it (default: 0.5)",
    )
    edge.add_argument("--soft", action="store_true", help="write the probabilities as grey levels")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N")
    add_model_options(parser)
    return parser.parse_args(arguments)
