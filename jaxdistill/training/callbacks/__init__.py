"""Callbacks: everything around the training step.

The trainer calls each method of each callback in the order of `default_callbacks`. A callback of
your own subclasses `Callback`, overrides what it needs, and is passed to the trainer.
"""

from jaxdistill.training.callbacks.base import Callback
from jaxdistill.training.callbacks.early_stopping import EarlyStopping
from jaxdistill.training.callbacks.nonfinite import SkipNonFinite
from jaxdistill.training.callbacks.periodic_checkpoint import PeriodicCheckpoint
from jaxdistill.training.callbacks.report import EpochLine, ProgressBar, Report, StepLine
from jaxdistill.training.callbacks.signals import StopOnSignal

__all__ = [
    "Callback",
    "EarlyStopping",
    "EpochLine",
    "PeriodicCheckpoint",
    "ProgressBar",
    "Report",
    "SkipNonFinite",
    "StepLine",
    "StopOnSignal",
    "default_callbacks",
]


def default_callbacks() -> list[Callback]:
    """Returns the callbacks that a command uses."""
    return [
        StopOnSignal(),
        PeriodicCheckpoint(),
        SkipNonFinite(),
        EarlyStopping(),
        ProgressBar(),
        StepLine(),
        Report(),
        EpochLine(),
    ]
