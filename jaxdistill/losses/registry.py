"""The registry of losses, by the name that they have under `losses` in a configuration."""

from collections.abc import Callable

from jaxdistill.losses.base import Loss
from jaxdistill.runtime.registry import Registry

LOSSES: Registry[Callable[..., Loss]] = Registry("loss", "losses")
"""Names to `Loss` classes. A configuration gives the weight, `losses.NAME: 0.5`."""
