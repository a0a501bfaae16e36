"""Teachers: frozen networks whose outputs a student is trained to reproduce.

A teacher is anything with `__call__(images) -> TeacherOutputs` (`Teacher`). `Onnx` runs one ONNX
file, `Ensemble` is the mean of several teachers, `Combined` takes the mask from one teacher and the
features from another, and `CachedTeacher` keeps outputs on disk.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdistill.teachers.base import (
        OutputShapes,
        Teacher,
        describe_teacher,
        file_fingerprints,
        output_shapes,
        provenance_of,
        restrict,
    )
    from jaxdistill.teachers.combined import Combined, from_config
    from jaxdistill.teachers.ensemble import Ensemble
    from jaxdistill.teachers.onnx_teacher import Onnx
    from jaxdistill.teachers.target_cache import CachedEncoder, CachedTeacher, content_key

_MODULES = {
    "CachedTeacher": "target_cache",
    "Combined": "combined",
    "CachedEncoder": "target_cache",
    "Ensemble": "ensemble",
    "Onnx": "onnx_teacher",
    "OutputShapes": "base",
    "Teacher": "base",
    "content_key": "target_cache",
    "describe_teacher": "base",
    "file_fingerprints": "base",
    "from_config": "combined",
    "output_shapes": "base",
    "provenance_of": "base",
    "restrict": "base",
}

__all__ = [
    "CachedEncoder",
    "CachedTeacher",
    "Combined",
    "Ensemble",
    "Onnx",
    "OutputShapes",
    "Teacher",
    "content_key",
    "describe_teacher",
    "file_fingerprints",
    "from_config",
    "output_shapes",
    "provenance_of",
    "restrict",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that this package itself imports nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
