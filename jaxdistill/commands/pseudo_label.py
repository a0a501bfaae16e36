r"""Writes masks of images on which several networks agree: `jaxdistill pseudo-label`.

    jaxdistill pseudo-label --config two_networks.yaml --images PATH/TO/IMAGES --output labels
    jaxdistill train --config small data.root=PATH/TO/COCO \
        data.additional="{images: $PWD/PATH/TO/IMAGES, annotations: $PWD/labels/masks}"

The networks are the teachers of a configuration. A mask is that of the mean of their probabilities.
It is written where each network's own mask has an IoU of at least `--agreement` with it, and where
it shows a person; of a single network, the masks of the image and of its mirror image are compared.
FOLDER/agreement.csv has the lowest IoU of each image, and whether its mask was written, or why not.
Give an interrupted command again to continue it. A lower `--agreement` computes only the masks that
it adds; a higher one moves masks to FOLDER/masks_below_agreement. The exit code is 1 where an image
could not be read.
"""

import argparse
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from jaxdistill import config
from jaxdistill.commands import common
from jaxdistill.config import Size
from jaxdistill.data.image_files import find_images
from jaxdistill.runtime import xla
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.runtime.paths import expanded
from jaxdistill.runtime.text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses arguments and writes masks.

    Args:
      arguments: The arguments; None takes those of the process.

    Returns:
      The exit code: 0, or 1 if an image could not be read.
    """
    args = _parse(arguments)
    settings = config.load(Path(args.config), args.overrides)
    if not settings.teachers:
        raise ConfigError(
            f"{args.config} has no teacher, whose masks could be written: set teacher.onnx",
            code="teacher-needed",
        )
    from jaxdistill.evaluation import pseudo_labels
    from jaxdistill.teachers import combined
    from jaxdistill.teachers.base import describe_teacher

    masks, aside = args.output / pseudo_labels.MASKS, args.output / pseudo_labels.ASIDE
    images = find_images([args.images], [masks, aside])
    xla.allocate_as_needed()
    teacher = combined.of_masks(settings)
    assert teacher is not None
    console = common.console(stderr=True)
    for line in (*describe_teacher(teacher), f"{len(images)} images"):
        console.print(printable(line))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("labelling", total=len(images))
        verdicts = pseudo_labels.pseudo_label(
            teacher,
            images,
            args.output,
            size=_largest_input(teacher, settings.data.image_size),
            agreement=args.agreement,
            batch_size=args.batch_size,
            progress=lambda found: bar.advance(task, len(found)),
        )
    counts = Counter(each.verdict for each in verdicts)
    used = counts.pop(pseudo_labels.USED, 0)
    console.print(printable(f"{used} of {len(images)} images: masks in {masks}"))
    for why, count in counts.most_common():
        console.print(printable(f"{count} left out: {why}"))
    if below := sum(1 for _ in aside.rglob("*.png")):
        console.print(printable(f"{below} masks of a lower --agreement are set aside in {aside}"))
    folder = expanded(args.images)
    if used and folder.is_dir():
        pair = {"images": str(folder.resolve()), "annotations": str(masks.resolve())}
        key = shlex.quote(f"data.additional={json.dumps(pair, ensure_ascii=False)}")
        console.print(printable(f"train on them with {key}"))
    return 1 if any(each.agreement is None for each in verdicts) else 0


def _largest_input(teacher: Any, image_size: Size) -> Size:
    """Returns the largest height and width at which a network or one of several computes."""
    members = getattr(teacher, "members", (teacher,))
    sizes = [member.input_size(image_size) for member in members]
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.CommandParser("pseudo-label", __doc__)
    parser.add_argument(
        "--config", required=True, help="a YAML file with teachers, or a shipped configuration"
    )
    parser.add_argument(
        "--images", required=True, metavar="PATH", help="a folder, a file, or a glob such as 'a/*'"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="masks and report"
    )
    parser.add_argument(
        "--agreement",
        type=float,
        default=0.85,
        metavar="IOU",
        help="the lowest IoU of any network's mask with the mean's (default: 0.85)",
    )
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="any key, such as teacher.onnx=PATH"
    )
    return parser.parse_intermixed_args(arguments)
