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
from jaxtyping import Array, Float

from jaxdistill import config
from jaxdistill.losses import feature as feature_lib
from jaxdistill.losses import terms as loss_lib
from jaxdistill.metrics import segmentation
from jaxdistill.models.parameters import Partition, flat_variables, param_group
from jaxdistill.runtime import xla
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.training import optimizer, schedules
from jaxdistill.training.accumulation import accumulate
from jaxdistill.types import Batch, ModelOutputs, TeacherOutputs, TrainState, Variables

Scalars = dict[str, Float[Array, ""]]
TrainBatch = tuple[Batch, TeacherOutputs]
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


TrainStep = Callable[[TrainState, Variables, Batch, TeacherOutputs], tuple[TrainState, Scalars]]
EvalStep = Callable[
    [Variables, Variables, Variables, Batch, TeacherOutputs, Array],
    tuple[dict[str, Sum], Float[Array, "b h w 1"]],
]


def start(settings: config.Config, split: Split) -> TrainState:
    """The state before the first step."""
    moments = optimizer.build(settings, split.params).init(split.params)
    return TrainState(jnp.zeros((), jnp.int32), split.params, split.batch_stats, moments)


def carry(state: TrainState, settings: config.Config, split: Split) -> TrainState:
    """The state of another phase: what it holds stays, what joins the training starts afresh."""
    fresh = start(settings, split)
    old = {jax.tree_util.keystr(path): leaf for path, leaf in _leaves(state.opt_state)}
    moments = [old.get(jax.tree_util.keystr(path), leaf) for path, leaf in _leaves(fresh.opt_state)]
    return TrainState(
        state.step,
        {**fresh.params, **state.params},
        {**fresh.batch_stats, **state.batch_stats},
        jax.tree.unflatten(jax.tree.structure(fresh.opt_state), moments),
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
        state: TrainState, frozen: Variables, batch: Batch, targets: TeacherOutputs
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
            params: Variables, part: int | Array, rows: TrainBatch, batch_stats: Variables
        ) -> tuple[Array, tuple[Scalars, Variables]]:
            own, targets = rows
            student = Partition(graph, params, batch_stats, frozen).merge()
            key = feature_lib.mask_key(settings.seed, state.step * parts + part)
            outputs = student(own.images, train=True, encoder_features=targets.encoder_features, key=key)
            after = flat_variables(student)
            sums = _sums(loss_terms(settings, outputs, own, targets, temperature), own)
            terms = {name: one.total / pictures(name) for name, one in sums.items()}
            balancing, weights = _balancing(settings, outputs.balance, terms)
            value = total(settings.losses, terms)
            moved = {path: after[path] for path in batch_stats}
            return value + balancing, ({**terms, **weights, "total": value}, moved)

        def measure(
            part: int | Array, rows: TrainBatch, batch_stats: Variables
        ) -> tuple[tuple[Scalars, Variables], Variables]:
            (_, (terms, moved)), gradients = jax.value_and_grad(objective, has_aux=True)(
                state.params, part, rows, batch_stats
            )
            return (terms, gradients), moved

        (terms, gradients), batch_stats = accumulate(
            measure, (batch, targets), state.batch_stats, parts
        )
        norm = optax.global_norm(gradients)
        update = optimizer.build(settings, state.params).update
        updates, moments = update(gradients, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        params = optax.apply_updates(state.params, updates)

        finite = jnp.isfinite(terms["total"]) & jnp.isfinite(norm)
        learnt = (params, batch_stats, moments)
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

    return mesh.jit(step, mesh.replicated, donate_argnums=0, compiler_options=xla.options())


def _norms(gradients: Variables) -> Scalars:
    groups = {param_group(path) for path in gradients}
    return {
        f"gradient_norm_{group}": optax.global_norm(
            {path: value for path, value in gradients.items() if param_group(path) == group}
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
        params: Variables,
        batch_stats: Variables,
        frozen: Variables,
        batch: Batch,
        targets: TeacherOutputs,
        temperature: Array,
    ) -> tuple[dict[str, Sum], Float[Array, "b h w 1"]]:
        student = Partition(graph, params, batch_stats, frozen).merge()
        key = feature_lib.mask_key(settings.seed)
        outputs = student(batch.images, train=False, encoder_features=targets.encoder_features, key=key)
        values = loss_terms(settings, outputs, batch, targets, temperature)
        mask = batch.masks > 0.5
        predicted = segmentation.predict(outputs.logits)
        values["student_miou"] = segmentation.mean_iou(predicted, mask)
        values["student_iou"] = segmentation.iou(predicted, mask)
        values["student_boundary_iou"] = segmentation.boundary_iou(predicted, mask)
        if targets.logits is not None:
            teacher = segmentation.predict(targets.logits)
            values["teacher_miou"] = segmentation.mean_iou(teacher, mask)
            values["agreement"] = segmentation.agreement(predicted, teacher)
        return _sums(values, batch), outputs.logits

    return mesh.jit(step, (mesh.replicated, mesh.sharded), compiler_options=xla.options())


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
    outputs: ModelOutputs,
    batch: Batch,
    targets: TeacherOutputs,
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
        terms["kl"] = loss_lib.kl(logits, targets.logits, temperature, weights.kl_scale)
    if targets.logits is not None and weights.mse > 0:
        terms["mse"] = loss_lib.mse(logits, targets.logits)
    if supervised and weights.bce > 0:
        terms["bce"] = loss_lib.bce(logits, batch.masks)
    if supervised and weights.dice > 0:
        terms["dice"] = loss_lib.dice(logits, batch.masks)
    if taught := settings.taught_features:
        values = feature_lib.pair_losses(taught, outputs, targets)
        learned = _learned_weights(settings, outputs.balance)
        terms["feature"] = feature_lib.weighted_sum(taught, values, learned)
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
    return feature_lib.learned_weights(balance, settings.losses.feature_weights_temperature)


def _balancing(
    settings: config.Config, balance: Array | None, terms: Scalars
) -> tuple[Array, Scalars]:
    """What the learned weights of the pairs minimise, and the weights."""
    if balance is None:
        return jnp.zeros(()), {}
    values = jnp.stack([terms[f"feature.{index}"] for index in range(len(balance))])
    temperature = settings.losses.feature_weights_temperature
    weights = jax.lax.stop_gradient(feature_lib.learned_weights(balance, temperature))
    named = {f"feature_weight.{index}": weight for index, weight in enumerate(weights)}
    return feature_lib.balancing(balance, values, temperature), named


def _sums(values: dict[str, Float[Array, " b"]], batch: Batch) -> dict[str, Sum]:
    counted = {name: _counted(name, batch) for name in values}
    return {name: Sum((values[name] * one).sum(), one.sum()) for name, one in counted.items()}


def _counted(name: str, batch: Batch) -> Float[Array, " b"]:
    """1 for each picture that has what a measure takes."""
    return batch.labelled if name in OF_MASKS else batch.weights
