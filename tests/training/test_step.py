"""The training step on a student small enough to follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.metrics import segmentation
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.models.student import PARAM_GROUPS, Split, Student, freeze, param_group
from jaxdistill.training import optimizer
from jaxdistill.training import step as step_lib
from jaxdistill.training.gradient_reach import explain, reach
from jaxdistill.types import Batch, TeacherOutputs

SIZE = 32


def settings_for(tap: str = "encoder.3", **training: object) -> config.Config:
    return config.Config(
        run="runs/none",
        data=config.Data(root="none", image_size=(SIZE, SIZE)),
        student=config.Student(encoder="tf_efficientnet_lite0", decoder_channels=(16, 8, 8, 4, 4)),
        teacher=config.Teacher(onnx="none.onnx"),
        detector=config.Detector(onnx="none.onnx"),
        features=(config.Feature(tensor="inner", tap=tap, hidden_channels=6),),
        losses=config.Losses(temperature=config.Temperature(initial=3, final=1)),
        training=config.Training(epochs=2, learning_rate=1e-2, **training),
    )


def split_for(settings: config.Config) -> tuple[Split, list[Pair]]:
    pairs = [Pair(feature.tap, 5, feature.hidden_channels) for feature in settings.features]
    student = Student(settings.student, image_ops.resolve("half"), pairs, rngs=nnx.Rngs(0))
    return freeze(student, settings.student.frozen), pairs


def batch_of(size: int, seed: int = 0) -> tuple[Batch, TeacherOutputs]:
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 2, (size, SIZE, SIZE, 1)).astype(np.float32)
    batch = Batch(
        images=jnp.asarray(rng.uniform(size=(size, SIZE, SIZE, 3)), jnp.float32),
        masks=jnp.asarray(masks),
        weights=jnp.ones(size),
        labelled=jnp.ones(size),
        ids=jnp.arange(size),
    )
    logits = 3 * masks - 1.5 + rng.normal(size=masks.shape)
    features = rng.normal(size=(size, SIZE // 8, SIZE // 8, 5))
    return batch, TeacherOutputs(
        jnp.asarray(logits, jnp.float32), (jnp.asarray(features, jnp.float32),)
    )


@pytest.fixture(scope="module")
def trained() -> tuple[Split, TrainState, list[dict[str, float]]]:
    """Six steps on one batch."""
    settings = settings_for()
    split, _ = split_for(settings)
    step = step_lib.make_train_step(settings, split.graph, steps_per_epoch=3)
    state = jax.tree.map(jnp.copy, step_lib.start(settings, split))
    seen = []
    for _ in range(6):
        state, measured = step(state, split.frozen, *batch_of(4))
        seen.append({name: float(value) for name, value in measured.items()})
    return split, state, seen


def test_a_step_learns(trained) -> None:
    _, state, seen = trained
    assert int(state.step) == 6
    assert seen[-1]["total"] < 0.9 * seen[0]["total"]
    weights = {"kl": 1.0, "mse": 0.5, "bce": 0.5, "dice": 1.0, "feature": 0.5}
    for values in seen:
        assert values["total"] == pytest.approx(
            sum(weight * values[name] for name, weight in weights.items()), rel=1e-5
        )


def test_schedules_change_with_the_epoch_and_not_within(trained) -> None:
    _, _, seen = trained
    assert [values["temperature"] for values in seen] == pytest.approx([3, 3, 3, 1, 1, 1])
    middle = (1e-2 + 1e-6) / 2
    rates = [values["learning_rate"] for values in seen]
    assert rates == pytest.approx([1e-2] * 3 + [middle] * 3)


def test_everything_trainable_moves(trained) -> None:
    split, state, _ = trained
    before = {**split.params, **split.batch_stats}
    after = {**state.params, **state.batch_stats}
    # A bias before a BatchNorm has no gradient but rounding; decay alone leaves a zero where it is.
    still = [
        name
        for name, value in before.items()
        if np.array_equal(value, after[name]) and not name.endswith("hidden.bias")
    ]
    assert still == []


def test_frozen_variables_have_no_moments(trained) -> None:
    split, state, _ = trained
    names = {
        name
        for tree in jax.tree.leaves(state.opt_state, is_leaf=lambda t: isinstance(t, dict))
        if isinstance(tree, dict)
        for name in tree
        if name not in PARAM_GROUPS  # the clip's, which has no moments
    }
    assert names == set(split.params)
    assert not names & set(split.frozen)


def test_a_step_that_is_not_finite_changes_nothing_but_its_number() -> None:
    settings = settings_for()
    split, _ = split_for(settings)
    step = step_lib.make_train_step(settings, split.graph, steps_per_epoch=3)
    before = step_lib.start(settings, split)
    batch, targets = batch_of(4)
    broken = targets._replace(logits=targets.logits.at[0, 0, 0, 0].set(jnp.nan))
    after, measured = step(jax.tree.map(jnp.copy, before), split.frozen, batch, broken)
    assert not np.isfinite(float(measured["kl"]))
    assert np.isfinite(float(measured["bce"]))
    assert int(after.step) == 1
    for old, new in zip(jax.tree.leaves(before[1:]), jax.tree.leaves(after[1:]), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_clip_bounds_the_gradient_by_group_or_altogether() -> None:
    rng = np.random.default_rng(0)
    gradients = {
        f"{group}.kernel": jnp.asarray(rng.normal(size=9) * scale, jnp.float32)
        for group, scale in (("decoder", 0.01), ("head", 1.0), ("projectors", 100.0))
    }

    def clipped(per: str) -> dict[str, np.ndarray]:
        transform = optimizer._clip(config.Clip(norm=0.5, per=per))  # type: ignore[arg-type]
        return transform.update(gradients, transform.init(gradients))[0]

    def norm(tree: dict[str, np.ndarray]) -> float:
        return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in tree.values())))

    altogether, each = clipped("all"), clipped("group")
    assert norm(altogether) == pytest.approx(0.5, rel=1e-5)
    shrunk = np.asarray(altogether["decoder.kernel"]) / gradients["decoder.kernel"]
    np.testing.assert_allclose(shrunk, 0.5 / norm(gradients), rtol=1e-5)
    np.testing.assert_array_equal(each["decoder.kernel"], gradients["decoder.kernel"])
    for name in ("head.kernel", "projectors.kernel"):
        assert norm({name: each[name]}) == pytest.approx(0.5, rel=1e-5)


def test_padded_pictures_count_for_nothing() -> None:
    settings = settings_for()
    split, _ = split_for(settings)
    step = step_lib.make_eval_step(settings, split.graph)
    variables = (split.params, split.batch_stats, split.frozen)
    batch, targets = batch_of(4)
    real = jnp.asarray([1.0, 1, 0, 0])
    padded, logits = step(*variables, batch._replace(weights=real, labelled=real), targets, 2.0)
    half = Batch(*(value[:2] for value in batch))
    halves = TeacherOutputs(targets.logits[:2], (targets.features[0][:2],))
    alone, _ = step(*variables, half, halves, 2.0)
    for name in alone:
        assert padded[name].pictures == 2
        assert float(padded[name].total) == pytest.approx(float(alone[name].total), rel=1e-4), name
    expected = segmentation.mean_iou(logits[:2] > 0, half.masks > 0.5).sum()
    assert float(padded["student_miou"].total) == pytest.approx(float(expected), rel=1e-5)


def test_a_step_learns_nothing_from_masks_that_are_not_true(trained) -> None:
    """Not a bit of what is learnt or measured depends on them."""
    split, _, _ = trained
    settings = settings_for()
    step = step_lib.make_train_step(settings, split.graph, steps_per_epoch=3)
    batch, targets = batch_of(4)
    batch = batch._replace(labelled=jnp.asarray([0.0, 1, 0, 1]))
    changed = batch._replace(masks=batch.masks.at[::2].set(1 - batch.masks[::2]))
    one, other = (
        step(jax.tree.map(jnp.copy, step_lib.start(settings, split)), split.frozen, each, targets)
        for each in (batch, changed)
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert one[1]["labelled"] == 2
    assert one[1]["bce"] > 0


def test_reach_is_found_from_gradients() -> None:
    settings = settings_for()
    split, pairs = split_for(settings)
    reached = reach(settings, split, pairs)
    assert reached["feature"] == ["projectors"]
    assert reached["bce"] == ["decoder", "head"]
    assert any("warning" in line for line in explain(reached, reached))
    groups = {param_group(path) for path in split.params}
    assert not any("head" in line for line in explain(reached, reached, groups)[len(reached) + 1 :])
    of_features = {"feature": reached["feature"]}
    assert "no loss reaches the head" in explain(of_features, of_features, groups)[-1]
    assert "no loss reaches" not in explain(of_features, of_features)[-1]

    settings = settings_for(tap="decoder.1")
    split, pairs = split_for(settings)
    reached = reach(settings, split, pairs)
    assert reached["feature"] == ["decoder", "projectors"]
    assert not any("warning" in line for line in explain(reached, reached))
    assert {param_group(path) for path in split.params} == {"decoder", "head", "projectors"}
