"""A TensorFlow Datasets builder: a user's folder of pictures -> a data set to read at random.

A data set is built once and found again by the fingerprint of what it was built from. Pictures keep
their files' bytes. Written and read as array_record, without TensorFlow. What the pictures are, and
whether there are masks, is for a `Source` to say: `coco_person` and `plain_folder` each have one.
"""

import contextlib
import hashlib
import io
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import grain
import numpy as np
import rich.console
import rich.progress
import tensorflow_datasets as tfds

from jaxdistill.runtime.errors import UserError, first_line
from jaxdistill.runtime.text import printable

# Beyond a gigabyte per split, TFDS sorts on disk, and for that it needs TensorFlow. So a data set
# is written as several TFDS splits, none of which comes near.
_PART_BYTES = 256 * 2**20
_SKIPPED_SHARE = 0.01

Found = TypeVar("Found")
"""What a source knows of a picture before it is read."""


class Loaded(NamedTuple):
    """A picture as it goes into the data set, or why it does not."""

    id: int
    name: str
    """Of its file, relative to the folder."""
    image: bytes = b""
    """The file's."""
    upright: bool = False
    """Whether the EXIF orientation must be applied."""
    mask: bytes = b""
    """PNG, white is a person; empty where nobody knows it."""
    problem: str = ""
    """Why the picture cannot be decoded; empty when it can."""


@dataclass(frozen=True)
class Source(ABC, Generic[Found]):
    """What to build from."""

    title: str
    """What messages call the pictures."""
    images: Path
    """Their folder."""
    workers: int
    """Threads that decode."""

    NAME: ClassVar[str]
    """Of the data sets built from such a source."""
    LABELLED: ClassVar[bool]
    """Whether there are masks."""

    @property
    @abstractmethod
    def listing(self) -> str:
        """What says which pictures there are, in messages."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Of all that the data set depends on; no picture is read for it."""

    @abstractmethod
    def find(self) -> Sequence[Found]:
        """All pictures, in the data set's order.

        Raises:
          UserError: there is none, or one is missing.
        """

    @abstractmethod
    def file(self, found: Found) -> Path:
        """Where a picture lies."""

    @abstractmethod
    def load(self, found: Found) -> Loaded:
        """Reads and checks a picture.

        Raises:
          UserError: what is wrong with it is not to be passed over.
        """


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """TFDS would ask its own server about the data set, and leave a temporary folder."""


class Pictures(tfds.core.GeneratorBasedBuilder):
    """The pictures of a source, and their masks where there are any.

    Each example: `id`, `image` (the file's bytes), `upright` (whether the EXIF orientation must be
    applied), and of a labelled source `mask` (PNG, white is a person).
    The metadata: `ids` and `names` in the order of the examples, `skipped` (names of pictures that
    could not be decoded), `fingerprint` (of all examples), `parts` (the TFDS splits, in order).
    """

    VERSION = tfds.core.Version("1.0.1")  # raise it when other examples come from the same files
    # Nothing is downloaded; TFDS would look for checksums beside this module, by way of a package
    # (importlib_resources) that it does not require.
    code_path = None

    def __init__(self, source: Source, data_dir: Path) -> None:
        self.name, self._pictures = source.NAME, source
        super().__init__(data_dir=data_dir, file_format="array_record")

    @property
    def labelled(self) -> bool:
        """Whether the examples have masks."""
        return self._pictures.LABELLED

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            "id": tfds.features.Scalar(np.int64),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "upright": tfds.features.Scalar(np.bool_),
        }
        if self.labelled:
            features["mask"] = tfds.features.Image(shape=(None, None, 1))
        return _Info(
            builder=self,
            description="Photographs, with masks of people where there are any.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # the order is the source's; batches shuffle
        )

    def download_and_prepare(self, **options: Any) -> None:
        """As TFDS does, with one progress bar in place of its own and its messages."""
        tfds.disable_progress_bar()
        with contextlib.ExitStack() as self._resources:
            self._resources.enter_context(contextlib.redirect_stdout(io.StringIO()))
            super().download_and_prepare(**options)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        source = self._pictures
        found = source.find()
        lengths = _divide([_size(source.file(picture)) for picture in found])
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
        self, loaded: Iterator[Loaded], total: int, advance: Callable[[], None]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        metadata, any_left = self.info.metadata, False
        for picture in loaded:
            advance()
            if picture.problem:
                metadata["skipped"].append(f"{picture.name} ({picture.problem})")
                if len(metadata["skipped"]) > _SKIPPED_SHARE * total:
                    raise UserError(self._too_many_skipped())
                continue
            upright = bytes([picture.upright])
            for field in (str(picture.id).encode(), picture.image, upright, picture.mask):
                self._digest.update(len(field).to_bytes(8, "little") + field)
            metadata["fingerprint"] = self._digest.hexdigest()
            metadata["ids"].append(picture.id)
            metadata["names"].append(picture.name)
            any_left = True
            example = {
                "id": picture.id,
                "image": io.BytesIO(picture.image),
                "upright": picture.upright,
            }
            if self.labelled:
                example["mask"] = io.BytesIO(picture.mask)
            yield len(metadata["ids"]) - 1, example
        if not any_left:  # a part of huge damaged files, in a data set of very many
            raise UserError(self._too_many_skipped())

    def _too_many_skipped(self) -> str:
        names = "; ".join(self.info.metadata["skipped"][:3])
        return (
            f"{self._pictures.images}: more than {_SKIPPED_SHARE:.0%} of the pictures cannot "
            f"be decoded: {names}; mend them, or take them out of {self._pictures.listing}"
        )


def prepare(source: Source, prepared: Path) -> Pictures:
    """The data set of a source, after building it if it is not there yet.

    Args:
      prepared: the folder that holds all data sets.

    Raises:
      UserError: names the file or folder that is missing or wrong, and what was expected.
    """
    folder = prepared.absolute() / source.fingerprint()
    if (found := _open(source, folder)) is not None:
        return found
    builder = Pictures(source, folder)
    try:
        builder.download_and_prepare()
    except OSError as error:
        # Another process may have finished the same data set first; then its folder stands there.
        if (found := _open(source, folder)) is not None:
            return found
        raise UserError(f"cannot write the prepared data set to {folder}: {error}") from None
    skipped = builder.info.metadata["skipped"]
    if skipped:
        names = printable("; ".join(skipped))
        print(f"{source.title}: skipped {len(skipped)} undecodable pictures: {names}")
    return builder


def _open(source: Source, folder: Path) -> Pictures | None:
    if not folder.joinpath(source.NAME, str(Pictures.VERSION)).exists():
        return None
    try:
        builder = Pictures(source, folder)
        builder.info.metadata["fingerprint"]
    except Exception as error:  # whatever TFDS stumbles over in its own files
        raise UserError(
            f"the prepared data set {folder} is damaged ({first_line(error)}); "
            "delete that folder, and it is built anew"
        ) from None
    return builder


def _load_all(source: Source[Found], found: Sequence[Found]) -> grain.DatasetIterator[Loaded]:
    """Reads and checks in threads, in order, a few pictures ahead."""
    loading = grain.MapDataset.source(found).map(source.load)
    ahead = 4 * source.workers
    return iter(loading.to_iter_dataset(grain.ReadOptions(source.workers, ahead)))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


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
