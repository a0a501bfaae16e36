"""Which categories of an annotation format are people: `data.category`, a name or a number."""

from collections.abc import Collection

from jaxdistill.runtime.errors import DataError

_SHOWN = 20


def is_wanted(category: str | int, name: str, number: int | None = None) -> bool:
    """Returns whether a category is the wanted one.

    Args:
      category: The name, in any case, or the number of the wanted category.
      name: Name of a category.
      number: Its number, in formats that number categories.
    """
    if isinstance(category, int):
        return category == number
    return name.strip().lower() == category.strip().lower()


def find(category: str | int, known: Collection[tuple[int, str]], place: str) -> set[int]:
    """Returns the numbers of the wanted category; several may have one name.

    Args:
      category: See `is_wanted`.
      known: Number and name of each category.
      place: Where they are listed, for messages.

    Raises:
      DataError: There is no such category (`no-person-category`).
    """
    found = {number for number, name in known if is_wanted(category, name, number)}
    if not found:
        raise missing(category, [f"{name} ({number})" for number, name in sorted(known)], place)
    return found


def missing(category: str | int, names: Collection[str], place: str) -> DataError:
    """Returns the error for a category that does not exist.

    Args:
      category: The wanted category.
      names: Those that there are, for people.
      place: Where they are listed, for messages.
    """
    shown = ", ".join(list(names)[:_SHOWN]) or "none"
    more = f" and {len(names) - _SHOWN} others" if len(names) > _SHOWN else ""
    kind = "has the number" if isinstance(category, int) else "is named"
    return DataError(
        f"{place}: categories: none {kind} {category!r}; there are: {shown}{more}; set "
        f"data.category to the name or number of a person",
        code="no-person-category",
    )
