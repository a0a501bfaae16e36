"""What recognising a data layout is made of: the folders below a root, and the names of splits."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from jaxdistill import config
from jaxdistill.data.image_files import SUFFIXES as IMAGE_SUFFIXES
from jaxdistill.runtime import files

SplitKind = Literal["train", "validation", "test", "all"]
"""What a folder is used for; `all`: it is not divided."""

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "photos", "input", "inputs")
"""Usual names of a folder of images, in lower case."""
_KINDS: Mapping[SplitKind, str] = {
    "train": r"train(ing)?[-_]?\d*",
    "validation": r"(val|valid|validation|dev)[-_]?\d*",
    "test": r"test(ing)?[-_]?\d*",
}
_LOOKED_AT = 2000
"""Number of files of a folder that are looked at."""
_SHOWN = 8


class Found(NamedTuple):
    """The splits of a folder in the layout of a source."""

    splits: Mapping[SplitKind, config.Split]
    """Images and annotations by use, relative to the root."""
    because: str
    """What was seen, for people, such as `masks/train beside images/train`."""


class Root:
    """A folder that is looked at in order to recognise its layout.

    Args:
      path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def folders(self) -> list[str]:
        """Names of the folders in it."""
        return self.folders_in("")

    def folders_in(self, folder: str) -> list[str]:
        """Returns the names of the folders in a folder; none if it does not exist."""
        return sorted(path.name for path in self._entries(folder) if path.is_dir())

    def files_in(self, folder: str, suffixes: Collection[str]) -> list[str]:
        """Returns the names of files with one of the suffixes that are directly in a folder."""
        return sorted(
            path.name
            for path in self._entries(folder)
            if path.suffix.lower() in suffixes and path.is_file()
        )

    def suffixes_below(self, folder: str) -> Counter[str]:
        """Returns how many files of each suffix are in a folder and below, up to some thousand."""
        return Counter(
            Path(name).suffix.lower() for name in itertools.islice(self._names(folder), _LOOKED_AT)
        )

    def has_images(self, folder: str) -> bool:
        """Returns whether most files in a folder and below are images."""
        return self._holds(folder, IMAGE_SUFFIXES)

    def describe(self) -> str:
        """Returns what is in the folder, for people."""
        parts = [
            f"{name}/ ({_counts(self.suffixes_below(name))})" for name in self.folders[:_SHOWN]
        ]
        more = len(self.folders) - _SHOWN
        parts += [f"{more} other folders"] if more > 0 else []
        own = Counter(path.suffix.lower() for path in self._entries("") if path.is_file())
        return ", ".join([*parts, *([_counts(own)] if own else [])]) or "nothing"

    def parallel(
        self,
        first: Collection[str],
        second: Collection[str],
        accept: Callable[[str, str], bool] = lambda one, other: True,
    ) -> dict[SplitKind, tuple[str, str]]:
        """Returns pairs of folders, such as one of images and one of masks, by use.

        These are looked for, in this order: `FIRST/train` and `SECOND/train`; `train/FIRST` and
        `train/SECOND`; `train` or `train_FIRST` and `train_SECOND`; `FIRST` and `SECOND`.

        Args:
          first: Names of the one folder, in lower case.
          second: Names of the other folder, in lower case.
          accept: Whether two folders with such names hold what they should.
        """
        for pairs in (self._below, self._above, self._beside, self._flat):
            found: dict[SplitKind, tuple[str, str]] = {}
            for kind, pair in pairs(first, second):
                if kind not in found and accept(*pair):
                    found[kind] = pair
            if found:
                return found
        return {}

    def named(self, names: Collection[str]) -> list[str]:
        """Returns the folders with one of the names, which are in lower case."""
        return self.named_in("", names)

    def named_in(self, folder: str, names: Collection[str]) -> list[str]:
        """Returns the folders in a folder with one of the names, which are in lower case."""
        return list(self._named(folder, names))

    def by_use(self, parents: Collection[str] = ("", *IMAGE_FOLDERS)) -> dict[SplitKind, str]:
        """Returns the folders of splits: in the root, or in a folder of one of the names."""
        for parent in self._named("", parents):
            found: dict[SplitKind, str] = {}
            for name in self.folders_in(parent):
                if kind := kind_of(name):
                    found.setdefault(kind, _joined(parent, name))
            if found:
                return found
        return {}

    def split_folders(self, names: Collection[str] = IMAGE_FOLDERS) -> dict[SplitKind, str]:
        """Returns the folders of splits; without any, one folder for all images.

        Args:
          names: Names, in lower case, of folders that hold the splits or all images; without such
            a folder, it is the root.
        """
        return self.by_use(("", *names)) or {"all": next(iter(self.named(names)), "")}

    def without_masks(
        self, what: str, suffixes: Collection[str], names: Collection[str] = IMAGE_FOLDERS
    ) -> Found | None:
        """Returns the splits in which most files have one of the suffixes; None without any.

        Args:
          what: What these files are, for people, such as `images without masks`.
          suffixes: The suffixes, in lower case.
          names: See `split_folders`.
        """
        found = {
            kind: folder
            for kind, folder in self.split_folders(names).items()
            if self._holds(folder, suffixes)
        }
        splits = {
            kind: config.Split(images=Path(folder), annotations=None)
            for kind, folder in found.items()
        }
        because = f"{what} in {', '.join(name or '.' for name in found.values())}"
        return Found(splits, because) if splits else None

    def _holds(self, folder: str, suffixes: Collection[str]) -> bool:
        """Returns whether most files in a folder and below have one of the suffixes."""
        found = self.suffixes_below(folder)
        return sum(found[suffix] for suffix in suffixes) * 2 > found.total()

    def _named(self, folder: str, names: Collection[str]) -> Iterator[str]:
        if "" in names:
            yield folder
        for name in self.folders_in(folder):
            if name.lower() in names:
                yield _joined(folder, name)

    def _flat(
        self, first: Collection[str], second: Collection[str], folder: str = ""
    ) -> Iterator[tuple[SplitKind, tuple[str, str]]]:
        for pair in itertools.product(self._named(folder, first), self._named(folder, second)):
            yield "all", pair

    def _below(
        self, first: Collection[str], second: Collection[str]
    ) -> Iterator[tuple[SplitKind, tuple[str, str]]]:
        for _, (one, other) in self._flat(first, second):
            for name in self.folders_in(one):
                if (kind := kind_of(name)) and name in self.folders_in(other):
                    yield kind, (f"{one}/{name}", f"{other}/{name}")

    def _above(
        self, first: Collection[str], second: Collection[str]
    ) -> Iterator[tuple[SplitKind, tuple[str, str]]]:
        for name in self.folders:
            if kind := kind_of(name):
                for _, pair in self._flat(first, second, name):
                    yield kind, pair

    def _beside(
        self, first: Collection[str], second: Collection[str]
    ) -> Iterator[tuple[SplitKind, tuple[str, str]]]:
        by_name = {name.lower(): name for name in self.folders}
        for name in self.folders:
            split, joint, rest = re.fullmatch(r"(.*?)(?:([-_])(\D*))?", name.lower()).groups()  # type: ignore[union-attr]
            if (kind := kind_of(split)) and (not joint or rest in first):
                for mark, word in itertools.product("_-", second):
                    if other := by_name.get(f"{split}{mark}{word}"):
                        yield kind, (name, other)

    def _entries(self, folder: str) -> list[Path]:
        try:
            found = list((self.path / folder).iterdir())
        except OSError:  # it does not exist, or belongs to someone else, as `lost+found` does
            return []
        return [path for path in found if not path.name.startswith((".", "__MACOSX"))]

    def _names(self, folder: str) -> Iterator[str]:
        for _, folders, names in files.walk(self.path / folder):
            folders.sort()
            yield from (name for name in sorted(names) if not name.startswith("."))


def kind_of(name: str) -> SplitKind | None:
    """Returns what a folder or a file of that name is used for; None if the name does not say.

    Args:
      name: A name, such as `val2017`.
    """
    for kind, pattern in _KINDS.items():
        if re.fullmatch(pattern, name.lower()):
            return kind
    return None


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _counts(suffixes: Counter[str]) -> str:
    return ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in suffixes.most_common(3))
