"""What pydantic finds wrong with a configuration, in one line, by the key's full path."""

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """The first complaint, in the words of someone who wrote the YAML file."""
    first, *rest = errors = error.errors(include_url=False)
    if isinstance(first["input"], dict):  # then it is the section of a union that was meant
        first = next((one for one in errors if any(map(_is_section, one["loc"]))), first)
    location = _location(first)
    key = ".".join(location)
    match first["type"]:
        case "extra_forbidden":
            known = _keys_beside(location, root)
            near = difflib.get_close_matches(location[-1], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
            message = f"unknown key {key!r}; {hint}"
        case "missing":
            message = f"{key!r} is missing"
        case "value_error":
            message = f"{key}: {first['ctx']['error']}" if key else str(first["ctx"]["error"])
        case _:
            same = [one["msg"] for one in errors if _location(one) == location]
            text = " or ".join(part.removeprefix("Input should be ") for part in same)
            message = f"{key}: should be {text}, got {first['input']!r:.200}"
    others = {part["loc"][:1] for part in rest} - {first["loc"][:1]}
    return message + (
        f" (and more, at {', '.join(str(o[0]) for o in others if o)})" if others else ""
    )


def _location(error: Any) -> list[str]:
    """The key's parts. A union reports every branch, whose own name is no part of the key."""
    *path, last = error["loc"] or ("",)
    unknown = error["type"] == "extra_forbidden"  # then the last part is what somebody wrote
    named = [str(part) for part in (path if unknown else [*path, last]) if not _is_section(part)]
    kinds = ("literal[", "function-", "constrained-")
    parts = [part for part in named if not part.startswith(kinds)]
    return [*parts, str(last)] if unknown else parts


def _is_section(part: int | str) -> bool:
    return str(part)[:1].isupper()


def _keys_beside(location: Sequence[str], root: type[BaseModel]) -> list[str]:
    section = root
    for part in location[:-1]:
        if part.isdigit():
            continue
        annotation = section.model_fields[part].annotation
        section = next(iter(_sections(annotation)), section)
    return list(section.model_fields)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = getattr(annotation, "__args__", ())
    return [section for part in inner for section in _sections(part)]
