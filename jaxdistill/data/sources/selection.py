"""The data sources of a configured split."""

from pathlib import Path
from typing import Any, Literal

from jaxdistill import config
from jaxdistill.data.sources import SOURCES
from jaxdistill.data.sources.base import Source
from jaxdistill.data.sources.part import Part
from jaxdistill.runtime.errors import ConfigError

SplitName = Literal["train", "validation"]
"""The splits of a configuration."""


def sources_of(settings: config.Data, split: SplitName) -> list[Source[Any]]:
    """Returns the sources of a split; training has those of `unlabelled` and `additional`, too.

    A split without annotations is read as a folder of images, one with a file that ends in `.json`
    as COCO, and any other as a folder of masks. `data.source` names another source for the splits
    with annotations, or, if that source has no masks, for the splits without.

    Args:
      settings: The section `data` of a configuration.
      split: `train` or `validation`.

    Raises:
      ConfigError: `data.root` is not set (`missing-data-root`), there is no source of that name
        (`unknown-data-source`), or it has no masks but annotations are given
        (`annotations-not-used`).
    """
    sources = [_source(settings, getattr(settings, split), split)]
    if split == "train" and settings.unlabelled is not None:
        unlabelled = config.Split(images=settings.unlabelled, annotations=None)
        sources.append(_source(settings, unlabelled, "unlabelled"))
    if split == "train" and settings.additional is not None:
        given = settings.additional
        additional = config.Split(images=given.images, annotations=given.annotations)
        changes = {"source": None, "mask_values": given.mask_values}
        sources.append(_source(settings.model_copy(update=changes), additional, "additional"))
    return sources


def root_of(settings: config.Data) -> Path:
    """Returns the folder of the data.

    Args:
      settings: The section `data` of a configuration.

    Raises:
      ConfigError: It is not set (`missing-data-root`).
    """
    if settings.root is None:
        raise ConfigError(
            "data.root is not set: expected the folder of the images, data.root=FOLDER",
            code="missing-data-root",
        )
    return settings.root


def _source(settings: config.Data, split: config.Split, key: str) -> Source[Any]:
    root = root_of(settings).absolute()
    annotations = None if split.annotations is None else root / split.annotations
    kind = _source_class(settings.source, split, key)
    prepared, share = settings.prepared.absolute(), settings.validation.share
    is_divided = key in ("train", "validation")
    return kind(
        key,
        root / split.images,
        annotations,
        (prepared,),
        digests=prepared / "digests",
        settings=settings,
        part=Part(share, drawn=key == "validation") if share and is_divided else None,
    )


def _source_class(name: str | None, split: config.Split, key: str) -> type[Source[Any]]:
    """Returns the class of source for a split; see `sources_of`."""
    named = None if name is None else SOURCES[name]
    if split.annotations is None:
        return named if named and not named.HAS_MASKS else SOURCES["image_folder"]
    if named and not named.HAS_MASKS:
        raise ConfigError(
            f"data.{key}.annotations: the source {name!r} has no masks; set this key to null",
            code="annotations-not-used",
        )
    return named or SOURCES["coco" if split.annotations.suffix == ".json" else "mask_folder"]
