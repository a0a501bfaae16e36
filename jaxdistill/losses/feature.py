"""The feature losses: each pair's own, and how the pairs are weighed against each other."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.losses import terms
from jaxdistill.types import FeatureScale, ModelOutputs, TeacherOutputs

PerPicture = Float[Array, " b"]
Map = Float[Array, "b h w 1"]
Features = Float[Array, "b h w c"]

_NO_STEP = 2**32 - 1
# What a position that the teacher does not care for still weighs, beside a probability of 1: in a
# picture without anybody all positions are alike, rather than ranked by what is left of rounding.
_FLOOR = 1e-3


def mask_key(seed: int, step: int | Array = _NO_STEP) -> Key[Array, ""]:
    """Draws what `mgd` masks: a function of (seed, step); without a step, validation's."""
    # No step has the first number, so the augmentation's keys are others.
    own = jax.random.fold_in(jax.random.key(seed), _NO_STEP)
    return jax.random.fold_in(own, step)


def pair_losses(
    features: Sequence[config.Feature], outputs: ModelOutputs, targets: TeacherOutputs
) -> list[PerPicture]:
    """Each pair's own loss, without any weight."""
    scales = outputs.scales or (None,) * len(features)
    pairs = zip(features, outputs.projected, targets.features, scales, strict=True)
    return [
        _pair_loss(feature, own, target, scale, targets.logits)
        for feature, own, target, scale in pairs
    ]


def weighted_sum(
    features: Sequence[config.Feature], values: Sequence[PerPicture], learned: Array | None
) -> PerPicture:
    """Over the pairs: their losses by their own weights and, where there are any, the learned."""
    weights = [feature.weight for feature in features]
    if learned is not None:
        learned = jax.lax.stop_gradient(learned)
        weights = [weight * factor for weight, factor in zip(weights, learned, strict=True)]
    terms = zip(weights, values, strict=True)
    return sum((weight * value for weight, value in terms), start=jnp.zeros(()))


def learned_weights(balance: Float[Array, " pairs"], temperature: float) -> Float[Array, " pairs"]:
    """Weights that are positive and 1 on average, from their logits."""
    return len(balance) * jax.nn.softmax(balance / temperature)


def balancing(
    balance: Float[Array, " pairs"], values: Float[Array, " pairs"], temperature: float
) -> Float[Array, ""]:
    """What the logits of the learned weights minimise; it teaches nothing else.

    With s = softmax(balance / T) it is Σ s log(value) - T H(s), H being the entropy. Its only
    minimum, s ~ value^(-1/T), is inside: no pair is ever left alone. At T = 1 every pair comes to
    contribute the same, which is also where uncertainty weights (Kendall et al. 2018,
    arXiv:1705.07115) come to rest, but here their sum is kept. The weighted sum of the losses
    itself would be least with all weight on the easiest pair; so its gradient is kept from them.
    """
    log_share = jax.nn.log_softmax(balance / temperature)
    size = jnp.log(jnp.maximum(jax.lax.stop_gradient(values), jnp.finfo(values.dtype).tiny))
    return (jnp.exp(log_share) * (size + temperature * log_share)).sum()


def _pair_loss(
    feature: config.Feature,
    own: Features,
    target: Features,
    scale: FeatureScale | None,
    teacher: Map | None,
) -> PerPicture:
    counted: float | Array = 1.0  # how many channels there are for one that counts
    if scale is not None:
        live = scale.factor > 0
        own, target = own * live, (target - scale.mean) * scale.factor
        counted = len(live) / live.sum()
    attention = _attention(feature.attention, target, teacher)
    match feature.loss:
        case "mse" | "mgd":  # what mgd compares has been masked and restored by now
            return terms.mse(own, target, attention) * counted
        case "cosine":
            return terms.cosine(own, target, attention)
        case "cwd":
            return terms.cwd(own, target, feature.temperature) * counted


def _attention(kind: str, target: Features, teacher: Map | None) -> Map | None:
    """Weights of the positions, 1 on average over each picture.

    `mask` follows the teacher's probability p, `uncertainty` p(1-p), and `energy` the mean of the
    target's squares over channels (Zagoruyko & Komodakis 2017, arXiv:1612.03928).
    """
    if kind == "none":
        return None
    if kind == "energy":
        return terms.share(jnp.square(target).mean(-1, keepdims=True), 1e-30)
    assert teacher is not None  # the configuration's check
    p = jax.nn.sigmoid(teacher)
    values = p if kind == "mask" else p * (1 - p)
    _, height, width, _ = target.shape
    return terms.share(image_ops.resize(values, (height, width), antialias=True), _FLOOR)
