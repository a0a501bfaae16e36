"""Shows what an ONNX file takes and gives: `jaxdistill inspect FILE.onnx [IMAGE ...]`.

It lists inputs and outputs, and runs the file on the images, with each usual normalisation. It
prints what values the outputs have, writes an image of every mask that they may be, with a row for
each way, and prints the lines of a configuration for the likeliest. Look at that image: the right
row shows people as people; where the likeliest row is another, change the lines.
"""

import argparse
import io
import itertools
import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from jaxdistill.analysis import inspection_sheet
from jaxdistill.analysis.mask_candidates import MaskCandidate, likelihood
from jaxdistill.analysis.network_inspection import Inspection, configuration, inspect
from jaxdistill.commands import common
from jaxdistill.commands.model_options import add_input_options, checked_size
from jaxdistill.config import Section
from jaxdistill.data import decode
from jaxdistill.data.image_files import find_images, spread
from jaxdistill.runtime.errors import DataError

MOST_IMAGES = 4
"""Images that are looked at, at most."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, inspects, and writes the image of the masks.

    Args:
      arguments: The arguments; None takes those of the process.
    """
    args = _parse(arguments)
    console = common.console()
    images = []
    for file in spread(find_images(args.images, []) if args.images else [], MOST_IMAGES):
        try:
            images.append(decode.decode(file.read(), upright=True))
        except (OSError, decode.ImageError) as error:
            raise DataError(f"{file.source}: {error}", code="no-such-image") from None
    found = inspect(
        args.file,
        images,
        normalization=args.normalization,
        channel_order=args.channel_order or "rgb",
        layout=args.layout,
        size=checked_size(args),
    )
    for title, values in (("inputs", found.inputs), ("outputs", found.outputs)):
        console.print(f"{title}: {', '.join(values)}")
    image = found.image
    console.print(
        f"image: {image.name!r}, {image.dtype} {image.layout.upper()}, "
        f"{found.size[0]} x {found.size[1]}"
        + (f", in batches of {image.batch}" if image.batch else "")
    )
    for line in _describe(found):
        console.print(line)
    if not images:
        console.print("without images, values and kinds are those of noise: name a few images")
    candidates = list(found.candidates())
    if not candidates:
        console.print("no output can be a mask: give an inner tensor as teacher.tensor")
        return
    console.print("the likeliest, if its row in the image of the masks shows people best:\n")
    for line in _suggest(found, candidates[0]):
        console.print(line)
    output = args.output or args.file.with_suffix(".inspect.png")
    encoded = io.BytesIO()
    inspection_sheet.draw(found).save(encoded, "PNG")
    common.write_output(output, encoded.getvalue())  # last: the folder may not be writable
    console.print(f"masks: {output}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.CommandParser("inspect", __doc__)
    parser.add_argument("file", type=Path, metavar="FILE.onnx")
    parser.add_argument(
        "images",
        nargs="*",
        default=[],
        metavar="IMAGE",
        help=f"images of people: files, folders or globs; {MOST_IMAGES} of them are used",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the image of the masks (default: FILE.inspect.png)",
    )
    add_input_options(parser)
    return parser.parse_intermixed_args(arguments)


def _describe(found: Inspection) -> Iterator[str]:
    """Yields a line for each output, and one for each normalisation."""
    for name, tried in itertools.groupby(
        sorted(found.tried, key=lambda each: each.tensor.name), lambda each: each.tensor.name
    ):
        for index, each in enumerate(tried):
            tensor = each.tensor
            if index == 0:
                layout = f" ({tensor.layout.upper()})" if tensor.layout else ""
                yield f"{name}: {' x '.join(map(str, tensor.shape))}{layout}"
            shown = each.normalization if isinstance(each.normalization, str) else "as given"
            about = f"{each.kind}, likelihood {likelihood(each):.2f}" if each.kind else "no mask"
            yield f"  {shown}: {each.low:.4g} ... {each.high:.4g}, mean {each.mean:.4g}; {about}"


def _suggest(found: Inspection, best: MaskCandidate) -> Iterator[str]:
    """Yields the lines of a configuration, and the same as options of `predict`."""
    keys = {
        name: value.model_dump(mode="json") if isinstance(value, Section) else value
        for name, value in configuration(found, best).items()
    }
    yield "teacher:"
    for name, value in keys.items():
        yield f"  {name}: {_flow(value)}"
    yield ""
    options = {**keys, "output-kind": keys.pop("output")}
    words = ["jaxdistill", "predict", str(found.path), "IMAGES", "--output", "FOLDER"]
    for name, value in options.items():
        if name not in ("onnx", "output"):
            words.append(f"--{name.replace('_', '-')}")
            words += _words(value)
    yield shlex.join(words)


def _words(value: Any) -> list[str]:
    """Returns a value as words of a command line, which needs no quotes of YAML."""
    if isinstance(value, list):
        return [str(each) for each in value]
    return [value if isinstance(value, str) else _flow(value)]


def _flow(value: Any) -> str:
    """Returns a value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.strip().removesuffix("...").strip()
