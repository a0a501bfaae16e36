"""The sections `teacher`, `detector` and `targets`: frozen networks and their cached outputs."""

from pathlib import Path

from jaxdistill.config.base import Normalization, OutputKind, Section, Size


class FrozenNetwork(Section):
    """An ONNX file, and how its input is prepared."""

    onnx: Path
    """ONNX file with one image input of shape (N, 3, H, W)."""
    normalization: Normalization = "imagenet"
    """Normalisation of the network's input, for pixels in [0, 1]."""
    size: Size | None = None
    """Height and width of the network's input in pixels. null: the file's own size if it is fixed,
    else `data.image_size`."""


class Teacher(FrozenNetwork):
    """The segmentation network whose masks the student imitates."""

    tensor: str | None = None
    """Name of the mask tensor, an output or an inner tensor. null: the first output."""
    output: OutputKind = "logits"
    """Whether the mask tensor holds logits or probabilities."""


class Detector(FrozenNetwork):
    """The network whose inner tensors the student's feature maps imitate."""

    normalization: Normalization = "unit"
    """Normalisation of the network's input, for pixels in [0, 1]."""


class Targets(Section):
    """How the outputs of the frozen networks are cached."""

    cache: Path | None = None
    """Folder of the target cache: outputs of teacher, detector and frozen encoder are computed once
    for each image and read in later epochs. null: no cache."""
    clean_images: bool = False
    """Whether teacher and detector see images before photometric augmentation. Their outputs can
    then be cached under `data.augment` `light` and `heavy` as well."""
