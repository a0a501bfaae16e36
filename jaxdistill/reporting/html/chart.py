"""The layout of a line chart: scale, ticks and points, for `templates/chart.svg`."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 320, 160
LEFT, RIGHT, TOP, BOTTOM = 50, 312, 8, 138
"""Edges of the plot area."""
_FEW = 12  # with so few epochs, every value has a dot
_TICKS = 4
_TINY, _HUGE = 1e-200, 1e200  # beyond these, the arithmetic of an axis leaves the range of floats
_LEAST = 0.01  # the least range of an axis, as a share of the largest value

Point = tuple[float, float]


class Series(NamedTuple):
    """A curve before its layout."""

    style: str
    """Its class in the style sheet."""
    values: Sequence[float | None]
    """One value per epoch; None, values that are not finite and values beyond 1e200 are gaps."""


class Curve(NamedTuple):
    """A curve in the coordinates of the chart."""

    style: str
    lines: list[list[Point]]
    """Polylines between gaps."""
    dots: list[Point]


class Tick(NamedTuple):
    """A horizontal grid line and its label."""

    y: float
    label: str


class Chart(NamedTuple):
    """All that a chart shows, in its own coordinates."""

    logarithmic: bool
    ticks: list[Tick]
    epochs: Sequence[int]
    curves: list[Curve]


class _Scale(NamedTuple):
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    """Values and labels; the values are logarithms on a logarithmic scale."""

    def y(self, value: float) -> float:
        return BOTTOM - (value - self.low) / (self.high - self.low) * (BOTTOM - TOP)


def layout(epochs: Sequence[int], series: Sequence[Series], *, logarithmic: bool = False) -> Chart:
    """Lays out a chart.

    Args:
      epochs: The epochs of the values of each series, in ascending order.
      series: The curves.
      logarithmic: Whether the vertical axis is logarithmic; values that are not positive are gaps.

    Returns:
      The chart in its own coordinates.
    """
    curves = [[_on_scale(value, logarithmic) for value in one.values] for one in series]
    known = [value for curve in curves for value in curve if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    scale = (_logarithmic if logarithmic else _linear)(low, high)
    xs = _xs(epochs)
    laid_out = []
    for one, values in zip(series, curves, strict=True):
        points = [
            None if value is None else (x, scale.y(value))
            for x, value in zip(xs, values, strict=True)
        ]
        laid_out.append(_curve(one.style, points))
    ticks = [Tick(scale.y(value), label) for value, label in scale.ticks]
    return Chart(logarithmic, ticks, epochs, laid_out)


def _on_scale(value: float | None, logarithmic: bool) -> float | None:
    if value is None or not abs(value) <= _HUGE or (logarithmic and value < _TINY):
        return None
    if logarithmic:
        return math.log10(value)
    return value if abs(value) >= _TINY else 0.0


def _linear(low: float, high: float) -> _Scale:
    """Returns a scale that begins and ends at round numbers."""
    largest = max(abs(low), abs(high))
    # A constant needs some room around it, and small fluctuations should look small.
    if high - low < _LEAST * largest or largest == 0:
        room = largest / 2 if high == low else _LEAST * largest
        low, high = low - room, high + (room or 1.0)
    rough = (high - low) / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = max(0, math.ceil(-math.log10(step) - 1e-9))
    ticks = [(n * step, _label(n * step, decimals)) for n in range(first, last + 1)]
    return _Scale(ticks[0][0], ticks[-1][0], ticks)


def _logarithmic(low: float, high: float) -> _Scale:
    """Returns a logarithmic scale with ticks at 1, 2, 3, ..., or 1, 2, 5, 10, ..., or 1, 10, ..."""
    margin = max(0.05 * (high - low), 0.02)
    low, high = low - margin, high + margin
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in (range(1, 10), (1, 2, 5), (1,)):
        values = [(factor, power) for power in powers for factor in factors]
        inside = [(f, p) for f, p in values if low <= math.log10(f) + p <= high]
        if len(inside) <= _TICKS + 1:
            break
    if len(inside) < 2:  # too narrow for round numbers: label both ends
        return _Scale(low, high, [(end, f"{10**end:.3g}") for end in (low, high)])
    every = math.ceil(len(inside) / (_TICKS + 1))
    ticks = [(math.log10(f) + p, _label(f * 10.0**p, max(0, -p))) for f, p in inside[::every]]
    return _Scale(low, high, ticks)


def _label(value: float, decimals: int) -> str:
    if value == 0:
        return "0"
    if decimals <= 4 and abs(value) < 1e6:
        return f"{value:.{decimals}f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').removesuffix('.')}e{int(exponent)}"


def _xs(epochs: Sequence[int]) -> list[float]:
    if len(epochs) < 2:
        return [RIGHT for _ in epochs]
    first, last = epochs[0], epochs[-1]
    return [LEFT + (epoch - first) / (last - first) * (RIGHT - LEFT) for epoch in epochs]


def _curve(style: str, points: Sequence[Point | None]) -> Curve:
    pieces = list(_pieces(points))
    dots = [point for piece in pieces if len(piece) == 1 or len(points) <= _FEW for point in piece]
    return Curve(style, [piece for piece in pieces if len(piece) > 1], dots)


def _pieces(points: Sequence[Point | None]) -> Iterator[list[Point]]:
    """Yields the sequences of points between gaps."""
    piece: list[Point] = []
    for point in [*points, None]:
        if point is not None:
            piece.append(point)
        elif piece:
            yield piece
            piece = []
