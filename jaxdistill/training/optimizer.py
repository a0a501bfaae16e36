"""AdamW with a cosine learning rate, clipped, with a factor for each parameter group."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxdistill import config
from jaxdistill.models.parameters import PARAM_GROUPS, param_group
from jaxdistill.training.anchor import decay_toward_start
from jaxdistill.types import Variables

Schedule = Callable[[Array], Array]


def learning_rate_schedule(settings: config.Training, steps_per_epoch: int) -> Schedule:
    """Returns the learning rate by step: a cosine over the epochs, constant within each.

    It equals PyTorch's `CosineAnnealingLR` with `T_max` epochs, stepped after each epoch. In the
    first `warmup_epochs` it is multiplied by a factor that rises linearly from step to step to 1.

    Args:
      settings: `learning_rate`, `final_learning_rate`, `warmup_epochs` and `epochs`.
      steps_per_epoch: Steps in an epoch.

    Returns:
      A function of the number of the step.
    """
    first, last = settings.learning_rate, settings.final_learning_rate

    def schedule(step: Array) -> Array:
        progress = (step // steps_per_epoch) / settings.epochs
        return last + (first - last) * (1 + jnp.cos(jnp.pi * jnp.asarray(progress))) / 2

    steps = round(settings.warmup_epochs * steps_per_epoch)
    if not steps:
        return schedule
    return lambda step: schedule(step) * jnp.minimum(1, (jnp.asarray(step) + 1) / steps)


def build_optimizer(
    settings: config.Training,
    schedule: Schedule,
    *,
    unfreeze: config.Unfreezing | None = None,
    stage_of: Callable[[Variables], Mapping[str, str]] | None = None,
    anchored: Collection[str] = (),
) -> optax.GradientTransformation:
    """Builds the optimizer: clipping, AdamW, and the learning-rate schedule.

    Args:
      settings: `clip`, `weight_decay`, `decay`, `anchor` and `learning_rates`.
      schedule: The learning rate by step.
      unfreeze: How the encoder joins the training; scales the encoder's learning rate.
      stage_of: Labels every parameter with the stage that it joined the training with. Each stage
        then has its own step count, which corrects the bias of its moments.
      anchored: Parameter groups that `anchor` draws back to their start, if it is above 0; no
        weight decay applies to them.

    Returns:
      A gradient transformation over variables by dotted path.
    """
    adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
    if unfreeze is not None and stage_of is not None:
        adam = _by_label(adam, stage_of)
    anchored = anchored if settings.anchor > 0 else ()
    return optax.chain(
        _clip(settings.clip),
        adam,
        optax.add_decayed_weights(settings.weight_decay, _decayed(settings.decay, anchored)),
        *([decay_toward_start(settings.anchor, anchored)] if anchored else []),
        _scale(group_factors(settings, unfreeze)),
        optax.scale_by_learning_rate(schedule),
    )


def schedule_count(opt_state: optax.OptState) -> Int[Array, ""]:
    """Returns how many updates the learning-rate schedule of `build_optimizer` has counted.

    Args:
      opt_state: The optimizer's state.
    """
    (count,) = (each.count for each in opt_state if isinstance(each, optax.ScaleByScheduleState))
    return count


def group_factors(
    settings: config.Training, unfreeze: config.Unfreezing | None = None
) -> dict[str, float]:
    """Returns the factors of the learning rate by parameter group, where they are not 1.

    Args:
      settings: `learning_rates`.
      unfreeze: How the encoder joins the training; its factor is then the one given here.
    """
    factors = settings.learning_rates.model_dump()
    if unfreeze is not None:
        factors["encoder"] = unfreeze.learning_rate_scale
    return {group: factor for group, factor in factors.items() if factor != 1}


def migrate_opt_state(old: optax.OptState, new: optax.OptState) -> optax.OptState:
    """Returns `new` with every array that `old` has under the same path.

    Parameters that join the training start with fresh moments; all others keep theirs.

    Args:
      old: The state of the optimizer so far.
      new: A fresh state of the optimizer over more parameters.
    """
    kept = {jax.tree_util.keystr(path): leaf for path, leaf in _leaves(old)}
    leaves = [kept.get(jax.tree_util.keystr(path), leaf) for path, leaf in _leaves(new)]
    return jax.tree.unflatten(jax.tree.structure(new), leaves)


def _leaves(tree: optax.OptState) -> list[tuple[tuple[object, ...], Array]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _by_label(
    transformation: optax.GradientTransformation,
    label: Callable[[Variables], Mapping[str, str]],
) -> optax.GradientTransformation:
    """Applies a transformation to each label's parameters separately."""

    # `optax.partition` wants the transformations by label, which are known with the parameters.
    def partitioned(params: Variables) -> optax.GradientTransformation:
        labels = set(label(params).values())
        return optax.partition(dict.fromkeys(labels, transformation), label)

    return optax.GradientTransformation(
        lambda params: partitioned(params).init(params),
        lambda updates, state, params: partitioned(updates).update(updates, state, params),
    )


def _scale(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies the updates of each parameter group by its factor."""

    def scaled(updates: Variables, params: Variables | None) -> Variables:
        del params
        return {
            path: update * factors.get(param_group(path), 1) for path, update in updates.items()
        }

    return optax.stateless(scaled) if factors else optax.identity()


def _decayed(
    decay: Literal["all", "kernels"], anchored: Collection[str]
) -> Callable[[Variables], dict[str, bool]] | None:
    """Returns a function that says which parameters weight decay draws to zero; None: all."""
    if decay == "all" and not anchored:
        return None

    def decayed(params: Variables) -> dict[str, bool]:
        return {
            path: param_group(path) not in anchored and (decay == "all" or path.endswith(".kernel"))
            for path in params
        }

    return decayed


def _clip(clip: config.Clip) -> optax.GradientTransformation:
    if clip.norm is None:
        return optax.identity()
    if clip.per == "all":
        return optax.clip_by_global_norm(clip.norm)
    each = {group: optax.clip_by_global_norm(clip.norm) for group in PARAM_GROUPS}
    return optax.partition(each, lambda tree: {path: param_group(path) for path in tree})
