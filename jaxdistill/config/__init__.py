"""Configuration of a run: its schema, and how a file and overrides are read and checked.

A YAML file holds only the keys that differ from the file that it `extends`. Overrides such as
`training.epochs=3` are applied last. A `ConfigError` names the full path of a key that is unknown,
has the wrong type, or has a value that cannot be used.
"""

from jaxdistill.config.base import (
    LARGEST_SIDE,
    ChannelOrder,
    Layout,
    MeanStd,
    Normalization,
    OutputKind,
    Precision,
    Rgb,
    Section,
    Size,
    Upsampling,
)
from jaxdistill.config.data import Additional, Data, MaskResize, MaskValues, Split
from jaxdistill.config.loader import (
    check,
    dump,
    load,
    load_data,
    with_absolute_paths,
    with_data,
    with_values,
)
from jaxdistill.config.losses import Feature, Losses, Temperature
from jaxdistill.config.schema import Config
from jaxdistill.config.student import Student, Unfreezing
from jaxdistill.config.teacher import Detector, FrozenNetwork, Onnxruntime, Targets, Teacher
from jaxdistill.config.training import (
    Checkpoints,
    Clip,
    EarlyStopping,
    Ema,
    LearningRates,
    Mesh,
    Training,
)
from jaxdistill.config.yaml_files import shipped

__all__ = [
    "LARGEST_SIDE",
    "Additional",
    "ChannelOrder",
    "Checkpoints",
    "Clip",
    "Config",
    "Data",
    "Detector",
    "EarlyStopping",
    "Ema",
    "Feature",
    "FrozenNetwork",
    "Layout",
    "LearningRates",
    "Losses",
    "MaskResize",
    "MaskValues",
    "MeanStd",
    "Mesh",
    "Normalization",
    "Onnxruntime",
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
    "Upsampling",
    "check",
    "dump",
    "load",
    "load_data",
    "shipped",
    "with_absolute_paths",
    "with_data",
    "with_values",
]
