"""`KEY=VALUE` overrides of a tree of keys and values."""

import copy
import re
from collections.abc import Sequence
from typing import Any

from jaxdistill.config.yaml_files import parse_yaml
from jaxdistill.runtime.errors import ConfigError


def apply(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Sets `KEY=VALUE` overrides in a tree of keys and values.

    Args:
      tree: Keys and values, which are changed in place.
      overrides: `KEY=VALUE` with a dotted key and a YAML value, such as `training.epochs=3`.

    Returns:
      The tree.

    Raises:
      ConfigError: An override is malformed, or names a place that does not exist.
    """
    for one in overrides:
        _set(tree, one)
    return tree


def _set(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"override {override!r}: expected KEY=VALUE, such as training.epochs=3",
            code="invalid-override",
        )
    if re.search(r"(^|\s)#", text) and not re.search("['\"]", text):
        raise ConfigError(
            f"override {key}: YAML takes what follows # for a comment; put quotes around the "
            f"value, which the shell must not remove: '{key}=\"{text}\"'",
            code="invalid-override",
        )
    closing = {"{": "}", "[": "]"}.get(text[:1])
    if closing and closing not in text:
        raise ConfigError(
            f"override {key}: {text!r:.200} has no closing {closing}; put quotes around the whole "
            f"override, so that the shell does not divide it at its spaces: "
            f"'{key}={text[0]}...{closing}'",
            code="invalid-override",
        )
    value = parse_yaml(text, f"override {key}")
    *parents, last = key.split(".")
    node: Any = tree
    for parent in parents:
        place: Any = parent
        if isinstance(node, list) and parent.isdigit() and int(parent) < len(node):
            place = int(parent)
        elif not isinstance(node, dict):
            raise ConfigError(
                f"override {key}: there is no {parent!r} in which a key could be set",
                code="invalid-override",
            )
        inner = node[place] if isinstance(node, list) else node.get(place)
        if not (inner is None or isinstance(inner, dict | list)):
            raise ConfigError(
                f"override {key}: {parent} is {inner!r:.200}, in which no key can be set; set the "
                f"whole of it, with braces: {{{last}: {text}, ...}}",
                code="invalid-override",
            )
        # A copy, because a YAML anchor puts one object into several places.
        node[place] = copy.copy(inner) if isinstance(inner, dict | list) else {}
        node = node[place]
    if isinstance(node, list):
        if not last.isdigit() or int(last) >= len(node):
            raise ConfigError(
                f"override {key}: {last!r} is not one of 0 ... {len(node) - 1}",
                code="invalid-override",
            )
        node[int(last)] = value
    else:
        node[last] = value
