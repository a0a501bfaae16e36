"""One training step and one evaluation step, each compiled to a single program.

`loss_fn` runs the student and weighs its losses (`loss_terms`, at the end), `train_step` takes the
gradient and updates the state, `eval_step` measures. `jit_train_step` and `jit_eval_step` make
jitted functions of them, which compile at their first call. `StepSpec` (`step_spec.py`) holds what
does not change from step to step.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxdistill.losses.base import Loss, LossInputs, PerImage, Scalars
from jaxdistill.losses.feature import mgd_key
from jaxdistill.metrics import segmentation
from jaxdistill.models.parameters import flat_variables, merge, param_group
from jaxdistill.runtime import xla
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.training import ema
from jaxdistill.training.accumulation import accumulate
from jaxdistill.training.aggregation import ImageCounts, Sum, sum_over_images
from jaxdistill.training.optimizer import schedule_count
from jaxdistill.training.step_spec import StepSpec
from jaxdistill.types import Batch, ModelOutputs, TeacherOutputs, TrainState, Variables


def loss_fn(
    params: Variables,
    spec: StepSpec,
    batch_stats: Variables,
    frozen: Variables,
    batch: Batch,
    teacher: TeacherOutputs,
    divisors: ImageCounts,
    step: Int[Array, ""],
    part: int | Int[Array, ""],
) -> tuple[Float[Array, ""], tuple[Scalars, Variables]]:
    """Computes the training objective on a batch or on one part of it.

    Args:
      params: Trained parameters; the gradient is taken with respect to these.
      spec: What the step is compiled for.
      batch_stats: Running statistics of the BatchNorms that are trained.
      frozen: Variables that do not change.
      batch: Images in [0, 1] and masks.
      teacher: The frozen networks' outputs.
      divisors: Number of images, each a scalar, over which a term is averaged: the labelled ones
        for terms that require a mask, else all.
      step: Number of the step.
      part: Number of this part of the batch.

    Returns:
      The objective, and beside it the mean of every term, the learned weights of feature pairs, and
      the new running statistics.
    """
    student = merge(spec.graphdef, {**params, **batch_stats, **frozen})
    outputs = student(
        batch.images,
        train=True,
        encoder_features=teacher.encoder_features,
        key=mgd_key(spec.seed, step * spec.accumulate + part),
    )
    epoch = step // spec.steps_per_epoch
    per_image = loss_terms(spec.losses, outputs, batch, teacher, epoch, spec.epochs)
    means = {
        name: summed.total / divisors.of_value(name, spec.losses)
        for name, summed in sum_over_images(per_image, spec.losses, batch).items()
    }
    total = weighted_total(spec.losses, means)
    logged = {**means, "total": total}
    for name, loss in spec.losses.items():
        auxiliary, scalars = loss.auxiliary(name, outputs, means)
        total = total if auxiliary is None else total + auxiliary
        logged |= scalars
    variables = flat_variables(student)
    return total, (logged, {path: variables[path] for path in batch_stats})


def train_step(
    spec: StepSpec,
    state: TrainState,
    frozen: Variables,
    batch: Batch,
    teacher: TeacherOutputs,
) -> tuple[TrainState, Scalars]:
    """Updates the state by one gradient step.

    Losses and gradients are means over the whole batch, also where it is processed in parts; but
    BatchNorm normalises each part by itself, and its running statistics move once per part. Where
    the objective or the gradient is not finite, the state stays as it was except for `step`.

    Args:
      spec: What the step is compiled for.
      state: The state before the step.
      frozen: Variables that do not change.
      batch: Images in [0, 1] and masks.
      teacher: The frozen networks' outputs.

    Returns:
      The next state, and scalars: the mean of every term, their weighted `total`, the number of
      `labelled` images, the gradient's norm before clipping (in all and by parameter group), the
      learning rate, and what the losses log.
    """
    parts = spec.accumulate
    divisors = jax.tree.map(
        lambda each: jnp.maximum(each.sum(), 1) / parts, ImageCounts.of_each(batch)
    )

    def grad_fn(
        part: int | Array, rows: tuple[Batch, TeacherOutputs], batch_stats: Variables
    ) -> tuple[tuple[Scalars, Variables], Variables]:
        (_, (logged, batch_stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, spec, batch_stats, frozen, *rows, divisors, state.step, part
        )
        return (logged, gradients), batch_stats

    (logged, gradients), batch_stats = accumulate(
        grad_fn, (batch, teacher), state.batch_stats, parts
    )
    updates, opt_state = spec.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # The schedule's own count: a step that was not finite does not advance it.
    count = schedule_count(state.opt_state)
    average = ema.update(spec.ema, state.ema, params, batch_stats, count)

    gradient_norm = optax.global_norm(gradients)
    finite = jnp.isfinite(logged["total"]) & jnp.isfinite(gradient_norm)
    where_finite = partial(jax.tree.map, partial(jnp.where, finite))
    next_state = TrainState(
        step=state.step + 1,
        params=where_finite(params, state.params),
        batch_stats=where_finite(batch_stats, state.batch_stats),
        opt_state=where_finite(opt_state, state.opt_state),
        ema=where_finite(average, state.ema),
    )
    epoch = state.step // spec.steps_per_epoch
    for loss in spec.losses.values():
        logged |= loss.logged(epoch=epoch, epochs=spec.epochs)
    logged |= {
        "labelled": batch.labelled.sum(),
        "gradient_norm": gradient_norm,
        **_norms_by_group(gradients),
        "learning_rate": (rate := spec.learning_rate(count)),
        **{f"learning_rate_{group}": factor * rate for group, factor in spec.factors.items()},
    }
    return next_state, logged


def eval_step(
    spec: StepSpec,
    params: Variables,
    batch_stats: Variables,
    frozen: Variables,
    batch: Batch,
    teacher: TeacherOutputs,
    epoch: Int[Array, ""],
) -> tuple[dict[str, Sum], Float[Array, "b h w 1"]]:
    """Measures losses and metrics of a batch with running statistics in every BatchNorm.

    Args:
      spec: What the step is compiled for.
      params: Trained parameters.
      batch_stats: Running statistics of the BatchNorms that are trained.
      frozen: Variables that do not change.
      batch: Images in [0, 1] and masks.
      teacher: The frozen networks' outputs.
      epoch: The epoch, counted from 0; schedules of the losses depend on it.

    Returns:
      Every loss and metric summed over the batch's images, and the student's logits.
    """
    student = merge(spec.graphdef, {**params, **batch_stats, **frozen})
    outputs = student(
        batch.images,
        train=False,
        encoder_features=teacher.encoder_features,
        key=mgd_key(spec.seed),
    )
    values = loss_terms(spec.losses, outputs, batch, teacher, epoch, spec.epochs)
    mask = batch.masks > 0.5
    prediction = segmentation.predict(outputs.logits)
    values["student_miou"] = segmentation.mean_iou(prediction, mask)
    values["student_iou"] = segmentation.iou(prediction, mask)
    values["student_boundary_iou"] = segmentation.boundary_iou(prediction, mask)
    if teacher.logits is not None:
        teacher_prediction = segmentation.predict(teacher.logits)
        values["teacher_miou"] = segmentation.mean_iou(teacher_prediction, mask)
        values["agreement"] = segmentation.agreement(prediction, teacher_prediction)
    return sum_over_images(values, spec.losses, batch), outputs.logits


def jit_train_step(
    spec: StepSpec, mesh: Mesh | None = None
) -> Callable[[TrainState, Variables, Batch, TeacherOutputs], tuple[TrainState, Scalars]]:
    """Jits `train_step`; the buffers of the state are donated.

    Args:
      spec: What the step is compiled for.
      mesh: Devices that share the step: state and frozen variables are replicated, batch and
        teacher outputs divided by rows. None uses one device.

    Returns:
      The jitted step without its first argument.
    """
    mesh = mesh or Mesh()
    step = partial(train_step, spec)
    options = xla.compiler_options(mesh.platform)
    return mesh.jit(step, mesh.replicated, donate_argnums=0, compiler_options=options)


def jit_eval_step(
    spec: StepSpec, mesh: Mesh | None = None
) -> Callable[..., tuple[dict[str, Sum], Float[Array, "b h w 1"]]]:
    """Jits `eval_step`; over several devices the logits are divided by rows.

    Args:
      spec: What the step is compiled for.
      mesh: See `jit_train_step`.

    Returns:
      The jitted step without its first argument.
    """
    mesh = mesh or Mesh()
    step = partial(eval_step, spec)
    options = xla.compiler_options(mesh.platform)
    return mesh.jit(step, (mesh.replicated, mesh.sharded), compiler_options=options)


def loss_terms(
    losses: Mapping[str, Loss],
    outputs: ModelOutputs,
    batch: Batch,
    teacher: TeacherOutputs,
    epoch: int | Array,
    epochs: int,
) -> dict[str, PerImage]:
    """Computes every loss term of each image, unweighted, in float32.

    Args:
      losses: The terms by name.
      outputs: The student's outputs.
      batch: Images and masks.
      teacher: The frozen networks' outputs.
      epoch: The epoch, counted from 0.
      epochs: Number of epochs of the run.

    Returns:
      The terms, and the parts that some of them log, by name.
    """
    # Sums over half a million pixels need float32, whatever the maps were computed or kept in.
    outputs, teacher = jax.tree.map(lambda values: values.astype(jnp.float32), (outputs, teacher))
    inputs = LossInputs(outputs, batch, teacher, epoch, epochs)
    terms: dict[str, PerImage] = {}
    for name, loss in losses.items():
        terms |= loss.terms(name, inputs)
    return terms


def weighted_total(losses: Mapping[str, Loss], means: Mapping[str, Array]) -> Array:
    """Returns the weighted sum of the terms.

    Args:
      losses: The terms by name.
      means: Their means; a term without one is left out.
    """
    weighted = (loss.weight * means[name] for name, loss in losses.items() if name in means)
    return sum(weighted, jnp.zeros(()))


def _norms_by_group(gradients: Variables) -> Scalars:
    groups = sorted({param_group(path) for path in gradients})
    return {
        f"gradient_norm_{group}": optax.global_norm(
            {path: value for path, value in gradients.items() if param_group(path) == group}
        )
        for group in groups
    }
