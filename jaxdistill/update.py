"""One step of training and one of validation, each a single jitted program."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdistill import config, features, losses, metrics, optimizer, schedules
from jaxdistill.accumulation import accumulate
from jaxdistill.data.batches import Batch
from jaxdistill.mesh import Mesh
from jaxdistill.models.student import (
    Outputs,
    Split,
    Variables,
    group_of,
    variables_of,
)
from jaxdistill.ops import compiling
from jaxdistill.targets.frozen import Targets

Scalars = dict[str, Float[Array, ""]]
Fed = tuple[Batch, Targets]
LOSSES = ("kl", "mse", "bce", "dice", "feature")
OF_MASKS = frozenset(
    {"bce", "dice", "student_miou", "student_iou", "student_boundary_iou", "teacher_miou"}
)
"""What is measured on labelled pictures only."""


class Sum(NamedTuple):
    """Of a measure over some pictures, whose mean is one divided by the other."""

    total: Float[Array, ""]
    pictures: Float[Array, ""]
    """How many they are: 0 where none has the mask that it takes."""


class TrainState(NamedTuple):
    """All that a step changes."""

    step: Int[Array, ""]
    parameters: Variables
    statistics: Variables
    optimizer: optax.OptState


TrainStep = Callable[[TrainState, Variables, Batch, Targets], tuple[TrainState, Scalars]]
EvalStep = Callable[
    [Variables, Variables, Variables, Batch, Targets, Array],
    tuple[dict[str, Sum], Float[Array, "b h w 1"]],
]


def start(settings: config.Config, split: Split) -> TrainState:
    """The state before the first step."""
    moments = optimizer.build(settings, split.parameters).init(split.parameters)
    return TrainState(jnp.zeros((), jnp.int32), split.parameters, split.statistics, moments)


def carry(state: TrainState, settings: config.Config, split: Split) -> TrainState:
    """The state of another phase: what it holds stays, what joins the training starts afresh."""
    fresh = start(settings, split)
    old = {jax.tree_util.keystr(path): leaf for path, leaf in _leaves(state.optimizer)}
    moments = [old.get(jax.tree_util.keystr(path), leaf) for path, leaf in _leaves(fresh.optimizer)]
    return TrainState(
        state.step,
        {**fresh.parameters, **state.parameters},
        {**fresh.statistics, **state.statistics},
        jax.tree.unflatten(jax.tree.structure(fresh.optimizer), moments),
    )


def _leaves(tree: optax.OptState) -> list[tuple[Any, Array]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def make_train_step(
    settings: config.Config, graph: nnx.GraphDef, steps_per_epoch: int, mesh: Mesh | None = None
) -> TrainStep:
    """The jitted step: (state, frozen, batch, targets) to the next state and what was measured.

    Measured are the mean of every loss (of `bce` and `dice` over the labelled pictures, 0 if there
    is none), their weighted `total`, the number of `labelled` pictures, the gradient's norm before
    clipping, in all and by parameter group, the temperature, the learning rate, and as
    `feature_weight.N` the learned weights of the pairs. Where the total or the gradient is not
    finite the state is left as it was, but for the step's number: nothing is learnt, and nothing
    lost.

    The batch is taken in `training.accumulate` parts, one after the other: all measures and
    gradients are means over the whole of it, but BatchNorm measures each part by itself, and its
    statistics move once for each.

    The state's buffers are donated. Over a mesh of several devices, state and frozen variables are
    the same on each, batch and targets divided by rows.
    """
    parts, mesh = settings.training.accumulate, mesh or Mesh()

    def step(
        state: TrainState, frozen: Variables, batch: Batch, targets: Targets
    ) -> tuple[TrainState, Scalars]:
        epoch = state.step // steps_per_epoch
        temperature = schedules.temperature(
            settings.losses.temperature, epoch, settings.training.epochs
        )
        rate = schedules.learning_rate(settings.training, epoch)

        def pictures(name: str) -> Array:
            """Of the whole batch, a part's share."""
            return jnp.maximum(_counted(name, batch).sum(), 1) / parts

        def objective(
            parameters: Variables, part: int | Array, rows: Fed, statistics: Variables
        ) -> tuple[Array, tuple[Scalars, Variables]]:
            own, targets = rows
            student = Split(graph, parameters, statistics, frozen).student()
            key = features.mask_key(settings.seed, state.step * parts + part)
            outputs = student(own.images, train=True, encoded=targets.encoded, key=key)
            after = variables_of(student)
            sums = _sums(loss_terms(settings, outputs, own, targets, temperature), own)
            terms = {name: one.total / pictures(name) for name, one in sums.items()}
            balancing, weights = _balancing(settings, outputs.balance, terms)
            value = total(settings.losses, terms)
            moved = {path: after[path] for path in statistics}
            return value + balancing, ({**terms, **weights, "total": value}, moved)

        def measure(
            part: int | Array, rows: Fed, statistics: Variables
        ) -> tuple[tuple[Scalars, Variables], Variables]:
            (_, (terms, moved)), gradients = jax.value_and_grad(objective, has_aux=True)(
                state.parameters, part, rows, statistics
            )
            return (terms, gradients), moved

        (terms, gradients), statistics = accumulate(
            measure, (batch, targets), state.statistics, parts
        )
        norm = optax.global_norm(gradients)
        update = optimizer.build(settings, state.parameters).update
        updates, moments = update(gradients, state.optimizer, state.parameters)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        parameters = optax.apply_updates(state.parameters, updates)

        finite = jnp.isfinite(terms["total"]) & jnp.isfinite(norm)
        learnt = (parameters, statistics, moments)
        kept = jax.tree.map(partial(jnp.where, finite), learnt, state[1:])
        measured = {
            **terms,
            "labelled": batch.labelled.sum(),
            "gradient_norm": norm,
            **_norms(gradients),
            "temperature": temperature,
            "learning_rate": rate,
        }
        return TrainState(state.step + 1, *kept), measured

    return mesh.jit(step, mesh.same, donate_argnums=0, compiler_options=compiling.options())


