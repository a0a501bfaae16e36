"""Losses and measures of batches in which not every image has a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill import config, losses
from jaxdistill.metrics import segmentation
from jaxdistill.training.aggregation import mean_metrics, sum_over_images
from jaxdistill.training.step import loss_terms, weighted_total
from jaxdistill.types import Batch, ModelOutputs, TeacherOutputs

SHAPE = (4, 6, 5, 1)


def batch_of(masks: np.ndarray, labelled: list[float], weights: list[float]) -> Batch:
    flags = (jnp.asarray(each, jnp.float32) for each in (weights, labelled))
    return Batch(None, jnp.asarray(masks, jnp.float32), *flags, None)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of student and teacher, and masks."""
    rng = np.random.default_rng(seed)
    return (*rng.normal(0, 3, (2, *SHAPE)), rng.integers(0, 2, SHAPE).astype(float))


TERMS = losses.from_config(
    config.Config(
        run="none", data=config.Data(root="none"), teacher=config.Teacher(onnx="none.onnx")
    )
)


@jax.jit
def objective(logits: jax.Array, batch: Batch, teacher: jax.Array) -> tuple[jax.Array, dict]:
    """What a step minimises, from the student's logits on."""
    values = loss_terms(TERMS, ModelOutputs(logits), batch, TeacherOutputs(teacher), 0, 1)
    sums = sum_over_images(values, TERMS, batch)
    means = {name: one.total / jnp.maximum(one.images, 1) for name, one in sums.items()}
    return weighted_total(TERMS, means), means


gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))


def test_masks_teach_where_they_are_true_and_the_teacher_everywhere() -> None:
    student, teacher, masks = drawn(0)
    _, means = objective(student, batch_of(masks, [1, 0, 1, 0], [1, 1, 1, 0]), teacher)
    sigmoid = 1 / (1 + np.exp(-student))
    bce = -(masks * np.log(sigmoid) + (1 - masks) * np.log(1 - sigmoid)).mean((1, 2, 3))
    both, one, other = ((a).sum((1, 2, 3)) for a in (sigmoid * masks, sigmoid, masks))
    dice = 1 - (2 * both + 1e-5) / (one + other + 1e-5)
    mse = np.square(student - teacher).mean((1, 2, 3))
    assert float(means["bce"]) == pytest.approx((bce[0] + bce[2]) / 2, rel=1e-5)
    assert float(means["dice"]) == pytest.approx((dice[0] + dice[2]) / 2, rel=1e-5)
    assert float(means["mse"]) == pytest.approx(mse[:3].mean(), rel=1e-5)


def test_without_any_mask_their_losses_are_zero_and_so_is_what_they_teach() -> None:
    student, teacher, masks = drawn(1)
    none, whole = [0.0] * 4, [1.0] * 4
    (_, means), slopes = gradient(student, batch_of(masks, none, whole), teacher)
    assert means["bce"] == means["dice"] == 0
    alone = jax.grad(
        lambda logits: sum(
            TERMS[name].weight * objective(logits, batch_of(masks, none, whole), teacher)[1][name]
            for name in ("kl", "mse")
        )
    )(jnp.asarray(student))
    np.testing.assert_allclose(slopes, alone, rtol=1e-5, atol=1e-9)
    assert np.isfinite(slopes).all()


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(["true", "none", "padding"]), min_size=4, max_size=4),
)
def test_a_mask_that_is_not_true_has_no_influence(seed: int, kinds: list[str]) -> None:
    """Not a bit of value, means or gradient depends on it."""
    student, teacher, masks = drawn(seed)
    labelled = [float(kind == "true") for kind in kinds]
    weights = [float(kind != "padding") for kind in kinds]
    other = np.where(np.reshape(labelled, (4, 1, 1, 1)) == 1, masks, 1 - masks)
    one, two = (
        gradient(student, batch_of(each, labelled, weights), teacher) for each in (masks, other)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_measures_are_divided_by_the_images_that_they_are_of() -> None:
    _, _, masks = drawn(2)
    truth = jnp.asarray(masks) > 0.5
    guess = jnp.asarray(drawn(3)[2]) > 0.5
    values = {
        "student_miou": segmentation.mean_iou(guess, truth),
        "agreement": segmentation.agreement(guess, truth),
    }
    first = sum_over_images(values, TERMS, batch_of(masks, [1, 0, 0, 0], [1, 1, 1, 0]))
    second = sum_over_images(values, TERMS, batch_of(masks, [0, 1, 1, 0], [1, 1, 1, 1]))
    means = mean_metrics([first, second])
    miou, agreement = (np.asarray(values[name], float) for name in values)
    assert means["student_miou"] == pytest.approx(miou[:3].mean(), rel=1e-6)
    expected = (agreement[:3].sum() + agreement.sum()) / 7
    assert means["agreement"] == pytest.approx(expected, rel=1e-6)
    unlabelled = sum_over_images(values, TERMS, batch_of(masks, [0] * 4, [1] * 4))
    assert list(mean_metrics([unlabelled])) == ["agreement"]
    assert mean_metrics([]) == {}


def test_losses_are_selected_by_the_inputs_that_there_are() -> None:
    assert set(losses.select(TERMS, {"teacher_logits"})) == {"kl", "mse"}
    assert set(losses.select(TERMS, {"mask"})) == {"bce", "dice"}
    assert set(losses.select(TERMS, {"mask", "teacher_logits"})) == {"kl", "mse", "bce", "dice"}
