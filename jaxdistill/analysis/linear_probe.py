"""Linear probes: how well a weighted sum of channels predicts a target, by ridge regression.

Rows are streamed: the fit needs no more than sums over them, in float64, however many there are.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float, Num

RIDGES = 10.0 ** np.arange(-6, 3)
"""Candidates for the ridge, which is added to the diagonal of the channels' correlation matrix."""
_CONSTANT = 1e-6
"""A channel whose standard deviation is a smaller share of its mean than this is constant: float32
has no more digits."""

Rows = Num[Any, "n c"]
"""One row per position, one column per channel."""
Targets = Num[Any, " n"]
"""The value to predict for each row."""


class Moments:
    """Sums of the products of channels, target and 1 over any number of rows.

    Args:
      shift: A value near each channel's mean, subtracted from the rows, so that sums of large
        values do not cancel.
    """

    def __init__(self, shift: Float[np.ndarray, " c"]) -> None:
        self.shift = np.asarray(shift, np.float64)
        self.products = np.zeros((len(self.shift) + 2,) * 2)
        """Sum of the outer products of (row - shift, target, 1)."""

    def add(self, rows: Rows, targets: Targets) -> None:
        """Adds rows.

        Args:
          rows: Channels, (n, c).
          targets: The target of each row, (n,).
        """
        columns = np.column_stack([rows - self.shift, targets, np.ones(len(rows))])
        self.products += columns.T @ columns

    def __add__(self, other: Self) -> "Moments":
        """Returns the moments of the rows of both, which must have the same shift."""
        total = Moments(self.shift)
        total.products = self.products + other.products
        return total

    @property
    def finite(self) -> bool:
        """Whether every value of every row was finite."""
        return bool(np.isfinite(self.products).all())


class LinearProbe(NamedTuple):
    """A linear function of the channels: `rows @ weights + bias`."""

    weights: Float[np.ndarray, " c"]
    """0 for a channel that is constant."""
    bias: float
    ridge: float
    """The one of `RIDGES` that it was fitted with."""
    constant_channels: int
    """How many channels are constant."""

    def __call__(self, rows: Rows) -> Float[np.ndarray, " n"]:
        """Returns the prediction for each row."""
        return rows @ self.weights + self.bias


def fit_probe(fitted: Moments, held_out: Moments) -> LinearProbe:
    """Fits a probe to all rows.

    The ridge is the one that, fitted to `fitted`, has the smallest squared error on `held_out`.
    Channels are standardised first, so that the ridge weighs them alike; it does not apply to the
    bias.

    Args:
      fitted: Moments of most rows.
      held_out: Moments of the other rows, with the same shift.
    """
    residuals, _ = _solve(fitted, RIDGES)
    errors = [residual @ held_out.products @ residual for residual in residuals]
    ridge = float(RIDGES[np.argmin(errors)])
    [residual], constant = _solve(fitted + held_out, np.asarray([ridge]))
    weights, bias = residual[:-2], residual[-1]
    return LinearProbe(weights, float(bias - weights @ fitted.shift), ridge, constant)


def _solve(
    moments: Moments, ridges: Float[np.ndarray, " r"]
) -> tuple[Float[np.ndarray, "r columns"], int]:
    """Returns (weights, -1, bias) per ridge and the number of constant channels.

    The product of (weights, -1, bias) with (row, target, 1) is the error of that row.
    """
    *totals, count = moments.products[-1]
    mean = np.asarray(totals) / count
    covariance = moments.products[:-1, :-1] / count - np.outer(mean, mean)
    deviation = np.sqrt(covariance.diagonal()[:-1].clip(0))
    varying = deviation > _CONSTANT * np.abs(mean[:-1] + moments.shift)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=varying)
    correlation = covariance[:-1, :-1] * np.outer(scale, scale)

    values, vectors = np.linalg.eigh(correlation)
    along = vectors.T @ (covariance[:-1, -1] * scale)
    weights = scale * (along / (values.clip(0) + ridges[:, None]) @ vectors.T)
    bias = mean[-1] - weights @ mean[:-1]
    return np.column_stack([weights, np.full(len(ridges), -1), bias]), int((~varying).sum())


class ProbeScores:
    """IoU and R² of predictions of shares in [0, 1], over any number of them."""

    def __init__(self) -> None:
        self._sums = np.zeros(4)  # 1, share, share squared, error squared
        self._areas = np.zeros(2, np.int64)  # intersection, union

    def add(self, predicted: Targets, shares: Targets) -> None:
        """Adds predictions.

        Args:
          predicted: Predicted shares, (n,).
          shares: True shares in [0, 1], (n,).
        """
        found, there = predicted > 0.5, shares > 0.5
        self._areas += (found & there).sum(), (found | there).sum()
        error = np.square(predicted - shares, dtype=np.float64).sum()
        squared = np.square(shares, dtype=np.float64).sum()
        self._sums += len(shares), shares.sum(dtype=np.float64), squared, error

    @property
    def iou(self) -> float:
        """Intersection over union of the shares above one half; 0 where the union is empty."""
        intersection, union = self._areas.tolist()
        return intersection / union if union else 0.0

    @property
    def r2(self) -> float:
        """Coefficient of determination; negative where predicting the mean would err less."""
        count, total, squared, error = self._sums.tolist()
        variation = squared - total * total / count
        return 1 - error / variation if variation > 0 else 0.0
