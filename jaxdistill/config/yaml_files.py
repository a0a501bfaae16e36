"""YAML files and overrides as one tree of keys and values, before anyone asks what they mean."""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from jaxdistill.runtime import files
from jaxdistill.runtime.errors import UserError, first_line

LARGEST_FILE = 2**18
"""Bytes: a hundred times what a configuration has, and as much as is read in a few seconds."""
_MOST_VALUES, _DEEPEST = 20_000, 100


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The file over whatever it extends, and `key.path=value` overrides over both.

    Raises:
      UserError: a file cannot be read, is not YAML, or extends itself; an override sets nothing.
    """
    return override(_read_extended(path, ()), overrides)


def override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tree with `key.path=value` overrides set in it.

    Raises:
      UserError: an override sets nothing.
    """
    for one in overrides:
        _set(tree, one)
    return tree


def parse_yaml(text: str, source: str) -> Any:
    """Safe YAML; unlike YAML 1.1, 1e-4 is a number.

    Raises:
      UserError: names the line that cannot be read.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except Exception as error:  # a tag such as !!bool with another text raises nearly anything
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"{source}{where}: not valid YAML: {what}") from None


class _Loader(yaml.SafeLoader):
    """Counts values as they are once every alias (`*name`) is written out: who reads the tree
    meets each of them, and a few lines of aliases of aliases stand for billions."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._within: dict[str, int] = {}  # values by anchor, once it is complete

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        alias, before = isinstance(event, yaml.AliasEvent), self._values
        if alias and event.anchor in self.anchors and event.anchor not in self._within:
            raise _problem(f"*{event.anchor} stands for what contains it", event)
        self._values += self._within.get(event.anchor, 0) if alias else 1
        if self._values > _MOST_VALUES or self._depth > _DEEPEST:
            raise _problem(f"more than {_MOST_VALUES} values, or nested too deeply", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None and not alias:
            self._within[event.anchor] = self._values - before
        return node


def _problem(what: str, event: Any) -> yaml.YAMLError:
    return yaml.composer.ComposerError(None, None, what, event.start_mark)


# The first resolver that matches wins, and int's and float's own come before an appended one.
_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _read_extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    try:
        here = path.resolve()
        text = files.read(path, LARGEST_FILE).decode()
    except (OSError, ValueError, RuntimeError) as error:  # a link that leads to itself is one
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(f"cannot read the configuration {path.absolute()}: {reason}") from None
    if here in seen:
        raise UserError(f"{path}: extends itself, by way of {seen[-1]}")
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected keys and values at the top, such as `seed: 0`")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: extends: expected a file name, got {base!r}")
    return _merge(_read_extended(path.parent / base, (*seen, here)), tree)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _set(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r}: expected KEY=VALUE, such as training.epochs=3")
    value = parse_yaml(text, f"override {key}")
    *parents, last = key.split(".")
    node: Any = tree
    for parent in parents:
        place: Any = parent
        if isinstance(node, list) and parent.isdigit() and int(parent) < len(node):
            place = int(parent)
        elif not isinstance(node, dict):
            raise UserError(f"override {key}: there is no {parent!r} to set something in")
        inner = node[place] if isinstance(node, list) else node.get(place)
        # A copy, for a YAML anchor puts one object into several places.
        node[place] = copy.copy(inner) if isinstance(inner, dict | list) else {}
        node = node[place]
    if isinstance(node, list):
        if not last.isdigit() or int(last) >= len(node):
            raise UserError(f"override {key}: {last!r} is not one of 0 ... {len(node) - 1}")
        node[int(last)] = value
    else:
        node[last] = value
