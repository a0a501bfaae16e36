"""jaxdistill trains small person-segmentation networks by distilling large ones, in JAX and Flax.

    import jaxdistill as jd

    teacher = jd.teachers.Onnx("u2netp.onnx", output="probabilities").cached("cache/")
    data = jd.data.coco("coco", image_size=320)
    model = jd.models.create("unet", encoder="tf_efficientnet_lite0", weights="lite0.safetensors")
    trainer = jd.Trainer(model, data, teacher=teacher, run="runs/a")
    trainer.fit(epochs=30)
    jd.export(trainer.best(), "student.onnx")
    mask = jd.load("student.onnx").predict(image)

Importing this package has no side effect and imports none of its parts; each is imported when it is
first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxdistill.version import __version__

if TYPE_CHECKING:
    from jaxdistill import config, data, losses, models, teachers
    from jaxdistill.evaluation import evaluate, load
    from jaxdistill.exporters import export
    from jaxdistill.training import Callback, Trainer
    from jaxdistill.types import Batch, ModelOutputs, TeacherOutputs

_EXPORTS = {
    "Batch": "jaxdistill.types",
    "Callback": "jaxdistill.training",
    "ModelOutputs": "jaxdistill.types",
    "TeacherOutputs": "jaxdistill.types",
    "Trainer": "jaxdistill.training",
    "evaluate": "jaxdistill.evaluation",
    "export": "jaxdistill.exporters",
    "load": "jaxdistill.evaluation",
}
_SUBPACKAGES = ("config", "data", "losses", "models", "teachers")

__all__ = [
    "Batch",
    "Callback",
    "ModelOutputs",
    "TeacherOutputs",
    "Trainer",
    "__version__",
    "config",
    "data",
    "evaluate",
    "export",
    "load",
    "losses",
    "models",
    "teachers",
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"jaxdistill.{name}")
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
