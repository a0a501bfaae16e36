"""Evaluation and prediction with students: from a run folder, an ONNX file or a model.

`load` returns a `Predictor`, and `evaluate` measures one on data with masks or against a teacher.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdistill.evaluation.evaluator import Evaluation, evaluate
    from jaxdistill.evaluation.predictor import Predictor, load

_MODULES = {
    "Evaluation": "evaluator",
    "Predictor": "predictor",
    "evaluate": "evaluator",
    "load": "predictor",
}

__all__ = ["Evaluation", "Predictor", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
