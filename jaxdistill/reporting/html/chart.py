"""Line charts as SVG, complete without a script: curves over epochs, ticks, and a marked epoch.

The script moves the line of class `at` within the rectangle of class `plot`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxdistill.reporting.html.form import text

_WIDTH, _HEIGHT = 320, 160
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 312, 8, 138
_FEW = 12  # so few epochs show as dots, too
_TICKS = 4
_TINY, _HUGE = 1e-200, 1e200  # beyond, an axis' arithmetic would leave what a float can hold
_LEAST = 0.01  # of the largest value: the least that an axis spans


class Series(NamedTuple):
    """A curve: its look is a class of the style sheet; None and what is not finite (or
    beyond 1e200) are gaps."""

    look: str
    values: Sequence[float | None]


class _Scale(NamedTuple):
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    """On the scale, so logarithms on a logarithmic one; with their labels."""

    def y(self, value: float) -> float:
        return _BOTTOM - (value - self.low) / (self.high - self.low) * (_BOTTOM - _TOP)


def draw(
    epochs: Sequence[int], series: Sequence[Series], label: str, *, logarithmic: bool = False
) -> str:
    """A chart as an `<svg>` element. On a logarithmic scale, what is not positive is a gap.

    Args:
      epochs: where the values of each series are, in order.
      label: what a screen reader says of it.
    """
    curves = [[_on_scale(value, logarithmic) for value in s.values] for s in series]
    known = [value for curve in curves for value in curve if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    scale = (_logarithmic if logarithmic else _linear)(low, high)
    kind = "logarithmic" if logarithmic else "linear"
    parts = [
        f'<svg class="{kind}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{text(label)}">',
        f'<rect class="plot" x="{_LEFT}" y="{_TOP}" '
        f'width="{_RIGHT - _LEFT}" height="{_BOTTOM - _TOP}"/>',
        *_grid(scale),
        *_epoch_axis(epochs),
        f'<line class="at" x1="{_RIGHT}" x2="{_RIGHT}" y1="{_TOP}" y2="{_BOTTOM}"/>',
    ]
    places = _places(epochs)
    for one, curve in zip(series, curves, strict=True):
        points = [
            None if value is None else (x, scale.y(value))
            for x, value in zip(places, curve, strict=True)
        ]
        parts += _curve(one.look, points)
    return "".join([*parts, "</svg>"])


def _on_scale(value: float | None, logarithmic: bool) -> float | None:
    if value is None or not abs(value) <= _HUGE or (logarithmic and value < _TINY):
        return None
    if logarithmic:
        return math.log10(value)
    return value if abs(value) >= _TINY else 0.0


def _linear(low: float, high: float) -> _Scale:
    """A scale that begins and ends at round numbers."""
    largest = max(abs(low), abs(high))
    # A constant gets some room, and small fluctuations shall look small.
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
    """A scale of logarithms, with ticks at 1, 2, 3, ... or 1, 2, 5, 10, ... or powers of ten."""
    margin = max(0.05 * (high - low), 0.02)
    low, high = low - margin, high + margin
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in (range(1, 10), (1, 2, 5), (1,)):
        values = [(factor, power) for power in powers for factor in factors]
        inside = [(f, p) for f, p in values if low <= math.log10(f) + p <= high]
        if len(inside) <= _TICKS + 1:
            break
    if len(inside) < 2:  # too narrow for round numbers: its ends say more
        return _Scale(low, high, [(place, f"{10**place:.3g}") for place in (low, high)])
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


def _grid(scale: _Scale) -> Iterator[str]:
    for place, label in scale.ticks:
        y = scale.y(place)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>'


def _epoch_axis(epochs: Sequence[int]) -> Iterator[str]:
    y = _HEIGHT - 6
    if len(epochs) > 1:
        yield f'<text x="{_LEFT}" y="{y}">{epochs[0]}</text>'
    yield f'<text x="{(_LEFT + _RIGHT) / 2}" y="{y}" text-anchor="middle">epoch</text>'
    if epochs:
        yield f'<text x="{_RIGHT}" y="{y}" text-anchor="end">{epochs[-1]}</text>'


def _places(epochs: Sequence[int]) -> list[float]:
    if len(epochs) < 2:
        return [_RIGHT for _ in epochs]
    first, last = epochs[0], epochs[-1]
    return [_LEFT + (e - first) / (last - first) * (_RIGHT - _LEFT) for e in epochs]


def _curve(look: str, points: Sequence[tuple[float, float] | None]) -> Iterator[str]:
    for piece in _pieces(points):
        if len(piece) > 1:
            text = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
            yield f'<polyline class="{look}" points="{text}"/>'
        if len(piece) == 1 or len(points) <= _FEW:
            for x, y in piece:
                yield f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>'


def _pieces(points: Sequence[tuple[float, float] | None]) -> Iterator[list[tuple[float, float]]]:
    """The runs of points between gaps."""
    piece: list[tuple[float, float]] = []
    for point in [*points, None]:
        if point is not None:
            piece.append(point)
        elif piece:
            yield piece
            piece = []
