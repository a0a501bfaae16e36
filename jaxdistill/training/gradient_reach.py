"""Which parameters each loss teaches, found from gradients and not from names."""

from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdistill import config
from jaxdistill.models.feature_info import find_tap
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.models.parameters import Partition, param_group
from jaxdistill.runtime import xla
from jaxdistill.training import step as step_lib
from jaxdistill.types import Batch, TeacherOutputs, Variables

_SIZE = 64  # of a picture of noise: what depends on what is the same at any size


def reach(settings: config.Config, split: Partition, pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """For each loss the parameter groups on which its gradient is not zero.

    Of several pairs each is there by itself too, as `feature.N, from TAP`.
    """
    with jax.default_device(xla.host()):
        names, found = _touched(settings, split, pairs)
    taps = {f"feature.{index}": pair.tap for index, pair in enumerate(pairs)}
    return {
        f"{loss}, from {taps[loss]}" if loss in taps else loss: sorted(
            {param_group(path) for path, touches in found.items() if touches[place]}
        )
        for place, loss in enumerate(names)
    }


def _touched(
    settings: config.Config, split: Partition, pairs: Sequence[Pair]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The losses' names, and for each parameter whether each of them has a gradient there."""
    graph, *parts = split
    here = Partition(graph, *jax.device_put(jax.device_get(parts)))
    batch, targets = _noise(settings, pairs)
    names: dict[str, Array] = {}

    def terms(params: Variables) -> Float[Array, " losses"]:
        outputs = here._replace(params=params).merge()(batch.images, train=True)
        values = step_lib.loss_terms(settings, outputs, batch, targets, temperature=1.0)
        names.update(values)
        return jnp.stack([value.mean() for value in values.values()])

    def touched(params: Variables) -> Variables:
        values, back = jax.vjp(terms, params)

        def touches(one: Array) -> Variables:
            return jax.tree.map(lambda gradient: (gradient != 0).any(), back(one)[0])

        # One after the other: a gradient for each loss at once may not fit into memory.
        return jax.lax.map(touches, jnp.eye(len(values)))

    program = jax.jit(touched, compiler_options=xla.QUICKLY)
    found = jax.device_get(program(here.params))
    return list(names), found


Reached = dict[str, list[str]]


def explain(reached: Reached, later: Reached, trained: Collection[str] = ()) -> list[str]:
    """Lines for the start of a run; a warning where a loss teaches nothing that is kept, or where
    none teaches the masks.

    Args:
      later: what is reached when every stage of the encoder has joined that will.
      trained: the parameter groups that are not frozen.
    """
    lines = []
    for loss, groups in reached.items():
        more = [group for group in later[loss] if group not in groups]
        joining = f", and {', '.join(more)} when it is unfrozen" if more else ""
        lines.append(f"{loss} teaches {', '.join(groups) or 'nothing'}{joining}")
    pairs = [loss for loss in later if loss.startswith("feature.")]
    for loss in pairs or [loss for loss in later if loss == "feature"]:
        if set(later[loss]) <= {"projectors"}:
            name = f"the loss {loss}," if pairs else "the feature loss"
            lines.append(
                f"warning: {name} reaches the projectors alone, which are dropped after training; "
                f"to teach the student with it, choose a tap in the decoder (decoder.0 ... "
                f"decoder.4), or unfreeze the encoder"
            )
    if "head" in trained and not any("head" in groups for groups in later.values()):
        lines.append(
            "warning: no loss reaches the head, so the masks stay what its first weights make of "
            "them; give kl, mse, bce or dice a weight, or begin with student.weights and freeze it"
        )
    return lines


def _noise(settings: config.Config, pairs: Sequence[Pair]) -> tuple[Batch, TeacherOutputs]:
    keys = iter(jax.random.split(jax.random.key(0), 3 + len(pairs)))
    shape = (2, _SIZE, _SIZE)
    batch = Batch(
        images=jax.random.uniform(next(keys), (*shape, 3)),
        masks=jax.random.bernoulli(next(keys), 0.5, (*shape, 1)).astype(jnp.float32),
        weights=jnp.ones(2),
        labelled=jnp.ones(2),
        ids=jnp.zeros(2, jnp.int32),
    )
    logits = jax.random.normal(next(keys), (*shape, 1)) if settings.teacher else None
    sizes = [pair.size or (_SIZE // tap_stride(pair.tap),) * 2 for pair in pairs]
    features = tuple(
        jax.random.normal(next(keys), (2, *size, pair.channels))
        for size, pair in zip(sizes, pairs, strict=True)
    )
    return batch, TeacherOutputs(logits, features)
