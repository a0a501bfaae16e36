"""The position of a run and the running means of its epoch: plain numbers, exact in JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Where a run stands between two steps."""

    epoch: int = 0
    """Epochs that are finished, including their validation."""
    phase: int = 0
    """Stages of the encoder that have joined the training."""
    step: int = 0
    """Steps since the start of the run."""
    counted: int = 0
    """Steps of the present epoch whose metrics are in `sums`."""
    sums: dict[str, float] = field(default_factory=dict)
    """Metrics of the present epoch's steps, added up in their order."""
    weights: dict[str, float] = field(default_factory=dict)
    """Total weight of each metric whose steps are weighted, such as by labelled images."""
    skipped: int = 0
    """Steps of the run that changed nothing, since a value was not finite."""

    best_score: float | None = None
    """Score of the last epoch that was better than those before; None before the first one."""
    best_epoch: int = 0
    """That epoch, counted from 1."""

    def count(self, values: Mapping[str, float], weights: Mapping[str, float]) -> None:
        """Adds the metrics of a step.

        Args:
          values: The metrics.
          weights: Weights of those metrics whose weight is not 1.
        """
        self.counted += 1
        self.weights = {name: self.weights.get(name, 0.0) + w for name, w in weights.items()}
        self.sums = {
            name: self.sums.get(name, 0.0) + value * weights.get(name, 1.0)
            for name, value in values.items()
        }

    def means(self) -> dict[str, float]:
        """Returns the weighted means of the present epoch, but for metrics of weight 0."""
        weights = {name: self.weights.get(name, self.counted) for name in self.sums}
        return {name: self.sums[name] / w for name, w in weights.items() if w > 0}

    def next_epoch(self, score: float, margin: float = 0.0) -> None:
        """Marks the present epoch as finished.

        Args:
          score: Its score; the higher, the better.
          margin: By how much it must be better than the best one so far to be counted as better.
        """
        self.epoch, self.counted, self.sums, self.weights = self.epoch + 1, 0, {}, {}
        if math.isfinite(score) and (self.best_score is None or score > self.best_score + margin):
            self.best_score, self.best_epoch = score, self.epoch
