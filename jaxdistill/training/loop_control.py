"""What callbacks ask of the training loop."""


class LoopControl:
    """Requests for an end of the training, or a checkpoint; the loop answers after each step."""

    def __init__(self) -> None:
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
