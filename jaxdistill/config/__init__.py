"""The configuration: what may be set, what it means, and how a file and overrides become one.

A YAML file holds only what differs from the file that it `extends`; overrides such as
`training.epochs=3` come last. Unknown keys, wrong types and impossible values are refused with the
key's full path.
"""

from jaxdistill.config.base import LARGEST_SIDE, OutputKind, Precision, Rgb, Section, Size
from jaxdistill.config.data import Data, Split
from jaxdistill.config.networks import (
    Detector,
    Feature,
    FrozenNetwork,
    MeanStd,
    Normalization,
    Student,
    Targets,
    Teacher,
    Unfreezing,
)
from jaxdistill.config.schema import Config, check, dump, load
from jaxdistill.config.training import Checkpoints, Clip, Losses, Mesh, Temperature, Training

__all__ = [
    "LARGEST_SIDE",
    "Checkpoints",
    "Clip",
    "Config",
    "Data",
    "Detector",
    "Feature",
    "FrozenNetwork",
    "Losses",
    "MeanStd",
    "Mesh",
    "Normalization",
    "OutputKind",
    "Precision",
    "Rgb",
    "Section",
    "Size",
    "Split",
    "Student",
    "Targets",
    "Teacher",
    "Temperature",
    "Training",
    "Unfreezing",
    "check",
    "dump",
    "load",
]
