"""How our arrays are compared with PyTorch's, and the table of what was found."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Arrays = Mapping[str, object]


@dataclass
class Item:
    tolerance: str
    worst: float = 0.0
    torch_rounding: float | None = None
    cases: int = 0


@dataclass
class Parity:
    """Compares arrays with PyTorch's, and remembers the largest difference of every item."""

    items: dict[str, Item] = field(default_factory=dict)

    def check(self, item: str, ours: Arrays, theirs: Arrays, tolerance: float) -> None:
        """Each array's largest difference, over its largest absolute value, is within tolerance."""
        assert ours.keys() == theirs.keys()
        found = {name: difference(ours[name], theirs[name]) for name in theirs}
        entry = self.items.setdefault(item, Item(f"{tolerance:.0e}"))
        entry.cases += 1
        entry.worst = max(entry.worst, *found.values())
        too_far = {name: value for name, value in found.items() if not value <= tolerance}
        assert not too_far, f"{item}: beyond {tolerance}: {too_far}"

    def check_together(
        self, item: str, ours: Arrays, theirs: Arrays, exact: Arrays, tolerance: float
    ) -> None:
        """All arrays as one vector, from PyTorch's in float64: Euclidean distance, relative.

        How far PyTorch's own float32 lies from them is noted beside it.
        """
        assert ours.keys() == theirs.keys() == exact.keys()
        own = distance(ours, exact)
        entry = self.items.setdefault(item, Item(f"{tolerance:.0e}", torch_rounding=0.0))
        entry.cases += 1
        entry.worst = max(entry.worst, own)
        entry.torch_rounding = max(entry.torch_rounding or 0.0, distance(theirs, exact))
        assert own <= tolerance, f"{item}: {own} is beyond {tolerance}"

    def table(self) -> str:
        lines = [
            "| item | largest difference | tolerance | PyTorch's own rounding | cases |",
            "|---|---|---|---|---|",
        ]
        for name, item in self.items.items():
            rounding = "" if item.torch_rounding is None else f"{item.torch_rounding:.1e}"
            lines.append(
                f"| {name} | {item.worst:.1e} | {item.tolerance} | {rounding} | {item.cases} |"
            )
        return "\n".join(lines) + "\n"


def difference(ours: object, theirs: object) -> float:
    one, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert one.shape == other.shape
    scale = np.abs(other).max()
    return float(np.abs(one - other).max() / (scale if scale > 0 else 1))


def distance(ours: Arrays, theirs: Arrays) -> float:
    apart, scale = 0.0, 0.0
    for name in theirs:
        one, other = (np.asarray(side[name], np.float64) for side in (ours, theirs))
        assert one.shape == other.shape
        apart += np.square(one - other).sum()
        scale += np.square(other).sum()
    return float(np.sqrt(apart / scale))
