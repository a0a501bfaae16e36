"""The learning-rate schedule, clipping, and optimizer states that grow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import config
from jaxdistill.models.parameters import PARAM_GROUPS
from jaxdistill.training.optimizer import (
    build_optimizer,
    learning_rate_schedule,
    migrate_opt_state,
)


def test_learning_rate_is_a_cosine_over_the_epochs() -> None:
    schedule = learning_rate_schedule(config.Training(epochs=50), steps_per_epoch=10)
    assert schedule(0) == schedule(9) == pytest.approx(1e-4)
    assert schedule(250) == pytest.approx((1e-4 + 1e-6) / 2)
    assert schedule(500) == pytest.approx(1e-6, rel=1e-3)


def test_the_learning_rate_rises_from_step_to_step_within_the_warm_up() -> None:
    plain = learning_rate_schedule(config.Training(epochs=50), steps_per_epoch=10)
    warmed = learning_rate_schedule(
        config.Training(epochs=50, warmup_epochs=1.5), steps_per_epoch=10
    )
    for step in range(40):
        expected = float(plain(step)) * min(1, (step + 1) / 15)
        assert float(warmed(step)) == pytest.approx(expected, rel=1e-6)
    assert warmed(14) == plain(14)  # bit for bit, from the end of the warm-up on


def test_a_warm_up_that_does_not_end_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup-too-long"):
        config.Training(epochs=2, warmup_epochs=3)


def optimizer(per: str = "all", learning_rate: float = 1.0) -> object:
    settings = config.Training(clip=config.Clip(norm=0.5, per=per), learning_rate=learning_rate)
    return build_optimizer(settings, learning_rate_schedule(settings, 1))


def test_weight_decay_can_leave_out_biases_and_batch_norm() -> None:
    params = {f"head.{leaf}": jnp.ones((2, 2)) for leaf in ("kernel", "bias", "scale")}
    still = {path: jnp.zeros_like(value) for path, value in params.items()}
    for decay, decayed in (("all", {*params}), ("kernels", {"head.kernel"})):
        settings = config.Training(weight_decay=0.1, decay=decay, learning_rate=1.0)
        built = build_optimizer(settings, learning_rate_schedule(settings, 1))
        updates, _ = built.update(still, built.init(params), params)
        assert {path for path, update in updates.items() if np.asarray(update).any()} == decayed
        np.testing.assert_allclose(updates["head.kernel"], -0.1, rtol=1e-6)


def test_each_group_has_its_factor_of_the_learning_rate_and_of_the_decay() -> None:
    params = {f"{group}.kernel": jnp.ones(2) for group in PARAM_GROUPS}
    gradients = {path: jnp.full(2, 0.1) for path in params}

    def update(**factors: float) -> dict[str, np.ndarray]:
        settings = config.Training(
            weight_decay=0.1, learning_rate=1.0, learning_rates=config.LearningRates(**factors)
        )
        built = build_optimizer(settings, learning_rate_schedule(settings, 1))
        updates, _ = built.update(gradients, built.init(params), params)
        return jax.tree.map(np.asarray, updates)

    plain, scaled = update(), update(encoder=0.1, head=3.0)
    for group, factor in {"encoder": 0.1, "decoder": 1, "head": 3, "projectors": 1}.items():
        np.testing.assert_allclose(
            scaled[f"{group}.kernel"], factor * plain[f"{group}.kernel"], rtol=1e-6
        )
    np.testing.assert_array_equal(scaled["decoder.kernel"], plain["decoder.kernel"])


def test_an_encoder_that_joins_has_one_factor() -> None:
    student = {"unfreeze": {"from_epoch": 2, "learning_rate_scale": 0.5}}
    given = {"run": "run", "data": {"root": "data"}, "losses": {"kl": 0, "mse": 0}}
    rates = {"learning_rates": {"encoder": 0.1}}
    with pytest.raises(ValueError, match="conflicting-keys"):
        config.Config(**given, student=student, training=rates)
    config.Config(**given, training=rates)


def test_the_clip_bounds_the_gradient_by_group_or_altogether() -> None:
    rng = np.random.default_rng(0)
    gradients = {
        f"{group}.kernel": jnp.asarray(rng.normal(size=9) * scale, jnp.float32)
        for group, scale in (("decoder", 0.01), ("head", 1.0), ("projectors", 100.0))
    }

    def norm(tree: dict[str, np.ndarray]) -> float:
        return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in tree.values())))

    def first_moments(per: str) -> dict[str, np.ndarray]:
        # After one step Adam's first moment is a tenth of the clipped gradient.
        built = optimizer(per)
        _, state = built.update(gradients, built.init(gradients), gradients)
        [adam] = [
            s
            for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu"))
            if hasattr(s, "mu")
        ]
        return {name: 10 * np.asarray(value) for name, value in adam.mu.items()}

    altogether, each = first_moments("all"), first_moments("group")
    assert norm(altogether) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(
        altogether["decoder.kernel"], gradients["decoder.kernel"] * 0.5 / norm(gradients), rtol=1e-5
    )
    np.testing.assert_allclose(each["decoder.kernel"], gradients["decoder.kernel"], rtol=1e-5)
    for name in ("head.kernel", "projectors.kernel"):
        assert norm({name: each[name]}) == pytest.approx(0.5, rel=1e-5)


def test_parameters_that_join_start_fresh_and_the_others_keep_their_moments() -> None:
    built = optimizer()
    few = {"head.bias": jnp.ones(2)}
    _, old = built.update(few, built.init(few), few)
    more = {**few, "encoder.bias": jnp.ones(3)}
    migrated = migrate_opt_state(old, built.init(more))
    assert jax.tree.structure(migrated) == jax.tree.structure(built.init(more))
    [adam] = [
        s for s in jax.tree.leaves(migrated, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")
    ]
    assert adam.mu["head.bias"].any()
    assert not adam.mu["encoder.bias"].any()
    assert adam.count == 1