def _norms(gradients: Variables) -> Scalars:
    groups = {group_of(path) for path in gradients}
    return {
        f"gradient_norm_{group}": optax.global_norm(
            {path: value for path, value in gradients.items() if group_of(path) == group}
        )
        for group in sorted(groups)
    }


def make_eval_step(
    settings: config.Config, graph: nnx.GraphDef, mesh: Mesh | None = None
) -> EvalStep:
    """The jitted validation step: every measure's sum over the batch's pictures, and the logits.

    Its arguments: parameters, statistics, frozen, batch, targets, temperature of the KL loss. Over
    a mesh, the logits are divided by rows.
    """
    mesh = mesh or Mesh()

    def step(
        parameters: Variables,
        statistics: Variables,
        frozen: Variables,
        batch: Batch,
        targets: Targets,
        temperature: Array,
    ) -> tuple[dict[str, Sum], Float[Array, "b h w 1"]]:
        student = Split(graph, parameters, statistics, frozen).student()
        key = features.mask_key(settings.seed)
        outputs = student(batch.images, train=False, encoded=targets.encoded, key=key)
        values = loss_terms(settings, outputs, batch, targets, temperature)
        mask = batch.masks > 0.5
        predicted = metrics.predict(outputs.logits)
        values["student_miou"] = metrics.mean_iou(predicted, mask)
        values["student_iou"] = metrics.iou(predicted, mask)
        values["student_boundary_iou"] = metrics.boundary_iou(predicted, mask)
        if targets.logits is not None:
            teacher = metrics.predict(targets.logits)
            values["teacher_miou"] = metrics.mean_iou(teacher, mask)
            values["agreement"] = metrics.agreement(predicted, teacher)
        return _sums(values, batch), outputs.logits

    return mesh.jit(step, (mesh.same, mesh.rows), compiler_options=compiling.options())


