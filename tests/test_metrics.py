"""Metrics against NumPy, pixel by pixel."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxdistill import metrics

MASKS = hnp.arrays(np.bool_, (2, 3, 4, 1))


def counted_iou(a: np.ndarray, b: np.ndarray) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


@given(MASKS, MASKS)
def test_mean_iou_and_agreement(a: np.ndarray, b: np.ndarray) -> None:
    measured = metrics.mean_iou(jnp.asarray(a), jnp.asarray(b))
    equal = metrics.agreement(jnp.asarray(a), jnp.asarray(b))
    for i in range(2):
        expected = (counted_iou(a[i], b[i]) + counted_iou(~a[i], ~b[i])) / 2
        assert measured[i] == pytest.approx(expected, abs=1e-6)
        assert equal[i] == pytest.approx(np.mean(a[i] == b[i]), abs=1e-6)


@given(st.floats(-30, 30, width=32).filter(lambda logit: logit == 0 or abs(logit) > 1e-6))
def test_a_person_is_where_the_probability_is_above_one_half(logit: float) -> None:
    probability = 1 / (1 + np.exp(-np.float64(logit)))
    assert bool(metrics.predict(jnp.float32(logit))) == (probability > 0.5)
