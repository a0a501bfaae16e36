"""Schedules at their ends and in their middle."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill import config
from jaxdistill.training import schedules


@pytest.mark.parametrize(
    ("kind", "middle"),
    [("linear", 2.0), ("cosine", 2.0), ("exponential", math.sqrt(3.0))],
)
def test_temperature_goes_from_initial_to_final(kind: str, middle: float) -> None:
    settings = config.Temperature(initial=3.0, final=1.0, schedule=kind)  # type: ignore[arg-type]
    assert schedules.temperature(settings, 0, 11) == pytest.approx(3.0)
    assert schedules.temperature(settings, 5, 11) == pytest.approx(middle)
    assert schedules.temperature(settings, 10, 11) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
def test_a_single_epoch_has_the_final_temperature(kind: str) -> None:
    settings = config.Temperature(initial=3.0, final=1.5, schedule=kind)  # type: ignore[arg-type]
    assert schedules.temperature(settings, 0, 1) == pytest.approx(1.5)


@given(
    st.sampled_from(["linear", "cosine", "exponential"]),
    st.floats(0.5, 20),
    st.floats(0.5, 20),
    st.integers(2, 60),
)
def test_temperature_is_monotonous(kind: str, initial: float, final: float, epochs: int) -> None:
    settings = config.Temperature(initial=initial, final=final, schedule=kind)  # type: ignore[arg-type]
    values = [float(schedules.temperature(settings, e, epochs)) for e in range(epochs)]
    falling = sorted(values, reverse=final < initial)
    assert values == pytest.approx(falling, rel=1e-5)


def test_learning_rate_is_a_cosine_over_the_epochs() -> None:
    settings = config.Training(epochs=50)
    assert schedules.learning_rate(settings, 0) == pytest.approx(1e-4)
    assert schedules.learning_rate(settings, 25) == pytest.approx((1e-4 + 1e-6) / 2)
    assert schedules.learning_rate(settings, 50) == pytest.approx(1e-6, rel=1e-3)
