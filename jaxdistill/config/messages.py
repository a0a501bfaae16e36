"""Turns what pydantic reports about a configuration into a message of one line and a code."""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

_CODES = {
    "missing": "missing-key",
    "literal_error": "unknown-value",
    "finite_number": "out-of-range",
    "greater_than": "out-of-range",
    "greater_than_equal": "out-of-range",
    "less_than": "out-of-range",
    "less_than_equal": "out-of-range",
    "too_long": "wrong-length",
    "too_short": "wrong-length",
}
"""Codes by pydantic's error type; an error type of our own is its code; others: wrong-type."""


class Problem(NamedTuple):
    """What is wrong with a configuration."""

    message: str
    """One line that names the key by its full path."""
    code: str
    """The code of the `ConfigError`."""


def explain(error: ValidationError, root: type[BaseModel]) -> Problem:
    """Describes the first error in terms of the keys of the YAML file.

    Args:
      error: What pydantic raised when it validated `root`.
      root: The model of the whole configuration.

    Returns:
      The message and the code of the first error. The message also names the sections that have
      further errors.
    """
    first, *rest = errors = error.errors(include_url=False)
    if isinstance(first["input"], dict):  # of a union, the branch that is a section is meant
        first = next((one for one in errors if any(map(_is_section, one["loc"]))), first)
    if first["type"] == "missing":  # the key may be there, with another name
        beside = (one for one in errors if one["loc"][:-1] == first["loc"][:-1])
        first = next((one for one in beside if one["type"] == "extra_forbidden"), first)
    location = _location(first)
    code, message = _explain_one(first, location, errors, root)
    others = {part["loc"][:1] for part in rest} - {first["loc"][:1]}
    if others:
        message += f" (and more errors in {', '.join(str(loc[0]) for loc in others if loc)})"
    return Problem(message, code)


def _explain_one(
    error: Any, location: list[str], errors: Sequence[Any], root: type[BaseModel]
) -> tuple[str, str]:
    """Returns the code and the message of one error."""
    key, kind = ".".join(location), error["type"]
    if kind == "extra_forbidden" or (kind not in _CODES and _is_further(location, root)):
        known = list(_section_of(location, root).model_fields)
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return "unknown-key", f"unknown key {key!r}; {hint}"
    if kind == "missing":
        return "missing-key", f"{key} is missing"
    if "-" in kind:  # raised by `base.invalid`
        return kind, f"{key}: {error['msg']}" if key else error["msg"]
    expected = [one["msg"] for one in errors if _location(one) == location]
    text = " or ".join(part.removeprefix("Input should be ") for part in expected)
    if kind == "model_type":
        fields = _section_of([*location, ""], root).model_fields.items()
        needed = ", ".join(f"{name}: ..." for name, field in fields if field.is_required())
        if needed:
            text += f" such as '{{{needed}}}'"
    return _CODES.get(kind, "wrong-type"), f"{key}: expected {text}, got {error['input']!r:.200}"


def _location(error: Any) -> list[str]:
    """Returns the parts of the key. pydantic adds the name of the branch to those of a union."""
    *path, last = error["loc"] or ("",)
    unknown = error["type"] == "extra_forbidden"  # then the last part is what the user wrote
    named = [str(part) for part in (path if unknown else [*path, last]) if not _is_section(part)]
    kinds = ("literal[", "function-", "constrained-", "tag-")
    parts = [part for part in named if not part.startswith(kinds)]
    return [*parts, str(last)] if unknown else [part for part in parts if part]


def _is_section(part: int | str) -> bool:
    """Tells whether a part of a location is the name of a model, which starts with a capital."""
    return str(part)[:1].isupper()


def _is_further(location: Sequence[str], root: type[BaseModel]) -> bool:
    """Tells whether the key is no field, in a section that accepts further keys with numbers."""
    section = _section_of(location, root)
    extra = section.model_config.get("extra") == "allow"
    return extra and bool(location) and location[-1] not in section.model_fields


def _section_of(location: Sequence[str], root: type[BaseModel]) -> type[BaseModel]:
    section = root
    for part in location[:-1]:
        field = section.model_fields.get(part)
        if field is not None:
            section = next(iter(_sections(field.annotation)), section)
    return section


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = getattr(annotation, "__args__", ())
    return [section for part in inner for section in _sections(part)]