def means(batches: Iterable[Mapping[str, Sum]]) -> dict[str, float]:
    """Of every measure over all pictures of the batches; without those that have no picture."""
    totals: dict[str, float] = defaultdict(float)
    pictures: dict[str, float] = defaultdict(float)
    for sums in batches:
        for name, one in sums.items():
            totals[name] += float(one.total)
            pictures[name] += float(one.pictures)
    return {name: total / pictures[name] for name, total in totals.items() if pictures[name] > 0}


def fault(values: Mapping[str, float]) -> str | None:
    """The first thing measured that is not finite, or None."""
    # The term at fault comes before the sums that it spoils.
    pairs = [name for name in values if name.startswith("feature.")]
    names = (*pairs, *LOSSES, "total", "gradient_norm")
    return next((name for name in names if not math.isfinite(values.get(name, 0.0))), None)


def loss_terms(
    settings: config.Config,
    outputs: Outputs,
    batch: Batch,
    targets: Targets,
    temperature: float | Array,
) -> dict[str, Float[Array, " b"]]:
    """Every loss that has a weight and something to act on, per picture; of several pairs also
    `feature.N`, unweighted."""
    weights, supervised = settings.losses, settings.data.train.labelled
    # Sums over half a million pixels need float32, whatever the maps were computed or kept in.
    outputs, targets = jax.tree.map(lambda values: values.astype(jnp.float32), (outputs, targets))
    logits = outputs.logits
    terms = {}
    if targets.logits is not None and weights.kl > 0:
        terms["kl"] = losses.kl(logits, targets.logits, temperature, weights.kl_scale)
    if targets.logits is not None and weights.mse > 0:
        terms["mse"] = losses.mse(logits, targets.logits)
    if supervised and weights.bce > 0:
        terms["bce"] = losses.bce(logits, batch.masks)
    if supervised and weights.dice > 0:
        terms["dice"] = losses.dice(logits, batch.masks)
    if taught := settings.taught_features:
        values = features.pair_losses(taught, outputs, targets)
        learned = _learned_weights(settings, outputs.balance)
        terms["feature"] = features.weighted_sum(taught, values, learned)
        if len(values) > 1:
            terms |= {f"feature.{index}": value for index, value in enumerate(values)}
    return terms


def total(weights: config.Losses, terms: Scalars) -> Array:
    """The weighted sum that training minimises."""
    weighted = (getattr(weights, name) * terms[name] for name in LOSSES if name in terms)
    return sum(weighted, jnp.zeros(()))


def _learned_weights(settings: config.Config, balance: Array | None) -> Array | None:
    if balance is None:
        return None
    return features.learned_weights(balance, settings.losses.feature_weights_temperature)


def _balancing(
    settings: config.Config, balance: Array | None, terms: Scalars
) -> tuple[Array, Scalars]:
    """What the learned weights of the pairs minimise, and the weights."""
    if balance is None:
        return jnp.zeros(()), {}
    values = jnp.stack([terms[f"feature.{index}"] for index in range(len(balance))])
    temperature = settings.losses.feature_weights_temperature
    weights = jax.lax.stop_gradient(features.learned_weights(balance, temperature))
    named = {f"feature_weight.{index}": weight for index, weight in enumerate(weights)}
    return features.balancing(balance, values, temperature), named


def _sums(values: dict[str, Float[Array, " b"]], batch: Batch) -> dict[str, Sum]:
    counted = {name: _counted(name, batch) for name in values}
    return {name: Sum((values[name] * one).sum(), one.sum()) for name, one in counted.items()}


def _counted(name: str, batch: Batch) -> Float[Array, " b"]:
    """1 for each picture that has what a measure takes."""
    return batch.labelled if name in OF_MASKS else batch.weights
