"""Feature pairs of every kind side by side, in one student that takes steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_step import SIZE, batch_of, settings_for

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.models.feature_pairs import Pair, pair_up
from jaxdistill.models.student import Split, Student, freeze
from jaxdistill.training import step as step_lib
from jaxdistill.training.gradient_reach import explain, reach
from jaxdistill.types import Batch, TeacherOutputs

PAIRS = (
    config.Feature(tensor="a", tap="encoder.3", hidden_channels=None, loss="mgd", weight=0.5),
    config.Feature(tensor="b", tap="decoder.1", hidden_channels=6, loss="mgd", attention="mask"),
    config.Feature(tensor="c", tap="decoder.0", hidden_channels=None, loss="cwd", weight=2.0),
    config.Feature(tensor="d", tap="decoder.2", loss="cosine", hidden_channels=None, resize=True),
    config.Feature(tensor="e", tap="encoder.4", hidden_channels=6, standardize=True),
)
NUMBERS = range(len(PAIRS))


class Setting(NamedTuple):
    settings: config.Config
    split: Split
    pairs: list[Pair]
    fed: tuple[Batch, TeacherOutputs]
    train_step: step_lib.TrainStep

    def step(self, state: TrainState) -> tuple[TrainState, dict[str, float]]:
        """One step from a copy, and what it measured before it learned."""
        copy = jax.tree.map(lambda leaf: jnp.asarray(np.array(leaf)), state)
        after, measured = self.train_step(copy, self.split.frozen, *self.fed)
        return after, {name: float(value) for name, value in measured.items()}


@pytest.fixture(scope="module")
def setting() -> Setting:
    learned = config.Losses(feature_weights="learned", feature_weights_temperature=2.0)
    settings = settings_for().model_copy(update={"features": PAIRS, "losses": learned})
    shapes = [(side, side, 5) for side in (4, 4, 2, 4, 2)]
    pairs = pair_up(PAIRS, shapes, (SIZE, SIZE), balanced=True)
    student = Student(settings.student, image_ops.resolve("half"), pairs, rngs=nnx.Rngs(0))
    split = freeze(student, settings.student.frozen)
    batch, targets = batch_of(4)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    tensors = [jax.random.normal(k, (4, *shape)) for k, shape in zip(keys, shapes, strict=True)]
    fed = (batch, targets._replace(features=tuple(tensors)))
    step = step_lib.make_train_step(settings, split.graph, steps_per_epoch=9)
    return Setting(settings, split, pairs, fed, step)


@pytest.mark.slow
def test_each_pair_has_its_own_loss_and_weight(setting: Setting) -> None:
    state, first = setting.step(step_lib.start(setting.settings, setting.split))
    _, second = setting.step(state)
    for values in (first, second):
        weights = [values[f"feature_weight.{n}"] for n in NUMBERS]
        assert sum(weights) == pytest.approx(len(PAIRS))
        own = [pair.weight * values[f"feature.{n}"] for n, pair in enumerate(PAIRS)]
        assert values["feature"] == pytest.approx(np.dot(weights, own), rel=1e-5)
        losses = {"kl": 1.0, "mse": 0.5, "bce": 0.5, "dice": 1.0, "feature": 0.5}
        assert values["total"] == pytest.approx(
            sum(weight * values[name] for name, weight in losses.items()), rel=1e-5
        )
    assert [first[f"feature_weight.{n}"] for n in NUMBERS] == pytest.approx([1.0] * len(PAIRS))
    sizes = [first[f"feature.{n}"] for n in NUMBERS]
    moved = [second[f"feature_weight.{n}"] - 1 for n in NUMBERS]
    assert moved[int(np.argmin(sizes))] > 0 > moved[int(np.argmax(sizes))]


@pytest.mark.slow
def test_what_is_masked_is_drawn_from_the_step_s_number(setting: Setting) -> None:
    state = step_lib.start(setting.settings, setting.split)
    one, other, again = (
        setting.step(state._replace(step=jnp.asarray(number, jnp.int32))) for number in (0, 1, 0)
    )
    assert one[1] == again[1]
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(again[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    changed = [n for n in NUMBERS if one[1][f"feature.{n}"] != other[1][f"feature.{n}"]]
    assert changed == [n for n, pair in enumerate(PAIRS) if pair.loss == "mgd"]


@pytest.mark.slow
def test_a_target_s_statistics_stay_as_they_were_measured(setting: Setting) -> None:
    names = [f"projectors.4.standard.{part}" for part in ("mean", "factor")]
    measured = {name: jnp.arange(5.0) for name in names}
    split = setting.split.with_values(measured)
    after, _ = setting.step(step_lib.start(setting.settings, split))
    for name in names:
        np.testing.assert_array_equal(after.batch_stats[name], measured[name])
    assert not np.array_equal(
        after.batch_stats["projectors.4.norm.mean"], split.batch_stats["projectors.4.norm.mean"]
    )


def test_reach_names_every_pair_that_teaches_nothing_that_is_kept(setting: Setting) -> None:
    reached = reach(setting.settings, setting.split, setting.pairs)
    for number, pair in enumerate(PAIRS):
        kept = ["decoder"] if pair.tap.startswith("decoder") else []
        assert reached[f"feature.{number}, from {pair.tap}"] == [*kept, "projectors"]
    warnings = [line for line in explain(reached, reached) if "warning" in line]
    blind = ("feature.0, from encoder.3,", "feature.4, from encoder.4,")
    assert len(warnings) == len(blind)
    for warning, name in zip(warnings, blind, strict=True):
        assert name in warning
        assert "choose a tap in the decoder" in warning
