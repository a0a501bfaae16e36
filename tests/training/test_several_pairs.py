"""Feature pairs of every kind side by side, in one student that takes steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_steps import SIZE, Steps, batch_of, settings_for, student_for

from jaxdistill import config
from jaxdistill.models.feature_pairs import pair_up
from jaxdistill.training.gradient_reach import describe_reach, gradient_reach

PAIRS = (
    config.Feature(tensor="a", tap="encoder.3", hidden_channels=None, loss="mgd", weight=0.5),
    config.Feature(tensor="b", tap="decoder.1", hidden_channels=6, loss="mgd", attention="mask"),
    config.Feature(tensor="c", tap="decoder.0", hidden_channels=None, loss="cwd", weight=2.0),
    config.Feature(tensor="d", tap="decoder.2", loss="cosine", hidden_channels=None, resize=True),
    config.Feature(tensor="e", tap="encoder.4", hidden_channels=6, standardize=True),
)
NUMBERS = range(len(PAIRS))


@pytest.fixture(scope="module")
def steps() -> Steps:
    learned = config.Losses(feature_weights="learned", feature_weights_temperature=2.0)
    settings = settings_for().model_copy(update={"features": PAIRS, "losses": learned})
    shapes = [(side, side, 5) for side in (4, 4, 2, 4, 2)]
    feature_info = student_for(settings, []).feature_info
    pairs = pair_up(PAIRS, shapes, (SIZE, SIZE), feature_info, balanced=True)
    return Steps(settings, steps_per_epoch=9, pairs=pairs)


@pytest.fixture(scope="module")
def batch() -> tuple:
    batch, teacher = batch_of(4)
    sides = (4, 4, 2, 4, 2)
    keys = jax.random.split(jax.random.key(0), len(sides))
    features = [jax.random.normal(k, (4, s, s, 5)) for k, s in zip(keys, sides, strict=True)]
    return batch, teacher._replace(features=tuple(features))


@pytest.mark.slow
def test_each_pair_has_its_own_loss_and_weight(steps: Steps, batch: tuple) -> None:
    state, first = steps(steps.start(), *batch)
    _, second = steps(state, *batch)
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
def test_what_is_masked_is_drawn_from_the_step_s_number(steps: Steps, batch: tuple) -> None:
    state = steps.start()
    one, other, again = (
        steps(state._replace(step=jnp.asarray(number, jnp.int32)), *batch) for number in (0, 1, 0)
    )
    assert one[1] == again[1]
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(again[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    changed = [n for n in NUMBERS if one[1][f"feature.{n}"] != other[1][f"feature.{n}"]]
    assert changed == [n for n, pair in enumerate(PAIRS) if pair.loss == "mgd"]


@pytest.mark.slow
def test_a_target_s_statistics_stay_as_they_were_measured(steps: Steps, batch: tuple) -> None:
    names = [f"projectors.4.statistics.{part}" for part in ("mean", "factor")]
    measured = {name: jnp.arange(5.0) for name in names}
    state = steps.start()
    after, _ = steps(state._replace(batch_stats={**state.batch_stats, **measured}), *batch)
    for name in names:
        np.testing.assert_array_equal(after.batch_stats[name], measured[name])
    moved = "projectors.4.norm.mean"
    assert not np.array_equal(after.batch_stats[moved], state.batch_stats[moved])


def test_reach_names_every_pair_that_trains_nothing_that_is_kept(steps: Steps) -> None:
    reached = gradient_reach(steps.losses, steps.student, steps.partition, steps.student.pairs)
    for number, pair in enumerate(PAIRS):
        kept = ["decoder"] if pair.tap.startswith("decoder") else []
        assert reached[f"feature.{number}, from {pair.tap}"] == [*kept, "projectors"]
    warnings = [line for line in describe_reach(reached, reached) if "warning" in line]
    blind = ("feature.0, from encoder.3", "feature.4, from encoder.4")
    assert len(warnings) == len(blind)
    for warning, name in zip(warnings, blind, strict=True):
        assert name in warning
