"""Losses on values worked out by hand, and the properties that they must have."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.losses.distillation import kl, mse
from jaxdistill.losses.feature import cosine, cwd, weighted_mse
from jaxdistill.losses.segmentation import bce, dice

LOGITS = st.floats(-50, 50, width=32)


def pixel(value: float) -> jax.Array:
    return jnp.full((1, 1, 1, 1), value, jnp.float32)


def test_bce_of_one_pixel() -> None:
    # -log(sigmoid(2)) = log(1 + e^-2)
    np.testing.assert_allclose(bce(pixel(2), pixel(1)), [np.log1p(np.exp(-2))], rtol=1e-6)
    np.testing.assert_allclose(bce(pixel(2), pixel(0)), [2 + np.log1p(np.exp(-2))], rtol=1e-6)


def test_dice_is_per_image() -> None:
    # Half of each image is person; the first prediction is right, the second its opposite.
    mask = jnp.stack([jnp.asarray([[1.0], [0.0]])[None]] * 2)
    logits = jnp.stack([jnp.asarray([[40.0], [-40.0]])[None], jnp.asarray([[-40.0], [40.0]])[None]])
    right, wrong = dice(logits, mask)
    assert right == pytest.approx(0, abs=1e-6)
    # 1 - (0 + 1e-5) / (1 + 1 + 1e-5)
    assert wrong == pytest.approx(1 - 1e-5 / (2 + 1e-5), abs=1e-6)


def test_dice_of_an_empty_mask_rewards_an_empty_prediction() -> None:
    empty = jnp.zeros((1, 4, 4, 1))
    assert dice(jnp.full((1, 4, 4, 1), -60.0), empty)[0] == pytest.approx(0, abs=1e-6)
    assert dice(jnp.full((1, 4, 4, 1), 60.0), empty)[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("scale", "factor"), [("none", 1.0), ("t", 3.0), ("t2", 9.0)])
def test_kl_by_hand(scale: str, factor: float) -> None:
    # t = 3 log 3 and s = 0 at T = 3: p = 3/4, q = 1/2.
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    actual = kl(pixel(0), pixel(3 * np.log(3)), 3.0, scale)  # type: ignore[arg-type]
    np.testing.assert_allclose(actual, [factor * expected], rtol=1e-5)


def test_mse_and_cosine_by_hand() -> None:
    a = jnp.asarray([3.0, 4.0]).reshape(1, 1, 1, 2)
    b = jnp.asarray([4.0, 3.0]).reshape(1, 1, 1, 2)
    assert mse(a, b)[0] == pytest.approx(1.0)
    assert cosine(a, b)[0] == pytest.approx(1 - 24 / 25)
    assert cosine(a, 7 * a)[0] == pytest.approx(0, abs=1e-6)


def test_channel_wise_distillation_by_hand() -> None:
    # Two positions at T = 2. Channel 0: t = (2 log 3, 0) and s = 0, so p = (3/4, 1/4) and q = 1/2.
    # Channel 1: both the same, but for a constant, which a softmax does not see.
    target = jnp.asarray([[2 * np.log(3), 1.0], [0.0, 5.0]], jnp.float32).reshape(1, 2, 1, 2)
    student = jnp.asarray([[0.0, 8.0], [0.0, 12.0]], jnp.float32).reshape(1, 2, 1, 2)
    divergence = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    value = cwd(student, target, 2.0)
    np.testing.assert_allclose(value, [2**2 * (divergence + 0) / 2], rtol=1e-5)


def test_attention_weighs_positions() -> None:
    a = jnp.asarray([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 1, 2, 2)
    b = jnp.asarray([[2.0, 0.0], [3.0, 0.0]]).reshape(1, 1, 2, 2)
    attention = jnp.asarray([1.5, 0.5]).reshape(1, 1, 2, 1)
    # Squares 1, 0 at the first position, 9, 1 at the second; cosines 1 and 0.
    assert weighted_mse(a, b, attention)[0] == pytest.approx((1.5 * 1 + 0.5 * 10) / 4)
    assert cosine(a, b, attention)[0] == pytest.approx(1 - 1.5 / 2)


@given(LOGITS, LOGITS, st.floats(0.5, 10))
def test_kl_is_a_divergence(student: float, teacher: float, temperature: float) -> None:
    value = float(kl(pixel(student), pixel(teacher), temperature)[0])
    assert np.isfinite(value)
    assert value >= -1e-5
    itself = float(kl(pixel(teacher), pixel(teacher), temperature)[0])
    assert itself == pytest.approx(0, abs=1e-6)


@given(LOGITS, LOGITS, st.floats(0.5, 10))
def test_the_gradient_of_kl_is_the_difference_of_probabilities(
    student: float, teacher: float, temperature: float
) -> None:
    # d/ds of T * KL is q - p, for any logits: nothing is clamped away.
    gradient = jax.grad(lambda s: kl(s, pixel(teacher), temperature).sum())(pixel(student))
    q, p = (1 / (1 + np.exp(-np.float64(x) / temperature)) for x in (student, teacher))
    assert float(gradient.squeeze()) == pytest.approx(q - p, abs=2e-5)


def test_a_image_s_loss_does_not_depend_on_its_batch() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    logits = 5 * jax.random.normal(keys[0], (3, 8, 6, 1))
    mask = (jax.random.uniform(keys[1], logits.shape) > 0.5).astype(jnp.float32)
    for loss in (bce, dice, mse, cosine, partial(cwd, temperature=2.0)):
        whole = loss(logits, mask)
        assert whole.shape == (3,)
        alone = jnp.concatenate([loss(logits[i : i + 1], mask[i : i + 1]) for i in range(3)])
        np.testing.assert_allclose(whole, alone, rtol=1e-6)
