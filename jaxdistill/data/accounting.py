"""What a prepared data set leaves out, and what is doubtful about it, counted by reason."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxdistill.runtime.text import printable

if TYPE_CHECKING:
    from jaxdistill.data.dataset import Dataset

_SHOWN = 3

UNDECODABLE = "images that cannot be decoded"
EMPTY_PEOPLE = "people whose outline covers no pixel"
EMPTY_MASK = "the mask is empty"
DIM_MASK = "the mask has values of at most 1, and a person is 255: multiply it by 255"


class Count(NamedTuple):
    """How often something was found."""

    reason: str
    number: int
    names: Sequence[str]
    """Names of the first images."""

    def __str__(self) -> str:
        more = ", ..." if self.number > len(self.names) else ""
        return f"{self.number} {self.reason} ({printable(', '.join(self.names))}{more})"


class Tally:
    """Counts by reason, with the names of the first images."""

    def __init__(self) -> None:
        self._counts: dict[str, Count] = {}

    def add(self, reason: str, name: str, number: int = 1) -> None:
        """Counts something in one image.

        Args:
          reason: What is counted.
          name: The image.
          number: How often.
        """
        before = self._counts.get(reason, Count(reason, 0, ()))
        names = before.names if name in before.names else (*before.names, name)[:_SHOWN]
        self._counts[reason] = Count(reason, before.number + number, names)

    def add_all(self, omissions: Mapping[str, Sequence[str]]) -> None:
        """Counts names by reason, as `Source.omissions` returns them."""
        for reason, names in omissions.items():
            self._counts[reason] = Count(reason, len(names), tuple(dict.fromkeys(names))[:_SHOWN])

    def as_lists(self) -> list[list[Any]]:
        """Returns plain values for JSON."""
        return [[count.reason, count.number, list(count.names)] for count in self._counts.values()]


def from_lists(lists: Sequence[Sequence[Any]]) -> list[Count]:
    """Returns the counts that `Tally.as_lists` made plain.

    Args:
      lists: The plain values.
    """
    return [Count(str(reason), int(number), tuple(names)) for reason, number, names in lists]


def describe(dataset: "Dataset") -> Iterator[str]:
    """Yields lines about how splits are read, and what in them is left out or doubtful.

    Args:
      dataset: The data set.
    """
    for split, size, omissions, doubts, notes in dataset.accounts:
        for note in notes:
            yield f"data.{split}: {note}"
        if omissions:
            yield f"data.{split}: {size} images used; left out: {'; '.join(map(str, omissions))}"
        for doubt in doubts:
            first = printable(", ".join(doubt.names))
            yield (
                f"warning: data.{split}: {doubt.number} of {size} images, the first ones {first}: "
                f"{doubt.reason}"
            )
