"""The table of configuration keys: `python -m jaxdistill.config.reference > docs/configuration.md`."""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from jaxdistill.config import Config, Section

_HEAD = """# Configuration

Every key of a configuration file, as `python -m jaxdistill.config.reference` prints it. A key is given in
YAML, or on the command line as `key=value`; a file may `extends: another.yaml` and hold only what
differs.

| key | type | default | meaning |
|---|---|---|---|
"""


def table() -> str:
    """All keys in Markdown, made from the configuration's own types."""
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in _rows(Config, "", None))


def _rows(
    section: type[Section], prefix: str, given: Section | None
) -> Iterator[tuple[str, str, str, str]]:
    """A row for each key; `given` is the section's own default, where there is one."""
    for name, field in section.model_fields.items():
        key = prefix + name
        inner = _section(field.annotation)
        meaning = " ".join((field.description or "").split())
        default = field.default if given is None else getattr(given, name)
        yield f"`{key}`", _type(field.annotation), _default(default), meaning
        if inner is not None:
            listed = get_origin(field.annotation) is tuple
            below = default if isinstance(default, Section) else None
            yield from _rows(inner, f"{key}.N." if listed else f"{key}.", below)


def _section(annotation: Any) -> type[Section] | None:
    """The section below a key, where the key holds one (or none, or a list of them)."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    parts = [part for part in get_args(annotation) if part not in (type(None), ...)]
    return _section(parts[0]) if len(parts) == 1 else None


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
    if issubclass(annotation, Section):
        return (
            "section" if annotation.__name__ != "MeanStd" else "`{mean: [r, g, b], std: [r, g, b]}`"
        )
    words = {"bool": "true or false", "int": "integer", "float": "number", "str": "text"}
    return {**words, "Path": "path"}[annotation.__name__]


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "null"
    if isinstance(value, Section):
        return "as below"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, Path) and value.is_relative_to(Path.home()):
        value = "~" / value.relative_to(Path.home())
    return f"`{value}`"


if __name__ == "__main__":
    print(table(), end="")
