"""The feature losses: pair by pair against NumPy, and how the pairs are weighed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxdistill import config
from jaxdistill.losses import feature as feature_lib
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.models.projector import Generator
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.training import feature_statistics
from jaxdistill.types import FeatureScale, ModelOutputs, TeacherOutputs

SEEDS = st.integers(0, 2**32 - 1)
STEPS = st.integers(0, 2**31 - 1)
KINDS = ("mask", "uncertainty", "energy")
DEAD = 1  # of the four channels of `maps`


def feature(**settings: object) -> config.Feature:
    return config.Feature(tensor="inner", **settings)


def maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projected features, the detector's, and a teacher's logits at twice the size."""
    rng = np.random.default_rng(seed)
    own, target = rng.normal(1, 3, (2, 2, 4, 6, 4))
    target[..., DEAD] = 5.0
    return own, target, rng.normal(0, 3, (2, 8, 12, 1))


def loss_of(
    pair: config.Feature,
    own: jax.Array,
    target: jax.Array,
    teacher: jax.Array,
    scale: FeatureScale | None = None,
) -> jax.Array:
    outputs = ModelOutputs(jnp.zeros(()), (own,), (scale,))
    [value] = feature_lib.pair_losses([pair], outputs, TeacherOutputs(teacher, (target,)))
    return value


def scale_of(*batches: np.ndarray) -> FeatureScale:
    measured = feature_statistics.measure(
        [Pair("decoder.1", 4, None, standardized=True)],
        [[jnp.asarray(batch, jnp.float32)] for batch in batches],
    )
    place = "projectors.0.statistics"
    assert measured.keys() == {f"{place}.mean", f"{place}.factor"}
    return FeatureScale(measured[f"{place}.mean"], measured[f"{place}.factor"])


def test_the_mask_of_masked_generation_hides_positions_and_the_block_fills_them() -> None:
    generator = Generator(2, 0.75, rngs=nnx.Rngs(0))
    for conv, middle in ((generator.conv1, 1.0), (generator.conv2, -2.0)):
        kernel = np.zeros((3, 3, 2, 2))
        kernel[1, 1] = middle * np.eye(2)
        conv.kernel[...] = jnp.asarray(kernel, jnp.float32)
    generator.conv2.bias[...] = jnp.ones(2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 96, 2)), jnp.float32)

    whole = 1 - 2 * np.maximum(x, 0)
    np.testing.assert_allclose(generator(x, None), whole, rtol=1e-6)
    masked = np.asarray(generator(x, jax.random.key(0)))
    hidden = (masked == 1).all(-1)  # what is masked is 0, and 0 comes back as the bias
    np.testing.assert_allclose(masked[~hidden], whole[~hidden], rtol=1e-6)
    both_negative = (np.asarray(x) < 0).all(-1)
    assert hidden[~both_negative].mean() == pytest.approx(0.75, abs=0.02)


@given(SEEDS, SEEDS, STEPS, STEPS)
def test_what_is_masked_is_a_function_of_seed_and_step(
    seed: int, other_seed: int, step: int, other_step: int
) -> None:
    def words(*given: object) -> tuple[int, ...]:
        return tuple(np.asarray(jax.random.key_data(feature_lib.mgd_key(*given))).tolist())

    # The step's number travels with the checkpoint, as an array.
    assert words(seed, step) == words(seed, jnp.asarray(step, jnp.int32))
    assert (words(seed, step) == words(other_seed, other_step)) == (
        (seed, step) == (other_seed, other_step)
    )
    assert words(seed) == words(seed) != words(seed, step)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["mse", "cosine", "mgd"])
def test_attention_is_a_weighted_mean_whose_weights_are_1_on_average(kind: str, loss: str) -> None:
    own, target, teacher = maps()
    p = 1 / (1 + np.exp(-teacher))
    sizes = {"mask": p, "uncertainty": p * (1 - p), "energy": np.square(target).mean(-1)[..., None]}
    values = sizes[kind]
    if kind != "energy":  # half the size, antialiased: 1/8, 3/8, 3/8, 1/8, and no more at a border
        values = halved(halved(values, 1), 2) + 1e-3
    weights = values / values.mean((1, 2, 3), keepdims=True)
    if loss == "cosine":
        norms = np.linalg.norm(own, axis=-1) * np.linalg.norm(target, axis=-1)
        each = 1 - ((own * target).sum(-1) / norms)[..., None]
    else:
        each = np.square(own - target)
    expected = (weights * each).mean((1, 2, 3))
    found = loss_of(feature(loss=loss, attention=kind), own, target, teacher)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def halved(values: np.ndarray, axis: int) -> np.ndarray:
    values = np.moveaxis(values, axis, 0)
    padded = np.concatenate([0 * values[:1], values, 0 * values[:1]])
    present = np.concatenate([[0.0], np.ones(len(values)), [0.0]])
    shape = (-1,) + (1,) * (values.ndim - 1)
    taps = [(0, 1), (1, 3), (2, 3), (3, 1)]
    length = len(values) // 2
    total = sum(share * padded[first : first + 2 * length : 2] for first, share in taps)
    weight = sum(share * present[first : first + 2 * length : 2] for first, share in taps)
    return np.moveaxis(total / weight.reshape(shape), 0, axis)


