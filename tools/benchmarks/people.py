#!/usr/bin/env python3
"""Makes the data set of people that the documents measure on, from its public source.

    git clone https://github.com/VikramShenoy97/Human-Segmentation-Dataset
    python tools/benchmarks/people.py Human-Segmentation-Dataset data/people
    python tools/benchmarks/people.py Human-Segmentation-Dataset data/people_test --test

The source has 290 images of people, most of them from the web, and their masks, which remove.bg
made. It states no licence. 160 images are for training. The best epochs and the settings that the
documents name were chosen on the 40 validation images, and none on the 90 test images. With
`--test`, these are the folder's validation images, so that all commands score them.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from jaxdistill.runtime.errors import ConfigError, command
from jaxdistill.runtime.files import whole_folder

_ALL = (*range(1, 290), 300)
_VALIDATION = (
    *(3, 36, 37, 53, 62, 68, 83, 87, 91, 99, 112, 113, 122, 141, 142, 163, 175, 176, 183, 192),
    *(195, 205, 216, 219, 221, 223, 240, 242, 243, 247, 250, 257, 258, 268, 272, 275, 281, 287),
    *(288, 289),
)
_TEST = (
    *(1, 2, 7, 9, 12, 14, 16, 20, 23, 25, 28, 30, 32, 38, 39, 43, 47, 50, 52, 54, 56, 71, 72, 73),
    *(82, 84, 89, 94, 100, 102, 103, 104, 106, 107, 110, 111, 117, 119, 120, 123, 124, 125, 126),
    *(127, 129, 131, 132, 133, 136, 138, 143, 147, 150, 153, 155, 156, 165, 166, 168, 172, 181),
    *(187, 189, 190, 194, 200, 201, 204, 210, 212, 213, 217, 218, 222, 225, 226, 231, 232, 234),
    *(237, 239, 249, 251, 259, 264, 270, 277, 280, 282, 284),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and writes the data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the folder that `git clone` made")
    parser.add_argument("folder", type=Path, help="the folder to write")
    parser.add_argument("--test", action="store_true", help="validate on the test images")
    args = parser.parse_args(arguments)
    if args.folder.exists():
        raise ConfigError(
            f"{args.folder} is there already; choose another folder", code="folder-not-empty"
        )
    splits = {
        "train": [name for name in _ALL if name not in {*_VALIDATION, *_TEST}],
        "val": _TEST if args.test else _VALIDATION,
    }
    needed = [file for names in splits.values() for name in names for file in _files(name)]
    if missing := [file for file in needed if not (args.source / file).is_file()]:
        raise ConfigError(
            f"{args.source} has no {missing[0]} ({len(missing)} of {len(needed)} files are "
            f"missing); give the folder that `git clone` made",
            code="no-such-file",
        )
    with whole_folder(args.folder) as partial:
        for split, names in splits.items():
            _write(args.source, partial, split, names)
    print(f"{args.folder}: " + ", ".join(f"{k}: {len(v)} images" for k, v in splits.items()))


def _files(name: int) -> tuple[str, str]:
    """Returns where the source has an image and its mask."""
    return f"Training_Images/{name}.jpg", f"Ground_Truth/{name}.png"


def _write(source: Path, root: Path, split: str, names: Sequence[int]) -> None:
    """Writes a split; the source has the masks of large images at a smaller size."""
    images, masks = root / "images" / split, root / "masks" / split
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for name in names:
        image, mask = (source / file for file in _files(name))
        shutil.copyfile(image, images / f"{name:03}.jpg")
        with Pillow.open(image) as opened:
            size = opened.size
        with Pillow.open(mask) as opened:
            grey = np.asarray(opened.convert("L").resize(size, Pillow.Resampling.BILINEAR))
        white = np.where(grey > 127, 255, 0).astype(np.uint8)
        Pillow.fromarray(white).save(masks / f"{name:03}.png")


if __name__ == "__main__":
    raise SystemExit(command(main))
