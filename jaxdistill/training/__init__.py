"""Training: the trainer and its loop, the step, callbacks, and the input pipeline.

Start reading at `trainer.py` (the loop) and `step.py` (what a step computes).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdistill.training.callbacks import Callback
    from jaxdistill.training.trainer import Trainer

_EXPORTS = {
    "Callback": "jaxdistill.training.callbacks",
    "Trainer": "jaxdistill.training.trainer",
}
__all__ = ["Callback", "Trainer"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:  # lazily: the step alone is importable without onnxruntime and TFDS
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
