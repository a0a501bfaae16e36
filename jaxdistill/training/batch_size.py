"""`training.batch_size: auto`: as many images as a step fits into the memory of a GPU.

The step is compiled for two numbers of images, without running it. What the compiler says of its
memory grows by the same amount for each image, which gives the largest number that fits.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill import config
from jaxdistill.checkpoint.restore import newest_metadata
from jaxdistill.losses import Loss
from jaxdistill.models import Student, unfreezing, with_projectors
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.teachers.base import Teacher, output_shapes
from jaxdistill.training import ema
from jaxdistill.training.compile_ahead import abstract_batch
from jaxdistill.training.step import jit_train_step
from jaxdistill.training.step_spec import step_spec
from jaxdistill.types import TrainState

SHARE = 0.9
"""Share of the memory that JAX may use which a step and the batches made ahead of it take."""
_AHEAD = 3  # batches besides the step's own: two made ahead, and the one whose metrics are read
_ROUND = 8  # GPUs compute multiples of it fastest


def of_run(settings: config.Config) -> config.Config:
    """Returns settings with the number of images that a run was begun with, where that was `auto`.

    Args:
      settings: The configuration.
    """
    metadata = newest_metadata(settings.run) if settings.training.batch_size == "auto" else None
    if metadata is None:
        return settings
    return with_batch_size(settings, metadata["provenance"]["settings"]["training"]["batch_size"])


def with_batch_size(settings: config.Config, batch_size: int) -> config.Config:
    """Returns settings with another number of images per step."""
    training = settings.training.model_copy(update={"batch_size": batch_size})
    return settings.model_copy(update={"training": training})


def memory_limit(mesh: Mesh) -> int:
    """Returns the memory in bytes that JAX may use on each device.

    Args:
      mesh: The devices.

    Raises:
      ConfigError: It is not known, as on a CPU (`batch-size-auto`).
    """
    statistics = mesh.own_devices[0].memory_stats() or {}
    if mesh.platform == "cpu" or "bytes_limit" not in statistics:
        raise ConfigError(
            "training.batch_size: auto needs a GPU, whose memory it fills; name a number of images",
            code="batch-size-auto",
        )
    return int(statistics["bytes_limit"])


def choose(
    settings: config.Config,
    student: Student,
    pairs: Sequence[Pair],
    losses: Mapping[str, Loss],
    teacher: Teacher | None,
    mesh: Mesh,
    images: int,
) -> tuple[config.Config, str]:
    """Chooses the number of images per step.

    Args:
      settings: The configuration; its last phase of the unfreezing counts, which needs most.
      student: The student.
      pairs: Its feature pairs.
      losses: The losses by name.
      teacher: The teacher.
      mesh: The devices.
      images: Number of training images, which a batch cannot exceed.

    Returns:
      Settings with the number, and a line about it.

    Raises:
      ConfigError: Not one image fits on each device, or the memory is not known
        (`batch-size-auto`).
    """
    limit = int(SHARE * memory_limit(mesh))
    divisor = mesh.size * settings.training.accumulate
    needed = {
        count: step_memory(settings, student, pairs, losses, teacher, mesh, count)
        for count in (divisor, 2 * divisor)
    }
    fits = fitting(needed, limit, divisor, images)
    agreed = int(distributed.all_gather(np.asarray([fits])).min())
    small, large = needed.values()
    line = (
        f"training.batch_size: {agreed}, for {limit / 1e9:.1f} GB on each device; the step needs "
        f"{(2 * small - large) / 1e9:.2f} GB and {(large - small) / divisor / 1e9:.3f} GB per image"
    )
    return with_batch_size(settings, agreed), line


def fitting(needed: Mapping[int, int], limit: int, divisor: int, most: int) -> int:
    """Returns the largest number of images that fits, by the line through two measurements.

    Args:
      needed: Memory in bytes by number of images, for two numbers.
      limit: Memory in bytes that may be used.
      divisor: What the number must be a multiple of.
      most: What the number cannot exceed.

    Returns:
      A multiple of `divisor`, and of 8 where that is possible.

    Raises:
      ConfigError: There is none (`batch-size-auto`).
    """
    (small, low), (large, high) = sorted(needed.items())
    each = max((high - low) / (large - small), 1)
    count = min(int((limit - low) / each + small), most)
    for multiple in (math.lcm(divisor, _ROUND), divisor):
        if count >= multiple:
            return count // multiple * multiple
    raise ConfigError(
        f"training.batch_size: auto: a step of {divisor} images needs {low / 1e9:.1f} GB on each "
        f"device, of {limit / 1e9:.1f} GB that may be used, and there are {most} training images; "
        f"lower data.image_size, raise training.accumulate, or use a smaller student",
        code="batch-size-auto",
    )


def step_memory(
    settings: config.Config,
    student: Student,
    pairs: Sequence[Pair],
    losses: Mapping[str, Loss],
    teacher: Teacher | None,
    mesh: Mesh,
    count: int,
) -> int:
    """Returns the memory in bytes that training needs on each device, without running a step.

    It is that of the step and of the batches made ahead of it.

    Args:
      settings: See `choose`.
      student: The student.
      pairs: Its feature pairs.
      losses: The losses by name.
      teacher: The teacher.
      mesh: The devices.
      count: Number of images, over all devices.
    """
    whole = with_projectors(student, pairs)
    stages = unfreezing.encoder_stages(whole)
    last = unfreezing.phase(settings.student, settings.training.epochs - 1, stages)
    partition = unfreezing.partition_in_phase(whole, settings.student, last)
    spec = step_spec(settings, whole, partition.graphdef, losses, steps_per_epoch=1)
    params, batch_stats = partition.params, partition.batch_stats
    state = TrainState(
        np.int32(0),  # type: ignore[arg-type]
        params,
        batch_stats,
        jax.eval_shape(spec.optimizer.init, params),
        ema.begin(spec.ema, params, batch_stats),
    )

    def replicated(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=mesh.replicated)

    state, frozen = jax.tree.map(replicated, (state, partition.frozen))
    size = max((settings.data.image_size, *settings.data.sizes), key=math.prod)
    batch = abstract_batch(mesh, count, size, output_shapes(teacher, size))
    step: Any = jit_train_step(spec, mesh)
    memory = step.lower(state, frozen, *batch).compile().memory_analysis()
    batch_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch))
    return int(
        _AHEAD * batch_bytes / mesh.size
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
