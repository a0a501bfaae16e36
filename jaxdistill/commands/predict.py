"""Predicts persons in images and videos: `jaxdistill predict RUN_OR_ONNX IMAGES... --output DIR`.

Masks, overlays and cutouts are PNG files with the size of the image, upright: turned as the EXIF
orientation says, and without it. They lie exactly on what a viewer shows of the image. The folders
of the images are mirrored in OUTPUT/masks, OUTPUT/overlays and so on.

A file with the ending of a video becomes a video of each kind, with the times and the audio of the
source; `0` stands for the first camera, until Ctrl-C. A command that was interrupted is given
again, and goes on.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn

from jaxdistill.commands import common
from jaxdistill.commands.model_options import add_model_options, add_refinement, model_options
from jaxdistill.data.image_files import (
    UNSUPPORTED,
    ImageFile,
    files_below,
    find_images,
    matching,
    unsupported_images,
)
from jaxdistill.data.video import SUFFIXES, camera_number, open_source
from jaxdistill.evaluation.foreground import drawings
from jaxdistill.evaluation.masks import BACKGROUND, DRAWINGS
from jaxdistill.evaluation.prediction_files import Skipped, predict_files
from jaxdistill.evaluation.predictor import Predictor, check_options, load
from jaxdistill.evaluation.video import check_video_options, predict_video
from jaxdistill.evaluation.video.writer import ENCODINGS
from jaxdistill.runtime.errors import ConfigError, DataError
from jaxdistill.runtime.signals import Interruption
from jaxdistill.runtime.text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses arguments and writes predictions.

    Args:
      arguments: The arguments; None takes those of the process.

    Returns:
      The exit code: 0, or 1 if an image was skipped.
    """
    args = _parse(arguments)
    _check_options(args)
    names = list(drawings(args.kinds, args.foreground))
    given = [name for argument in args.images for name in _matches(argument)]
    videos = [name for name in given if _is_video(name)]
    _check_names(videos)
    if videos:
        check_video_options(names, args.smooth, args.video_format)
    images = [name for name in given if name not in videos]
    earlier = [args.output / name for name in (*DRAWINGS, BACKGROUND.rstrip("="))]
    outputs = [args.output / name for name in names]
    found = find_images(images, outputs, earlier) if images else []
    unsupported = unsupported_images(images, outputs, earlier)
    predictor = load(args.model, **model_options(args)._asdict())
    console = common.console(stderr=True)
    console.print(predictor.description)
    for video in videos:
        _predict_video(args, predictor, video, console)
    if not images:
        return 0
    if passed := _videos_below(images, [*outputs, *earlier]):
        console.print(f"{passed} videos in folders are passed over: name them, as in FOLDER/*.mp4")
    skipped = len(unsupported) + _predict_images(args, predictor, found, console)
    for source in unsupported:
        console.print(printable(f"skipped {source}: {UNSUPPORTED}"))
    count = len(found) + len(unsupported) - skipped
    done = f"{count} images: {', '.join(names)} in {args.output}"
    console.print(f"{done}; {skipped} skipped" if skipped else done)
    return 1 if skipped else 0


def _drawing_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that `predict_files` and `predict_video` have in common."""
    return {
        "kinds": args.kinds,
        "threshold": None if args.soft else args.threshold,
        "refine": args.refine,
        "foreground": args.foreground,
        "batch_size": args.batch_size,
    }


def _predict_images(
    args: argparse.Namespace, predictor: Predictor, images: Sequence[ImageFile], console: Console
) -> int:
    """Predicts images with a progress bar, and returns how many were skipped."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("predicting", total=len(images))

        def progress(count: int, skipped: Sequence[Skipped]) -> None:
            for source, reason in skipped:
                console.print(printable(f"skipped {source}: {reason}"))
            bar.advance(task, count)

        options = _drawing_options(args)
        return predict_files(predictor, images, args.output, progress=progress, **options)


