"""Lines about the data of a run, for people."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxdistill import config
from jaxdistill.data import accounting
from jaxdistill.data.iterable import IterableData
from jaxdistill.data.sources.selection import root_of
from jaxdistill.data.splits import Data
from jaxdistill.runtime import storage

_FEW = 3  # validation images


def describe(data: Data | IterableData) -> list[str]:
    """Returns lines that describe the data of a run: the sizes of the splits, and warnings.

    Args:
      data: The data of a run. Its splits are opened.
    """
    if not isinstance(data, Data):
        return data.describe()
    train, validation = data.train, data.validation
    counts = (
        f"data: {len(train)} training images{_without_masks(train.labelled)}"
        f"{_with_repeats(data)}, "
        f"{len(validation)} validation images{_without_masks(validation.labelled)}"
    )
    share = data.settings.validation.share
    if share is not None:
        counts += f" (about {share:.4g} of the training images, drawn by their names)"
    accounts = (accounting.describe(split) for split in (train, validation))
    return [
        *([data.layout_note] if data.layout_note else []),
        counts,
        *itertools.chain(*accounts),
        *_where_prepared(data),
        *_warn_of_few(len(validation)),
        *warn_of_overlap(data.settings),
    ]


def _where_prepared(data: Data) -> Iterator[str]:
    """Yields a line: where the prepared data sets are, and how large."""
    # A prepared data set is at PREPARED/KEY/SOURCE/VERSION; both splits may share one.
    folders = {
        Path(folder).parents[1] for folder in (*data.train.folders, *data.validation.folders)
    }
    sizes = [storage.size_of(folder) for folder in sorted(folders)]
    yield (
        f"prepared data: {storage.describe_size(sum(sizes))} in "
        f"{', '.join(folder.name for folder in sorted(folders))} of {data.settings.prepared}; "
        f"`jaxdistill storage` lists and removes such folders"
    )


def _warn_of_few(count: int) -> Iterator[str]:
    if count < _FEW:
        yield (
            f"warning: scores on {count} validation image{'' if count == 1 else 's'} say little; "
            f"set more apart, for example with data.validation=25%"
        )


def warn_of_overlap(settings: config.Data) -> Iterator[str]:
    """Yields a warning for each folder of more training images that contains validation images.

    Args:
      settings: The section `data` of a configuration.
    """
    root = root_of(settings)
    validation = (root / settings.validation.images).resolve()
    has_own = not settings.train.labelled and settings.validation.share is None
    own = settings.train.images if has_own else None
    added = settings.additional.images if settings.additional else None
    for folder in filter(None, (own, settings.unlabelled, added)):
        if validation.is_relative_to((root / folder).resolve()):
            yield (
                f"warning: the training folder {root / folder} contains the validation images in "
                f"{validation}; the validation scores will be too high"
            )


def _with_repeats(data: Data) -> str:
    own, repeat = data.train.accounts[0].size, data.settings.repeat
    return f" (an epoch has the {own} of data.train {repeat} times)" if repeat > 1 else ""


def _without_masks(labelled: np.ndarray) -> str:
    count = int((~labelled).sum())
    return f" ({count} without masks)" if count else ""
