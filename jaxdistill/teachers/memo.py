"""Teacher outputs kept in memory: those of a validation set are the same in every epoch."""

from collections.abc import Hashable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxdistill.teachers.base import Teacher
from jaxdistill.types import TeacherOutputs

MAX_BYTES = 512 * 2**20
"""Default bound of the memory that an `OutputsMemo` uses."""


class OutputsMemo:
    """Keeps a teacher's outputs for each batch in memory.

    For the batches of a validation set, which come again in every epoch, unchanged. The outputs are
    kept on the host as they were computed, until `max_bytes` are used; those of further batches are
    computed each time.

    Args:
      teacher: Computes the outputs.
      max_bytes: Upper bound of the memory for kept outputs.
    """

    def __init__(self, teacher: Teacher, max_bytes: int = MAX_BYTES) -> None:
        self.teacher, self.max_bytes = teacher, max_bytes
        self.bytes = 0
        """Memory that the kept outputs use."""
        self._kept: dict[Hashable, TeacherOutputs] = {}

    def __call__(
        self, images: Float[Array, "b h w 3"], *arguments: Any, key: Hashable
    ) -> TeacherOutputs:
        """Returns the outputs of a batch, computed at most once while there is room for them.

        Args:
          images: Images in [0, 1], shape (B, H, W, 3).
          arguments: Further arguments of the teacher, such as the keys of a `CachedTeacher`.
          key: Identifies the batch among those of one shape, such as a hash of its pixels.
        """
        key = (key, images.shape)
        if key in self._kept:
            return jax.device_put(self._kept[key], images.sharding)
        outputs: TeacherOutputs = self.teacher(images, *arguments)
        size = sum(array.nbytes for array in jax.tree.leaves(outputs))
        if self.bytes + size <= self.max_bytes:
            self._kept[key] = jax.tree.map(np.array, outputs)
            self.bytes += size
        return outputs