@pytest.mark.parametrize("kind", KINDS)
def test_where_there_is_nothing_to_attend_to_all_positions_are_alike(kind: str) -> None:
    own, target, teacher = maps()
    nobody = np.random.default_rng(0).uniform(-30, -15, teacher.shape)
    pair, plain = feature(attention=kind), feature()
    found = loss_of(pair, own, 0 * target, nobody)
    np.testing.assert_allclose(found, loss_of(plain, own, 0 * target, nobody), rtol=1e-3)


def test_statistics_are_those_of_all_batches_together() -> None:
    batches = [maps(seed)[1] * (1 + seed) for seed in range(3)]
    for batch in batches:
        batch[..., DEAD] = 5
    scale = scale_of(*batches)
    together = np.concatenate(batches).reshape(-1, 4)
    np.testing.assert_allclose(scale.mean, together.mean(0), rtol=1e-5)
    live = [c for c in range(4) if c != DEAD]
    np.testing.assert_allclose(scale.factor[live,], 1 / together.std(0)[live], rtol=1e-5)
    assert scale.factor[DEAD] == 0


@pytest.mark.parametrize("loss", ["mse", "cosine", "cwd", "mgd"])
def test_a_standardised_pair_is_compared_on_its_live_channels_alone(loss: str) -> None:
    own, target, teacher = maps()
    live = [c for c in range(4) if c != DEAD]
    flat = target.reshape(-1, 4)
    standard = (target - flat.mean(0)) / np.where(flat.std(0) > 0, flat.std(0), 1)
    plain = functools.partial(loss_of, feature(loss=loss))
    whole = functools.partial(loss_of, feature(loss=loss, standardize=True), scale=scale_of(target))
    np.testing.assert_allclose(
        whole(own, target, teacher),
        plain(own[..., live], standard[..., live], teacher),
        rtol=2e-5,
    )
    gradient = jax.grad(lambda own: whole(own, target, teacher).sum())(jnp.asarray(own))
    assert not gradient[..., DEAD].any()
    assert gradient[..., live].all()


def test_a_tensor_that_never_changes_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        scale_of(np.full((1, 2, 2, 3), 7.0))
    assert caught.value.code == "constant-feature"


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(
    ("loss", "attention"),
    [(loss, kind) for loss in ("mse", "cosine") for kind in ("none", *KINDS)] + [("cwd", "none")],
)
def test_gradients_are_those_of_finite_differences(
    loss: str, attention: str, standardize: bool
) -> None:
    pair = feature(loss=loss, attention=attention, standardize=standardize)
    own, target, teacher = maps()
    scale = scale_of(target) if standardize else None
    with jax.enable_x64(True):
        arrays = [jnp.asarray(array, jnp.float64) for array in (own, target, teacher)]
        wide = scale and FeatureScale(*(jnp.asarray(part, jnp.float64) for part in scale))
        check_grads(
            lambda own: loss_of(pair, own, *arrays[1:], wide), arrays[:1], order=1, modes=["rev"]
        )


positive = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=4)


@given(positive, st.floats(0.5, 5))
def test_learned_weights_settle_where_no_pair_is_left_alone(
    values: list[float], temperature: float
) -> None:
    with jax.enable_x64(True):
        sizes = jnp.asarray(values, jnp.float64)
        rest = -jnp.log(sizes)
        weights = feature_lib.learned_pair_weights(rest, temperature)
        assert float(weights.sum()) == pytest.approx(len(values))
        shares = np.asarray(values) ** (-1 / temperature)
        np.testing.assert_allclose(weights, len(values) * shares / shares.sum(), rtol=1e-6)
        # It is the minimum, and the only one: from anywhere else the way there is downhill.
        gradient = jax.grad(feature_lib.balance_loss)
        np.testing.assert_allclose(gradient(rest, sizes, temperature), 0, atol=1e-9)
        start = jnp.linspace(-1, 1, len(values))
        downhill = gradient(start, sizes, temperature) @ (rest - start)
        assert downhill <= 1e-12
        if temperature == 1:
            np.testing.assert_allclose(weights * sizes, (weights * sizes)[0])


def test_learned_weights_and_losses_do_not_teach_each_other() -> None:
    balance, values = jnp.asarray([0.5, -0.2]), jnp.asarray([3.0, 0.1])
    assert not jax.grad(feature_lib.balance_loss, argnums=1)(balance, values, 1.0).any()
    pairs = (feature(weight=0.7), feature(weight=0.4))
    loss = feature_lib.Feature(pairs=pairs, learned_weights=True)
    weights = feature_lib.learned_pair_weights(balance, 1.0)

    def summed(balance: jax.Array, values: jax.Array) -> jax.Array:
        outputs = ModelOutputs(jnp.zeros(()), balance=balance)
        return loss._weighted_sum(list(values), outputs)

    to_balance, to_values = jax.grad(summed, argnums=(0, 1))(balance, values)
    assert not to_balance.any()
    np.testing.assert_allclose(to_values, weights * np.asarray([0.7, 0.4]), rtol=1e-6)
    # Finite, too, where a pair has been matched to the last digit.
    matched = jax.grad(feature_lib.balance_loss)(balance, jnp.asarray([3.0, 0.0]), 1.0)
    assert np.isfinite(matched).all()
