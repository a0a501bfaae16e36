"""Images with Supervisely's JSON files: bitmaps, and polygons with holes."""

import base64
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated as Checked

import numpy as np
from jaxtyping import Bool
from pydantic import Field, TypeAdapter

from jaxdistill import config
from jaxdistill.data import decode
from jaxdistill.data.sources import categories, images, json_files
from jaxdistill.data.sources.annotated import Annotated, People
from jaxdistill.data.sources.layout import Found, Root, SplitKind, kind_of
from jaxdistill.data.sources.outlines import Bitmap, Holed, Outline, Side
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError

_IMAGES, _ANNOTATIONS = "img", "ann"
_LARGEST = 2**28  # bytes of a bitmap
_Number = Checked[float, Field(allow_inf_nan=False)]
_Point = tuple[_Number, _Number]


@dataclass(frozen=True, slots=True)
class _Size:
    height: Side
    width: Side


@dataclass(frozen=True, slots=True)
class _Points:
    exterior: list[_Point]
    interior: list[list[_Point]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Bitmap:
    data: str
    origin: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Object:
    classTitle: str
    geometryType: str | None = None
    points: _Points | None = None
    bitmap: _Bitmap | None = None


@dataclass(frozen=True, slots=True)
class _File:
    size: _Size
    objects: list[_Object]


_FILE = TypeAdapter(_File)


@dataclass(frozen=True)
class Supervisely(Annotated):
    """Images with a JSON file each, such as `train/img/1.jpg` and `train/ann/1.jpg.json`.

    Where `images` and `annotations` are one folder, it holds data sets, each with `img` and `ann`.
    Bitmaps and polygons of the class `data.category` are people; other shapes have no outline, and
    are counted.
    """

    NAME = "supervisely"
    ENDINGS = (".json",)
    LAYOUT = (
        "meta.json and folders of data sets, each with a folder `img` of images and a folder `ann` "
        "of JSON files, such as train/img/1.jpg and train/ann/1.jpg.json"
    )

    @classmethod
    def recognise(cls, root: Root) -> Found | None:
        """Finds folders with `img` and `ann`; see the base class."""
        whole = {_IMAGES, _ANNOTATIONS}
        sets = [name for name in ("", *root.folders) if whole <= set(root.folders_in(name))]
        found: dict[SplitKind, tuple[Path, Path]] = {}
        for name in sets:
            if kind := kind_of(name):
                found.setdefault(kind, (Path(name, _IMAGES), Path(name, _ANNOTATIONS)))
        if len(sets) == 1 and not found:
            found["all"] = (Path(sets[0], _IMAGES), Path(sets[0], _ANNOTATIONS))
        elif sets and not found:
            found["all"] = (Path(), Path())
        splits = {
            kind: config.Split(images=one, annotations=other)
            for kind, (one, other) in found.items()
        }
        because = f"img and ann in {', '.join(name or '.' for name in sets)}"
        return Found(splits, because) if splits else None

    def pairs(self) -> Iterator[tuple[str, Path | None, Path | None]]:
        """Yields name, image and annotation file; see the base class."""
        assert self.annotations is not None
        if self.annotations.resolve() != self.images.resolve():
            yield from super().pairs()
            return
        root = self.images.resolve()
        for path in sorted(p for ps in images.by_key(root, self.excluded).values() for p in ps):
            parts = path.relative_to(root).parts
            if _IMAGES not in parts:
                continue
            place = parts.index(_IMAGES)
            file = root.joinpath(*parts[:place], _ANNOTATIONS, *parts[place + 1 :])
            file = file.with_name(f"{file.name}.json")
            yield images.printable_name(path, root), path, file if files.is_file(file) else None

    def read_people(self, file: Path, content: bytes) -> People:
        """Reads a JSON file; see the base class."""
        parsed = json_files.parse(
            file, content, _FILE, lambda problem: _damaged(file, f"not of Supervisely: {problem}")
        )
        outlines: list[Outline] = []
        without = 0
        for each in parsed.objects:
            if not categories.is_wanted(self.settings.category, each.classTitle):
                continue
            if each.bitmap is not None:
                left, top = each.bitmap.origin
                outlines.append(Bitmap(partial(_pixels, file, each.bitmap.data), left, top))
            elif each.geometryType in ("polygon", None) and _corners(each) > 2 and each.points:
                holes = [_flat(hole) for hole in each.points.interior if len(hole) > 2]
                outlines.append(Holed([_flat(each.points.exterior)], holes))
            else:
                without += 1
        return People(outlines, without, (parsed.size.height, parsed.size.width))


def _corners(each: _Object) -> int:
    return len(each.points.exterior) if each.points else 0


def _flat(points: list[_Point]) -> list[float]:
    return [value for point in points for value in point]


def _pixels(file: Path, text: str) -> Bool[np.ndarray, "h w"]:
    """Decodes a bitmap: a PNG, compressed by zlib, as base64."""
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text), _LARGEST)
        stored = decode.decode_stored(data)
    except (ValueError, zlib.error, decode.ImageError) as error:
        raise _damaged(file, f"a bitmap cannot be decoded: {error}") from None
    if stored.alpha is not None:
        return stored.alpha > 0
    values = stored.values if stored.values.ndim == 2 else stored.values.max(-1)
    return values > 0


def _damaged(file: Path, problem: str) -> DataError:
    return DataError(f"{file}: {problem}", code="damaged-annotation")
