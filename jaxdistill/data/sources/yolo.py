"""Images with YOLO's text files: one polygon per line, in shares of the image."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from jaxdistill import config
from jaxdistill.config.yaml_files import parse_yaml
from jaxdistill.data.sources import categories
from jaxdistill.data.sources.annotated import Annotated, People
from jaxdistill.data.sources.base import read
from jaxdistill.data.sources.layout import IMAGE_FOLDERS, Found, Root, SplitKind
from jaxdistill.data.sources.outlines import Outline
from jaxdistill.runtime.errors import ConfigError, DataError

_FOLDERS = ("labels", "label")
_DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_LARGEST = 2**24  # bytes of a description
_DIGITS = 2
"""Decimals of a pixel that corners are rounded to. Six digits of a share, as most programs write
them, hold that many; so a corner comes back that was a multiple of a hundredth of a pixel."""


@dataclass(frozen=True)
class Yolo(Annotated):
    """Images with a text file each, whose lines are `class x y x y x y ...`.

    Corners are shares of the upright image's width and height. Lines of boxes
    (`class x y width height`) have no outline, and are counted. Names of classes are in `data.yaml`
    above the text files; without it, `data.category` is the number of a class, or there is one.
    """

    NAME = "yolo"
    ENDINGS = (".txt",)
    LAYOUT = (
        "a folder of images and, as `annotations`, a folder of text files with the same names and "
        "one polygon per line, such as images/1.jpg and labels/1.txt; and data.yaml with the names "
        "of classes"
    )

    @classmethod
    def recognise(cls, root: Root) -> Found | None:
        """Finds `labels` beside `images`, or the folders that `data.yaml` names; see the base."""

        def hold_both(images: str, texts: str) -> bool:
            return root.has_images(images) and root.suffixes_below(texts)[".txt"] > 0

        described = {kind: pair for kind, pair in _described(root).items() if hold_both(*pair)}
        pairs = root.parallel(IMAGE_FOLDERS, _FOLDERS, hold_both) or described
        splits = {
            kind: config.Split(images=Path(one), annotations=Path(other))
            for kind, (one, other) in pairs.items()
        }
        because = ", ".join(f"text files in {other} beside {one}" for one, other in pairs.values())
        return Found(splits, because) if splits else None

    def notes(self) -> Sequence[str]:
        """Returns that the only class is taken for a person, where it has no name."""
        if self._names or isinstance(self.settings.category, int):
            return []
        return ["there is no data.yaml; the only class, 0, is taken for a person"]

    def read_people(self, file: Path, content: bytes) -> People:
        """Reads a text file; see the base class."""
        polygons: list[Outline] = []
        boxes = 0
        text = content.decode("utf-8-sig", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if not (words := line.split()):
                continue
            try:
                kind, values = _whole(words[0]), [float(word) for word in words[1:]]
            except ValueError:
                raise _damaged(file, number, "it is not `class x y x y ...`") from None
            if not all(map(math.isfinite, values)) or any(abs(value) > 2 for value in values):
                raise _damaged(file, number, "corners are shares of the image, from 0 to 1")
            if len(values) % 2 and len(values) != 5:
                raise _damaged(file, number, "it has a number too many or too few")
            if not self._is_person(kind, file):
                continue
            if len(values) < 6:  # a box, maybe with its score
                boxes += 1
            else:
                polygons.append([values])
        return People(polygons, boxes)

    def scaled(self, people: People, size: tuple[int, int]) -> Sequence[Outline]:
        """Returns the polygons in pixels; see the base class."""
        height, width = size
        return [
            [
                [
                    round(value * (height if index % 2 else width), _DIGITS)
                    for index, value in enumerate(polygon)
                ]
                for polygon in outline
            ]
            for outline in people.outlines
            if isinstance(outline, list)
        ]

    def _is_person(self, kind: int, file: Path) -> bool:
        if self._names:
            return kind in self._classes
        if isinstance(self.settings.category, int):
            return kind == self.settings.category
        if kind:
            raise categories.missing(
                self.settings.category,
                [f"class {kind} without a name"],
                f"{file}: there is no data.yaml with the names of classes above {self.annotations}",
            )
        return True

    @cached_property
    def _classes(self) -> set[int]:
        known = list(self._names.items())
        return categories.find(self.settings.category, known, str(self.annotations))

    @cached_property
    def _names(self) -> Mapping[int, str]:
        """Names of classes from the nearest description above the text files."""
        assert self.annotations is not None
        top = self.settings.root.absolute() if self.settings.root else self.annotations.parent
        for folder in (self.annotations, *self.annotations.parents):
            if not folder.is_relative_to(top):
                break
            for name in _DESCRIPTIONS:
                if (path := folder / name).is_file():
                    return _names_in(path)
        return {}

    def fingerprint(self) -> str:
        """Returns a fingerprint of the files, and of which classes are people."""
        own = f"{super().fingerprint()} {sorted(self._classes) if self._names else None}"
        return hashlib.sha256(own.encode()).hexdigest()[:32]


def _described(root: Root) -> dict[SplitKind, tuple[str, str]]:
    """Returns the folders of images that `data.yaml` names, and those of their text files.

    As YOLO has it, `labels` stands in place of the last `images` in the path. Exports begin their
    paths with `../` though they are meant from the folder itself.
    """
    found: dict[SplitKind, tuple[str, str]] = {}
    kinds: dict[str, SplitKind] = {"train": "train", "val": "validation", "test": "test"}
    for name in set(_DESCRIPTIONS) & set(root.files_in("", (".yaml", ".yml"))):
        text = read(root.path / name, _LARGEST).decode(errors="replace")
        try:
            content: Any = parse_yaml(text, name)
        except ConfigError:
            continue
        if not isinstance(content, dict):
            continue
        for key, kind in kinds.items():
            value = content.get(key)
            parts = PurePosixPath(value).parts if isinstance(value, str) else ()
            images = [part for part in parts if part != ".."]
            if "images" in images and not PurePosixPath(*images).is_absolute():
                place = len(images) - 1 - images[::-1].index("images")
                labels = [*images[:place], "labels", *images[place + 1 :]]
                if all(root.path.joinpath(*each).is_dir() for each in (images, labels)):
                    found[kind] = "/".join(images), "/".join(labels)
    return found


def _names_in(path: Path) -> Mapping[int, str]:
    text = read(path, _LARGEST).decode(errors="replace")
    content: Any = parse_yaml(text, str(path))
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(number, int) for number in names):
        raise DataError(
            f"{path}: expected `names`, a list of the names of classes, or their names by number",
            code="damaged-annotation",
        )
    return {number: str(name) for number, name in names.items()}


def _whole(word: str) -> int:
    """Returns the number of a class, which NumPy writes as 0.000e+00."""
    number = float(word)
    if not number.is_integer():
        raise ValueError(word)
    return int(number)


def _damaged(file: Path, line: int, problem: str) -> DataError:
    return DataError(f"{file}:{line}: {problem}", code="damaged-annotation")
