"""Temperature schedules at their ends and in their middle."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill import config
from jaxdistill.losses.temperature import temperature_at


@pytest.mark.parametrize(
    ("kind", "middle"),
    [("linear", 2.0), ("cosine", 2.0), ("exponential", math.sqrt(3.0))],
)
def test_temperature_goes_from_initial_to_final(kind: str, middle: float) -> None:
    settings = config.Temperature(initial=3.0, final=1.0, schedule=kind)  # type: ignore[arg-type]
    assert temperature_at(settings, 0, 11) == pytest.approx(3.0)
    assert temperature_at(settings, 5, 11) == pytest.approx(middle)
    assert temperature_at(settings, 10, 11) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
def test_a_single_epoch_has_the_final_temperature(kind: str) -> None:
    settings = config.Temperature(initial=3.0, final=1.5, schedule=kind)  # type: ignore[arg-type]
    assert temperature_at(settings, 0, 1) == pytest.approx(1.5)


@given(
    st.sampled_from(["linear", "cosine", "exponential"]),
    st.floats(0.5, 20),
    st.floats(0.5, 20),
    st.integers(2, 60),
)
def test_temperature_is_monotonous(kind: str, initial: float, final: float, epochs: int) -> None:
    settings = config.Temperature(initial=initial, final=final, schedule=kind)  # type: ignore[arg-type]
    values = [float(temperature_at(settings, e, epochs)) for e in range(epochs)]
    falling = sorted(values, reverse=final < initial)
    assert values == pytest.approx(falling, rel=1e-5)


def test_a_plain_number_is_constant() -> None:
    assert [float(temperature_at(2.5, epoch, 3)) for epoch in range(3)] == [2.5, 2.5, 2.5]
