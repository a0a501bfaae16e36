"""Which parameters each loss teaches, found from gradients and not from names."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdistill import config, update
from jaxdistill.data.batches import Batch
from jaxdistill.models.student import Pair, Split, Variables, group_of, tap_stride
from jaxdistill.targets.frozen import Targets

_SIZE = 64  # of a picture of noise: what depends on what is the same at any size


def reach(settings: config.Config, split: Split, pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """For each loss the parameter groups on which its gradient is not zero."""
    batch, targets = _noise(settings, pairs)

    def terms(parameters: Variables) -> dict[str, jax.Array]:
        student = Split(split.graph, parameters, split.statistics, split.frozen).student()
        outputs = student(batch.images, train=True)
        values = update.loss_terms(settings, outputs, batch, targets, temperature=1.0)
        return {name: value.mean() for name, value in values.items()}

    def touched(parameters: Variables) -> dict[str, dict[str, jax.Array]]:
        gradients = jax.jacrev(terms)(parameters)
        return jax.tree.map(lambda gradient: (gradient != 0).any(), gradients)

    found = jax.device_get(jax.jit(touched)(split.parameters))
    return {
        loss: sorted({group_of(path) for path, touches in paths.items() if touches})
        for loss, paths in found.items()
    }


def explain(reached: dict[str, list[str]]) -> list[str]:
    """Lines for the start of a run; a warning where a loss teaches nothing that is kept."""
    lines = [f"{loss} teaches {', '.join(groups) or 'nothing'}" for loss, groups in reached.items()]
    if reached.get("feature") == ["projectors"]:
        lines.append(
            "warning: the feature loss reaches the projectors alone, which are dropped after "
            "training; to teach the student with it, choose a tap in the decoder (decoder.0 ... "
            "decoder.4), or unfreeze the encoder"
        )
    return lines


def _noise(settings: config.Config, pairs: Sequence[Pair]) -> tuple[Batch, Targets]:
    keys = iter(jax.random.split(jax.random.key(0), 3 + len(pairs)))
    shape = (2, _SIZE, _SIZE)
    batch = Batch(
        images=jax.random.uniform(next(keys), (*shape, 3)),
        masks=jax.random.bernoulli(next(keys), 0.5, (*shape, 1)).astype(jnp.float32),
        weights=jnp.ones(2),
        ids=jnp.zeros(2, jnp.int32),
    )
    logits = jax.random.normal(next(keys), (*shape, 1)) if settings.teacher else None
    sides = [_SIZE // tap_stride(pair.tap) for pair in pairs]
    features = tuple(
        jax.random.normal(next(keys), (2, side, side, pair.channels))
        for side, pair in zip(sides, pairs, strict=True)
    )
    return batch, Targets(logits, features)
