"""How far a run has come: plain numbers, which a checkpoint's JSON keeps exactly."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Where a run stands between two steps."""

    epoch: int = 0
    """Epochs that are finished, their validation included."""
    phase: int = 0
    """Stages of the encoder that have joined the training."""
    step: int = 0
    """Steps since the start of the run."""
    counted: int = 0
    """Steps of the present epoch whose measures are in `sums`."""
    sums: dict[str, float] = field(default_factory=dict)
    """What the steps of the present epoch measured, added up in their order."""
    skipped: int = 0
    """Steps of the run from which nothing was learnt, since something was not finite."""

    def count(self, values: Mapping[str, float]) -> None:
        """Adds what a step measured."""
        self.counted += 1
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in values.items()}

    def means(self) -> dict[str, float]:
        """Of the present epoch; empty if none of its steps was counted."""
        return {name: value / self.counted for name, value in self.sums.items()}

    def next_epoch(self) -> None:
        """The present epoch is finished."""
        self.epoch, self.counted, self.sums = self.epoch + 1, 0, {}
