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
    weights: dict[str, float] = field(default_factory=dict)
    """Of the sums whose steps do not all weigh the same: what they weigh together."""
    skipped: int = 0
    """Steps of the run from which nothing was learnt, since something was not finite."""

    def count(self, values: Mapping[str, float], weights: Mapping[str, float]) -> None:
        """Adds what a step measured; `weights` of the values that do not weigh 1."""
        self.counted += 1
        self.weights = {name: self.weights.get(name, 0.0) + w for name, w in weights.items()}
        self.sums = {
            name: self.sums.get(name, 0.0) + value * weights.get(name, 1.0)
            for name, value in values.items()
        }

    def means(self) -> dict[str, float]:
        """Of the present epoch, without what nothing weighs; empty if no step was counted."""
        weights = {name: self.weights.get(name, self.counted) for name in self.sums}
        return {name: self.sums[name] / w for name, w in weights.items() if w > 0}

    def next_epoch(self) -> None:
        """The present epoch is finished."""
        self.epoch, self.counted, self.sums, self.weights = self.epoch + 1, 0, {}, {}
