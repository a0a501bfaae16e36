"""Configurations as flat lists of keys."""

from collections.abc import Iterator, Mapping
from typing import Any


def flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted keys of nested mappings and their values.

    Args:
      tree: Mappings, such as a configuration in plain values. A list of mappings counts as a
        mapping by index, any other list as a value.
      path: Put before every key.
    """
    if isinstance(tree, Mapping):
        children = tree.items()
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        children = {str(index): item for index, item in enumerate(tree)}.items()
    else:
        yield path, tree
        return
    for key, value in children:
        yield from flat(value, f"{path}.{key}" if path else str(key))
