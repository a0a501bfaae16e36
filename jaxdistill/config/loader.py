"""Loading, checking and writing configurations."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from jaxdistill.config import overrides as overrides_lib
from jaxdistill.config import yaml_files
from jaxdistill.config.base import Section
from jaxdistill.config.data import Additional, Data, Split
from jaxdistill.config.messages import explain
from jaxdistill.config.schema import Config
from jaxdistill.runtime.errors import ConfigError, first_line

AnySection = TypeVar("AnySection", bound=Section)

RENAMED = {
    "targets.store": "targets.cache",
    "targets.clean_pictures": "targets.clean_images",
    "teacher.gives": "teacher.output",
}
"""Keys of version 0.1 that have another name now."""


def load(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration file and the files that it extends, and applies overrides.

    Args:
      path: A YAML file, or the name of a configuration that ships with the package, such as
        `recommended`; a file of that name takes precedence.
      overrides: `KEY=VALUE` with a dotted key and a YAML value, such as `training.epochs=3`.

    Returns:
      The configuration. Relative paths in it are relative to the working directory.

    Raises:
      ConfigError: A file cannot be read, an override is malformed (`invalid-override`), or a key
        or a value is wrong; the message names the file and the full path of the key.
    """
    values = yaml_files.read(Path(path))
    return check(_applied(values, overrides), source=str(path))


def load_data(path: Path | str | None, overrides: Sequence[str] = ()) -> Data:
    """Reads the section `data` alone, whether or not the rest fits it.

    Args:
      path: A configuration as for `load`; None starts from the defaults.
      overrides: `KEY=VALUE` with keys of the section `data`, such as `data.root=FOLDER`.

    Raises:
      ConfigError: See `load`; or there is no folder (`missing-data-root`).
    """
    values = {} if path is None else yaml_files.read(Path(path))
    values = _applied({"data": values.get("data", {})}, overrides)
    section = values.pop("data")
    if values:
        raise ConfigError(
            f"{next(iter(values))}: only keys of the section data are read, such as data.root",
            code="unknown-key",
        )
    found = _validated(Data, section, source="data")
    if found.root is None:
        raise ConfigError(
            "data.root is not set: expected the folder of the images", code="missing-data-root"
        )
    return found


def check(values: dict[str, Any], source: str) -> Config:
    """Validates nested dictionaries, such as a parsed YAML file.

    Args:
      values: Keys and values as in a YAML file. Nothing is converted: a number in quotes is text.
      source: Where the values come from, for messages.

    Returns:
      The configuration.

    Raises:
      ConfigError: A key or a value is wrong.
    """
    for old in _renamed_keys(values):
        raise ConfigError(
            f"{source}: the key {old} was renamed: use {RENAMED[old]}", code="renamed-key"
        )
    return _validated(Config, values, source)


def with_data(config: Config, data: Data) -> Config:
    """Returns a configuration with another section `data`, and checks what depends on it.

    Args:
      config: A configuration.
      data: The section, such as one in which the splits have been found.

    Raises:
      ConfigError: Another key does not fit it, such as a loss that needs masks.
    """
    if data == config.data:
        return config
    return with_values(config, {"data": data}, source=f"data.root: {data.root}")


def with_values(config: Config, values: Mapping[str, Any], source: str) -> Config:
    """Returns a configuration with other values of some keys.

    Args:
      config: A configuration.
      values: Values by dotted key, such as `training.epochs`; plain ones, or sections.
      source: Where the values come from, for messages.

    Raises:
      ConfigError: A key or a value is wrong.
    """
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        *parents, last = key.split(".")
        section = tree
        for parent in parents:
            section = section[parent]
        section[last] = value.model_dump(mode="json") if isinstance(value, Section) else value
    return check(tree, source)


def with_absolute_paths(section: AnySection) -> AnySection:
    """Returns a configuration whose paths do not depend on the working directory.

    Args:
      section: A configuration or one of its sections. Paths relative to `data.root` stay relative
        to it.
    """
    changed: dict[str, object] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Path) and name != "unlabelled":
            changed[name] = value.absolute()
        elif isinstance(value, Section) and not isinstance(value, Split | Additional):
            changed[name] = with_absolute_paths(value)
        elif isinstance(value, tuple) and all(isinstance(each, Section) for each in value):
            changed[name] = tuple(map(with_absolute_paths, value))
    return section.model_copy(update=changed)


def dump(config: Config) -> str:
    """Returns the whole configuration as YAML, which `load` reads."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _applied(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns values with overrides, of which images for validation replace a share of others."""
    values = overrides_lib.apply(values, overrides)
    keys = {override.partition("=")[0] for override in overrides}
    own = {"data.validation.images", "data.validation.annotations"}
    if keys & own and not keys & {"data.validation", "data.validation.share"}:
        values["data"]["validation"].pop("share", None)
    return values


def _renamed_keys(values: dict[str, Any]) -> Iterator[str]:
    for key in RENAMED:
        section, _, name = key.partition(".")
        inner = values.get(section)
        if isinstance(inner, dict) and name in inner:
            yield key


def _validated(kind: type[AnySection], values: object, source: str) -> AnySection:
    """Returns a section from plain values; `source` says in messages where they come from."""
    try:
        # Strict validation of JSON accepts lists for tuples, and converts nothing else.
        return kind.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problem = explain(error, kind)
        raise ConfigError(f"{source}: {problem.message}", code=problem.code) from None
    except (TypeError, ValueError, RecursionError) as error:  # JSON has no dates, for example
        raise ConfigError(f"{source}: {first_line(error)}", code="wrong-type") from None
