"""Charts of the HTML report: points lie where the ticks put them."""

import math

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from jaxdistill.reporting.html import chart

Values = st.lists(
    st.none() | st.floats(-1e30, 1e30, allow_subnormal=False) | st.just(math.nan),
    min_size=1,
    max_size=30,
)


def drawn(laid_out: chart.Chart) -> tuple[list[tuple[float, str]], list[tuple[float, float]]]:
    """Returns the ticks (y, label) and points (x, y) of a chart with one curve."""
    [curve] = laid_out.curves
    points = {*curve.dots, *(point for line in curve.lines for point in line)}
    return [tuple(tick) for tick in laid_out.ticks], sorted(points)


@given(Values)
@example([0.92550, 0.92551])
@example([99.9, 100.1, 99.0])
@example([0.0])
@example([-3.0, -3.0])
@example([1e-3, 1e-6])
def test_points_lie_where_the_ticks_put_them(values):
    finite = [v for v in values if v is not None and math.isfinite(v)]
    laid_out = chart.layout(range(1, len(values) + 1), [chart.Series("train", values)])
    ticks, points = drawn(laid_out)
    assert len(points) == len(finite)
    labels = [float(label) for _, label in ticks]
    assert labels == sorted(set(labels))
    assert 2 <= len(labels) <= 6
    assert all(len(label.removeprefix("-")) <= 8 for _, label in ticks)
    read = np.interp([-y for _, y in points], [-y for y, _ in ticks], labels)
    np.testing.assert_allclose(read, finite, atol=0.01 * (labels[-1] - labels[0]), rtol=5e-3)
    places = [x for x, _ in points]
    assert places == sorted(places)


@given(st.lists(st.floats(1e-12, 1e38), min_size=1, max_size=30))
@example([1.3])
@example([0.11, 0.12])
@example([0.2, 0.5])
@example([1e-9, 1e9])
def test_a_logarithmic_scale_shows_factors_as_distances(values):
    series = [chart.Series("train", values)]
    laid_out = chart.layout(range(len(values)), series, logarithmic=True)
    ticks, points = drawn(laid_out)
    assert 2 <= len(ticks) <= 5
    (low_y, low), (high_y, high) = ticks[0], ticks[-1]
    per_decade = (low_y - high_y) / math.log10(float(high) / float(low))
    expected = [low_y - per_decade * math.log10(value / float(low)) for value in values]
    # A label of the scale's end has three digits.
    np.testing.assert_allclose([y for _, y in points], expected, atol=0.2 + per_decade * 0.004)


def test_values_that_are_not_positive_are_gaps_on_a_logarithmic_scale():
    series = [chart.Series("train", [10.0, 0.0, -1.0, 1.0])]
    _, points = drawn(chart.layout([1, 2, 3, 4], series, logarithmic=True))
    assert [x for x, _ in points] == [50.0, 312.0]


def test_a_gap_breaks_the_curve():
    values = [1.0, 2.0, None, 3.0, 4.0]
    laid_out = chart.layout([1, 2, 3, 4, 5], [chart.Series("train", values)])
    assert [len(line) for line in laid_out.curves[0].lines] == [2, 2]
