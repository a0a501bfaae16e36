"""The data of `ablate.py`'s regimes: the same images with all masks, with few, and without."""

import json
from pathlib import Path
from typing import Any

from jaxdistill.config import Data
from jaxdistill.runtime.errors import ConfigError, DataError
from jaxdistill.runtime.files import write_atomic


def prepare(folder: Path, root: Path, few: int) -> dict[str, list[str]]:
    """Writes the files that the regimes need, and returns the settings of each regime.

    In `few`, evenly spaced images have masks and the others have none. In `few-repeated`, which is
    for runs that learn from masks alone, only the images with masks are used, repeated so that an
    epoch is as long. In `none`, no image has a mask. The images themselves are not copied.

    Args:
      folder: Where files are written.
      root: A folder in COCO's layout.
      few: Number of images with masks.

    Raises:
      DataError: There are no annotations (`missing-annotations`).
      ConfigError: `few` is not below the number of images with masks (`few-masks`).
    """
    split = Data(root=root).train
    assert split.annotations is not None
    file = root / split.annotations
    if not file.is_file():
        raise DataError(
            f"--data {root}: there is no file {file}; expected a folder in COCO's layout",
            code="missing-annotations",
        )
    content = json.loads(file.read_text(encoding="utf-8"))
    shown = {annotation["image_id"] for annotation in content["annotations"]}
    images = [image for image in content["images"] if image["id"] in shown]
    if not 0 < few < len(images):
        raise ConfigError(
            f"--few {few}: expected a number between 1 and {len(images) - 1}, since {file} has "
            f"masks for {len(images)} images",
            code="few-masks",
        )
    kept = images[:: max(len(images) // few, 1)][:few]
    others = [image for image in images if image not in kept]
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "few.json", content, kept, 1)
    _write(folder / "few-repeated.json", content, kept, len(images) // len(kept))
    _link(folder / "others", root / split.images, others)
    _link(folder / "all", root / split.images, images)
    at = [f"data.root={root}"]
    return {
        "all": at,
        "few": [
            *at,
            f"data.train.annotations={folder}/few.json",
            f"data.unlabelled={folder}/others",
        ],
        "few-repeated": [*at, f"data.train.annotations={folder}/few-repeated.json"],
        "none": [*at, f"data.train.images={folder}/all", "data.train.annotations=null"],
    }


def _write(path: Path, content: dict[str, Any], images: list[dict[str, Any]], times: int) -> None:
    """Writes an instances file of some images, each repeated under different ids."""
    numbered = [(image, turn) for turn in range(times) for image in images]
    highest = 1 + max(image["id"] for image in images)
    part = {
        "categories": content["categories"],
        "images": [{**image, "id": image["id"] + turn * highest} for image, turn in numbered],
        "annotations": [
            {**annotation, "image_id": image["id"] + turn * highest}
            for image, turn in numbered
            for annotation in content["annotations"]
            if annotation["image_id"] == image["id"]
        ],
    }
    write_atomic(path, json.dumps(part))


def _link(folder: Path, source: Path, images: list[dict[str, Any]]) -> None:
    """Links to images; links of an earlier command, which failed, are replaced."""
    folder.mkdir(exist_ok=True)
    targets = {
        Path(image["file_name"]).name: (source / image["file_name"]).resolve() for image in images
    }
    for link in filter(Path.is_symlink, list(folder.iterdir())):
        if link.readlink() != targets.get(link.name):
            link.unlink()
    for name, target in targets.items():
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
