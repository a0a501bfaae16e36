"""The loss terms that a configuration describes, and what losses need."""

from collections.abc import Collection, Iterator, Mapping

from jaxdistill import config
from jaxdistill.losses.base import Input, Loss
from jaxdistill.losses.registry import LOSSES


def from_config(settings: config.Config) -> dict[str, Loss]:
    """Builds every loss that has a weight above 0, by name.

    Built-in terms come first, in the order of the configuration's keys, then terms that were
    registered from outside.

    Args:
      settings: The configuration; `losses` holds the weights.

    Returns:
      The losses; each says by `requires` what it needs.

    Raises:
      ConfigError: `losses` names a loss that is not registered (`unknown-loss`).
    """
    return {name: term for name, term in _configured(settings) if term.weight > 0}


def select(losses: dict[str, Loss], available: Collection[Input]) -> dict[str, Loss]:
    """Returns the losses whose required inputs are all available.

    Args:
      losses: Losses by name.
      available: What the batches and the frozen networks provide.
    """
    return {name: loss for name, loss in losses.items() if loss.requires <= set(available)}


def required(losses: Mapping[str, Loss]) -> frozenset[Input]:
    """Returns the inputs that at least one of the losses needs.

    Args:
      losses: Losses by name.
    """
    return frozenset[Input]().union(*(loss.requires for loss in losses.values()))


def _configured(settings: config.Config) -> Iterator[tuple[str, Loss]]:
    given = settings.losses
    temperature = {"temperature": given.temperature, "scale": given.kl_scale}
    yield "kl", LOSSES["kl"](weight=given.kl, **temperature)
    for name in ("mse", "bce", "dice"):
        yield name, LOSSES[name](weight=getattr(given, name))
    band = {"radius": given.boundary_radius, "factor": given.boundary_factor}
    for name in ("boundary", "teacher_boundary"):
        yield name, LOSSES[name](weight=getattr(given, name), **band)
    if pairs := settings.weighted_features:
        learned = given.feature_weights == "learned"
        yield (
            "feature",
            LOSSES["feature"](
                weight=given.feature,
                pairs=pairs,
                learned_weights=learned,
                balance_temperature=given.feature_weights_temperature,
            ),
        )
    for name, weight in given.registered.items():
        yield name, LOSSES[name](weight=float(weight))
