"""A configuration's steps, lowered for any devices without data, networks or weights.

`communication.py` and `gpu_program.py` compile what this module lowers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill import config, losses
from jaxdistill.models import feature_info, student, unfreezing
from jaxdistill.models.feature_info import find_tap
from jaxdistill.models.feature_pairs import pair_up
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.training import ema
from jaxdistill.training.step import jit_eval_step, jit_train_step
from jaxdistill.training.step_spec import step_spec
from jaxdistill.types import Batch, TeacherOutputs, TrainState


class Steps(NamedTuple):
    """The two steps of a configuration."""

    train: jax.stages.Lowered
    evaluate: jax.stages.Lowered


def lower(
    settings: config.Config, mesh: Mesh, channels: int, *, encoder_features: bool = False
) -> Steps:
    """Lowers the training and the evaluation step.

    Args:
      settings: The configuration; no file that it names is read.
      mesh: The devices.
      channels: Channels of each detector tensor; its size is that of the student's tap.
      encoder_features: Whether the teacher outputs hold the frozen encoder's feature maps, as they
        do where the target cache has them.
    """
    without_files = settings.student.model_copy(update={"encoder_weights": None, "weights": None})
    taps, size = feature_info(without_files), settings.data.image_size
    shapes = [(*find_tap(pair.tap, taps).size(size), channels) for pair in settings.features]
    terms = losses.from_config(settings)
    balanced = any(getattr(term, "learned_weights", False) for term in terms.values())
    pairs = pair_up(settings.features, shapes, size, taps, balanced=balanced)
    network = student.build(without_files, pairs, seed=0, dtype=settings.precision)
    parts = unfreezing.partition_in_phase(network, without_files, phase=0)
    spec = step_spec(settings, network, parts.graphdef, terms, steps_per_epoch=1)

    def array(shape: tuple[int, ...], dtype: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def rows(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return array((settings.training.images_per_step, *shape), dtype, mesh.sharded)

    def replicated(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: array(leaf.shape, leaf.dtype, mesh.replicated), tree)

    height, width = size
    batch = Batch(
        rows(height, width, 3), rows(height, width, 1), rows(), rows(), rows(dtype=jnp.int32)
    )
    features = tuple(rows(*shape) for shape in shapes)
    encoded = tuple(
        rows(*feature.size(size), feature.channels) for feature in network.encoder.feature_info
    )
    logits = rows(height, width, 1) if settings.teacher else None
    teacher = TeacherOutputs(logits, features, encoded if encoder_features else None)
    state = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        parts.params,
        parts.batch_stats,
        jax.eval_shape(spec.optimizer.init, parts.params),
        ema.begin(spec.ema, parts.params, parts.batch_stats),
    )
    state, frozen, epoch = replicated((state, parts.frozen, jax.ShapeDtypeStruct((), jnp.int32)))
    return Steps(
        jit_train_step(spec, mesh).lower(state, frozen, batch, teacher),
        jit_eval_step(spec, mesh).lower(
            state.params, state.batch_stats, frozen, batch, teacher, epoch
        ),
    )
