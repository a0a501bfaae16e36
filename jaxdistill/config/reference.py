"""The reference of configuration keys: `python -m jaxdistill.config.reference`.

Its output is the document `docs/configuration.md`.
"""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from jaxdistill.config.base import MeanStd, Section
from jaxdistill.config.schema import Config

_HEAD = """# Configuration

This table lists every key of a configuration file. It is printed by
`python -m jaxdistill.config.reference`. Keys are set in YAML or on the command line as `key=value`.
A file may contain `extends: another.yaml` and then only the keys that differ from that file; a
configuration that ships with the package is extended or loaded by its name, such as `recommended`.
`N` stands for an index into a list, counted from 0.

| key | type | default | meaning |
|---|---|---|---|
"""


def table() -> str:
    """Returns the Markdown document that describes all keys, generated from the schema."""
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in _rows(Config, "", None))


def _rows(
    section: type[Section], prefix: str, values: Section | None
) -> Iterator[tuple[str, str, str, str]]:
    """Yields a row for each key; `values` is the section's default, where there is one."""
    for name, field in section.model_fields.items():
        key = prefix + name
        inner = _section(field.annotation)
        meaning = " ".join((field.description or "").split())
        default = field.default if values is None else getattr(values, name)
        yield f"`{key}`", _type(field.annotation), _default(default), meaning
        if inner is not None:
            listed = get_origin(field.annotation) is tuple
            below = default if isinstance(default, Section) else None
            yield from _rows(inner, f"{key}.N." if listed else f"{key}.", below)


def _section(annotation: Any) -> type[Section] | None:
    """Returns the section below a key that holds a section, an optional one, or a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _section(parts[0])
    found = {_section(part) for part in parts if part not in (type(None), ...)}
    return found.pop() if len(found) == 1 else None


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in parts)
    if origin is tuple:
        if parts[-1] is ...:
            return f"list of {_type(parts[0])}"
        return f"{len(parts)} times {_type(parts[0])}"
    if annotation is type(None):
        return "null"
    if annotation is MeanStd:
        return "`{mean: [r, g, b], std: [r, g, b], scale: 1}`"
    if issubclass(annotation, Section):
        return "section"
    words = {"bool": "true or false", "int": "integer", "float": "number", "str": "text"}
    return {**words, "Path": "path"}[annotation.__name__]


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "null"
    if isinstance(value, Section):
        return "see below"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, Path) and value.is_relative_to(Path.home()):
        value = "~" / value.relative_to(Path.home())
    return f"`{value}`"


if __name__ == "__main__":
    print(table(), end="")
