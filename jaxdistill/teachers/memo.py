"""Teacher outputs kept in memory: those of a validation set are the same in every epoch."""

import hashlib
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxdistill.teachers import base
from jaxdistill.teachers.base import OutputShapes, Size, Teacher
from jaxdistill.types import TeacherOutputs

MAX_BYTES = 512 * 2**20
"""Default bound of the memory that a `MemoizedTeacher` uses."""


class MemoizedTeacher:
    """A teacher that keeps the outputs of each batch in memory.

    Wrap the teacher of a validation set in it: the batches come again in every epoch, unchanged.
    The outputs are kept on the host as they were computed, until `max_bytes` are used; those of
    further batches are computed each time.

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
        self, images: Float[Array, "b h w 3"], *arguments: Any, key: Hashable = None
    ) -> TeacherOutputs:
        """Returns the outputs of a batch, computed at most once while there is room for them.

        Args:
          images: Images in [0, 1], shape (B, H, W, 3).
          arguments: Further arguments of the teacher, such as the keys of a `CachedTeacher`.
          key: Identifies the batch, such as its number in the validation set. None uses a hash of
            the images, which has to bring them to the host.
        """
        if key is None:
            key = hashlib.blake2b(np.asarray(images).tobytes(), digest_size=16).digest()
        key = (key, images.shape)
        if key in self._kept:
            return jax.device_put(self._kept[key], images.sharding)
        outputs: TeacherOutputs = self.teacher(images, *arguments)
        size = sum(array.nbytes for array in jax.tree.leaves(outputs))
        if self.bytes + size <= self.max_bytes:
            self._kept[key] = jax.tree.map(np.array, outputs)
            self.bytes += size
        return outputs

    @property
    def provenance(self) -> dict[str, Any]:
        """All that the outputs depend on, as the teacher declares it."""
        return base.provenance_of(self.teacher)

    def set_batch_size(self, batch_size: int) -> None:
        """Tells the teacher how many images each device will be given at once."""
        base.set_batch_size(self.teacher, batch_size)

    def output_shapes(self, image_size: Size) -> OutputShapes:
        """Returns the shapes of the teacher's outputs for images of that height and width."""
        return base.output_shapes(self.teacher, image_size)

    def describe(self) -> list[str]:
        """Returns lines about the teacher for people."""
        return base.describe_teacher(self.teacher)
