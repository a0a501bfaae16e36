"""A TensorFlow Datasets builder: a folder in COCO layout -> pictures and masks of people.

A data set is built once and found again by the fingerprint of what it was built from. Pictures keep
their files' bytes. Written and read as array_record, without TensorFlow.
"""

import contextlib
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
import rich.console
import rich.progress
import tensorflow_datasets as tfds

from jaxdistill import config
from jaxdistill.data import coco_json, pictures
from jaxdistill.errors import UserError

# Beyond a gigabyte per split, TFDS sorts on disk, and for that it needs TensorFlow. So a data set
# is written as several TFDS splits, none of which comes near.
_PART_BYTES = 256 * 2**20
_SKIPPED_SHARE = 0.01


class Source(NamedTuple):
    """What to build from."""

    title: str
    """What messages call the pictures."""
    images: Path
    annotations: Path
    workers: int
    """Threads that decode."""


class CocoPerson(tfds.core.GeneratorBasedBuilder):
    """Pictures with at least one person, and the union of their people.

    Each example: `id` (COCO's), `image` (the file's bytes), `upright` (whether the EXIF orientation
    must be applied for image and mask to agree), `mask` (PNG, white is a person).
    The metadata: `ids` and `names` in the order of the examples, `skipped` (names of pictures that
    could not be decoded), `fingerprint` (of all examples), `parts` (the TFDS splits, in order).
    """

    VERSION = tfds.core.Version("1.0.0")  # raise it when other examples come from the same files
    # Nothing is downloaded; TFDS would look for checksums beside this module, by way of a package
    # (importlib_resources) that it does not require.
    code_path = None

    def __init__(self, source: Source, data_dir: Path) -> None:
        self._people = source
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Photographs of people with masks, built from a COCO-layout folder.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Scalar(np.int64),
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "upright": tfds.features.Scalar(np.bool_),
                    "mask": tfds.features.Image(shape=(None, None, 1)),
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # the order is the annotation file's; batches shuffle
        )

    def download_and_prepare(self, **options: Any) -> None:
        """As TFDS does, with one progress bar in place of its own and its messages."""
        tfds.disable_progress_bar()
        with contextlib.ExitStack() as self._resources:
            self._resources.enter_context(contextlib.redirect_stdout(io.StringIO()))
            super().download_and_prepare(**options)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        source = self._people
        found = coco_json.pictures_with_people(source.annotations, _read(source.annotations))
        if not found:
            raise UserError(f"{source.annotations}: no image has a person outside of a crowd")
        lengths = _divide(_sizes(source, found))
        parts = [f"part{index:05}" for index in range(len(lengths))]
        self.info.metadata.update(parts=parts, ids=[], names=[], skipped=[])
        self._digest = hashlib.sha256()
        bar = rich.progress.Progress(console=rich.console.Console(stderr=True))
        task = self._resources.enter_context(bar).add_task(
            f"preparing {source.title}: {len(found)} pictures", total=len(found)
        )
        loaded = self._resources.enter_context(contextlib.closing(_load_all(source, found)))
        return {
            part: self._generate_examples(
                itertools.islice(loaded, length), len(found), lambda: bar.advance(task)
            )
            for part, length in zip(parts, lengths, strict=True)
        }

    def _generate_examples(
        self, loaded: Iterator["_Loaded"], total: int, advance: Callable[[], None]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        metadata, any_left = self.info.metadata, False
        for picture, image, upright, mask, problem in loaded:
            advance()
            if problem:
                metadata["skipped"].append(f"{picture.name} ({problem})")
                if len(metadata["skipped"]) > _SKIPPED_SHARE * total:
                    raise UserError(self._too_many_skipped())
                continue
            for field in (str(picture.id).encode(), image, bytes([upright]), mask):
                self._digest.update(len(field).to_bytes(8, "little") + field)
            metadata["fingerprint"] = self._digest.hexdigest()
            metadata["ids"].append(picture.id)
            metadata["names"].append(picture.name)
            any_left = True
            yield (
                len(metadata["ids"]) - 1,
                {
                    "id": picture.id,
                    "image": io.BytesIO(image),
                    "upright": upright,
                    "mask": io.BytesIO(mask),
                },
            )
        if not any_left:  # a part of huge damaged files, in a data set of very many
            raise UserError(self._too_many_skipped())

    def _too_many_skipped(self) -> str:
        names = "; ".join(self.info.metadata["skipped"][:3])
        return (
            f"{self._people.images}: more than {_SKIPPED_SHARE:.0%} of the pictures cannot "
            f"be decoded: {names}; mend them, or take them out of {self._people.annotations.name}"
        )


def prepare(data: config.Data, split: config.Split, title: str) -> CocoPerson:
    """The data set of a split, from `data.prepared`, after building it if it is not there yet.

    Args:
      title: what to call the split in messages.

    Raises:
      UserError: names the file or folder that is missing or wrong, and what was expected.
    """
    source = _source(data, split, title)
    folder = data.prepared.expanduser().absolute() / _fingerprint(source)
    if (prepared := _open_prepared(source, folder)) is not None:
        return prepared
    builder = CocoPerson(source, folder)
    try:
        builder.download_and_prepare()
    except OSError as error:
        # Another process may have finished the same data set first; then its folder stands there.
        if (prepared := _open_prepared(source, folder)) is not None:
            return prepared
        raise UserError(f"cannot write the prepared data set to {folder}: {error}") from None
    skipped = builder.info.metadata["skipped"]
    if skipped:
        print(f"{title}: skipped {len(skipped)} undecodable pictures: {'; '.join(skipped)}")
    return builder


def _open_prepared(source: Source, folder: Path) -> CocoPerson | None:
    if not folder.joinpath(CocoPerson.name, str(CocoPerson.VERSION)).exists():
        return None
    try:
        builder = CocoPerson(source, folder)
        builder.info.metadata["fingerprint"]
    except Exception as error:  # whatever TFDS stumbles over in its own files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the prepared data set {folder} is damaged ({reason}); "
            "delete that folder, and it is built anew"
        ) from None
    return builder


