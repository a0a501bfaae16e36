"""The training step and the evaluation step on a student small enough to follow."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from negative_padding import negative_paddings
from small_steps import Steps, batch_of, settings_for

from jaxdistill.metrics import segmentation
from jaxdistill.models.parameters import PARAM_GROUPS, param_group
from jaxdistill.runtime.xla import FAST_COMPILE
from jaxdistill.training.gradient_reach import describe_reach, gradient_reach
from jaxdistill.training.optimizer import schedule_count
from jaxdistill.training.step import jit_eval_step, train_step
from jaxdistill.types import Batch, TeacherOutputs, TrainState

WEIGHTS = {"kl": 1.0, "mse": 0.5, "bce": 0.5, "dice": 1.0, "feature": 0.5}


@pytest.fixture(scope="module")
def trained() -> tuple[Steps, TrainState, list[dict[str, float]]]:
    """Six steps on one batch."""
    steps = Steps(settings_for())
    state, seen = steps.start(), []
    for _ in range(6):
        state, metrics = steps(state, *batch_of(4))
        seen.append(metrics)
    return steps, state, seen


def test_the_loss_falls_and_the_total_is_the_weighted_sum(trained) -> None:
    _, state, seen = trained
    assert int(state.step) == 6
    assert seen[-1]["total"] < 0.9 * seen[0]["total"]
    for values in seen:
        assert values["total"] == pytest.approx(
            sum(weight * values[name] for name, weight in WEIGHTS.items()), rel=1e-5
        )


def test_schedules_change_with_the_epoch_and_not_within(trained) -> None:
    _, _, seen = trained
    assert [values["temperature"] for values in seen] == pytest.approx([3, 3, 3, 1, 1, 1])
    middle = (1e-2 + 1e-6) / 2
    rates = [values["learning_rate"] for values in seen]
    assert rates == pytest.approx([1e-2] * 3 + [middle] * 3)


def test_everything_trainable_moves(trained) -> None:
    steps, state, _ = trained
    before = {**steps.partition.params, **steps.partition.batch_stats}
    after = {**state.params, **state.batch_stats}
    # A bias before a BatchNorm has no gradient but rounding; decay alone leaves a zero where it is.
    still = [
        name
        for name, value in before.items()
        if np.array_equal(value, after[name]) and not name.endswith("hidden.bias")
    ]
    assert still == []


def test_frozen_variables_have_no_optimizer_state(trained) -> None:
    steps, state, _ = trained
    names = {
        name
        for tree in jax.tree.leaves(state.opt_state, is_leaf=lambda t: isinstance(t, dict))
        if isinstance(tree, dict)
        for name in tree
        if name not in PARAM_GROUPS  # the clip's, which has no moments
    }
    assert names == set(steps.partition.params)
    assert not names & set(steps.partition.frozen)


def test_a_step_that_is_not_finite_changes_nothing_but_its_number() -> None:
    steps = Steps(settings_for())
    before = steps.start()
    batch, teacher = batch_of(4)
    broken = teacher._replace(logits=teacher.logits.at[0, 0, 0, 0].set(jnp.nan))
    after, metrics = steps(before, batch, broken)
    assert not np.isfinite(metrics["kl"])
    assert np.isfinite(metrics["bce"])
    assert int(after.step) == 1
    for old, new in zip(jax.tree.leaves(before[1:]), jax.tree.leaves(after[1:]), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_learning_rate_that_is_logged_is_the_one_applied_after_a_skipped_step() -> None:
    """The schedule does not count the skipped step: only the last one is of the second epoch."""
    steps = Steps(settings_for(), steps_per_epoch=3)
    batch, teacher = batch_of(4)
    broken = teacher._replace(logits=teacher.logits.at[0, 0, 0, 0].set(jnp.nan))
    state, rates, moved = steps.start(), [], []
    for outputs in (broken, teacher, teacher, teacher, teacher):
        state, metrics = steps(state, batch, outputs)
        rates.append(metrics["learning_rate"])
        moved.append(int(schedule_count(state.opt_state)))
    assert moved == [0, 1, 2, 3, 4]
    assert rates == pytest.approx([1e-2] * 4 + [(1e-2 + 1e-6) / 2])


@pytest.mark.slow
def test_a_compiled_step_has_no_convolution_with_negative_padding() -> None:
    settings = settings_for()
    student = settings.student.model_copy(update={"frozen": []})
    steps = Steps(settings.model_copy(update={"student": student}))
    lowered = jax.jit(partial(train_step, steps.spec)).lower(
        steps.start(), steps.partition.frozen, *batch_of(2)
    )
    text = lowered.compile(FAST_COMPILE).as_text()
    assert text.count(" convolution(") > 20
    assert negative_paddings(text) == []


def test_padded_images_count_for_nothing() -> None:
    steps = Steps(settings_for())
    evaluate = jit_eval_step(steps.spec)
    variables = steps.partition[1:]
    batch, teacher = batch_of(4)
    real = jnp.asarray([1.0, 1, 0, 0])
    epoch = jnp.asarray(0)
    padded, logits = evaluate(
        *variables, batch._replace(weights=real, labelled=real), teacher, epoch
    )
    half = Batch(*(value[:2] for value in batch))
    halves = TeacherOutputs(teacher.logits[:2], (teacher.features[0][:2],))
    alone, _ = evaluate(*variables, half, halves, epoch)
    for name in alone:
        assert padded[name].images == 2
        assert float(padded[name].total) == pytest.approx(float(alone[name].total), rel=1e-4), name
    expected = segmentation.mean_iou(logits[:2] > 0, half.masks > 0.5).sum()
    assert float(padded["student_miou"].total) == pytest.approx(float(expected), rel=1e-5)


def test_masks_that_are_not_ground_truth_change_nothing(trained) -> None:
    """Not a bit of the state or of a metric depends on them."""
    steps, _, _ = trained
    batch, teacher = batch_of(4)
    batch = batch._replace(labelled=jnp.asarray([0.0, 1, 0, 1]))
    changed = batch._replace(masks=batch.masks.at[::2].set(1 - batch.masks[::2]))
    one, other = (steps(steps.start(), each, teacher) for each in (batch, changed))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert one[1]["labelled"] == 2
    assert one[1]["bce"] > 0


@pytest.mark.parametrize(
    ("tap", "reached", "warned"),
    [("encoder.3", ["projectors"], True), ("decoder.1", ["decoder", "projectors"], False)],
)
def test_the_reach_of_a_loss_follows_from_its_tap(tap, reached, warned) -> None:
    steps = Steps(settings_for(tap=tap))
    found = gradient_reach(steps.losses, steps.student, steps.partition, steps.student.pairs)
    assert found["feature"] == reached
    assert found["bce"] == ["decoder", "head"]
    assert any("warning" in line for line in describe_reach(found, found)) == warned
    of_features = {"feature": found["feature"]}
    assert "no loss trains the head" in describe_reach(of_features, of_features)[-1]
    assert {param_group(path) for path in steps.partition.params} == {
        "decoder",
        "head",
        "projectors",
    }


def test_importing_the_step_imports_neither_onnxruntime_nor_datasets() -> None:
    program = (
        "import sys, jaxdistill.training.step\n"
        "found = {'onnxruntime', 'tensorflow_datasets', 'grain'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(found)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
