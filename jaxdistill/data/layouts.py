"""Recognises the layout of a folder where the configuration does not say where its images are."""

from typing import NamedTuple

from jaxdistill import config
from jaxdistill.data.sources import SOURCES
from jaxdistill.data.sources.base import Source
from jaxdistill.data.sources.layout import Found, Root
from jaxdistill.runtime.errors import DataError

_DEFAULT = config.Data()
_KEYS = "data.train.images and data.train.annotations, and the same of data.validation"


class Layout(NamedTuple):
    """Settings that name all folders and files, and how they were found."""

    settings: config.Data
    note: str = ""
    """What the folder was taken for, and why, for people; empty where nothing had to be found."""


def recognise(settings: config.Data, need_validation: bool = True) -> Layout:
    """Returns settings whose splits are those that are found in `data.root`.

    Settings that name a split, and a folder with the default names, stay as they are, but for what
    is left at its default and does not fit: annotations, where the source reads none, and the
    validation split, where it does not exist and is not needed. `data.source` restricts the search
    to the layouts of that source.

    Args:
      settings: The section `data` of a configuration.
      need_validation: Whether a folder without a validation split is refused. Without one, the
        validation split is that of training.

    Raises:
      DataError: The folder has no known layout (`unknown-layout`) or several of them
        (`ambiguous-layout`), or no validation split (`validation-needed`).
      ConfigError: There is no source of that name (`unknown-data-source`).
    """
    if not _is_open(settings):
        return _named(settings, need_validation)
    assert settings.root is not None
    root = Root(settings.root)
    names = list(SOURCES) if settings.source is None else [settings.source]
    found = {
        name: layout for name in names if (layout := SOURCES[name].recognise(root)) is not None
    }
    if any(SOURCES[name].HAS_MASKS for name in found):  # images alone are everywhere
        found = {name: layout for name, layout in found.items() if SOURCES[name].HAS_MASKS}
    if not found:
        known = "; ".join(f"{name}: {SOURCES[name].LAYOUT}" for name in names)
        raise DataError(
            f"data.root: {root.path}: this is no layout that is known; it holds {root.describe()}. "
            f"Set {_KEYS}, or use one of these layouts: {known}",
            code="unknown-layout",
        )
    if len(found) > 1:
        seen = "; ".join(f"{name}, by {layout.because}" for name, layout in found.items())
        raise DataError(
            f"data.root: {root.path}: this may be the layout of several sources: {seen}; choose "
            f"one with data.source={next(iter(found))}",
            code="ambiguous-layout",
        )
    [(name, layout)] = found.items()
    return _applied(settings, name, layout, need_validation)


def _is_open(settings: config.Data) -> bool:
    """Whether the splits are to be found: none is named, and the default names do not exist."""
    share = settings.validation.share
    named = settings.train != _DEFAULT.train or (
        share is None and settings.validation != _DEFAULT.validation
    )
    if named or settings.root is None or not settings.root.is_dir():
        return False
    if settings.source is not None:
        kind = SOURCES[settings.source]  # an unknown name is refused with those there are
        if kind.recognise.__func__ is Source.recognise.__func__:  # type: ignore[attr-defined]
            return False
    places = [settings.train, *([] if share is not None else [settings.validation])]
    exist = all(
        (settings.root / path).exists()
        for split in places
        for path in (split.images, split.annotations)
        if path is not None
    )
    return not (exist and settings.source in (None, "coco"))


def _named(settings: config.Data, need_validation: bool) -> Layout:
    """Returns settings that need no search, without defaults that do not fit."""
    note, update = "", {}
    if settings.source is not None and not SOURCES[settings.source].HAS_MASKS:
        defaults = (_DEFAULT.train.annotations, _DEFAULT.validation.annotations)
        for key in ("train", "validation"):
            split: config.Split = getattr(settings, key)
            if split.annotations in defaults:
                update[key] = split.model_copy(update={"annotations": None})
    if (
        not need_validation
        and settings.root is not None
        and settings.train != _DEFAULT.train
        and settings.validation == _DEFAULT.validation
        and not (missing := settings.root / settings.validation.images).exists()
    ):
        update["validation"] = update.get("train", settings.train)
        note = f"data: there is no validation split: data.validation is not set, and no {missing}"
    return Layout(settings.model_copy(update=update) if update else settings, note)


def _applied(settings: config.Data, name: str, layout: Found, need_validation: bool) -> Layout:
    splits, share = dict(layout.splits), settings.validation.share
    train = splits.get("train") or splits.get("all")
    note = f"data: {settings.root} is read as {name}: {layout.because}"
    if train is None:
        raise DataError(
            f"data.root: {settings.root}: {name}, by {layout.because}, but no training images were "
            f"found; set {_KEYS}",
            code="unknown-layout",
        )
    if share is not None:
        validation = train.model_copy(update={"share": share})
        unused = [split for kind, split in splits.items() if kind in ("validation", "test")]
    else:
        chosen = splits.get("validation") or splits.get("test")
        if chosen is None and need_validation:
            raise DataError(
                f"data.root: {settings.root}: {name}, by {layout.because}, has no validation "
                f"split; draw one from the training images with data.validation=10%, or name its "
                f"folders in data.validation",
                code="validation-needed",
            )
        validation = chosen or train
        if "validation" not in splits and chosen is not None:
            note += f"; {_place(chosen)} is used for validation"
        unused = [splits["test"]] if {"validation", "test"} <= set(splits) else []
    if unused:
        note += f"; not used: {', '.join(map(_place, unused))}"
    source = None if name == "image_folder" else name
    update = {"source": source, "train": train, "validation": validation}
    return Layout(settings.model_copy(update=update), note)


def _place(split: config.Split) -> str:
    return str(split.annotations or split.images)
