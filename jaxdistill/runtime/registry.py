"""Registries: named implementations that a configuration or a call chooses from."""

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from jaxdistill.runtime.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Implementations by name.

    Args:
      kind: What is registered, for messages, such as `encoder`.
      key: The configuration key whose value is a name of this registry, such as `student.encoder`.
    """

    def __init__(self, kind: str, key: str) -> None:
        self.kind, self.key = kind, key
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Registers an implementation.

        Args:
          name: The name under which a configuration finds it.
          entry: The implementation.

        Returns:
          The entry.

        Raises:
          ValueError: The name is taken by another implementation.
        """
        if self._entries.get(name, entry) is not entry:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        self._entries[name] = entry
        return entry

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that registers what it decorates under `name`."""
        return lambda entry: self.add(name, entry)

    def __getitem__(self, name: str) -> T:
        """Returns the implementation of that name.

        Raises:
          ConfigError: There is none (`unknown-KIND`); the message lists the names there are.
        """
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{self.key}: unknown {self.kind} {name!r}; {hint}available: {', '.join(self)}; "
                f"a plug-in's need --plugin MODULE",
                code=f"unknown-{self.kind.replace(' ', '-')}",
            )
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
