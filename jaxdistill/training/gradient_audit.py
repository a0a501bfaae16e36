"""The dry run's audit: which parameter groups have a gradient, measured loss by loss.

`gradient_reach` answers the same question by a rule, without compiling anything; the audit checks
the rule on a real student.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdistill.models.parameters import Partition, param_group
from jaxdistill.runtime import xla
from jaxdistill.training.gradient_reach import Reach, describe_reach
from jaxdistill.training.step import loss_terms
from jaxdistill.types import Batch, TeacherOutputs, Variables

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer

_SIZE = 64  # pixels of a noise image; which gradients are zero does not depend on it


def audit(trainer: "Trainer") -> list[str]:
    """Returns `describe_reach` of what was measured in the trainer's present phase."""
    reach = measured_reach(trainer)
    return [f"measured: {line}" for line in describe_reach(reach, reach)]


def measured_reach(trainer: "Trainer") -> Reach:
    """Computes every loss's gradient on noise, and returns the groups where it is not zero.

    Args:
      trainer: A trainer that is set up.
    """
    with jax.default_device(xla.cpu_device()):
        names, reached = _reached(trainer)
    taps = {f"feature.{index}": pair.tap for index, pair in enumerate(trainer.pairs)}
    return {
        f"{loss}, from {taps[loss]}" if loss in taps else loss: sorted(
            {param_group(path) for path, reaches in reached.items() if reaches[place]}
        )
        for place, loss in enumerate(names)
    }


def _reached(trainer: "Trainer") -> tuple[list[str], dict[str, np.ndarray]]:
    """Returns the losses' names, and for each parameter whether each of them has a gradient."""
    graphdef, *parts = trainer.partition
    here = Partition(graphdef, *jax.device_put(jax.device_get(parts)))
    batch, teacher = _noise(trainer)
    names: dict[str, Array] = {}

    def terms(params: Variables) -> Float[Array, " losses"]:
        outputs = here._replace(params=params).merge()(batch.images, train=True)
        values = loss_terms(trainer.losses, outputs, batch, teacher, 0, trainer.epochs)
        names.update(values)
        return jnp.stack([value.mean() for value in values.values()])

    def reached(params: Variables) -> Variables:
        values, vjp = jax.vjp(terms, params)

        def reaches(cotangent: Array) -> Variables:
            return jax.tree.map(lambda gradient: (gradient != 0).any(), vjp(cotangent)[0])

        # One after the other: all gradients at once may not fit into memory.
        return jax.lax.map(reaches, jnp.eye(len(values)))

    program = jax.jit(reached, compiler_options=xla.FAST_COMPILE)
    found = jax.device_get(program(here.params))
    return list(names), found


def _noise(trainer: "Trainer") -> tuple[Batch, TeacherOutputs]:
    pairs = trainer.pairs
    keys = iter(jax.random.split(jax.random.key(0), 3 + len(pairs)))
    shape = (2, _SIZE, _SIZE)
    batch = Batch(
        images=jax.random.uniform(next(keys), (*shape, 3)),
        masks=jax.random.bernoulli(next(keys), 0.5, (*shape, 1)).astype(jnp.float32),
        weights=jnp.ones(2),
        labelled=jnp.ones(2),
        ids=jnp.zeros(2, jnp.int32),
    )
    logits = jax.random.normal(next(keys), (*shape, 1))
    strides = {info.name: info.stride for info in trainer.model.feature_info}
    sizes = [pair.size or (_SIZE // strides[pair.tap],) * 2 for pair in pairs]
    features = tuple(
        jax.random.normal(next(keys), (2, *size, pair.channels))
        for size, pair in zip(sizes, pairs, strict=True)
    )
    return batch, TeacherOutputs(logits, features)
