"""Building of prepared data sets with TensorFlow Datasets.

A prepared data set holds the examples of a source in array_record files, for random access. It is
built once, and found again by the fingerprint of its source. Image files are stored as they are.
TensorFlow is not needed. Import this module inside functions: tensorflow_datasets is slow to load.
"""

import contextlib
import errno
import hashlib
import io
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
import rich.console
import rich.progress
import tensorflow_datasets as tfds

from jaxdistill.data import accounting, decode, incomplete
from jaxdistill.data.sources.base import Entry, Source, SourceExample
from jaxdistill.runtime import files, storage
from jaxdistill.runtime.errors import DataError, first_line
from jaxdistill.runtime.text import printable

log = logging.getLogger(__name__)

# Beyond a gigabyte per split, TFDS sorts on disk, which needs TensorFlow. So a data set is written
# as several TFDS splits, each well below that size.
_PART_BYTES = 256 * 2**20
_MAX_SKIPPED_SHARE = 0.01
_MAX_METADATA = 2**30  # bytes


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Does nothing: TFDS would ask its server about the data set, and leave a folder behind."""


class _Loaded(NamedTuple):
    example: SourceExample
    is_empty: bool
    """Whether the example has a mask that shows nobody."""


class ImageDatasetBuilder(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the images of a source, and of their masks if it has any.

    Each example has an `id`, an `image` (content of the file), `upright` (whether the image is to
    be rotated by its EXIF orientation), and, if the source has masks, a `mask` (PNG, white is a
    person).

    The metadata holds lists in the order of the examples (`ids`, `names`, `content_keys`), the
    names of images that could not be decoded (`skipped`), what is left out (`omissions`) or
    doubtful (`doubts`, see `accounting`), a `fingerprint` of all examples, and the names of the
    TFDS splits that the data set is written as, in order (`parts`).

    Args:
      source: The images.
      data_dir: Folder for this data set alone.
      workers: Threads that decode images while the data set is built.
    """

    # Raise it when the same files give other examples or other metadata.
    VERSION = tfds.core.Version("1.2.0")
    # Nothing is downloaded. TFDS would look for checksums beside this module, with a package
    # (importlib_resources) that it does not require.
    code_path = None

    def __init__(self, source: Source[Any], data_dir: Path, workers: int = 2) -> None:
        self.name, self._source, self._workers = source.NAME, source, workers
        super().__init__(data_dir=data_dir, file_format="array_record")

    @property
    def has_masks(self) -> bool:
        """Whether the examples have masks."""
        return self._source.HAS_MASKS

    @property
    def split(self) -> str:
        """The key of the split below `data`."""
        return self._source.split

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            "id": tfds.features.Scalar(np.int64),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "upright": tfds.features.Scalar(np.bool_),
        }
        if self.has_masks:
            features["mask"] = tfds.features.Image(shape=(None, None, 1))
        return _Info(
            builder=self,
            description="Images, with masks of people if the source has any.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # the order is the source's; the loader shuffles
        )

    def download_and_prepare(self, **options: Any) -> None:
        """Writes the data set, with one progress bar instead of TFDS's bars and messages.

        Args:
          **options: See TFDS.
        """
        tfds.disable_progress_bar()
        with contextlib.ExitStack() as self._resources:
            self._resources.enter_context(contextlib.redirect_stdout(io.StringIO()))
            super().download_and_prepare(**options)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        self._resources.enter_context(incomplete.writing(Path(self.data_path)))
        source = self._source
        entries = source.entries()
        lengths = _divide([source.size(entry) for entry in entries])
        parts = [f"part{index:05}" for index in range(len(lengths))]
        self.info.metadata.update(parts=parts, ids=[], names=[], content_keys=[], skipped=[])
        self._digest = hashlib.sha256()
        self._omissions, self._doubts, self._empty = accounting.Tally(), accounting.Tally(), 0
        self._omissions.add_all(source.left_out())
        self.info.metadata["notes"] = list(source.notes())
        bar = rich.progress.Progress(console=rich.console.Console(stderr=True))
        task = self._resources.enter_context(bar).add_task(
            f"preparing data.{source.split}: {len(entries)} images", total=len(entries)
        )
        loading = _load_all(source, entries, self._workers)
        loaded = self._resources.enter_context(contextlib.closing(loading))
        return {
            part: self._generate_examples(
                itertools.islice(loaded, length), len(entries), lambda: bar.advance(task)
            )
            for part, length in zip(parts, lengths, strict=True)
        }

    def _generate_examples(
        self, loaded: Iterator[_Loaded], total: int, advance: Callable[[], None]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        metadata, is_empty = self.info.metadata, True
        for one, shows_nobody in loaded:
            advance()
            if one.problem:
                self._omissions.add(accounting.UNDECODABLE, one.name)
                metadata["skipped"].append(f"{one.name} ({one.problem})")
                if len(metadata["skipped"]) > _MAX_SKIPPED_SHARE * total:
                    raise self._too_many_skipped()
                continue
            for field in (str(one.id).encode(), one.image, bytes([one.upright]), one.mask):
                self._digest.update(len(field).to_bytes(8, "little") + field)
            metadata["fingerprint"] = self._digest.hexdigest()
            metadata["ids"].append(one.id)
            metadata["names"].append(one.name)
            metadata["content_keys"].append(one.content_key)
            is_empty = False
            if one.empty_people:
                self._omissions.add(accounting.EMPTY_PEOPLE, one.name, one.empty_people)
            if one.doubt:
                self._doubts.add(one.doubt, one.name)
            self._empty += shows_nobody
            example = {"id": one.id, "image": io.BytesIO(one.image), "upright": one.upright}
            if self.has_masks:
                example["mask"] = io.BytesIO(one.mask)
            yield len(metadata["ids"]) - 1, example
        if len(metadata["ids"]) + len(metadata["skipped"]) == total:
            self._refuse_empty_masks(len(metadata["ids"]))
            metadata["omissions"] = self._omissions.as_lists()
            metadata["doubts"] = self._doubts.as_lists()
        if is_empty:  # a part of large damaged files only, in a data set of very many images
            raise self._too_many_skipped()

    def _refuse_empty_masks(self, images: int) -> None:
        """Refuses a data set that shows nobody: training would learn to see nobody."""
        if images and self._empty == images:
            causes = "; ".join(dict.fromkeys(reason for reason, *_ in self._doubts.as_lists()))
            raise DataError(
                f"data.{self._source.split}: {self._source.annotations}: the masks of all {images} "
                f"images are empty: {causes}; check the outlines and what the values of masks mean",
                code="all-masks-empty",
            )

    def _too_many_skipped(self) -> DataError:
        names = "; ".join(self.info.metadata["skipped"][:3])
        return DataError(
            f"data.{self._source.split}: {self._source.images}: more than "
            f"{_MAX_SKIPPED_SHARE:.0%} of the images cannot be decoded: {names}; repair these "
            f"files, or remove them from the data set",
            code="too-many-undecodable-images",
        )


def prepare(source: Source[Any], prepared: Path, workers: int = 2) -> ImageDatasetBuilder:
    """Returns the data set of a source, and builds it first if it does not exist yet.

    Args:
      source: The images.
      prepared: Folder that holds all prepared data sets.
      workers: Threads that decode images while the data set is built.

    Raises:
      DataError: The source is wrong (see `Source`), more than 1 % of its images cannot be decoded
        (`too-many-undecodable-images`), the data set cannot be written
        (`prepared-data-not-writable`), or it is damaged (`prepared-data-damaged`).
    """
    folder = prepared.absolute() / source.key()
    about = {"images": str(source.images.absolute()), "source": source.NAME}
    if (existing := _open(source, folder)) is not None:
        storage.mark(folder, about)
        return existing
    builder = ImageDatasetBuilder(source, folder, workers)
    try:
        builder.download_and_prepare()
        incomplete.remove_left_over(folder / source.NAME)
        storage.mark(folder, about)
    except OSError as error:
        # Another process may have finished the same data set first; then its folder is in the way.
        if (existing := _open(source, folder)) is not None:
            return existing
        raise DataError(
            f"{folder}: the prepared data set cannot be written: {error}; choose another folder "
            f"as data.prepared",
            code="prepared-data-not-writable",
        ) from None
    if skipped := builder.info.metadata["skipped"]:
        names = printable("; ".join(skipped))
        log.warning(
            "data.%s: %d images cannot be decoded and are left out: %s",
            source.split,
            len(skipped),
            names,
        )
    return builder


def unreadable(folder: Path, error: Exception, name: str = "") -> DataError:
    """Returns the error for a prepared data set that cannot be read: damage, or an I/O error.

    Args:
      folder: The data set.
      error: What happened.
      name: The image that cannot be read, if there is one.
    """
    where = f" at {name}" if name else ""
    of_system = files.os_error(error)
    if of_system is not None and of_system.errno not in files.STRUCTURE_ERRORS:
        return DataError(
            f"{folder}: this prepared data set cannot be read at the moment{where}: "
            f"{of_system.strerror}; check the disk, the network and the permissions, and try again",
            code="prepared-data-io",
        )
    return DataError(
        f"{folder}: this prepared data set is damaged{where} ({first_line(error)}); delete the "
        f"folder, and it is built again",
        code="prepared-data-damaged",
    )


def _open(source: Source[Any], folder: Path) -> ImageDatasetBuilder | None:
    if not folder.joinpath(source.NAME, str(ImageDatasetBuilder.VERSION)).exists():
        return None
    try:
        return files.retry_io(lambda: files.with_os_errors(lambda: _opened(source, folder)))
    except Exception as error:  # TFDS raises nearly anything on its own damaged files
        raise unreadable(folder, error) from None


def _opened(source: Source[Any], folder: Path) -> ImageDatasetBuilder:
    builder = ImageDatasetBuilder(source, folder)
    if "fingerprint" not in builder.info.metadata:
        # TFDS takes a file that it could not look up for a missing one.
        file = Path(builder.data_path, "metadata.json")
        _ = json.loads(files.read(file, _MAX_METADATA))["fingerprint"]
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))  # it is there: open it again
    return builder


def _load_all(
    source: Source[Entry], entries: Sequence[Entry], workers: int
) -> grain.DatasetIterator[_Loaded]:
    """Loads images in threads, in order, a few of them ahead."""
    loading = grain.MapDataset.source(entries).map(lambda entry: _looked_at(source.load(entry)))
    return iter(loading.to_iter_dataset(grain.ReadOptions(workers, 4 * workers)))


def _looked_at(example: SourceExample) -> _Loaded:
    """Looks whether the mask of an example shows anybody, and says what is doubtful if not."""
    if not example.mask or ((mask := decode.decode_mask(example.mask)) > 127).any():
        return _Loaded(example, is_empty=False)
    doubt = accounting.DIM_MASK if mask.max(initial=0) == 1 else accounting.EMPTY_MASK
    return _Loaded(example._replace(doubt=example.doubt or doubt), is_empty=True)


def _divide(sizes: Sequence[int]) -> list[int]:
    """Returns the number of images of each part, so that no part is much larger than allowed."""
    lengths, filled = [0], 0
    for size in sizes:
        if filled + size > _PART_BYTES and lengths[-1]:
            lengths.append(0)
            filled = 0
        lengths[-1] += 1
        filled += size
    return lengths
