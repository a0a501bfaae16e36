"""What a loss term is: a value per image, and the inputs that it needs."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdistill.types import Batch, ModelOutputs, TeacherOutputs

Input = Literal["mask", "teacher_logits", "features"]
PerImage = Float[Array, " b"]
Scalars = dict[str, Float[Array, ""]]


class LossInputs(NamedTuple):
    """What a loss term is computed from."""

    outputs: ModelOutputs
    """The student's outputs, in float32."""
    batch: Batch
    """Images in [0, 1] and masks."""
    teacher: TeacherOutputs
    """The frozen networks' outputs, in float32."""
    epoch: int | Array
    """The epoch, counted from 0; traced inside a step."""
    epochs: int
    """Number of epochs of the run."""


@dataclass(frozen=True)
class Loss:
    """One term of the training objective, `weight * mean over images of loss(...)`.

    A subclass is a frozen dataclass with its hyper-parameters as fields, a set of `requires`, and a
    `__call__`. Register it with `LOSSES.register(name)` to name it in a configuration:

        @jaxdistill.losses.LOSSES.register("focal")
        @dataclass(frozen=True)
        class Focal(Loss):
            requires = frozenset({"mask"})

            def __call__(self, inputs):
                ...  # one value per image

    Args:
      weight: Factor of this term in the total.
    """

    _: KW_ONLY
    weight: float = 1.0

    @property
    def requires(self) -> frozenset[Input]:
        """Inputs without which the term is undefined; most terms set it as a class attribute.

        A term that requires a mask is averaged over the labelled images of a batch, any other one
        over all images.
        """
        return frozenset()

    def __call__(self, inputs: LossInputs) -> PerImage:
        """Computes the unweighted loss of each image, in float32.

        Args:
          inputs: What the student and the frozen networks computed, masks, and the epoch.

        Returns:
          The loss of each image (B,).
        """
        raise NotImplementedError

    def terms(self, name: str, inputs: LossInputs) -> dict[str, PerImage]:
        """Returns the term under its name; an override may add parts that are logged beside it.

        Args:
          name: The name of this term, its key in the configuration or in the trainer's `losses`.
          inputs: What the student and the frozen networks computed, masks, and the epoch.

        Returns:
          The unweighted loss of each image (B,) as `name`, which is weighted and added to the
          total. Every other entry, also (B,), is only logged; its name is `name`, a dot and a part,
          such as `feature.0`.
        """
        return {name: self(inputs)}

    def auxiliary(
        self, name: str, outputs: ModelOutputs, means: Scalars
    ) -> tuple[Array | None, Scalars]:
        """Returns a further value that the total includes, and scalars to log.

        A term overrides it to train parameters of its own, such as learned weights. It is computed
        in training only, for each part of a batch that is processed in parts.

        Args:
          name: The name of this term.
          outputs: The student's outputs, in the number format that it computes in.
          means: The mean over images of every entry that the losses' `terms` returned, by name:
            scalars, through which gradients flow.

        Returns:
          A scalar that is added to the objective with weight 1 but not to the logged `total`, or
          None; and scalars to log by name.
        """
        del name, outputs, means
        return None, {}

    def logged(self, *, epoch: int | Array, epochs: int) -> Scalars:
        """Returns hyper-parameters that change over the epochs, to log beside the losses.

        Args:
          epoch: The epoch, counted from 0; traced inside a step.
          epochs: Number of epochs of the run.

        Returns:
          Scalars by name.
        """
        del epoch, epochs
        return {}


def mean_over_map(values: Float[Array, "b *_"]) -> PerImage:
    """Returns the mean of each image's values."""
    # As a product with a vector: XLA's CPU back end then computes the summed expression with its
    # own vectorised functions, thirty times faster than within a reduction.
    flat = values.reshape(len(values), -1)
    share = jnp.full(flat.shape[1], 1 / flat.shape[1], flat.dtype)
    return jnp.matmul(flat, share, precision="highest")


def log1p_exp_negative_abs(x: Array) -> Array:
    """Returns log(1 + exp(-|x|)), which is softplus(x) - max(x, 0)."""
    return jnp.log1p(jnp.exp(jnp.minimum(x, -x)))  # -abs(x) would have a wrong gradient at 0