def _predict_video(
    args: argparse.Namespace, predictor: Predictor, name: str, console: Console
) -> None:
    number = camera_number(name)
    with ExitStack() as stack:
        source = stack.enter_context(open_source(name if number is None else number))
        # A camera has no end but the user's; a file goes on where it was interrupted.
        camera_off = None if number is None else stack.enter_context(Interruption(bool)).poll
        columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
        with Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as bar:
            task = bar.add_task(printable(source.name), total=args.frames or source.count)
            report = predict_video(
                predictor,
                source,
                args.output,
                smoothing=args.smooth,
                video_format=args.video_format,
                limit=args.frames,
                stop=camera_off,
                progress=lambda count: bar.advance(task, count),
                **_drawing_options(args),
            )
    if report.resumed:
        console.print(f"{report.resumed} frames were there from an interrupted command")
    drawn = max(1, report.frames - report.resumed)
    times = ", ".join(f"{part} {1e3 * s / drawn:.1f}" for part, s in report.seconds.items())
    files = ", ".join(str(path) for path in report.outputs)
    console.print(printable(f"{source.name}: {report.frames} frames in {files}"))
    console.print(f"milliseconds per frame: {times}")


def _matches(argument: str) -> list[str]:
    """Returns the videos that match an argument as a glob; other arguments are left as they are."""
    path = Path(argument)
    if path.suffix.lower() not in SUFFIXES or path.exists() or not {*"*?["} & {*argument}:
        return [argument]
    return [str(each) for each in matching(path)]


def _videos_below(names: Sequence[str], outputs: Sequence[Path]) -> int:
    """Returns how many videos are in folders, where only images are looked for."""
    skipped = [output.resolve() for output in outputs]
    return sum(
        path.suffix.lower() in SUFFIXES
        for folder in map(Path, names)
        if folder.is_dir()
        for path in files_below(folder.resolve(), skipped)
    )


def _is_video(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES or camera_number(name) is not None


def _check_options(args: argparse.Namespace) -> None:
    check_options(args.threshold, args.batch_size, args.refine)
    if args.frames is not None and args.frames < 1:
        raise ConfigError(f"--frames {args.frames}: expected at least 1", code="frames")
    if args.foreground and not args.soft:
        raise ConfigError(
            "--foreground needs --soft: a hard mask has no pixels that are mixed",
            code="foreground-needs-soft",
        )


def _check_names(videos: Sequence[str]) -> None:
    stems = [Path(video).stem for video in videos]
    for stem in stems:
        if stems.count(stem) > 1:
            raise DataError(
                f"{stem}: two videos have this name, and one would overwrite the other; give them "
                f"one by one, each with its own --output",
                code="image-overwritten",
            )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.CommandParser("predict", __doc__)
    parser.add_argument("model", type=Path, metavar="RUN_OR_ONNX")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="files, folders or globs such as 'a/*.jpg'; videos; a camera's number",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--as",
        dest="kinds",
        nargs="+",
        metavar="KIND",
        default=["masks"],
        help="masks: white is a person (the default); overlays: the image with its persons marked; "
        "cutouts: the persons alone, the rest transparent; blur: the background out of focus; "
        "background=IMAGE: the persons before another image",
    )
    edge = parser.add_mutually_exclusive_group()
    edge.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="a person is where the probability is above it (default: 0.5)",
    )
    edge.add_argument(
        "--soft",
        action="store_true",
        help="use the probabilities: grey levels in masks, soft edges in everything else",
    )
    add_refinement(parser)
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="with --soft: cutouts and other backgrounds without a halo of the old background; "
        "needs pip install 'jaxdistill[matting]'",
    )
    parser.add_argument("--batch-size", type=int, default=4, metavar="N")
    video = parser.add_argument_group("videos")
    video.add_argument(
        "--smooth",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="weight of the frames before where nothing moves, such as 0.8 (default: 0, off)",
    )
    video.add_argument(
        "--video-format",
        choices=tuple(ENCODINGS),
        help="default: webm for cutouts, else mp4; mov is ProRes 4444; png: a folder of PNG files",
    )
    video.add_argument("--frames", type=int, metavar="N", help="stop after so many frames")
    add_model_options(parser)
    return parser.parse_intermixed_args(arguments)
