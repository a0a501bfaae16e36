"""The regimes of `ablate.py`: the same pictures, with all, with few, and without masks."""

import json
from pathlib import Path
from typing import Any

from jaxdistill.config import Data
from jaxdistill.runtime.errors import UserError


def prepare(folder: Path, root: Path, few: int) -> dict[str, list[str]]:
    """By regime the settings that name its pictures; what they need is written into the folder.

    `few`: every so many-th picture with a mask, the others without; `few-repeated`: those with a
    mask alone, so often that an epoch is as long, for what learns from masks only; `none`: all
    without. The pictures themselves stay where they are.

    Raises:
      UserError: there are no annotations, or so few are not fewer than there are.
    """
    split = Data(root=root).train
    assert split.annotations is not None
    file = root / split.annotations
    if not file.is_file():
        raise UserError(f"no file {file}; --data expects a folder in COCO's layout")
    content = json.loads(file.read_text(encoding="utf-8"))
    shown = {annotation["image_id"] for annotation in content["annotations"]}
    images = [image for image in content["images"] if image["id"] in shown]
    if not 0 < few < len(images):
        raise UserError(
            f"--few {few}: {root / split.annotations} has masks for {len(images)} pictures; some "
            f"must keep theirs, and some go without"
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
    """An instances file of these images alone, each as often under another id."""
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
    path.write_text(json.dumps(part), encoding="utf-8")


def _link(folder: Path, pictures: Path, images: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    for image in images:
        link = folder / Path(image["file_name"]).name
        if not link.is_symlink():
            link.symlink_to((pictures / image["file_name"]).resolve())
