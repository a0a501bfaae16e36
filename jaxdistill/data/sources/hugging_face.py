"""A data set of Hugging Face's `datasets` on disk: Arrow or Parquet files with images."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from jaxdistill import config
from jaxdistill.data import decode, mask_values
from jaxdistill.data.mask_values import MaskEncoding
from jaxdistill.data.sources import images, tables
from jaxdistill.data.sources.base import Source, SourceExample
from jaxdistill.data.sources.digests import fingerprint
from jaxdistill.data.sources.layout import Found, Root, SplitKind, kind_of
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError

_SUFFIXES = (".arrow", ".parquet")
_IMAGES = ("image", "img", "images", "picture", "pixel_values", "rgb", "input")
_MASKS = (
    *("mask", "masks", "label", "labels", "annotation", "segmentation", "segmentation_mask"),
    *("seg", "seg_mask", "semantic_mask", "gt", "ground_truth", "alpha", "matte", "target"),
)
_LOOKED_AT = 64
"""Number of masks from which it is found out what a person is."""
_MAX_STATE = 2**24  # bytes


class Entry(NamedTuple):
    """A row of a file."""

    id: int
    """Place in the order, counted from 1."""
    name: str
    """Name of the file that the image was made from, or of the row."""
    table: Path
    row: int


class _Columns(NamedTuple):
    image: str
    mask: str


@dataclass(frozen=True)
class HuggingFace(Source[Entry]):
    """A split that `save_to_disk` wrote, or Parquet files, with a column of images and of masks.

    `annotations` is the folder of the split, or a pattern of its files, such as
    `data/train-*.parquet`. `data.mask_column` names the masks, and `data.mask_values` says what a
    person is in them.
    """

    NAME = "hugging_face"
    HAS_MASKS = True
    LAYOUT = (
        "a folder that `save_to_disk` wrote, or Parquet files such as data/train-*.parquet, with a "
        "column of images and one of masks"
    )

    @classmethod
    def recognise(cls, root: Root) -> Found | None:
        """Finds Arrow and Parquet files by split; see the base class."""
        found: dict[SplitKind, config.Split] = {}
        for folder in ("", "data", *root.by_use(("", "data")).values()):
            for name in root.files_in(folder, _SUFFIXES):
                kind, pattern = _use_of(folder, Path(name))
                split = config.Split(images=Path(folder), annotations=Path(folder, pattern))
                found.setdefault(kind, split)
        if len(found) > 1:
            found.pop("all", None)
        names = ", ".join(str(split.annotations) for split in found.values())
        return Found(found, f"tables in {names}") if found else None

    def check(self) -> None:
        """Checks that the files exist; see the base class."""
        if not self.images.is_dir() or not self._files:
            raise DataError(
                f"data.{self.split}.annotations: {self.annotations} is no folder of Arrow or "
                f"Parquet files and no pattern of their names; expected {self.LAYOUT}",
                code="missing-annotations",
            )

    def list_images(self) -> Sequence[Entry]:
        """Returns the rows in order; see the base class."""
        found = []
        for table in self._tables:
            names = tables.names(table.path, self._columns.image, table.rows)
            found += [(name, table.path, row) for row, name in enumerate(names)]
        counts = Counter(Path(name).name for name, _, _ in found)
        return [
            Entry(
                number,
                Path(name).name if name and counts[Path(name).name] == 1 else f"{number:08}",
                path,
                row,
            )
            for number, (name, path, row) in enumerate(found, start=1)
        ]

    def notes(self) -> Sequence[str]:
        """Returns what was found out about the columns and about the values of the masks."""
        image, mask = self._columns
        notes = [f"images are in the column {image}, masks in {mask}"]
        found = self._encoding.note
        return [*notes, found] if found and self.settings.mask_values is None else notes

    def fingerprint(self) -> str:
        """Returns a fingerprint of the files, the columns, and of what a person is.

        Files that the tables name are among them; without any, what was prepared earlier is found.
        """
        about = f"{self._columns} {self.settings.mask_values}"
        root = self._files[0].parent
        root = self.images if root.is_relative_to(self.images) else root
        own = fingerprint(self._files, root, self.digests, about)
        beside = sorted({path for paths in self._beside.values() for path in paths})
        if not beside:
            return own
        digests = self.digests and self.digests / f"beside_tables_{self.split}"
        return fingerprint(beside, self.images.resolve(), digests, own)

    def file(self, entry: Entry) -> Path:
        """Returns the file that the row is in; see the base class."""
        return entry.table

    def name(self, entry: Entry) -> str:
        """Returns the name of the image; see the base class."""
        return entry.name

    def size(self, entry: Entry) -> int:
        """Returns the mean size of a row and of the files that it names; see the base class."""
        return self._row_sizes[entry.table]

    def load(self, entry: Entry) -> SourceExample:
        """Reads an image and its mask; see the base class."""
        content = self._content(entry, self._columns.image)
        example = images.read_image(entry.id, entry.name, entry.table, content)
        if example.problem:
            return example
        try:
            stored = decode.decode_stored(self._content(entry, self._columns.mask))
            mask = mask_values.person(stored, self._encoding)
        except decode.ImageError as error:
            return SourceExample(entry.id, entry.name, problem=f"its mask: {error}")
        except mask_values.UnknownValuesError as error:
            raise self._unknown(entry.name, error) from None
        upright = images.is_upright(content, mask.shape)
        if upright is None:
            height, width = decode.decode(content, upright=True).shape[:2]
            raise DataError(
                f"{entry.table}: row {entry.row}: the mask is {mask.shape[0]} x {mask.shape[1]} "
                f"(height x width), but its image is {height} x {width}; they must have one size",
                code="image-size-differs",
            )
        return example._replace(upright=upright, mask=decode.encode_mask(mask))

    def _content(self, entry: Entry, column: str) -> bytes:
        """Returns the content of an image, from the table or from a file in its folder."""
        found = tables.cell(entry.table, column, entry.row)
        if found.content or not found.path:
            return found.content
        path = self.images / found.path
        if not path.resolve().is_relative_to(self.images.resolve()):
            raise DataError(
                f"{entry.table}: row {entry.row}: {column}: {found.path!r} is not a path inside "
                f"{self.images}; save the data set with its images in the tables",
                code="bad-file-name",
            )
        try:
            return files.read(path, decode.MAX_FILE_BYTES)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read: {error.strerror}", code="unreadable-file"
            ) from None

    @cached_property
    def _files(self) -> Sequence[Path]:
        assert self.annotations is not None
        place = self.annotations
        if place.is_dir():
            found = place.iterdir()
        elif place.parent.is_dir():
            found = place.parent.glob(place.name)
        else:
            return []
        # `datasets` writes the results of `map` and `filter` beside the data, as cache-HASH.arrow.
        return sorted(
            path
            for path in found
            if path.suffix in _SUFFIXES and path.is_file() and not path.name.startswith("cache-")
        )

    @cached_property
    def _tables(self) -> Sequence[tables.Table]:
        return [tables.describe(path) for path in self._in_order()]

    def _in_order(self) -> Sequence[Path]:
        """Returns the files in the order in which `save_to_disk` lists them, or by name."""
        listed: list[str] = []
        state = self._files[0].parent / "state.json"
        if state.is_file():
            try:
                content = json.loads(files.read(state, _MAX_STATE))
                listed = [Path(each["filename"]).name for each in content["_data_files"]]
            except (OSError, ValueError, KeyError, TypeError):
                listed = []
        place = {name: number for number, name in enumerate(listed)}
        return sorted(self._files, key=lambda path: (place.get(path.name, len(place)), path.name))

    @cached_property
    def _row_sizes(self) -> dict[Path, int]:
        sizes = {}
        for table in self._tables:
            needed = (table.path, *self._beside[table.path])
            sizes[table.path] = sum(path.stat().st_size for path in needed) // max(1, table.rows)
        return sizes

    @cached_property
    def _beside(self) -> dict[Path, set[Path]]:
        """The files in the folder of the images that each table names, in place of a content."""
        root = self.images.resolve()
        found: dict[Path, set[Path]] = {}
        for table in self._tables:
            named = (tables.names(table.path, each, table.rows) for each in self._columns)
            paths = {root / name for names in named for name in names if name}
            there = {path.resolve() for path in paths if os.path.isfile(path)}  # noqa: PTH113 (any text)
            found[table.path] = {path for path in there if path.is_relative_to(root)}
        return found

    @cached_property
    def _columns(self) -> _Columns:
        first = self._tables[0]
        found, wanted = list(first.image_columns), self.settings.mask_column
        masks = [name for name in found if name.lower() in _MASKS] if wanted is None else [wanted]
        rest = [name for name in found if name not in masks]
        pictures = [name for name in rest if name.lower() in _IMAGES] or rest
        if not masks and len(found) == 2 and len(pictures) == 1:
            masks = [name for name in found if name not in pictures]
        if len(masks) != 1 or len(pictures) != 1 or masks[0] not in found:
            raise DataError(
                f"data.{self.split}: {first.path}: expected a column of images and one of masks; "
                f"the columns with images are {', '.join(found) or '-'}, of "
                f"{', '.join(first.columns)}; set data.mask_column",
                code="unknown-columns",
            )
        return _Columns(pictures[0], masks[0])

    @cached_property
    def _encoding(self) -> MaskEncoding:
        if self.settings.mask_values is not None:
            return MaskEncoding(self.settings.mask_values)
        entries = self.list_images()
        try:
            return mask_values.find_out(self._some(entries[:: -(-len(entries) // _LOOKED_AT) or 1]))
        except mask_values.UnknownValuesError as error:
            raise self._unknown(str(self.annotations), error) from None

    def _some(self, entries: Sequence[Entry]) -> Iterator[decode.Stored]:
        for entry in entries:
            try:
                yield decode.decode_stored(self._content(entry, self._columns.mask))
            except decode.ImageError:  # counted when its image is read
                continue

    def _unknown(self, place: str, error: mask_values.UnknownValuesError) -> DataError:
        return mask_values.unknown(f"data.{self.split}", place, error)


def _use_of(folder: str, file: Path) -> tuple[SplitKind, str]:
    """Returns what a file is used for, by its folder or a word of its name; and a pattern of it."""
    if own := kind_of(Path(folder).name):
        return own, f"*{file.suffix}"
    words = re.split(r"[-_.]", file.stem)
    for place, word in enumerate(words):
        if kind := kind_of(word):
            return kind, f"{'*' if place else ''}{word}*{file.suffix}"
    return "all", f"*{file.suffix}"
