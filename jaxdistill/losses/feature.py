"""Feature losses: projected student maps against the detector's inner maps, pair by pair."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.losses.base import Input, Loss, LossInputs, PerImage, Scalars, mean_over_map
from jaxdistill.losses.distillation import mse
from jaxdistill.losses.registry import LOSSES
from jaxdistill.types import FeatureScale, ModelOutputs, TeacherOutputs

Map = Float[Array, "b h w 1"]
Features = Float[Array, "b h w c"]

_NO_STEP = 2**32 - 1
# Weight of a position with probability 0 relative to one with probability 1. Without it, the
# positions of an image without people would be weighted by rounding errors.
_FLOOR = 1e-3
_LEAST_NORM = 1e-8  # as in `torch.nn.functional.cosine_similarity`


@LOSSES.register("feature")
@dataclass(frozen=True)
class Feature(Loss):
    """Weighted sum of the losses of all feature pairs.

    Args:
      pairs: The pairs; each names a tensor of the detector, a tap of the student, and how the two
        are compared.
      learned_weights: Whether each pair has, besides its own `weight`, a weight that is trained;
        these weights are 1 on average.
      balance_temperature: Temperature of the learned weights. At 1 every pair comes to contribute
        the same; larger values keep the weights closer to 1.
    """

    pairs: tuple[config.Feature, ...] = ()
    learned_weights: bool = False
    balance_temperature: float = 1.0

    @property
    def requires(self) -> frozenset[Input]:
        """The features, and the teacher's mask where a pair weights positions by it."""
        attentive = any(pair.uses_teacher_mask for pair in self.pairs)
        return frozenset({"features", "teacher_logits"} if attentive else {"features"})

    def __call__(self, inputs: LossInputs) -> PerImage:
        """Computes the loss of each image."""
        return self.terms("", inputs)[""]

    def terms(self, name: str, inputs: LossInputs) -> dict[str, PerImage]:
        """Returns the term and, for several pairs, each pair's unweighted loss as `NAME.N`."""
        values = pair_losses(self.pairs, inputs.outputs, inputs.teacher)
        parts = {f"{name}.{index}": value for index, value in enumerate(values)}
        total = self._weighted_sum(values, inputs.outputs)
        return {name: total, **(parts if len(values) > 1 else {})}

    def auxiliary(
        self, name: str, outputs: ModelOutputs, means: Scalars
    ) -> tuple[Array | None, Scalars]:
        """Returns the loss that trains the learned weights, and the weights."""
        if outputs.balance is None:
            return None, {}
        values = jnp.stack([means[f"{name}.{index}"] for index in range(len(outputs.balance))])
        weights = self._learned_weights(outputs.balance)
        named = {f"{name}_weight.{index}": weight for index, weight in enumerate(weights)}
        return balance_loss(outputs.balance, values, self.balance_temperature), named

    def _weighted_sum(self, values: Sequence[PerImage], outputs: ModelOutputs) -> PerImage:
        weights: list[float | Array] = [pair.weight for pair in self.pairs]
        if outputs.balance is not None:
            learned = self._learned_weights(outputs.balance)
            weights = [weight * factor for weight, factor in zip(weights, learned, strict=True)]
        weighted = (weight * value for weight, value in zip(weights, values, strict=True))
        return sum(weighted, start=jnp.zeros(()))

    def _learned_weights(self, balance: Array) -> Array:
        return jax.lax.stop_gradient(learned_pair_weights(balance, self.balance_temperature))


def pair_losses(
    pairs: Sequence[config.Feature], outputs: ModelOutputs, teacher: TeacherOutputs
) -> list[PerImage]:
    """Computes each pair's unweighted loss.

    Args:
      pairs: The feature pairs.
      outputs: The student's outputs; `projected` holds a map for each pair.
      teacher: The frozen networks' outputs; `features` holds a map for each pair.

    Returns:
      For each pair the loss of each image (B,).
    """
    scales = outputs.scales or (None,) * len(pairs)
    return [
        _pair_loss(pair, projected, target, scale, teacher.logits)
        for pair, projected, target, scale in zip(
            pairs, outputs.projected, teacher.features, scales, strict=True
        )
    ]


def cosine(a: Features, b: Features, attention: Map | None = None) -> PerImage:
    """Computes one minus the mean cosine similarity over channels.

    Args:
      a: A feature map (B, h, w, C).
      b: A feature map of the same shape.
      attention: Weights of the positions, 1 on average; None weights all alike.

    Returns:
      The loss of each image (B,).
    """
    dot = (a * b).sum(-1)
    squares = jnp.maximum(jnp.square(a).sum(-1), _LEAST_NORM**2) * jnp.maximum(
        jnp.square(b).sum(-1), _LEAST_NORM**2
    )
    similarity = dot / jnp.sqrt(squares)
    if attention is not None:
        similarity = similarity * attention[..., 0]
    return 1 - mean_over_map(similarity)


def weighted_mse(a: Features, b: Features, attention: Map | None = None) -> PerImage:
    """Computes the mean squared difference, weighted by position.

    Args:
      a: A feature map (B, h, w, C).
      b: A feature map of the same shape.
      attention: Weights of the positions, 1 on average; None weights all alike.

    Returns:
      The loss of each image (B,).
    """
    if attention is None:
        return mse(a, b)
    return (jnp.square(a - b) * attention).mean(tuple(range(1, a.ndim)))


