"""A linear probe: how much a weighted sum of channels tells about a target, by least squares.

Rows are streamed: what the fit needs of them are sums, in float64, however many there are.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float, Num

RIDGES = 10.0 ** np.arange(-6, 3)
"""Those tried: what is added to the diagonal of the channels' correlations."""
_FLAT = 1e-6
"""A channel whose deviation is a smaller share of its mean than this is constant: float32 has no
more digits."""

Rows = Num[Any, "n c"]
Targets = Num[Any, " n"]


class Sums:
    """Sums of products of channels, target and 1 over any number of rows.

    Args:
      about: a value near each channel's mean, so that the sums of large values do not cancel.
    """

    def __init__(self, about: Float[np.ndarray, " c"]) -> None:
        self.about = np.asarray(about, np.float64)
        self.products = np.zeros((len(self.about) + 2,) * 2)

    def add(self, rows: Rows, targets: Targets) -> None:
        columns = np.column_stack([rows - self.about, targets, np.ones(len(rows))])
        self.products += columns.T @ columns

    def __add__(self, other: Self) -> "Sums":
        """Both, about the same values."""
        total = Sums(self.about)
        total.products = self.products + other.products
        return total

    @property
    def finite(self) -> bool:
        """Whether all rows were."""
        return bool(np.isfinite(self.products).all())


class Probe(NamedTuple):
    """`rows @ weights + bias`."""

    weights: Float[np.ndarray, " c"]
    """0 for a channel that is constant."""
    bias: float
    ridge: float
    """The one of `RIDGES` that it was fitted with."""
    dead: int
    """How many channels are constant."""

    def __call__(self, rows: Rows) -> Float[np.ndarray, " n"]:
        return rows @ self.weights + self.bias


def fit(sums: Sums, held_out: Sums) -> Probe:
    """The probe of all rows, with the ridge that, fitted to `sums`, errs least on `held_out`.

    Channels are standardised first, so the ridge weighs them alike; the bias is free of it.
    """
    residuals, _ = _solve(sums, RIDGES)
    errors = [residual @ held_out.products @ residual for residual in residuals]
    ridge = float(RIDGES[np.argmin(errors)])
    [residual], dead = _solve(sums + held_out, np.asarray([ridge]))
    weights, bias = residual[:-2], residual[-1]
    return Probe(weights, float(bias - weights @ sums.about), ridge, dead)


def _solve(
    sums: Sums, ridges: Float[np.ndarray, " r"]
) -> tuple[Float[np.ndarray, "r columns"], int]:
    """For each ridge, (weights, -1, bias), whose product with a row is its error; dead channels."""
    *totals, count = sums.products[-1]
    mean = np.asarray(totals) / count
    covariance = sums.products[:-1, :-1] / count - np.outer(mean, mean)
    deviation = np.sqrt(covariance.diagonal()[:-1].clip(0))
    alive = deviation > _FLAT * np.abs(mean[:-1] + sums.about)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=alive)
    correlation = covariance[:-1, :-1] * np.outer(scale, scale)

    values, vectors = np.linalg.eigh(correlation)
    along = vectors.T @ (covariance[:-1, -1] * scale)
    weights = scale * (along / (values.clip(0) + ridges[:, None]) @ vectors.T)
    bias = mean[-1] - weights @ mean[:-1]
    return np.column_stack([weights, np.full(len(ridges), -1), bias]), int((~alive).sum())


class Tally:
    """How well predictions agree with shares in [0, 1], over any number of them."""

    def __init__(self) -> None:
        self._sums = np.zeros(4)  # 1, share, share squared, error squared
        self._areas = np.zeros(2, np.int64)

    def add(self, predicted: Targets, shares: Targets) -> None:
        found, there = predicted > 0.5, shares > 0.5
        self._areas += (found & there).sum(), (found | there).sum()
        error = np.square(predicted - shares, dtype=np.float64).sum()
        squared = np.square(shares, dtype=np.float64).sum()
        self._sums += len(shares), shares.sum(dtype=np.float64), squared, error

    @property
    def iou(self) -> float:
        """Intersection over union of what is above one half; 0 if nothing is: it proves nothing."""
        intersection, union = self._areas.tolist()
        return intersection / union if union else 0.0

    @property
    def r2(self) -> float:
        """The share of the variance that is explained; negative where the mean would err less."""
        count, total, squared, error = self._sums.tolist()
        variation = squared - total * total / count
        return 1 - error / variation if variation > 0 else 0.0
