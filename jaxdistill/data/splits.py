"""The data of a run: a training and a validation split, as batches."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from pydantic import ValidationError

from jaxdistill import config
from jaxdistill.config.messages import explain
from jaxdistill.data import layouts, loader
from jaxdistill.data.augment import Augmentation
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.sources.selection import SplitName, sources_of
from jaxdistill.runtime.errors import ConfigError

if TYPE_CHECKING:  # slow to import, and needed only where batches are read
    import grain

    from jaxdistill.types import Batch

SplitLike = config.Split | Mapping[str, Any] | tuple[str | Path, str | Path | None] | str | None
"""A split as an argument: a `config.Split`, a dictionary of its keys, (images, annotations), or,
for validation, a share of the training images such as `10%`."""


class Options(TypedDict, total=False):
    """What the functions that open data take besides the folder and the splits.

    Each is the key of the same name in the section `data`, which describes it
    (`jaxdistill.config.Data`, docs/configuration.md), and has the default given there, except
    `image_size`, which is 320.
    """

    image_size: int | tuple[int, int]
    """Side, or (height, width), that images are resized to; multiples of the student's largest
    stride."""
    unlabelled: str | Path | None
    """Folder of more training images, without masks, relative to the root."""
    additional: config.Additional | Mapping[str, Any] | tuple[str | Path, str | Path] | None
    """More training images with masks: images and annotations, relative to the root."""
    repeat: int
    """See `jaxdistill.config.Data.repeat`."""
    category: str | int
    """See `jaxdistill.config.Data.category`."""
    include_crowds: bool
    """See `jaxdistill.config.Data.include_crowds`."""
    mask_values: config.MaskValues | int | str | None
    """See `jaxdistill.config.Data.mask_values`."""
    mask_column: str | None
    """See `jaxdistill.config.Data.mask_column`."""
    augment: Literal["none", "flip", "light", "heavy"]
    """See `jaxdistill.config.Data.augment`."""
    crop: float | None
    """See `jaxdistill.config.Data.crop`."""
    copy_paste: float
    """See `jaxdistill.config.Data.copy_paste`."""
    sizes: Sequence[int | tuple[int, int]]
    """See `jaxdistill.config.Data.sizes`."""
    mask_resize: config.MaskResize
    """See `jaxdistill.config.Data.mask_resize`."""
    prepared: str | Path | None
    """Folder for prepared data sets; None: `~/.cache/jaxdistill`."""
    workers: int | None
    """See `jaxdistill.config.Data.workers`."""


class Data:
    """A training and a validation split that are read from folders.

    A split is opened, and its prepared data set is built if need be, when it is first used.

    Args:
      settings: The section `data` of a configuration. Where it does not say where the images are,
        the layout of `data.root` is recognised.

    Raises:
      DataError: See `layouts.recognise`.
    """

    def __init__(self, settings: config.Data) -> None:
        self.settings, self.layout_note = layouts.recognise(settings)
        """The section `data` of the configuration, with the splits that were found; and what the
        folder was taken for, empty where nothing had to be found."""

    @cached_property
    def train(self) -> Dataset:
        """The training split, with the images of `unlabelled` and `additional` after the others."""
        return open_split(self.settings, "train")

    @cached_property
    def validation(self) -> Dataset:
        """The validation split."""
        return open_split(self.settings, "validation")

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in batches."""
        return self.settings.image_size

    @property
    def train_sizes(self) -> tuple[tuple[int, int], ...]:
        """Heights and widths of the training images, of which each batch has one."""
        return self.settings.sizes or (self.settings.image_size,)

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of the training split."""
        return Augmentation(self.settings.augment, self.settings.crop)

    def check(self) -> None:
        """Checks that the folders and files of all splits exist; nothing is read.

        Raises:
          DataError: One does not exist (`missing-images`, `missing-annotations`).
          ConfigError: There is no source of that name (`unknown-data-source`).
        """
        for split in ("train", "validation"):
            for source in sources_of(self.settings, split):
                source.check()

    def prepare(self) -> None:
        """Opens both splits, and builds the prepared data sets that do not exist yet.

        Raises:
          DataError: See `open_split`.
          ConfigError: There is no source of that name (`unknown-data-source`).
        """
        _ = self.train, self.validation

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of whole batches in an epoch; see `loader`.

        Args:
          batch_size: Examples per step, over all processes.
        """
        return loader.steps_per_epoch(self.train, batch_size, self.settings.repeat)

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> "grain.DatasetIterator[Batch]":
        """Returns an endless iterator of training batches; see `loader.train_batches`.

        Args:
          batch_size: Examples per step, over all processes.
          seed: Seed of the order.
          start_step: First step whose batch is returned.
          process_index: Index of this process; it gets its own rows of each batch.
          process_count: Number of processes that share a batch.
        """
        return loader.train_batches(
            self.train, self.settings, batch_size, seed, start_step, process_index, process_count
        )

    def validation_batches(
        self, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> "grain.DatasetIterator[Batch]":
        """Returns an iterator over the validation split; see `loader.validation_batches`.

        Args:
          batch_size: Examples per step, over all processes.
          process_index: Index of this process; it gets its own rows of each batch.
          process_count: Number of processes that share a batch.
        """
        return loader.validation_batches(
            self.validation, self.settings, batch_size, process_index, process_count
        )


def from_config(settings: config.Data) -> Data:
    """Returns the data that a configuration describes.

    Args:
      settings: The section `data` of a configuration.
    """
    return Data(settings)


def open(
    root: str | Path,
    *,
    train: SplitLike = None,
    validation: SplitLike = None,
    source: str | None = None,
    **options: Unpack[Options],
) -> Data:
    """Returns the data of a folder, whose layout is recognised where no split is named.

    Args:
      root: The folder.
      train: Images and annotations of the training split, relative to `root`; None: found.
      validation: The same for the validation split; `10%` draws it from the training images.
      source: Name of the data source, such as `mask_folder`; None: found.
      **options: See `Options`.

    Raises:
      ConfigError: An argument is not valid, with the code of the configuration key's error.
      DataError: The layout is not known (see `layouts.recognise`), or a folder or file does not
        exist (`missing-images`, `missing-annotations`).
    """
    return _checked(root, _split(train), _split(validation), source, **options)


def coco(
    root: str | Path,
    *,
    train: SplitLike = None,
    validation: SplitLike = None,
    **options: Unpack[Options],
) -> Data:
    """Returns the data of a folder in COCO layout.

    Args:
      root: The folder.
      train: Images and instances file of the training split, relative to `root`; None:
        `images/train2017` and the file of the same name, see `config.Data`, or else what is found.
      validation: The same for the validation split; `10%` draws it from the training images.
      **options: See `Options`.

    Raises:
      ConfigError: An argument is not valid, with the code of the configuration key's error.
      DataError: See `open`.
    """
    return open(root, train=train, validation=validation, source="coco", **options)


def image_folder(
    root: str | Path,
    *,
    train: str | Path = "train",
    validation: str | Path = "validation",
    **options: Unpack[Options],
) -> Data:
    """Returns the data of two folders of images without masks, for training on a teacher alone.

    Args:
      root: The folder that contains both.
      train: Folder of the training images, relative to `root`, searched with all folders below.
      validation: Folder of the validation images, relative to `root`; `10%` draws them from the
        training images.
      **options: See `Options`.

    Raises:
      ConfigError: An argument is not valid, with the code of the configuration key's error.
      DataError: A folder does not exist (`missing-images`).
    """
    name = str(validation)
    split: SplitLike = name if name.endswith("%") else (name, None)
    return open(root, train=(train, None), validation=split, **options)


def open_split(settings: config.Data, split: SplitName) -> Dataset:
    """Opens a split, and builds its prepared data set if it does not exist yet.

    Args:
      settings: The section `data` of a configuration.
      split: `train` or `validation`.

    Raises:
      DataError: See `layouts.recognise`, `builder.prepare` and `Source.check`.
      ConfigError: There is no source of that name (`unknown-data-source`).
    """
    from jaxdistill.data import builder

    settings = layouts.recognise(settings).settings
    sources = sources_of(settings, split)
    for source in sources:
        source.check()
    workers = loader.decoding_threads(settings.workers)
    return Dataset(*(builder.prepare(source, settings.prepared, workers) for source in sources))


def _checked(
    root: str | Path,
    train: Any,
    validation: Any,
    source: str | None,
    *,
    image_size: int | tuple[int, int] = 320,
    additional: Any = None,
    **options: Any,
) -> Data:
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    splits = {"train": train, "validation": validation, "additional": _split(additional)}
    values = {**splits, "source": source, **options}
    values = {name: value for name, value in values.items() if value is not None}
    try:
        data = Data(config.Data(root=root, image_size=size, **values))
    except ValidationError as error:
        problem = explain(error, config.Data)
        raise ConfigError(problem.message, code=problem.code) from None
    data.check()
    return data


def _split(split: SplitLike) -> Any:
    """Returns a split as `config.Data` takes it."""
    if isinstance(split, tuple | list):
        images, annotations = split
        return {"images": images, "annotations": annotations}
    return split
