"""The training loop and its callbacks: which events it tells them, and what they ask of it."""

from collections.abc import Sequence
from typing import Any

from jaxdistill.training.callbacks.base import Callback


class LoopControl:
    """Calls the callbacks, and keeps their requests, which the loop answers after each step.

    Args:
      callbacks: The callbacks, in the order in which each event calls them.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = [*callbacks]
        self.stop_reason = ""
        """Why the training ends early, such as `SIGTERM`; empty if it does not."""
        self.finish_reason = ""
        """Why the training is complete before its last epoch; empty if it is not."""
        self.checkpoint_requested = False
        """Whether a checkpoint is to be saved after the current step."""

    @property
    def stop_requested(self) -> bool:
        """Whether the training is to end after the current step."""
        return bool(self.stop_reason)

    def request_stop(self, reason: str) -> None:
        """Ends the training after the current step; all processes must call it at the same step.

        Args:
          reason: What is reported.
        """
        self.stop_reason = reason

    def finish(self, reason: str) -> None:
        """Ends the training after the current epoch, as complete; all processes must call it.

        Args:
          reason: What is reported.
        """
        self.finish_reason = reason

    def request_checkpoint(self) -> None:
        """Saves a checkpoint after the current step; all processes call it at the same step."""
        self.checkpoint_requested = True

    def emit(self, event: str, *args: Any) -> None:
        """Calls a method of every callback.

        Args:
          event: Name of the method.
          *args: Its arguments after the trainer.
        """
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)
