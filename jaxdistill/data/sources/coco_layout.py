"""Recognises folders with COCO instances files, whatever the files and folders are called."""

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

from jaxdistill import config
from jaxdistill.data.sources.layout import IMAGE_FOLDERS, Found, Root, SplitKind, kind_of
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError

_FOLDERS = ("annotations", "annotation", "labels")
_OTHER_TASKS = ("caption", "keypoint", "panoptic", "stuff", "image_info")
"""Parts of the names of COCO's files without instances."""
_KEYS = ("images", "annotations", "categories")
"""Keys that an instances file has."""
_MOST = 50
"""Number of JSON files from which on a folder is taken for one with a file for each image."""
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def recognise(root: Root) -> Found | None:
    """Finds instances files by use, and for each the folder that holds the images it names.

    Instances files are searched for in the folder, in `annotations` and in the folders of splits.

    Args:
      root: The folder.

    Raises:
      DataError: Two files are for one split (`ambiguous-layout`).
    """
    found: dict[SplitKind, list[config.Split]] = {}
    for folder in dict.fromkeys(["", *root.named(_FOLDERS), *root.by_use(("",)).values()]):
        listed = root.files_in(folder, (".json",))
        for name in listed if len(listed) <= _MOST else ():
            file = Path(folder, name)
            kind = _use_of(file)
            if (images := _images_of(root.path, file, kind)) is not None:
                split = config.Split(images=images, annotations=file)
                found.setdefault(kind, []).append(split)
    if len(found) > 1:
        found.pop("all", None)  # a file of everything beside those of the splits
    splits = {}
    for kind, candidates in found.items():
        if len(candidates) > 1:
            names = ", ".join(str(split.annotations) for split in candidates)
            raise DataError(
                f"data.root: {root.path}: several COCO instances files are for one split: {names}; "
                f"set data.train.annotations and data.validation.annotations, and the same for "
                f"images",
                code="ambiguous-layout",
            )
        [splits[kind]] = candidates
    because = ", ".join(
        f"instances in {split.annotations} of images in {split.images}" for split in splits.values()
    )
    return Found(splits, because) if splits else None


def _use_of(file: Path) -> SplitKind:
    """Returns what a file is used for, by a word of its name or by its folder."""
    words = [*re.split(r"[-_. ]", file.stem), file.parent.name]
    return next((kind for word in words if (kind := kind_of(word))), "all")


def _images_of(root: Path, file: Path, kind: SplitKind) -> Path | None:
    """Returns the folder of the images that a file names; None if it is no instances file."""
    if any(task in file.name.lower() for task in _OTHER_TASKS):
        return None
    try:
        name = _first_name(root / file)
    except (OSError, ValueError):  # ValueError: it is empty, or its first name is no JSON
        return None
    if not name:
        return None
    return next(
        (folder for folder in _folders(root, file, kind) if _is_in(root / folder, name)), None
    )


def _first_name(file: Path) -> str | None:
    """Returns the first file name in an instances file; None if it is none."""
    with (
        file.open("rb") as opened,
        # COCO's own files are hundreds of megabytes, with their keys anywhere between.
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        if any(text.find(f'"{key}"'.encode()) < 0 for key in _KEYS):
            return None
        found = _FILE_NAME.search(text)
        quoted = found and found[1]
        del found  # the file cannot be closed while it is referred to
    return json.loads(quoted).replace("\\", "/") if quoted else None


def _folders(root: Path, file: Path, kind: SplitKind) -> Iterator[Path]:
    """Yields folders in which the images of a file may be, the likeliest first."""
    parents = [Path(name) for name in ("", *IMAGE_FOLDERS, "data")]
    existing = [
        parent / folder.name
        for parent in parents
        if (root / parent).is_dir()
        for folder in sorted((root / parent).iterdir())
        if folder.is_dir()
    ]
    words = file.stem.lower()
    yield from (path for path in existing if path.name.lower() in words and kind_of(path.name))
    yield from (path for path in existing if kind_of(path.name) == kind)
    yield file.parent
    yield from (file.parent / name for name in (*IMAGE_FOLDERS, "data"))
    yield from (path for path in existing if path.name.lower() in (*IMAGE_FOLDERS, "data"))
    yield from (path for path in existing if path.name.lower() in words)  # such as CVAT's `default`
    yield Path()


def _is_in(folder: Path, name: str) -> bool:
    parts = Path(name)
    return not parts.is_absolute() and ".." not in parts.parts and files.is_file(folder / parts)
