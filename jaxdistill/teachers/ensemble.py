"""Several teachers as one: the mean of their probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdistill.config import Size
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.teachers import base
from jaxdistill.teachers.base import OutputShapes, Teacher
from jaxdistill.teachers.target_cache import CachedTeacher
from jaxdistill.types import TeacherOutputs


class Ensemble:
    """Gives the mean of the probabilities of several teachers, as logits.

    Each teacher prepares the images in its own way, so that their input sizes and normalisations
    may differ. A target cache keeps the logits of each teacher by themselves: to add a teacher or
    to change the weights leaves those of the others valid.

    Args:
      teachers: The teachers; their logits are used.
      weights: The weight of each teacher in the mean; None weighs all alike.

    Raises:
      ConfigError: There is no teacher, or one without a mask (`teacher-without-outputs`), or the
        weights are not one positive number for each (`ensemble-weights`).
    """

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float] | None = None) -> None:
        members = [base.restrict(teacher, features=False) for teacher in teachers]
        self.members = tuple(member for member in members if member is not None)
        """The teachers, without features."""
        if not members or len(self.members) < len(members):
            raise ConfigError(
                "Ensemble expects teachers that all have a mask", code="teacher-without-outputs"
            )
        given = np.ones(len(members)) if weights is None else np.asarray(weights, np.float64)
        if given.shape != (len(members),) or not (np.isfinite(given) & (given > 0)).all():
            raise ConfigError(
                f"Ensemble expects {len(members)} weights above 0, one for each teacher; got "
                f"{weights}",
                code="ensemble-weights",
            )
        self.weights = tuple((given / given.sum()).tolist())
        """The weights, whose sum is 1."""

    def __call__(self, images: Float[Array, "b h w 3"]) -> TeacherOutputs:
        """Runs all networks on images in [0, 1]; see `Teacher`."""
        logits = [member(images).logits for member in self.members]
        assert all(each is not None for each in logits)
        return TeacherOutputs(self.merge(logits))

    def merge(self, logits: Sequence[Any]) -> Float[Array, "b h w 1"]:
        """Returns the logit of the weighted mean of probabilities.

        It is `log(sum(w * sigmoid(z))) - log(sum(w * sigmoid(-z)))`, which needs no clipping.

        Args:
          logits: The logits of each teacher, in its order.
        """
        return _merge(tuple(logits), self.weights)

    def set_batch_size(self, batch_size: int) -> None:
        """Says how many images each device computes at once; see `base.set_batch_size`."""
        for member in self.members:
            base.set_batch_size(member, batch_size)

    def output_shapes(self, image_size: Size) -> OutputShapes:
        """Returns the shapes of the outputs for images of a size."""
        logits = [base.output_shapes(member, image_size).logits for member in self.members]
        return OutputShapes(logits[0])

    @property
    def provenance(self) -> dict[str, Any] | None:
        """All that `logits` depend on; None where a teacher does not declare it."""
        if not all(map(base.has_provenance, self.members)):
            return None
        parts = [base.output_provenance(member, "logits") for member in self.members]
        return {"logits": {"members": parts, "weights": list(self.weights)}}

    def restrict(self, *, logits: bool = True, features: bool = True) -> "Ensemble | None":
        """Returns this teacher where its logits are needed; see `base.restrict`."""
        del features
        return self if logits else None

    def cached(self, directory: Path | str) -> CachedTeacher:
        """Returns this teacher with the logits of each member kept; see `CachedTeacher`."""
        return CachedTeacher(self, directory)

    def describe(self) -> list[str]:
        """Returns the lines about all networks, each with its share of the mean."""
        return [
            f"{line}, {weight:.0%} of the mean"
            for member, weight in zip(self.members, self.weights, strict=True)
            for line in base.describe_teacher(member)
        ]


@jax.jit
def _merge(
    logits: tuple[Float[Array, "b h w 1"], ...], weights: tuple[float, ...]
) -> Float[Array, "b h w 1"]:
    stacked = jnp.stack([each.astype(jnp.float32) for each in logits], -1)
    shares = jnp.asarray(weights)

    def log_mean(values: Float[Array, "b h w 1 n"]) -> Float[Array, "b h w 1"]:
        return jax.nn.logsumexp(jax.nn.log_sigmoid(values), axis=-1, b=shares)

    return log_mean(stacked) - log_mean(-stacked)
