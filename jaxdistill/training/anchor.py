"""Decay of fine-tuned weights toward the values that they started from, instead of toward zero.

A network that already knows something forgets part of it when it is fine-tuned on few images. L2-SP
(Li et al. 2018, arXiv:1802.01483) pulls its weights back to the start. Here the pull is decoupled
from the gradient, as AdamW's weight decay is (Loshchilov and Hutter 2019, arXiv:1711.05101): Adam
would otherwise divide it by the gradient's size.
"""

from collections.abc import Collection
from typing import NamedTuple

import jax.numpy as jnp
import optax

from jaxdistill import config
from jaxdistill.models.parameters import param_group
from jaxdistill.types import Variables


class AnchorState(NamedTuple):
    """State of `decay_toward_start`; checkpoints hold it with the rest of the optimizer's state."""

    start: Variables
    """The values that the anchored parameters started from, by path."""


def anchored_groups(student: config.Student) -> tuple[str, ...]:
    """Returns the parameter groups that start from a weights file, which are those to anchor.

    Args:
      student: The student's weights files.
    """
    if student.weights is not None:
        return "encoder", "decoder", "head"
    return () if student.encoder_weights is None else ("encoder",)


def decay_toward_start(strength: float, groups: Collection[str]) -> optax.GradientTransformation:
    """Adds `strength * (parameter - start)` to the updates of some parameter groups.

    The start of a parameter is its value when the state is initialised; that of an encoder stage
    which joins the training later is its frozen value until then.

    Args:
      strength: Factor of the distance from the start.
      groups: The parameter groups.

    Returns:
      A gradient transformation over variables by dotted path.
    """

    def init(params: Variables) -> AnchorState:
        # Copies: a step takes the buffers of its state, and must not be given one twice.
        return AnchorState(
            {path: jnp.copy(value) for path, value in params.items() if param_group(path) in groups}
        )

    def update(
        updates: Variables, state: AnchorState, params: Variables | None = None
    ) -> tuple[Variables, AnchorState]:
        assert params is not None
        pull = {path: strength * (params[path] - start) for path, start in state.start.items()}
        return {path: each + pull.get(path, 0) for path, each in updates.items()}, state

    return optax.GradientTransformation(init, update)
