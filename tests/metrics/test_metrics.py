"""Metrics against NumPy, pixel by pixel."""

from collections.abc import Callable

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxdistill.metrics import segmentation

MASKS = hnp.arrays(np.bool_, (2, 3, 4, 1))


def counted_iou(a: np.ndarray, b: np.ndarray) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


@given(MASKS, MASKS)
def test_mean_iou_and_agreement(a: np.ndarray, b: np.ndarray) -> None:
    measured = segmentation.mean_iou(jnp.asarray(a), jnp.asarray(b))
    equal = segmentation.agreement(jnp.asarray(a), jnp.asarray(b))
    for i in range(2):
        expected = (counted_iou(a[i], b[i]) + counted_iou(~a[i], ~b[i])) / 2
        assert measured[i] == pytest.approx(expected, abs=1e-6)
        assert equal[i] == pytest.approx(np.mean(a[i] == b[i]), abs=1e-6)


@given(st.floats(-30, 30, width=32).filter(lambda logit: logit == 0 or abs(logit) > 1e-6))
def test_a_person_is_predicted_where_the_probability_is_above_one_half(logit: float) -> None:
    probability = 1 / (1 + np.exp(-np.float64(logit)))
    assert bool(segmentation.predict(jnp.float32(logit))) == (probability > 0.5)


def ratio(above: int, below: int, a: np.ndarray, b: np.ndarray) -> float:
    """Returns a ratio, by the rule for empty masks in the docstring of the module."""
    if not a.any() and not b.any():
        return 1.0
    return above / below if below else 0.0


def counted(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    true = int(np.count_nonzero(a & b))
    return {
        "iou": ratio(true, np.count_nonzero(a | b), a, b),
        "dice": ratio(2 * true, np.count_nonzero(a) + np.count_nonzero(b), a, b),
        "precision": ratio(true, np.count_nonzero(a), a, b),
        "recall": ratio(true, np.count_nonzero(b), a, b),
    }


@given(MASKS, MASKS)
def test_ratios_of_areas(a: np.ndarray, b: np.ndarray) -> None:
    for name in ("iou", "dice", "precision", "recall"):
        measured = getattr(segmentation, name)(jnp.asarray(a), jnp.asarray(b))
        for i in range(2):
            assert measured[i] == pytest.approx(counted(a[i], b[i])[name], abs=1e-6), name


@given(MASKS, MASKS)
def test_equal_masks_score_one_and_disjoint_masks_score_zero(a: np.ndarray, b: np.ndarray) -> None:
    measures: list[Callable] = [
        segmentation.iou,
        segmentation.mean_iou,
        segmentation.dice,
        segmentation.precision,
        segmentation.recall,
        segmentation.boundary_iou,
    ]
    for measure in measures:
        assert np.all(measure(jnp.asarray(a), jnp.asarray(a)) == 1)
        values = measure(jnp.asarray(a), jnp.asarray(b))
        assert np.all((values >= 0) & (values <= 1))
    apart, person = b & ~a, a.any((1, 2, 3))
    for measure in (
        segmentation.iou,
        segmentation.dice,
        segmentation.precision,
        segmentation.recall,
    ):
        assert np.all(measure(jnp.asarray(a), jnp.asarray(apart))[person] == 0)


def reference_boundary(mask: np.ndarray) -> np.ndarray:
    """Returns the mask without its erosion by a 3x3 square, as in the paper."""
    height, width = mask.shape
    times = max(1, round(0.02 * np.sqrt(height**2 + width**2)))
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=times)
    return mask & (eroded[1:-1, 1:-1] == 0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (12, 7), (64, 96), (200, 180)])
def test_boundary_iou_against_opencv(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    noise = rng.normal(size=(6, height, width)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(one, (0, 0), 1 + height / 20) for one in noise])
    a, b = smooth > 0, np.roll(smooth, 1 + height // 50, axis=2) > -0.01
    boundaries = segmentation.boundary(jnp.asarray(a[..., None]))[..., 0]
    measured = segmentation.boundary_iou(jnp.asarray(a[..., None]), jnp.asarray(b[..., None]))
    for i in range(len(a)):
        one, other = reference_boundary(a[i]), reference_boundary(b[i])
        assert np.array_equal(boundaries[i], one)
        assert measured[i] == pytest.approx(counted(one, other)["iou"], abs=1e-6)


def test_boundary_iou_detects_an_outline_to_which_iou_is_insensitive() -> None:
    mask = np.zeros((1, 200, 200, 1), bool)
    mask[:, 20:180, 20:180] = True
    grown = np.zeros_like(mask)
    grown[:, 17:183, 17:183] = True
    assert segmentation.iou(jnp.asarray(grown), jnp.asarray(mask))[0] > 0.9
    assert segmentation.boundary_iou(jnp.asarray(grown), jnp.asarray(mask))[0] < 0.5


@given(MASKS, MASKS)
def test_pooled_iou_equals_the_iou_of_all_images_side_by_side(a: np.ndarray, b: np.ndarray) -> None:
    areas = np.asarray(segmentation.areas(jnp.asarray(a), jnp.asarray(b)))
    background, person = segmentation.pooled_iou(areas)
    assert background == pytest.approx(counted_iou(~a, ~b))
    assert person == pytest.approx(counted_iou(a, b))


def test_pooled_iou_counts_beyond_32_bits() -> None:
    areas = np.full((3, 2, 2), 2**31 - 1, np.int32)
    assert segmentation.pooled_iou(areas).tolist() == [1, 1]


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (60, 80), (480, 641)])
def test_boundaries_are_equal_on_the_host_and_in_jax(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
    mask = np.stack([cv2.GaussianBlur(one, (0, 0), 5) > 0 for one in noise])[..., None]
    host = segmentation.boundary(mask)
    assert isinstance(host, np.ndarray)
    assert np.array_equal(host, segmentation.boundary(jnp.asarray(mask)))
