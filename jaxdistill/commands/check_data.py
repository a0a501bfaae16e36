"""Looks at images and masks: `jaxdistill check-data FOLDER [KEY=VALUE ...]`.

It says what the folder is taken for, how many images there are and how large they are, how much of
them is a person, and which of them are equal, also between training and validation. The images are
shown with their masks in a page, or as one image with `--output NAME.png`.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from jaxdistill import config
from jaxdistill.commands import common
from jaxdistill.data import data_check
from jaxdistill.reporting import data_sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses arguments, looks at the data, and writes the sheet.

    Args:
      arguments: The arguments; None takes those of the process.

    Returns:
      The exit code: 0, or 1 if an image cannot be used or is in both splits.
    """
    args = _parse(arguments)
    overrides = [
        f"data.root={json.dumps(each, ensure_ascii=False)}" if _is_folder(each) else each
        for each in args.arguments
    ]
    settings = config.load_data(args.config, overrides)
    console = common.console()
    with Progress(console=common.console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading images")
        found = data_check.check_data(
            settings, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for line in data_sheet.summary(found):
        console.print(line)
    draw = data_sheet.png if args.output.suffix.lower() == ".png" else data_sheet.html
    content = draw(found, args.samples)
    common.write_output(args.output, content)
    console.print(f"{args.output}")
    return int(bool(found.across) or any(split.problems for split in found.splits.values()))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.CommandParser("check-data", __doc__)
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="FOLDER or KEY=VALUE",
        help="the folder of the data; any key of the section `data`, such as data.source=coco",
    )
    parser.add_argument("--config", metavar="FILE", help="a configuration, whose `data` is read")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("check-data.html"),
        metavar="FILE",
        help="NAME.html or NAME.png (default: check-data.html)",
    )
    parser.add_argument(
        "--samples",
        type=_count,
        default=data_sheet.SAMPLES,
        metavar="N",
        help=f"images of each split that are shown (default: {data_sheet.SAMPLES})",
    )
    args = parser.parse_intermixed_args(arguments)
    folders = [each for each in args.arguments if _is_folder(each)]
    if len(folders) > 1:
        parser.error(f"expected one folder, got {', '.join(folders)}")
    return args


def _is_folder(argument: str) -> bool:
    """Tells a folder, in whose name there may be `=`, from `KEY=VALUE`."""
    key, equals, _ = argument.partition("=")
    return not equals or os.sep in key or os.path.isdir(argument)  # noqa: PTH112 (never raises)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text!r}")
    return int(text)
