"""Images with LabelMe's JSON files."""

import base64
import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PureWindowsPath
from typing import Annotated as Checked

import numpy as np
from jaxtyping import Bool
from pydantic import Field, TypeAdapter

from jaxdistill import config
from jaxdistill.data import decode
from jaxdistill.data.sources import categories, images, json_files
from jaxdistill.data.sources.annotated import LARGEST, Annotated, Entry, People
from jaxdistill.data.sources.base import read
from jaxdistill.data.sources.layout import IMAGE_FOLDERS, Found, Root
from jaxdistill.data.sources.outlines import Bitmap, Outline, Side
from jaxdistill.runtime.errors import DataError
from jaxdistill.runtime.text import printable

_FOLDERS = ("annotations", "annotation", "json", "jsons", "labels", "labelme")
_Number = Checked[float, Field(allow_inf_nan=False)]
_HEAD = 2**20  # bytes in which the shapes begin: before the image


@dataclass(frozen=True, slots=True)
class _Shape:
    label: str
    points: list[tuple[_Number, _Number]]
    shape_type: str | None = "polygon"
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class _File:
    shapes: list[_Shape]
    imagePath: str | None = None
    imageData: str | None = None
    imageHeight: Side | None = None
    imageWidth: Side | None = None


_FILE = TypeAdapter(_File)


@dataclass(frozen=True)
class LabelMe(Annotated):
    """Images with a JSON file each, beside the image or in a folder of their own.

    An image that is no file is taken from `imageData`. Polygons and masks of the label
    `data.category` are people; rectangles, circles and lines have no outline, and are counted.
    """

    NAME = "labelme"
    ENDINGS = (".json",)
    LAYOUT = (
        "a folder of images and, as `annotations`, a folder of LabelMe's JSON files with the same "
        "names, or one folder for both, such as train/1.jpg and train/1.json"
    )

    @classmethod
    def recognise(cls, root: Root) -> Found | None:
        """Finds JSON files with `shapes` beside images; see the base class."""
        pairs = root.parallel(IMAGE_FOLDERS, _FOLDERS, lambda _, other: _has_shapes(root, other))
        if not pairs:
            folders = root.split_folders()
            pairs = {
                kind: (name, name) for kind, name in folders.items() if _has_shapes(root, name)
            }
        splits = {
            kind: config.Split(images=Path(one), annotations=Path(other))
            for kind, (one, other) in pairs.items()
        }
        names = ", ".join(str(split.annotations) for split in splits.values())
        return Found(splits, f"JSON files with shapes in {names}") if splits else None

    def pairs(self) -> Iterator[tuple[str, Path | None, Path | None]]:
        """Yields name, image and annotation file; see the base class."""
        assert self.annotations is not None
        try:
            found = images.by_key(self.images, self.excluded)
        except DataError as error:
            if error.code != "no-images":
                raise
            found = {}  # they may be in the JSON files
        annotations = self.annotation_files(self.annotations)
        root = self.images.resolve()
        elsewhere = self._named(found, annotations)
        others = {path for path in elsewhere.values() if path is not None}
        for key in sorted({*found, *annotations}):
            paths = [path for path in found.get(key, []) if path not in others]
            file = annotations.get(key)
            if len(paths) > 1:
                raise self.ambiguous(paths)
            if paths:
                yield images.printable_name(paths[0], root), paths[0], file
            elif file is not None:
                path = elsewhere[key]
                own = f"{key}.json" if path in (None, file) else ""
                yield own or images.printable_name(path or file, root), path, file

    def _named(
        self, found: Mapping[str, Sequence[Path]], annotations: Mapping[str, Path]
    ) -> dict[str, Path | None]:
        """Returns the images of JSON files that have another name: a file, or the JSON file."""
        without = (paths for key, paths in found.items() if key not in annotations)
        by_name: dict[str, list[Path]] = defaultdict(list)
        for path in (path for paths in without for path in paths):
            by_name[path.name].append(path)
        named: dict[str, Path | None] = {}
        for key, file in annotations.items():
            if key not in found:
                parsed = _parse(file, read(file, LARGEST))
                written = PureWindowsPath(parsed.imagePath or "")
                nearest = _nearest(by_name.get(written.name, ()), file.parent / written.as_posix())
                if len(nearest) > 1:
                    raise self._several(file, written, nearest)
                named[key] = nearest[0] if nearest else file if parsed.imageData else None
        return named

    def _several(self, file: Path, written: PurePath, paths: Sequence[Path]) -> DataError:
        names = " and ".join(images.printable_name(path, self.images.resolve()) for path in paths)
        return DataError(
            f"data.{self.split}: {file}: imagePath is {printable(str(written))}, which may be "
            f"{names}; name the folder there as well, or rename or remove what is too many",
            code="ambiguous-mask",
        )

    def image_of(self, entry: Entry) -> bytes | None:
        """Returns the image that is in the JSON file, where there is no other; see the base."""
        if entry.image != entry.annotation:
            return None
        text = _parse(entry.annotation, read(entry.annotation, LARGEST)).imageData or ""
        return _decoded(entry.annotation, text)

    def read_people(self, file: Path, content: bytes) -> People:
        """Reads a JSON file; see the base class."""
        parsed = _parse(file, content)
        outlines: list[Outline] = []
        without = 0
        for shape in parsed.shapes:
            if not categories.is_wanted(self.settings.category, shape.label):
                continue
            if shape.shape_type == "mask" and shape.mask and shape.points:
                left, top = (round(min(axis)) for axis in zip(*shape.points, strict=True))
                outlines.append(Bitmap(partial(_pixels, file, shape.mask), left, top))
            elif shape.shape_type in ("polygon", None) and len(shape.points) > 2:
                outlines.append([[value for point in shape.points for value in point]])
            else:
                without += 1
        height, width = parsed.imageHeight, parsed.imageWidth
        return People(outlines, without, (height, width) if height and width else None)


def _nearest(paths: Sequence[Path], written: Path) -> list[Path]:
    """Returns those of some files that share the most folders with a path, counted from its end."""
    wanted = Path(os.path.normpath(written)).parts
    for count in range(len(wanted), 0, -1):
        if found := [path for path in paths if path.parts[-count:] == wanted[-count:]]:
            return found
    return []


def _pixels(file: Path, text: str) -> Bool[np.ndarray, "h w"]:
    """Decodes a mask: a PNG of the part of the image that two corners span, as base64."""
    try:
        return decode.decode_mask(_decoded(file, text)) > 0
    except decode.ImageError as error:
        raise _damaged(file, f"a mask cannot be decoded: {error}") from None


def _decoded(file: Path, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except ValueError as error:
        raise _damaged(file, f"data that are not base64: {error}") from None


def _has_shapes(root: Root, folder: str) -> bool:
    for name in root.files_in(folder, (".json",))[:3]:
        with (
            contextlib.suppress(OSError),  # it is not ours to read
            (root.path / folder / name).open("rb") as file,
        ):
            if b'"shapes"' in file.read(_HEAD):
                return True
    return False


def _parse(file: Path, content: bytes) -> _File:
    return json_files.parse(
        file, content, _FILE, lambda problem: _damaged(file, f"not a LabelMe file: {problem}")
    )


def _damaged(file: Path, problem: str) -> DataError:
    return DataError(f"{file}: {problem}", code="damaged-annotation")
