"""What pydantic finds wrong with a configuration, in one line, by the key's full path."""

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """The first complaint, in the words of someone who wrote the YAML file."""
    first, *rest = error.errors(include_url=False)
    # A union reports every branch; the branch's own name is not part of the key.
    unknown = first["type"] == "extra_forbidden"  # then the last part is what somebody wrote
    path = first["loc"][:-1] if unknown else first["loc"]
    location = [str(part) for part in path if not str(part)[:1].isupper()]
    location = [part for part in location if not part.startswith(("literal[", "function-"))]
    location += [str(part) for part in first["loc"][-1:] if unknown]
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
            text = first["msg"].replace("Input should", "should")
            message = f"{key}: {text}, got {first['input']!r:.200}"
    others = {part["loc"][:1] for part in rest} - {first["loc"][:1]}
    return message + (
        f" (and more, at {', '.join(str(o[0]) for o in others if o)})" if others else ""
    )


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
