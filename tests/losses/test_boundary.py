"""Losses that weigh the pixels near an outline, against NumPy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill import config
from jaxdistill.losses import Boundary, LossInputs, TeacherBoundary, from_config
from jaxdistill.losses.boundary import boundary_bce, morphological_gradient
from jaxdistill.losses.segmentation import bce
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.types import Batch, ModelOutputs, TeacherOutputs

SHAPE = (2, 9, 12, 1)


def numpy_outline(target: np.ndarray, radius: int) -> np.ndarray:
    """Largest minus smallest value within a square around each pixel, inside the image."""
    _, height, width, _ = target.shape
    band = np.zeros_like(target)
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - radius), y + radius + 1)
            around = target[:, rows, max(0, x - radius) : x + radius + 1]
            band[:, y, x] = around.max((1, 2)) - around.min((1, 2))
    return band


def numpy_boundary_bce(
    logits: np.ndarray, target: np.ndarray, radius: int, factor: float
) -> np.ndarray:
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    entropy = -target * np.log(p) - (1 - target) * np.log(1 - p)
    weights = 1 + factor * numpy_outline(target, radius)
    return np.asarray((weights * entropy).sum((1, 2, 3)) / weights.sum((1, 2, 3)))


def half() -> np.ndarray:
    """Two masks, whose left six columns are a person."""
    mask = np.zeros(SHAPE, np.float32)
    mask[:, :, :6] = 1
    return mask


@given(st.integers(0, 2**16), st.integers(1, 14), st.booleans())
def test_the_outline_is_largest_minus_smallest_value_around(
    seed: int, radius: int, soft: bool
) -> None:
    target = np.random.default_rng(seed).random(SHAPE).astype(np.float32)
    target = target if soft else np.round(target)
    np.testing.assert_array_equal(
        morphological_gradient(target, radius), numpy_outline(target, radius)
    )


def test_the_band_is_as_wide_as_the_radius_to_either_side_and_spares_the_edge() -> None:
    band = np.asarray(morphological_gradient(jnp.asarray(half()), 2))
    np.testing.assert_array_equal(np.unique(np.nonzero(band)[2]), [4, 5, 6, 7])
    assert band[:, :, 4:8].all()


@pytest.mark.parametrize("empty", [0.0, 1.0])
def test_an_image_without_an_outline_has_the_plain_cross_entropy(empty: float) -> None:
    logits = 3 * jax.random.normal(jax.random.key(0), SHAPE)
    target = jnp.full(SHAPE, empty)
    np.testing.assert_allclose(boundary_bce(logits, target), bce(logits, target), rtol=1e-6)


def test_a_factor_of_zero_is_the_plain_cross_entropy() -> None:
    logits = 3 * jax.random.normal(jax.random.key(0), SHAPE)
    expected = bce(logits, jnp.asarray(half()))
    np.testing.assert_allclose(boundary_bce(logits, half(), 3, 0.0), expected, rtol=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_value_and_gradient_against_numpy(soft: bool) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, SHAPE).astype(np.float32)
    target = rng.random(SHAPE).astype(np.float32) if soft else half()
    value = boundary_bce(jnp.asarray(logits), jnp.asarray(target), 2, 4.0)
    np.testing.assert_allclose(value, numpy_boundary_bce(logits, target, 2, 4.0), rtol=1e-5)

    gradient = jax.grad(lambda s: boundary_bce(s, jnp.asarray(target), 2, 4.0).sum())
    weights = 1 + 4.0 * numpy_outline(target, 2)
    share = weights / weights.sum((1, 2, 3), keepdims=True)
    expected = share * (1 / (1 + np.exp(-logits)) - target)
    np.testing.assert_allclose(gradient(jnp.asarray(logits)), expected, atol=1e-6)


def test_one_compares_with_masks_and_the_other_with_the_teacher() -> None:
    rng = np.random.default_rng(2)
    logits, teacher = (rng.normal(0, 3, SHAPE).astype(np.float32) for _ in range(2))
    ones = np.ones(2, np.float32)
    batch = Batch(np.zeros((*SHAPE[:3], 3), np.float32), half(), ones, ones, np.arange(2))
    inputs = LossInputs(ModelOutputs(jnp.asarray(logits)), batch, TeacherOutputs(teacher), 0, 1)
    of_mask = Boundary(radius=3, factor=2.0)(inputs)
    np.testing.assert_allclose(of_mask, numpy_boundary_bce(logits, half(), 3, 2.0), rtol=1e-5)
    of_teacher = TeacherBoundary(radius=3, factor=2.0)(inputs)
    target = 1 / (1 + np.exp(-teacher))
    np.testing.assert_allclose(of_teacher, numpy_boundary_bce(logits, target, 3, 2.0), rtol=1e-5)


def test_the_configuration_sets_weights_radius_and_factor() -> None:
    assert "boundary" not in from_config(config.load(tiny_run.SPECIFIED))
    overrides = ["losses.boundary=0.5", "losses.boundary_radius=3", "losses.boundary_factor=2"]
    given = config.load(tiny_run.SPECIFIED, [*overrides, "losses.teacher_boundary=2"])
    terms = from_config(given)
    assert terms["boundary"] == Boundary(weight=0.5, radius=3, factor=2.0)
    assert terms["teacher_boundary"] == TeacherBoundary(weight=2.0, radius=3, factor=2.0)


def test_each_can_be_the_only_loss_where_what_it_needs_is_there() -> None:
    none = {"kl": 0, "mse": 0, "bce": 0, "dice": 0}
    run = Path("r")
    masks = config.Losses(**none, boundary=1)
    assert not config.Config(run=run, losses=masks).imitates
    with pytest.raises(ConfigError) as caught:
        config.check({"run": "r", "losses": {**none, "teacher_boundary": 1}}, "given")
    assert caught.value.code == "teacher-needed"