def cwd(student: Features, target: Features, temperature: float) -> PerImage:
    """Computes channel-wise distillation (Shu et al. 2021, arXiv:2011.13256, equations 3 and 4).

    A softmax over the positions at temperature T turns each channel into a distribution. The
    divergence of the student's from the target's is summed over positions, averaged over channels,
    and multiplied by T squared. The paper sums over the batch; here, as in the authors' code, the
    mean is taken, so that the loss does not grow with the batch.

    Args:
      student: Projected student map (B, h, w, C).
      target: The detector's map (B, h, w, C).
      temperature: T, above 0.

    Returns:
      The loss of each image (B,).
    """
    log_p, log_q = (jax.nn.log_softmax(x / temperature, axis=(1, 2)) for x in (target, student))
    divergence = (jnp.exp(log_p) * (log_p - log_q)).sum((1, 2))
    return temperature**2 * divergence.mean(-1)


def attention_map(kind: str, target: Features, teacher_logits: Map | None) -> Map | None:
    """Computes the weights of the positions, 1 on average over each image.

    Args:
      kind: `none`; `mask`, the teacher's probability p; `uncertainty`, p (1 - p); or `energy`, the
        target's mean square over channels (Zagoruyko & Komodakis 2017, arXiv:1612.03928).
      target: The detector's map (B, h, w, C).
      teacher_logits: The teacher's mask logits; `mask` and `uncertainty` need them.

    Returns:
      Weights (B, h, w, 1), or None for `none`.
    """
    if kind == "none":
        return None
    if kind == "energy":
        return normalize_attention(jnp.square(target).mean(-1, keepdims=True), 1e-30)
    assert teacher_logits is not None  # `Feature.requires` names it
    p = jax.nn.sigmoid(teacher_logits)
    values = p if kind == "mask" else p * (1 - p)
    _, height, width, _ = target.shape
    return normalize_attention(image_ops.resize(values, (height, width), antialias=True), _FLOOR)


def normalize_attention(values: Map, floor: float) -> Map:
    """Scales values to a mean of 1 over each image.

    Args:
      values: Weights that are not negative (B, h, w, 1).
      floor: Added to each value; where all values are far below it, the weights come out equal.

    Returns:
      Weights (B, h, w, 1) with mean 1.
    """
    raised = values + floor
    return raised / raised.mean((1, 2, 3), keepdims=True)


def learned_pair_weights(
    balance: Float[Array, " pairs"], temperature: float
) -> Float[Array, " pairs"]:
    """Returns positive weights with mean 1 from their logits.

    Args:
      balance: Logits of the weights (pairs,).
      temperature: Temperature of the softmax.

    Returns:
      The weights (pairs,).
    """
    return len(balance) * jax.nn.softmax(balance / temperature)


def balance_loss(
    balance: Float[Array, " pairs"], values: Float[Array, " pairs"], temperature: float
) -> Float[Array, ""]:
    """Computes the loss that trains the logits of the learned weights, and nothing else.

    With s = softmax(balance / T) it is sum(s log(value)) - T H(s), where H is the entropy. Its only
    minimum, s ~ value^(-1/T), is interior, so no pair takes all the weight. At T = 1 every pair
    contributes the same, as uncertainty weights do at convergence (Kendall et al. 2018,
    arXiv:1705.07115), but the sum of the weights is kept. Minimising the weighted sum of the losses
    itself would put all weight on the easiest pair; therefore its gradient does not reach them.

    Args:
      balance: Logits of the weights (pairs,).
      values: The pairs' losses (pairs,); no gradient flows into them.
      temperature: T, above 0.

    Returns:
      The loss, a scalar.
    """
    log_share = jax.nn.log_softmax(balance / temperature)
    size = jnp.log(jnp.maximum(jax.lax.stop_gradient(values), jnp.finfo(values.dtype).tiny))
    return (jnp.exp(log_share) * (size + temperature * log_share)).sum()


def mgd_key(seed: int, step: int | Array = _NO_STEP) -> Key[Array, ""]:
    """Returns the key that draws which positions `mgd` masks.

    Args:
      seed: The run's seed.
      step: The training step; the default is the key of the validation.

    Returns:
      A key that no augmentation uses: those are folded with step numbers, which never reach the
      constant that this one is folded with first.
    """
    own = jax.random.fold_in(jax.random.key(seed), _NO_STEP)
    return jax.random.fold_in(own, step)


def _pair_loss(
    pair: config.Feature,
    projected: Features,
    target: Features,
    scale: FeatureScale | None,
    teacher_logits: Map | None,
) -> PerImage:
    channels_per_live_channel: float | Array = 1.0
    if scale is not None:
        live = scale.factor > 0
        projected, target = projected * live, (target - scale.mean) * scale.factor
        channels_per_live_channel = len(live) / live.sum()
    attention = attention_map(pair.attention, target, teacher_logits)
    match pair.loss:
        case "mse" | "mgd":  # `mgd` maps were masked and restored by the projector's generator
            return weighted_mse(projected, target, attention) * channels_per_live_channel
        case "cosine":
            return cosine(projected, target, attention)
        case "cwd":
            return cwd(projected, target, pair.temperature) * channels_per_live_channel
