"""AdamW as the specification has it: clipped, and by stage where the encoder joins the training."""

import optax

from jaxdistill import config
from jaxdistill.models import unfreezing
from jaxdistill.models.student import PARAM_GROUPS, param_group
from jaxdistill.types import Variables


def build(settings: config.Config, params: Variables) -> optax.GradientTransformation:
    """AdamW of these parameters, up to the learning rate, which the step supplies."""
    training = settings.training
    return optax.chain(
        _clip(training.clip),
        _adam(settings.student.unfreeze, params),
        optax.add_decayed_weights(training.weight_decay),
        _scale(settings.student.unfreeze),
    )


def _adam(plan: config.Unfreezing | None, params: Variables) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
    if plan is None:
        return adam
    # Each stage that has joined counts its own steps, which correct the bias of its moments.
    stages = set(unfreezing.joined(params).values())
    return optax.partition(dict.fromkeys(stages, adam), unfreezing.joined)


def _scale(plan: config.Unfreezing | None) -> optax.GradientTransformation:
    if plan is None:
        return optax.identity()
    scale = optax.scale(plan.learning_rate_scale)
    return optax.masked(scale, lambda tree: {path: param_group(path) == "encoder" for path in tree})


def _clip(clip: config.Clip) -> optax.GradientTransformation:
    if clip.norm is None:
        return optax.identity()
    if clip.per == "all":
        return optax.clip_by_global_norm(clip.norm)
    each = {group: optax.clip_by_global_norm(clip.norm) for group in PARAM_GROUPS}
    return optax.partition(each, lambda tree: {path: param_group(path) for path in tree})