class _Loaded(NamedTuple):
    picture: coco_json.Picture
    image: bytes
    upright: bool
    mask: bytes
    problem: str
    """Why the picture cannot be decoded; empty when it can."""


def _load_all(source: Source, found: Sequence[coco_json.Picture]) -> grain.DatasetIterator[_Loaded]:
    """Reads and checks in threads, in order, a few pictures ahead."""
    loading = grain.MapDataset.source(found).map(lambda picture: _load(source, picture))
    ahead = 4 * source.workers
    return iter(loading.to_iter_dataset(grain.ReadOptions(source.workers, ahead)))


def _load(source: Source, picture: coco_json.Picture) -> _Loaded:
    path = source.images / picture.name
    data = _read(path)
    declared = (picture.height, picture.width)
    try:
        upright = pictures.decode(data).shape[:2] != declared
        shape = pictures.decode(data, upright).shape[:2] if upright else declared
    except pictures.PictureError as error:
        return _Loaded(picture, b"", False, b"", str(error))
    if shape != declared:
        raise UserError(
            f"mask and image of different size (height x width): {source.annotations} says "
            f"{declared[0]} x {declared[1]}, {path} is {shape[0]} x {shape[1]}"
        )
    return _Loaded(picture, data, upright, pictures.encode_mask(coco_json.draw(picture)), "")


def _source(data: config.Data, split: config.Split, title: str) -> Source:
    root = data.root.expanduser().absolute()
    images, annotations = root / split.images, root / split.annotations
    for path, exists in ((images, images.is_dir()), (annotations, annotations.is_file())):
        if not exists:
            raise UserError(
                f"{title}: {path} does not exist; expected a folder in COCO layout: data.root "
                f"{root}, in it the pictures in {split.images} and the file {split.annotations}"
            )
    return Source(title, images, annotations, data.workers)


def _fingerprint(source: Source) -> str:
    """Of the annotations' bytes and the pictures' names, sizes and times: no picture is read."""
    digest = hashlib.sha256(_read(source.annotations))
    for folder, folders, files in os.walk(source.images):
        folders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            status = path.stat() if path.exists() else path.lstat()
            line = f"{path.relative_to(source.images)}\0{status.st_size}\0{status.st_mtime_ns}\0"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _sizes(source: Source, found: Sequence[coco_json.Picture]) -> list[int]:
    """Bytes of each picture's file; a missing one is an error before anything is decoded."""
    missing = [picture.name for picture in found if not (source.images / picture.name).is_file()]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(
            f"{source.annotations} names the picture {missing[0]}{others}, "
            f"which is not in {source.images}"
        )
    return [(source.images / picture.name).stat().st_size for picture in found]


def _divide(sizes: Sequence[int]) -> list[int]:
    """How many pictures go into each part, so that no part is much larger than it may be."""
    lengths, filled = [0], 0
    for size in sizes:
        if filled + size > _PART_BYTES and lengths[-1]:
            lengths.append(0)
            filled = 0
        lengths[-1] += 1
        filled += size
    return lengths


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
