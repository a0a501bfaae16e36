"""Reading of YAML files into a tree of keys and values, before validation."""

import difflib
import errno
import re
from pathlib import Path
from typing import Any

import yaml

from jaxdistill.runtime import files
from jaxdistill.runtime.errors import ConfigError, first_line

LARGEST_FILE = 2**18
"""Bytes: a hundred times the size of a configuration, and as much as is read in a few seconds."""
_MOST_VALUES, _DEEPEST = 20_000, 100
_PACKAGE = Path(__file__).parents[1]


def read(path: Path) -> dict[str, Any]:
    """Reads a file, and merges it over the files that it extends.

    Args:
      path: A YAML file, or the name of a configuration that ships with the package.

    Returns:
      Keys and values, not validated yet.

    Raises:
      ConfigError: A file cannot be read (`no-such-file`, `unreadable-file`), is not YAML
        (`yaml-syntax`, `repeated-key`), or extends itself (`extends-itself`).
    """
    return _read_extended(path, ())


def shipped() -> dict[str, Path]:
    """Returns the configurations that ship with the package, by name."""
    # An installed package contains them; in a source tree they are beside the package.
    inside, beside = _PACKAGE / "configs", _PACKAGE.parent / "configs"
    folder = inside if inside.is_dir() else beside
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def parse_yaml(text: str, source: str) -> Any:
    """Parses YAML safely: no Python objects, bounded size, no repeated keys.

    Unlike in YAML 1.1, `1e-4` is a number, and `2024-01-31` is text.

    Args:
      text: The YAML text.
      source: Where the text comes from, for messages.

    Returns:
      Nested dictionaries, lists and scalars.

    Raises:
      ConfigError: The text is not YAML (`yaml-syntax`), or a mapping has a key twice
        (`repeated-key`); the message names the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except Exception as error:  # for example, !!bool before another text raises a KeyError
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or first_line(error)
        if isinstance(error, _RepeatedKeyError):
            raise ConfigError(f"{source}{where}: {what}", code="repeated-key") from None
        raise ConfigError(f"{source}{where}: not valid YAML: {what}", code="yaml-syntax") from None


class _RepeatedKeyError(yaml.MarkedYAMLError):
    """A mapping has a key twice."""


class _Loader(yaml.SafeLoader):
    """Limits the number of values, counted as if every alias (`*name`) were written out.

    A few lines of aliases of aliases can stand for billions of values, all of which a reader of the
    tree would visit.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._within: dict[str, int] = {}  # number of values by anchor, once it is complete

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        alias, before = isinstance(event, yaml.AliasEvent), self._values
        if alias and event.anchor in self.anchors and event.anchor not in self._within:
            raise _problem(f"*{event.anchor} stands for a value that contains it", event)
        self._values += self._within.get(event.anchor, 0) if alias else 1
        if self._values > _MOST_VALUES or self._depth > _DEEPEST:
            raise _problem(f"more than {_MOST_VALUES} values, or nested too deeply", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None and not alias:
            self._within[event.anchor] = self._values - before
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node: Any = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    text = f"the key {key.value!r} is repeated; keep one of the two"
                    raise _RepeatedKeyError(None, None, text, key.start_mark)
                seen.add((key.tag, key.value))
        return node


def _problem(what: str, event: Any) -> yaml.YAMLError:
    return yaml.composer.ComposerError(None, None, what, event.start_mark)


# The first resolver that matches wins, and those of int and float come before an appended one.
# A date is text, such as the name of a run.
_Loader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0] != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _read_extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = _find(path)
    try:
        here = path.resolve()
        text = files.read(path, LARGEST_FILE).decode()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise _unreadable(path, error) from None
    if here in seen:
        raise ConfigError(f"{path}: extends itself, through {seen[-1]}", code="extends-itself")
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: expected keys and values at the top level, such as `seed: 0`",
            code="wrong-type",
        )
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(
            f"{path}: extends: expected a file name, got {base!r:.200}", code="wrong-type"
        )
    beside = path.parent / base
    found = beside if _exists(beside) else shipped().get(base, beside)
    return _merge(_read_extended(found, (*seen, here)), tree)


def _find(path: Path) -> Path:
    """Returns the file, or the shipped configuration of that name if there is no such file."""
    return path if _exists(path) else shipped().get(str(path), path)


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def _unreadable(path: Path, error: Exception) -> ConfigError:
    missing = isinstance(error, OSError) and error.errno == errno.ENOENT
    reason = error.strerror if isinstance(error, OSError) else "not a text file"
    hint = ""
    if missing and not path.suffix and path.parent == Path():
        near = difflib.get_close_matches(str(path), shipped(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        hint = f"; {hint}configurations that ship: {', '.join(shipped())}"
    return ConfigError(
        f"cannot read the configuration {path.absolute()}: {reason}{hint}",
        code="no-such-file" if missing else "unreadable-file",
    )


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged
