"""Loss terms: a file and a registry line each. See `Loss` for how to write one."""

from jaxdistill.losses.base import Loss, LossInputs
from jaxdistill.losses.boundary import Boundary, TeacherBoundary
from jaxdistill.losses.configured import from_config, required, select
from jaxdistill.losses.distillation import KL, MSE
from jaxdistill.losses.feature import Feature
from jaxdistill.losses.registry import LOSSES
from jaxdistill.losses.segmentation import BCE, Dice

__all__ = [
    "BCE",
    "KL",
    "LOSSES",
    "MSE",
    "Boundary",
    "Dice",
    "Feature",
    "Loss",
    "LossInputs",
    "TeacherBoundary",
    "from_config",
    "required",
    "select",
]
